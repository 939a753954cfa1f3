//! Everything of the output besides tensor bytes: index, side files, recipe, card, report.

use super::Scoring;
use super::delta;
use super::machine::peak_rss_bytes;
use crate::error::{Error, Result};
use crate::limits::DISK_RESERVE_BYTES;
use crate::pass::{Action, Copied, Outcome, PassRun, Reason};
use crate::plan::{Head, Plan, PlannedFile, PlannedModel, PlannedTensor, Restack, Shard};
use crate::report::{
    InputFile, InputReport, LayerReport, OutputFile, Report, RunReport, StageReport, TensorAction, TensorReport, seal,
};
use crate::sink::{
    CHAT_TEMPLATE, ConfigEdits, SideFile, Staging, card, chat_template, edited, find_side_files, free_bytes,
    is_of_tokenizer, is_of_words,
};
use crate::source::{Links, PieceHash};
use crate::tensor::Bytes;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

/// What the passes made.
pub struct Made<'a> {
    pub plan: &'a Plan,
    /// The plan's files, also where it is fused into another.
    pub files: &'a [PlannedFile],
    /// The delta file under way.
    pub delta: Option<delta::Made>,
    pub links: Links,
    pub scoring: &'a Scoring,
    pub actions: &'a [Action],
    pub outcome: Outcome,
    pub written: Vec<PieceHash>,
    pub input_hashes: Option<Vec<blake3::Hash>>,
    pub runs: Vec<PassRun>,
    pub merge_error_bound: Option<f64>,
    pub stages: Vec<StageReport>,
    pub start: Instant,
    pub resume_id: Option<String>,
    /// Bytes of tensors that were taken from earlier outputs as a whole, and bytes of these and of deltas that no pass read.
    pub moved: (u64, u64),
}

/// Bytes needed on disk.
pub fn disk_bytes(plan: &Plan, links: Links) -> Result<Bytes> {
    let mut origin = plan;
    while let Some(stage) = stage_of_reference(origin) {
        origin = stage;
    }
    let side: u64 = side_files(origin, links)?.iter().map(|f| f.bytes).sum();
    // A delta file is never larger than what it codes, but how much smaller shows only at the end.
    let delta = if plan.writes_delta() { plan.output_bytes() } else { 0 };
    let masks = plan.masks.as_ref().map_or(0, Shard::file_bytes);
    Ok(Bytes(plan.output_bytes() + delta + masks + side + DISK_RESERVE_BYTES))
}

/// What changes in `config.json`.
fn edits(plan: &Plan) -> ConfigEdits<'_> {
    let dtype = plan.recipe.dtype.filter(|_| plan.tensors.iter().any(|t| t.dtype != t.places[0].stored()));
    let rows = plan.vocabulary.as_ref().map(|v| v.rows);
    ConfigEdits { dtype, rows, restacked: &plan.restacked, untied: plan.head == Head::Untied }
}

/// Warnings about stacks whose number of layers `config.json` does not tell.
pub fn unplaced_stacks(plan: &Plan, links: Links) -> Result<Vec<String>> {
    // The configuration of a stage's result is not there yet.
    if plan.restacked.is_empty() || plan.reference_model().made_from.is_some() {
        return Ok(Vec::new());
    }
    let files = find_side_files(&plan.reference_model().path, links)?;
    let config = files.iter().find(|f| f.name == "config.json");
    let json = config.map(SideFile::read).transpose()?;
    let warning = |s: &Restack| {
        let (stack, from, to) = (&s.stack, s.height, s.layers.len());
        format!("config.json does not say once that `{stack}` has {from} layers: set the number to {to} in the output")
    };
    Ok(edits(plan).unplaced(&json.unwrap_or_default()).into_iter().map(warning).collect())
}

