//! Stages whose results are made while later stages read them, so that nothing is written.
//!
//! A stage can be fused if each element of its result follows from the same element of its models. Every time that a
//! later stage reads the result, the stage's own models are read instead: it is fused where that moves fewer bytes.

use super::{Computed, Place, Plan, PlannedFile, PlannedTensor, budget};
use crate::error::Result;
use crate::limits::{BLOCK_ELEMENTS, FIXED_BYTES};
use crate::recipe::ChatTemplate;
use crate::tensor::{Bytes, LowRank};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// A stage inside the plan that reads its result.
#[derive(Clone, Debug)]
pub struct Fused {
    /// Its name.
    pub name: String,
    /// Its plan. Its files are those of the plan that it is in.
    pub plan: Plan,
    /// Bytes that it keeps in memory while its result is read.
    resident_bytes: usize,
}

/// A stage before the last.
#[derive(Debug)]
pub struct PlannedStage {
    /// Its name.
    pub name: String,
    /// Its plan.
    pub plan: Plan,
    /// How its result comes to those who read it.
    pub how: How,
}

/// How a stage's result comes to those who read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// It is made as it is read.
    Fused,
    /// It is written, for this reason.
    Written(String),
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fused => f.write_str("fused: its result is made as it is read, and not written"),
            Self::Written(why) => write!(f, "written, because {why}"),
        }
    }
}

/// Settles which stages are fused, and puts these into the plans that read them.
pub fn fuse_stages(before: &[(String, Plan)], last: &Plan) -> (Vec<PlannedStage>, Plan) {
    let mut how = decide(before, last);
    loop {
        match build(before, last, &how) {
            Ok((plans, last)) => {
                let stage = |(((name, _), plan), how): ((&(String, Plan), Plan), How)| PlannedStage {
                    name: name.clone(),
                    plan,
                    how,
                };
                return (before.iter().zip(plans).zip(how).map(stage).collect(), last);
            }
            Err(too_large) => {
                let why = "its models do not fit --memory beside those of the stage that reads it";
                too_large.into_iter().for_each(|stage| how[stage] = How::Written(why.into()));
            }
        }
    }
}

/// The plans with the fused stages in them. Fails with stages that do not fit the memory.
fn build(before: &[(String, Plan)], last: &Plan, how: &[How]) -> std::result::Result<(Vec<Plan>, Plan), Vec<usize>> {
    let mut plans: Vec<Plan> = Vec::new();
    let fused = |plan: &Plan, plans: &[Plan]| {
        let stages = || (0..plans.len()).filter(|&s| how[s] == How::Fused && result(plan, &before[s].0).is_some());
        let named: Vec<(&str, &Plan)> = stages().map(|s| (before[s].0.as_str(), &plans[s])).collect();
        plan.fuse(&named).map_err(|_| stages().collect::<Vec<_>>())
    };
    for (_, plan) in before {
        plans.push(fused(plan, &plans)?);
    }
    let last = fused(last, &plans)?;
    Ok((plans, last))
}

/// From the last stage to the first: how often each tensor of a result is read follows from the stages behind it.
fn decide(before: &[(String, Plan)], last: &Plan) -> Vec<How> {
    let mut how: Vec<How> = before.iter().map(|_| How::Fused).collect();
    let mut reads: Vec<Vec<u64>> = before.iter().map(|(_, plan)| vec![0; plan.tensors.len()]).collect();
    let mut obstacles: Vec<Option<&str>> = before.iter().map(|(_, plan)| obstacle(plan)).collect();
    for reader in (0..=before.len()).rev() {
        let plan = before.get(reader).map_or(last, |(_, plan)| plan);
        if reader < before.len() {
            how[reader] = choose(plan, &reads[reader], obstacles[reader]);
        }
        for (stage, (name, of)) in before[..reader].iter().enumerate() {
            for link in links(plan, name, of) {
                let made = match how.get(reader) {
                    Some(How::Fused) => reads[reader][link.tensor],
                    _ => 1,
                };
                let more = plan.reads(&plan.tensors[link.tensor], link.source, made);
                reads[stage][link.of] = reads[stage][link.of].saturating_add(more);
            }
            if let Some(model) = result(plan, name) {
                obstacles[stage] = obstacles[stage].or(obstacle_of_reader(plan, model));
            }
        }
    }
    how
}

/// Why a stage cannot be fused, if so.
fn obstacle(stage: &Plan) -> Option<&'static str> {
    if stage.surveys > 0 {
        Some("its method gathers statistics of whole tensors first")
    } else if stage.tensors.iter().any(|t| t.block_elements != BLOCK_ELEMENTS) {
        Some("its method looks at whole rows or matrices")
    } else if stage.vocabulary.is_some() {
        Some("it settles tokens anew")
    } else if stage.has_coded() {
        Some("it reads delta files")
    } else {
        None
    }
}

