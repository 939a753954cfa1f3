//! One merge from recipe to published output: joins every room.

mod apply;
mod assign;
mod batch;
mod cache;
mod compare;
mod deep;
mod delta;
mod diff;
mod done;
mod fused;
mod keys;
mod known;
mod machine;
mod memo;
mod moved;
mod noted;
mod output;
mod parts;
mod read;
mod resume;
mod resume_apply;
mod resume_diff;
mod scoring;
mod sealed;
mod sides;
mod stages;
mod store;
mod sweep;
mod tokens;
mod verify;
mod waves;

pub use apply::{ApplyReport, ApplyRun, Verify, apply, check_delta};
pub use batch::{BatchRun, End, Event, Events, JobResult, batch};
pub use compare::{CompareRun, compare};
pub use deep::{DeepReport, DeepRun, check_deep};
pub use diff::{DiffReport, DiffRun, diff};
pub use done::is_done;
pub use machine::default_memory;
pub use memo::Memo;
pub use parts::{
    Asked, CommitRun, Committed, Next, PartDone, PartRun, Parted, Reduced, Status, commit, merge_part, reduce, status,
    survey_part, write_plan,
};
pub use read::{Account, read_account};
pub use scoring::Scoring;
pub use stages::{StagedPlan, plan_stages};
pub use store::{Added, Expert, Store};
pub use sweep::{Point, Setting, SweepRun, sweep};
pub use verify::check_output;

use crate::error::{Error, Result};
use crate::limits::{COEFFICIENTS_MAX_BYTES, RECIPE_MAX_BYTES};
use crate::method::Method;
use crate::pass::{Action, Engine, Outcome, PassRun, Progress, Stop};
use crate::plan::{Options, Plan};
use crate::recipe::{Coefficients, Recipe};
use crate::report::{Report, StageReport};
use crate::sink::{DeltaSink, Existing, Shards, StagedFile, Staging, Told, Unfinished, WrittenTensor};
use crate::source::{self, Files, Io, Links, PieceHash, is_delta, open_chain};
use crate::tensor::{Bytes, Inventory};
use assign::{assign, survey};
use memo::Computed;
use moved::{Moved, Mover, Taken, ranges};
use resume::{Past, Record};
use std::path::Path;
use std::time::{Duration, Instant};
use waves::Waves;

/// How a merge runs; none of it changes the output's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// How files are read.
    pub io: Io,
    /// Which links inside model folders are followed.
    pub links: Links,
    /// Whether inputs are hashed while they are read.
    pub hash_inputs: bool,
    /// Where the delta file of the output goes, if not into the output.
    pub delta: Option<&'a Path>,
    /// Where the masks go, if the plan writes them.
    pub masks: Option<&'a Path>,
    /// What happens to an output that is there.
    pub existing: Existing,
    /// What happens to what an interrupted run has left.
    pub unfinished: Unfinished,
    /// Whether the output is read back from the disk and hashed before it gets its name.
    pub read_back: bool,
    /// How often what is done is noted, so that a later run can go on if this one is interrupted; `None`: never.
    pub journal: Option<Duration>,
    /// Hears how it goes.
    pub progress: &'a (dyn Progress + 'a),
    /// Can end it.
    pub stop: &'a Stop,
}

impl std::fmt::Debug for dyn Progress + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

/// Reads the headers of all models (paths are relative to `folder`) and makes the plan.
pub fn plan(recipe: Recipe, folder: &Path, links: Links, options: Options) -> Result<Plan> {
    plan_with(recipe, folder, links, options, &[])
}