/// The side files of the reference. Where the recipe settles the tokens, those of the tokenizer are the ones of the model
/// that it names, without those that would miss tokens.
fn side_files(plan: &Plan, links: Links) -> Result<Vec<SideFile>> {
    let mut files = find_side_files(&plan.reference_model().path, links)?;
    match &plan.vocabulary {
        Some(v) => {
            files.retain(|f| !is_of_tokenizer(&f.name));
            let others = find_side_files(&v.folder, links)?.into_iter();
            files.extend(others.filter(|f| is_of_tokenizer(&f.name) && !(v.is_extended() && is_of_words(&f.name))));
        }
        None if !plan.options.copy_tokenizer => files.retain(|f| !is_of_tokenizer(&f.name)),
        None => {}
    }
    Ok(files)
}

/// The stage that makes the reference, where that one is fused.
fn stage_of_reference(plan: &Plan) -> Option<&Plan> {
    plan.reference_model().fused.map(|stage| &plan.fused[stage].plan)
}

/// Shows name and content of each side file of the output. Those of a fused stage are what it would have written.
fn each_side_file(plan: &Plan, links: Links, take: &mut dyn FnMut(&str, Vec<u8>) -> Result<()>) -> Result<()> {
    let (edits, template) = (edits(plan), template(plan, links));
    let take_edited = |name: &str, content: Vec<u8>, take: &mut dyn FnMut(&str, Vec<u8>) -> Result<()>| {
        let replaced = template.is_some() && name == CHAT_TEMPLATE;
        if replaced { Ok(()) } else { take(name, edited(name, content, &edits, template.is_some())) }
    };
    if let Some(stage) = stage_of_reference(plan) {
        each_side_file(stage, links, &mut |name, content| {
            let left_out = !plan.options.copy_tokenizer && is_of_tokenizer(name);
            if left_out { Ok(()) } else { take_edited(name, content, take) }
        })?;
    } else {
        for file in side_files(plan, links)? {
            let vocabulary = plan.vocabulary.as_ref().filter(|_| file.name == "tokenizer.json");
            match vocabulary.map(|v| v.tokenizer_json(&file.path)).transpose()?.flatten() {
                Some(extended) => take(&file.name, extended)?,
                None => take_edited(&file.name, file.read()?, take)?,
            }
        }
    }
    template.iter().try_for_each(|text| take(CHAT_TEMPLATE, text.clone().into_bytes()))
}

/// The chat template that the recipe asks for.
fn template(plan: &Plan, links: Links) -> Option<String> {
    let asked = plan.recipe.chat_template.as_ref()?;
    let models = plan.sources.iter().flat_map(|s| &s.models);
    let folders: Vec<&Path> = models.map(|&m| plan.models[m].path.as_path()).collect();
    let found = chat_template(asked, &folders, links);
    if found.is_none() {
        tracing::warn!("chat_template: auto: no model has a chat template, so none is written");
    }
    found
}

/// Fails if the file system of `out` has too little space.
pub fn check_disk(plan: &Plan, out: &Path, links: Links) -> Result<()> {
    let (needed, free) = (disk_bytes(plan, links)?, Bytes(free_bytes(out)?.0 + Staging::left_bytes(out)));
    if needed > free {
        return Err(Error::NoSpace { path: out.to_owned(), needed, free });
    }
    Ok(())
}