/// Why no result can be fused into this plan as this model, if so.
fn obstacle_of_reader(reader: &Plan, model: usize) -> Option<&'static str> {
    if reader.vocabulary.is_some() {
        Some("a later stage settles tokens anew")
    } else if matches!(reader.recipe.chat_template, Some(ChatTemplate::Auto)) {
        Some("a later stage reads its chat template")
    } else if reader.has_base && reader.has_coded() && reader.sources[0].models.contains(&model) {
        Some("a later stage reads delta files that are made from it")
    } else {
        None
    }
}

fn choose(stage: &Plan, reads: &[u64], obstacle: Option<&str>) -> How {
    if let Some(why) = obstacle {
        return How::Written(why.to_owned());
    }
    let sum = |of: &dyn Fn(&PlannedTensor, u64) -> u64| {
        let each = stage.tensors.iter().zip(reads).map(|(t, &reads)| of(t, reads));
        each.fold(0, u64::saturating_add)
    };
    let fused = sum(&|t, reads| stage.bytes_to_make(t).saturating_mul(reads));
    let written =
        sum(&|t, reads| stage.bytes_to_make(t).saturating_add(t.bytes().saturating_mul(reads.saturating_add(1))));
    match stage.options.fuse {
        Some(true) => How::Fused,
        None if fused < written => How::Fused,
        Some(false) => How::Written("it was asked for".into()),
        None => How::Written(format!(
            "making it as often as it is read would read {}; making it once, writing and reading it takes {}",
            Bytes(fused),
            Bytes(written)
        )),
    }
}

/// A tensor of a source that is a tensor of a stage's result.
struct Link {
    tensor: usize,
    source: usize,
    /// Index into the stage's tensors.
    of: usize,
}

/// The model that is the result of this stage.
fn result(reader: &Plan, name: &str) -> Option<usize> {
    reader.models.iter().position(|m| m.made_from.is_some() && m.label == name)
}

/// Where `reader` reads the written result of `stage`.
fn links(reader: &Plan, name: &str, stage: &Plan) -> Vec<Link> {
    let Some(model) = result(reader, name) else { return Vec::new() };
    let files = reader.models[model].files.clone();
    let place = |(i, t): (usize, &PlannedTensor)| ((files.start + t.shard, t.offset, t.elements), i);
    let by_place: BTreeMap<(usize, u64, u64), usize> = stage.tensors.iter().enumerate().map(place).collect();
    let mut links = Vec::new();
    for (tensor, t) in reader.tensors.iter().enumerate() {
        for (source, p) in t.places.iter().enumerate().filter(|(_, p)| files.contains(&p.file)) {
            let elements = p.rows.as_ref().map_or(t.elements, |_| u64::MAX);
            links.extend(by_place.get(&(p.file, p.offset, elements)).map(|&of| Link { tensor, source, of }));
        }
    }
    links
}

/// Files of several models, each model's one after another and listed once.
#[derive(Default)]
struct FileList {
    files: Vec<PlannedFile>,
    models: Vec<Range<usize>>,
}

impl FileList {
    /// Where the files of a model are.
    fn add(&mut self, files: &[PlannedFile]) -> Range<usize> {
        if let Some(known) = self.models.iter().find(|m| self.files[(*m).clone()] == *files) {
            return known.clone();
        }
        let new = self.files.len()..self.files.len() + files.len();
        self.files.extend_from_slice(files);
        self.models.push(new.clone());
        new
    }
}

impl Plan {
    /// How often a source's tensor is read, if the output is made so often.
    fn reads(&self, t: &PlannedTensor, source: usize, made: u64) -> u64 {
        if t.taken.is_some() {
            return if source == self.reference() { made } else { 0 };
        }
        if t.layer.is_none() {
            return made;
        }
        let scored = self.scored().filter(|(sources, _)| sources.contains(&source)).map_or(0, |(_, reads)| reads);
        let merged = if self.base() == Some(source) && !self.reads_base() { 0 } else { 1 + self.surveys };
        made.saturating_mul(merged).saturating_add(scored)
    }

    /// Bytes that are read to make a tensor of the output, statistics not counted.
    fn bytes_to_make(&self, t: &PlannedTensor) -> u64 {
        let unread = self.base().filter(|_| t.layer.is_some() && !self.reads_base());
        (0..self.sources.len()).filter(|s| Some(*s) != unread).map(|s| t.source_bytes(s)).sum()
    }