/// The same where some models are `results` of stages, each with the names of what it is made from.
fn plan_with(
    mut recipe: Recipe,
    folder: &Path,
    links: Links,
    options: Options,
    results: &[(Inventory, Vec<String>)],
) -> Result<Plan> {
    if let Some(name) = &recipe.coefficients {
        source::refuse_url(name, "a file of coefficients")?;
        let path = folder.join(name);
        let text = source::read_whole(&path, COEFFICIENTS_MAX_BYTES)?;
        let text = String::from_utf8(text).map_err(|_| Error::malformed(&path, "is not UTF-8 text"))?;
        let coefficients = Coefficients::parse(&text, &format!("coefficients ({name})"), recipe.experts().len())?;
        recipe.set_coefficients(&coefficients)?;
    }
    recipe.check()?;
    let models = open_models(&recipe, folder, links, results)?;
    let (vocabulary, notes) = tokens::settle(&recipe, &models, links)?;
    let mut plan = Plan::new(recipe, models, vocabulary, options)?;
    plan.warnings.extend(notes);
    for model in &mut plan.models {
        model.made_from = results.iter().find(|(r, _)| r.label == model.label).map(|(_, names)| names.clone());
    }
    let unplaced = output::unplaced_stacks(&plan, links)?;
    plan.warnings.extend(unplaced);
    Ok(plan)
}

/// Reads the headers of the recipe's models, in the order of [`Recipe::references`].
fn open_models(
    recipe: &Recipe,
    folder: &Path,
    links: Links,
    results: &[(Inventory, Vec<String>)],
) -> Result<Vec<Inventory>> {
    recipe.references().into_iter().try_for_each(source::check_urls)?;
    if let Some(base) = recipe.base.as_ref().filter(|b| is_delta(Path::new(b))) {
        let problem = format!("`{base}` is a delta file; base_model must be the checkpoint that deltas are made from");
        return Err(Error::recipe("base_model", problem));
    }
    if let Some(base) = recipe.base.as_ref().filter(|b| source::split_adapter(b, folder).is_ok_and(|s| s.is_some())) {
        let problem = format!(
            "`{base}` has an adapter; base_model must be a checkpoint. `taskvec merge --method passthrough --model {base} OUT` \
             makes one"
        );
        return Err(Error::recipe("base_model", problem));
    }
    let mut models: Vec<Inventory> = Vec::new();
    for reference in recipe.references() {
        if let Some((result, _)) = results.iter().find(|(r, _)| r.label == reference) {
            models.push(result.clone());
            continue;
        }
        models.push(match models.first().filter(|_| recipe.base.is_some()) {
            _ if Some(reference) == recipe.base.as_deref() => source::open(reference, folder, links)?,
            _ if !is_delta(Path::new(reference)) => source::open_expert(reference, folder, links)?,
            Some(base) => open_delta(reference, folder, base)?,
            None => {
                let problem = "a delta file needs base_model: the checkpoint that it was made from";
                return Err(Error::recipe(reference, problem));
            }
        });
    }
    Ok(models)
}

fn open_delta(reference: &str, folder: &Path, base: &Inventory) -> Result<Inventory> {
    source::refuse_url(reference, "a delta file")?;
    let path = folder.join(reference);
    let model = source::chained(reference, &path, &open_chain(&path)?);
    sides::check_headers(base, &model)?;
    Ok(model)
}

/// The text of a recipe or a batch file.
pub fn read_recipe(path: &Path) -> Result<String> {
    let missing = |problem: String| Error::InputMissing { path: path.to_owned(), problem };
    let meta = std::fs::metadata(path).map_err(|e| missing(format!("cannot be read: {e}")))?;
    if !meta.is_file() {
        return Err(missing("is not a regular file".into()));
    }
    if meta.len() > RECIPE_MAX_BYTES {
        return Err(Error::malformed(
            path,
            format!("{} long; a recipe has at most {}", Bytes(meta.len()), Bytes(RECIPE_MAX_BYTES)),
        ));
    }
    let bytes = std::fs::read(path).map_err(|e| missing(format!("cannot be read: {e}")))?;
    String::from_utf8(bytes).map_err(|_| Error::recipe("recipe", "is not UTF-8 text"))
}

/// Fails if the machine has too little memory for the plan.
pub fn check_memory(plan: &Plan) -> Result<()> {
    machine::check_memory(plan.peak_bytes())
}