impl Made<'_> {
    /// Writes the files beside the weights, the report last.
    pub fn write(mut self, staging: &Staging) -> Result<Report> {
        let mut outputs = self.weight_files();
        let mut kept = self.delta.is_some().then(|| delta::Kept::new(self.plan));
        let mut write = |name: &str, content: &[u8]| {
            staging.write(name, content)?;
            let blake3 = blake3::hash(content).to_hex().to_string();
            if let Some(kept) = &mut kept {
                kept.add(name, content, &blake3, &self.plan.reference_model().path);
            }
            outputs.push(OutputFile { name: name.to_owned(), bytes: content.len() as u64, blake3 });
            Ok(())
        };
        if self.plan.shards.len() > 1 {
            write("model.safetensors.index.json", &index(self.plan))?;
        }
        each_side_file(self.plan, self.links, &mut |name, content| write(name, &content))?;
        write("mergekit_config.yml", self.plan.recipe.text.as_bytes())?;
        if self.plan.options.write_card {
            write("README.md", card(self.plan).as_bytes())?;
        }
        if let Some(made) = self.delta.take() {
            let inside = made.inside;
            let file = delta::finish(made, kept.unwrap_or_default())?;
            outputs.extend(inside.then_some(file));
        }
        let report = self.report(outputs);
        let json = serde_json::to_string_pretty(&report).map_err(|e| Error::Usage(format!("report: {e}")))?;
        staging.write("taskvec.json", seal(&json).as_bytes())?;
        Ok(report)
    }

    fn weight_files(&mut self) -> Vec<OutputFile> {
        let file = |(shard, hash): (&Shard, PieceHash)| OutputFile {
            name: shard.name.clone(),
            bytes: shard.file_bytes(),
            blake3: hash.finish().to_hex().to_string(),
        };
        self.plan.shards.iter().zip(std::mem::take(&mut self.written)).map(file).collect()
    }

    /// The report; `outputs` are the files that were written.
    pub fn report(self, outputs: Vec<OutputFile>) -> Report {
        let (plan, bytes_reused) = (self.plan, self.bytes_reused());
        let options = &plan.options;
        let mut settings = plan.recipe.canonical();
        settings["shard_bytes"] = options.shard_bytes.into();
        settings["random_seed"] = options.seed.into();
        settings["allow_non_finite"] = options.allow_non_finite.into();
        Report {
            schema_version: 1,
            tool: "taskvec",
            version: env!("CARGO_PKG_VERSION"),
            plan_id: plan.id.clone(),
            recipe_blake3: blake3::hash(plan.recipe.text.as_bytes()).to_hex().to_string(),
            inputs: inputs(plan, self.files, self.input_hashes.as_deref())
                .into_iter()
                .map(|(report, _)| report)
                .collect(),
            settings,
            layers: self.scoring.layers(plan),
            thresholds: self.scoring.thresholds.iter().map(|t| t.value()).collect(),
            tensors: self.tensors(),
            outputs,
            merge_error_bound: self.merge_error_bound,
            stages: self.stages,
            run: RunReport {
                passes: self.runs,
                bytes_written: self.outcome.bytes_written
                    + plan.shards.iter().map(|s| s.header.len() as u64).sum::<u64>(),
                bytes_reused,
                bytes_moved: Some(self.moved.1).filter(|bytes| *bytes > 0),
                peak_rss_bytes: peak_rss_bytes(),
                seconds: self.start.elapsed().as_secs_f64(),
                threads: options.threads,
                memory_bytes: options.memory_bytes,
                resume_id: self.resume_id,
            },
        }
    }

    fn bytes_reused(&self) -> Option<u64> {
        let reused = |(i, _): &(usize, &PlannedTensor)| self.actions[*i].copied == Copied::Reused;
        let read: u64 = self.plan.tensors.iter().enumerate().filter(reused).map(|(_, t)| t.bytes()).sum();
        Some(read + self.moved.0).filter(|bytes| *bytes > 0)
    }

    fn tensors(&self) -> Vec<TensorReport> {
        let tensor = |(i, t): (usize, &PlannedTensor)| {
            let change =
                self.outcome.changes[i].or_else(|| (t.elements == 0 && self.plan.has_base).then(Default::default));
            let (action, reason) = describe(self.actions[i]);
            TensorReport {
                name: t.name.clone(),
                shape: t.shape.clone(),
                dtype: t.dtype.to_string(),
                action,
                reason,
                elements_changed: change.map(|c| c.elements),
                max_abs_delta: change.map(|c| c.max_abs),
            }
        };
        self.plan.tensors.iter().enumerate().map(tensor).collect()
    }
}