    /// The same merge with the results of these stages made while they are read.
    fn fuse(&self, stages: &[(&str, &Self)]) -> Result<Self> {
        let mut plan = self.clone();
        if stages.is_empty() {
            return Ok(plan);
        }
        let mut list = FileList::default();
        let fused = |label: &str| stages.iter().find(|(name, _)| *name == label);
        let mut moved = vec![usize::MAX; self.files.len()];
        for m in plan.models.iter_mut().filter(|m| m.made_from.is_none() || fused(&m.label).is_none()) {
            move_model(&mut m.files, &self.files, &mut list, &mut moved);
        }
        for t in &mut plan.tensors {
            t.places.iter_mut().for_each(|p| p.move_files(&moved));
        }
        for (name, stage) in stages {
            let number = plan.fused.len();
            for Link { tensor, source, of } in links(self, name, stage) {
                let place = &mut plan.tensors[tensor].places[source];
                *place =
                    Place { computed: Some(stage.computed(number, of)), file: usize::MAX, offset: 0, ..place.clone() };
            }
            for m in plan.models.iter_mut().filter(|m| m.made_from.is_some() && m.label == *name) {
                (m.fused, m.files) = (Some(number), 0..0);
            }
            let resident_bytes = stage.budget.resident_bytes - FIXED_BYTES;
            plan.fused.push(Fused { name: (*name).to_owned(), plan: stage.inside(&mut list), resident_bytes });
        }
        plan.files = list.files;
        plan.budget = plan.settle_budget(0)?;
        plan.settle_inside(0)?;
        Ok(plan)
    }

    fn computed(&self, stage: usize, tensor: usize) -> Computed {
        let t = &self.tensors[tensor];
        let sources = || 0..self.sources.len();
        Computed {
            stage,
            tensor,
            read_bytes: self.bytes_to_make(t),
            held_bytes: t.element_bytes(sources()) + t.dtype.bytes(),
            ranges: t.ranges(sources()),
        }
    }

    /// The same plan inside another, whose files are `list`.
    fn inside(&self, list: &mut FileList) -> Self {
        let mut plan = self.clone();
        let mut moved = vec![usize::MAX; self.files.len()];
        plan.take_files(&self.files, list, &mut moved);
        plan
    }

    fn take_files(&mut self, files: &[PlannedFile], list: &mut FileList, moved: &mut [usize]) {
        for m in self.models.iter_mut().filter(|m| m.fused.is_none()) {
            move_model(&mut m.files, files, list, moved);
        }
        self.fused.iter_mut().for_each(|f| f.plan.take_files(files, list, moved));
        for t in &mut self.tensors {
            t.places.iter_mut().filter(|p| p.computed.is_none()).for_each(|p| p.move_files(moved));
        }
        self.files.clear();
    }

    /// The budget where `outer` bytes are kept besides.
    fn settle_budget(&self, outer: usize) -> Result<budget::Budget> {
        let inner: usize = self.fused.iter().map(|f| f.resident_bytes).sum();
        let kept = self.kept_bytes + inner + outer;
        budget::settle(&self.options, &self.sources, &self.tensors, self.writes_delta(), kept)
    }

    /// The budgets of the passes that fused stages make before this one's.
    fn settle_inside(&mut self, outer: usize) -> Result<()> {
        let outer = outer + budget::list_bytes(self.sources.len(), self.tensors.len());
        for Fused { plan, .. } in &mut self.fused {
            if plan.scored().is_some() {
                plan.budget = plan.settle_budget(outer)?;
            }
            plan.settle_inside(outer)?;
        }
        Ok(())
    }

    /// Peak memory, also of passes that fused stages make before.
    pub fn peak_bytes(&self) -> u64 {
        let scores = |f: &&Fused| f.plan.scored().is_some();
        let before = self.fused.iter().filter(scores).map(|f| f.plan.peak_bytes()).max();
        self.budget.peak_bytes().max(before.unwrap_or(0))
    }
}

/// Puts a model's files into the list and notes where each is now.
fn move_model(own: &mut Range<usize>, files: &[PlannedFile], list: &mut FileList, moved: &mut [usize]) {
    let new = list.add(&files[own.clone()]);
    own.clone().zip(new.clone()).for_each(|(from, to)| moved[from] = to);
    *own = new;
}

impl Place {
    fn move_files(&mut self, moved: &[usize]) {
        self.file = moved[self.file];
        self.first_file = moved[self.first_file];
        if let Some(LowRank { a, b, .. }) = self.adapter.as_deref_mut() {
            (a.file, b.file) = (moved[a.file], moved[b.file]);
        }
    }
}