/// Pass 1 alone: scores, thresholds and masks.
pub fn score(plan: &Plan, run: &Run<'_>) -> Result<Scoring> {
    if plan.prunes_elements() {
        let problem = "elements have no table of scores; use layer: tensor to see where saliency lies";
        return Err(Error::recipe("lwptv.layer", problem));
    }
    check_memory(plan)?;
    let files = open_files(plan, run.io)?;
    let mut engine = Engine::new(plan, &files, false, run.progress, run.stop)?;
    engine.average_rows()?;
    let scoring = Scoring::gather(plan, &engine, &Past::default(), None)?;
    files.check_unchanged()?;
    Ok(scoring)
}

/// The whole merge: `out` appears when it is complete, or not at all.
pub fn merge(plan: &Plan, out: &Path, run: &Run<'_>) -> Result<Report> {
    merge_with(plan, out, run, Vec::new(), None)
}

/// The same after `stages`, with what earlier merges have found out.
fn merge_with(plan: &Plan, out: &Path, run: &Run<'_>, stages: Vec<StageReport>, memo: Option<&Memo>) -> Result<Report> {
    let start = Instant::now();
    check_memory(plan)?;
    output::check_disk(plan, out, run.links)?;
    let models = plan.all_models().into_iter().map(|m| m.path.as_path());
    let inputs: Vec<&Path> = models.chain(plan.files.iter().map(|f| f.path.as_path())).collect();
    let staging = Staging::begin(out, &plan.id, run.existing, run.unfinished, &inputs)?;
    let aside = run.delta.filter(|_| plan.writes_delta());
    let aside = aside.map(|path| StagedFile::begin(path, run.existing, run.unfinished, &inputs)).transpose()?;
    assert_eq!(run.masks.is_some(), plan.masks.is_some(), "the plan says whether there are masks");
    let masks = run.masks.map(|path| begin_masks(path, out, run.existing, &inputs)).transpose()?;
    // A file of masks cannot be gone on with.
    let run = &Run { journal: run.journal.filter(|_| masks.is_none()), ..*run };
    let mut record = None;
    let parts = Parts { staging: &staging, aside: aside.as_ref(), masks: masks.as_ref(), memo };
    let filled = fill(plan, run, parts, &mut record, (stages, start));
    match filled.and_then(|filled| record.as_mut().map_or(Ok(()), Record::finish).map(|()| filled)) {
        Ok(Filled { report, computed }) => {
            staging.publish()?;
            aside.into_iter().chain(masks).try_for_each(StagedFile::publish)?;
            tracing::info!("published {}", out.display());
            if let Some(memo) = memo {
                let inside = out.join(delta::NAME);
                memo.published(plan, out, run.delta.unwrap_or(&inside), computed);
            }
            Ok(report)
        }
        Err(problem) if problem.can_resume() && record.as_ref().is_some_and(|r| r.has_lines) => {
            record.iter_mut().for_each(|record| record.end(&problem));
            let path = staging.folder().to_owned();
            staging.keep();
            aside.into_iter().for_each(StagedFile::keep);
            Err(Error::Unfinished { path, problem: Box::new(problem) })
        }
        Err(problem) => Err(problem),
    }
}

/// Where everything is made.
struct Parts<'a> {
    staging: &'a Staging,
    /// The delta file, if not in the output.
    aside: Option<&'a StagedFile>,
    masks: Option<&'a StagedFile>,
    /// What earlier merges have found out.
    memo: Option<&'a Memo>,
}

/// What was made.
struct Filled {
    report: Report,
    /// The tensors that other merges may take from it.
    computed: Vec<Computed>,
}