/// The inputs as the report has them, each with its files' places among `files`.
pub fn inputs(plan: &Plan, files: &[PlannedFile], hashes: Option<&[blake3::Hash]>) -> Vec<(InputReport, Range<usize>)> {
    let hash = |i: usize| hashes.map(|h| h[i].to_hex().to_string());
    let file = |i: usize| InputFile { name: files[i].name.clone(), bytes: files[i].bytes, blake3: hash(i) };
    let input = |(role, m): (&'static str, &PlannedModel)| {
        let files = m.files.clone().map(file).collect();
        let path = if m.made_from.is_some() { format!("stage {}", m.label) } else { m.path.display().to_string() };
        let adapter = m.adapter.as_ref().map(|a| a.display().to_string());
        (InputReport { role, path, adapter, files, error_bound: m.error_bound }, m.files.clone())
    };
    let role = |source: usize| if plan.base() == Some(source) { "base" } else { "expert" };
    let merged = plan.sources.iter().enumerate().flat_map(|(i, s)| s.models.iter().map(move |&m| (role(i), m)));
    let used = |m: &usize| plan.sources.iter().any(|s| s.models.contains(m));
    let copied = (0..plan.models.len()).filter(|m| !used(m)).map(|m| ("copied", m));
    let own = merged.chain(copied).map(|(role, m)| (role, &plan.models[m]));
    let mut inputs: Vec<(&'static str, &PlannedModel)> = own.collect();
    for model in plan.fused.iter().flat_map(|f| f.plan.all_models()).filter(|m| m.fused.is_none()) {
        if !inputs.iter().any(|(_, m)| m.files == model.files) {
            inputs.push(("stage", model));
        }
    }
    inputs.into_iter().map(input).collect()
}

impl Scoring {
    /// The layers as the report has them; empty without LwPTV.
    pub fn layers(&self, plan: &Plan) -> Vec<LayerReport> {
        let Some(mask) = &self.mask else { return Vec::new() };
        let layer = |(i, l): (usize, &crate::plan::Layer)| LayerReport {
            name: l.name.clone(),
            tensors: l.tensors.iter().map(|&t| plan.tensors[t].name.clone()).collect(),
            elements: l.elements,
            scores: self.scores[i].clone(),
            kept_by: mask.kept_by[i].clone(),
            kept: mask.keeps(i),
        };
        plan.layers.iter().enumerate().map(layer).collect()
    }
}

fn describe(action: Action) -> (TensorAction, &'static str) {
    match (action.reason, action.copied) {
        (Reason::NoPruning, _) => (TensorAction::Merged, "no lwptv stage: every float tensor is merged"),
        (Reason::Kept, _) => (TensorAction::Merged, "the shared mask keeps its layer"),
        (Reason::Elements, _) => (TensorAction::Merged, "elements are kept or pruned one by one (PwPTV)"),
        (Reason::Pruned, Copied::Cast) => {
            (TensorAction::Pruned, "the shared mask prunes its layer: the base's values in the output's dtype")
        }
        (Reason::Pruned, _) => (TensorAction::Pruned, "the shared mask prunes its layer: the base's bytes"),
        (Reason::Excluded, _) => (TensorAction::Copied, "the recipe excludes it: the first model's values"),
        (Reason::CopiedFrom, _) => (TensorAction::Copied, "the recipe copies it from a model (copy_from)"),
        (Reason::NotFloat, _) => (TensorAction::Copied, "not a float tensor, equal in all models"),
    }
}

/// `model.safetensors.index.json`, as transformers reads it.
fn index(plan: &Plan) -> Vec<u8> {
    let weight_map: serde_json::Map<String, serde_json::Value> =
        plan.tensors.iter().map(|t| (t.name.clone(), plan.shards[t.shard].name.clone().into())).collect();
    let bytes: u64 = plan.shards.iter().map(|s| s.tensor_bytes).sum();
    let parameters: u64 = plan.tensors.iter().map(|t| t.elements).sum();
    let index = serde_json::json!({
        "metadata": {"total_size": bytes, "total_parameters": parameters},
        "weight_map": weight_map,
    });
    let mut text = serde_json::to_vec_pretty(&index).unwrap_or_default();
    text.push(b'\n');
    text
}