/// Makes everything of the output in the staging folder, or what an earlier run has not made.
fn fill(
    plan: &Plan,
    run: &Run<'_>,
    Parts { staging, aside, masks, memo }: Parts<'_>,
    record: &mut Option<Record>,
    (mut stages, start): (Vec<StageReport>, Instant),
) -> Result<Filled> {
    let files = open_files(plan, run.io)?;
    let first = resume::first_line(plan, run, &files);
    let (opened, mut past) = resume::open(plan, run, staging, &first)?;
    *record = opened;
    let mut engine = Engine::new(plan, &files, run.hash_inputs, run.progress, run.stop)?;
    past.restore_inputs(&mut engine);
    let looked = memo.map(|m| m.recall(plan, &mut engine, &mut past)).transpose()?.flatten();

    let fused = fused::start(plan, &mut engine)?;
    let averaged = engine.average_rows()?;
    if !past.sums.is_empty() {
        engine.hold();
    }
    let scoring = Scoring::gather(plan, &engine, &past, record.as_mut())?;
    engine.hold_no_more();
    engine.set_elements(scoring.elements.clone());
    let (mut works, mut actions) = assign(plan, &scoring);
    let method = start_method(plan)?;
    let mut runs: Vec<PassRun> = looked.into_iter().chain(averaged).chain(scoring.runs.iter().cloned()).collect();

    let delta_path = aside.map_or_else(|| staging.folder().join(delta::NAME), |a| a.part().to_owned());
    let mut target = Output::open(plan, staging, &actions, &delta_path, (&mut past, record.as_mut()), &mut runs)?;
    if let Some((file, layout)) = masks.zip(plan.masks.as_ref()) {
        target.shards.add(file.part(), layout)?;
    }
    if let Some(record) = record {
        record.start_at(past.tensors);
    }
    let mut tensor_hashes = delta::wants_hashes(plan).then(|| delta::tensor_hashes(plan));
    tensor_hashes.iter_mut().for_each(|hashes| past.restore_tensors(plan, hashes));
    let mut moved = Moved::default();
    if let Some(memo) = memo {
        let mover = Mover { plan, progress: run.progress, stop: run.stop, paranoid: run.read_back };
        let (assigned, made) = ((&mut works[..], &mut actions[..]), (&mut target, &mut tensor_hashes));
        moved = mover.take(memo, &mut engine, method.as_ref(), assigned, made, &past)?;
        runs.extend(moved.run.take());
    }
    let mut outcome = Outcome::new(plan.tensors.len());
    outcome.changes = past.changes(plan.tensors.len());
    outcome.bytes_written = moved.bytes;
    moved.changes.iter().for_each(|(&t, change)| outcome.changes[t] = *change);
    let ranges = memo.and_then(|_| ranges(plan));
    let waves = Waves {
        plan,
        engine: &engine,
        method: method.as_ref(),
        assigned: (&works, &actions),
        hash: &scoring.hashed.iter().map(|h| !h).collect::<Vec<_>>(),
        tensor_hashes: tensor_hashes.as_ref(),
        ranges: ranges.as_deref(),
        moved: &moved.changes,
    };
    waves.merge(past.tensors, &mut target, record.as_mut(), (&mut outcome, &mut runs))?;
    let Output { shards, written, delta } = target;
    shards.finish()?;
    let hashes = tensor_hashes.map(|h| delta::finish_hashes(plan, &actions, h)).transpose()?;
    let (input_hashes, rest) = engine.finish_hashes()?;
    runs.push(outcome.run.clone());
    runs.extend((rest.bytes_read > 0).then_some(rest));
    files.check_unchanged()?;
    engine.reused().check_unchanged()?;
    moved.check_unchanged()?;
    run.stop.check()?;
    let keys = memo.map(|m| m.learn(plan, &engine, &scoring, method.as_ref(), input_hashes.as_deref()));
    let known = Taken { actions: &actions, changes: &outcome.changes, moved: &moved, ranges: ranges.as_deref() };
    let computed = keys.map_or_else(Vec::new, |keys| known.computed(plan, keys, hashes.as_deref(), delta.as_ref()));

    fused::report(fused, &plan.files, input_hashes.as_deref(), run.links, &mut stages);
    let made = output::Made {
        plan,
        files: &plan.files,
        delta: delta.zip(hashes).map(|(sink, hashes)| delta::Made {
            sink,
            hashes,
            path: delta_path,
            inside: aside.is_none(),
        }),
        links: run.links,
        scoring: &scoring,
        actions: &actions,
        outcome,
        written,
        input_hashes,
        merge_error_bound: merge_error_bound(plan, method.as_ref()),
        runs,
        stages,
        start,
        resume_id: Some(resume::id(&first)),
        moved: (moved.bytes, moved.unread),
    };
    let report = made.write(staging)?;
    if run.read_back {
        verify::read_back(staging.folder(), &report.outputs)?;
    }
    Ok(Filled { report, computed })
}

/// A file of masks beside the output: inside it, it would be taken for weights.
fn begin_masks(path: &Path, out: &Path, existing: Existing, inputs: &[&Path]) -> Result<StagedFile> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io(path, "find"));
    if absolute(path)?.starts_with(absolute(out)?) {
        let problem = "is inside the output, where loaders would take it for weights; choose a path beside it";
        return Err(Error::Usage(format!("--masks {}: {problem}", path.display())));
    }
    StagedFile::begin(path, existing, Unfinished::Discard, inputs)
}

/// What is written to during the merge.
struct Output {
    shards: Shards,
    /// By shard.
    written: Vec<PieceHash>,
    delta: Option<DeltaSink>,
}

impl Output {
    /// Goes on with what `past` tells of, if it is there as it was written; else begins anew, and `past` forgets it.
    fn open(
        plan: &Plan,
        staging: &Staging,
        actions: &[Action],
        delta_path: &Path,
        (past, record): (&mut Past, Option<&mut Record>),
        runs: &mut Vec<PassRun>,
    ) -> Result<Self> {
        if past.tensors > 0 {
            match Self::resume(plan, staging, actions, delta_path, past) {
                Ok(Some((output, rehashed))) => {
                    runs.extend((rehashed.bytes_read > 0).then_some(rehashed));
                    return Ok(output);
                }
                Ok(None) => {
                    tracing::warn!("{}: parts are damaged; they are made again", staging.folder().display());
                }
                Err(error) => tracing::warn!("{error}; the parts are made again"),
            }
            past.forget_merge();
            record.map_or(Ok(()), Record::begin_anew)?;
        }
        let written: Vec<PieceHash> = plan.shards.iter().map(|s| PieceHash::new(s.file_bytes())).collect();
        plan.shards.iter().zip(&written).for_each(|(shard, hash)| hash.update(0, &shard.header));
        let shards = Shards::create(staging.folder(), &plan.shards)?;
        let delta = plan.writes_delta().then(|| delta::create(plan, actions, delta_path)).transpose()?;
        Ok(Self { shards, written, delta })
    }

    fn resume(
        plan: &Plan,
        staging: &Staging,
        actions: &[Action],
        delta_path: &Path,
        past: &Past,
    ) -> Result<Option<(Self, PassRun)>> {
        let shards = Shards::resume(staging.folder(), &plan.shards)?;
        let delta_path = plan.writes_delta().then_some(delta_path);
        let told = past.told(&shards, delta_path)?;
        let Some((written, mut rehashed)) = past.check_parts(plan, &shards, told)? else { return Ok(None) };
        if told == Told::Unproven {
            rehashed.bytes_read += past.delta.iter().map(WrittenTensor::payload_bytes).sum::<u64>();
        }
        let delta = delta_path.map(|path| delta::resume(plan, actions, path, (past, told))).transpose()?;
        Ok(Some((Self { shards, written, delta }, rehashed)))
    }
}

fn open_files(plan: &Plan, io: Io) -> Result<Files> {
    Files::open(plan.files.iter().map(|f| (f.path.as_path(), f.expected)), io)
}

fn start_method(plan: &Plan) -> Result<Box<dyn Method>> {
    (plan.recipe.method.start)(&plan.model()).map_err(|problem| Error::recipe(plan.recipe.method.name, problem))
}

/// How far lossy inputs can move an output value, before rounding; `None` if there are none, or nothing is known.
fn merge_error_bound(plan: &Plan, method: &dyn Method) -> Option<f64> {
    let experts = &plan.sources[plan.experts()];
    experts.iter().find(|s| s.error_bound.is_some())?;
    let errors: Vec<f64> = experts.iter().map(|s| s.error_bound.unwrap_or(0.0)).collect();
    plan.settings.iter().try_fold(0.0, |m: f64, settings| Some(m.max(method.error_bound(settings, &errors)?)))
}
