//! One recipe with many etas and lambdas: pass 1 runs once, and what two settings merge alike is merged once.

use super::{Memo, Run, open_files, plan_stages, resume};
use crate::disk;
use crate::error::{Error, Result};
use crate::plan::{Options, Plan};
use crate::recipe::swept;
use crate::report::Report;
use crate::sink::{Existing, Locked, Unfinished, write_whole};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was done, in the folder of a sweep.
const RECORD: &str = "sweep.json";
/// Where models are while they are measured.
const MODELS: &str = ".models";

/// How a sweep runs.
pub struct SweepRun<'a> {
    /// How each merge runs; outputs and leftovers are the sweep's own affair.
    pub run: Run<'a>,
    /// The options of all merges.
    pub options: Options,
    /// The folder that the recipe's paths count from.
    pub folder: &'a Path,
    /// Whether models are kept; else their delta files.
    pub full: bool,
    /// What measures a model, and its name: a measure of the same name is not taken again.
    pub measure: Option<(&'a str, &'a mut Measure<'a>)>,
    /// Hears of each point as it is done, and whether it was done before.
    pub done: &'a mut dyn FnMut(&Point, bool),
}

/// Measures the model in a folder.
pub type Measure<'a> = dyn FnMut(&Path) -> Result<BTreeMap<String, f64>> + 'a;

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The pruning ratio.
    pub eta: f64,
    /// Lambda; `None`: as the recipe has it.
    pub lambda: Option<f64>,
}

/// One setting, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// What was set.
    #[serde(flatten)]
    pub setting: Setting,
    /// The delta file, or the model's folder, in the sweep's.
    pub result: String,
    /// Bytes of the delta file, or of the weight files.
    pub bytes: u64,
    /// Layers that are merged, of all.
    pub layers_kept: usize,
    /// All layers.
    pub layers: usize,
    /// Bytes that all passes read.
    pub bytes_read: u64,
    /// What was measured.
    pub metrics: BTreeMap<String, f64>,
    /// By what.
    pub measured_by: Option<String>,
    /// What it was made from.
    plan_id: String,
    resume_id: String,
}

impl Setting {
    /// The name of its result.
    fn name(&self) -> String {
        match self.lambda {
            None => format!("eta-{}", self.eta),
            Some(lambda) => format!("lambda-{lambda}-eta-{}", self.eta),
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Record {
    points: Vec<Point>,
}

/// Merges the recipe with every setting into `out`. Points that are there already, from the same inputs, are left alone.
pub fn sweep(recipe: &str, settings: &[Setting], out: &Path, mut how: SweepRun<'_>) -> Result<Vec<Point>> {
    how.options.memo = true;
    disk::make_folders(out)?;
    let _lock = Locked::take(&out.join(".lock"), out)?;
    let before = read(out)?;
    let models = out.join(MODELS);
    disk::remove_folder(&models)?;
    // The smallest eta of each lambda first: its output has every tensor that the others merge.
    let mut order: Vec<Setting> = settings.to_vec();
    order.sort_by(|a, b| a.lambda.unwrap_or(0.0).total_cmp(&b.lambda.unwrap_or(0.0)).then(a.eta.total_cmp(&b.eta)));
    let memo = Memo::default();
    let mut points: Vec<Point> = Vec::new();
    let mut shared: Option<(Setting, PathBuf)> = None;
    for setting in order {
        how.run.stop.check()?;
        if let Some((_, model)) = shared.take_if(|(first, _)| first.lambda != setting.lambda) {
            disk::remove_folder(&model)?;
        }
        let known = before.points.iter().find(|p| p.setting == setting);
        let made = make(recipe, setting, out, known, &mut how, &memo)?;
        (how.done)(&made.point, made.model.is_none());
        points.push(made.point);
        save(out, &points, &before)?;
        match made.model {
            Some(model) if !how.full && shared.is_some() => disk::remove_folder(&model)?,
            Some(model) if !how.full => shared = Some((setting, model)),
            _ => {}
        }
    }
    disk::remove_folder(&models)?;
    Ok(points)
}

struct Made {
    point: Point,
    /// The model, if it was made now.
    model: Option<PathBuf>,
}

fn make(
    recipe: &str,
    setting: Setting,
    out: &Path,
    known: Option<&Point>,
    how: &mut SweepRun<'_>,
    memo: &Memo,
) -> Result<Made> {
    let name = setting.name();
    let model = if how.full { out.join(&name) } else { out.join(MODELS).join(&name) };
    let delta = out.join(format!("{name}.tvd"));
    let stages = swept(recipe, setting.eta, setting.lambda)?;
    let options = Options { delta: !how.full, ..how.options };
    let plan = plan_stages(stages, how.folder, how.run.links, options, &model)?;
    if !plan.before.is_empty() {
        return Err(Error::recipe("recipe", "a sweep is for recipes of one document"));
    }
    if !how.full && !plan.last.writes_delta() {
        let problem = "the result has no delta from the base (`taskvec plan` says why); pass --full to keep models";
        return Err(Error::Usage(problem.into()));
    }
    let (existing, unfinished) = (Existing::Replace, Unfinished::Discard);
    let delta = (!how.full).then_some(delta);
    let run = Run { delta: delta.as_deref(), masks: None, existing, unfinished, journal: None, ..how.run };
    let measure = how.measure.as_ref().map(|(name, _)| *name);
    let id = made_from(&plan.last, &run)?;
    let result = delta.as_deref().unwrap_or(&model);
    if let Some(point) = known.filter(|p| {
        p.plan_id == plan.last.id
            && p.resume_id == id
            && bytes_of(result) == Some(p.bytes)
            && (measure.is_none() || p.measured_by.as_deref() == measure)
    }) {
        return Ok(Made { point: point.clone(), model: None });
    }
    let report = plan.merge_knowing(&model, &run, Some(memo))?;
    let metrics = match &mut how.measure {
        None => BTreeMap::new(),
        Some((_, measure)) => measure(&model)?,
    };
    let result = result.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let point = point(setting, &report, (result, id), metrics, measure.map(str::to_owned));
    let bytes = bytes_of(&out.join(&point.result)).unwrap_or_default();
    Ok(Made { point: Point { bytes, ..point }, model: Some(model) })
}

fn point(
    setting: Setting,
    report: &Report,
    (result, resume_id): (String, String),
    metrics: BTreeMap<String, f64>,
    measured_by: Option<String>,
) -> Point {
    Point {
        setting,
        result,
        bytes: 0,
        layers_kept: report.layers.iter().filter(|l| l.kept).count(),
        layers: report.layers.len(),
        bytes_read: report.run.passes.iter().map(|p| p.bytes_read).sum(),
        metrics,
        measured_by,
        plan_id: report.plan_id.clone(),
        resume_id,
    }
}

/// A short name of plan and inputs.
fn made_from(plan: &Plan, run: &Run<'_>) -> Result<String> {
    let files = open_files(plan, run.io)?;
    Ok(resume::id(&resume::first_line(plan, run, &files)))
}

/// Bytes of a delta file, or of a model's weight files.
fn bytes_of(result: &Path) -> Option<u64> {
    let meta = std::fs::metadata(result).ok()?;
    if meta.is_file() {
        return Some(meta.len());
    }
    let weights = |f: &std::fs::DirEntry| f.path().extension().is_some_and(|e| e == "safetensors");
    let files = std::fs::read_dir(result).ok()?.flatten().filter(weights);
    Some(files.filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum())
}

fn read(out: &Path) -> Result<Record> {
    let path = out.join(RECORD);
    if let Ok(text) = std::fs::read(&path) {
        let problem =
            |e| Error::malformed(&path, format!("not the record of a sweep: {e}; remove it, or choose another folder"));
        return serde_json::from_slice(&text).map_err(problem);
    }
    let ours = |name: &str| name == ".lock" || name == MODELS;
    let mut files = std::fs::read_dir(out).map_err(Error::io(out, "list the folder"))?.flatten();
    if files.any(|f| !ours(&f.file_name().to_string_lossy())) {
        let problem = "the folder is not empty and holds no sweep; choose another".to_owned();
        return Err(Error::OutputExists { path: out.to_owned(), problem });
    }
    Ok(Record::default())
}

/// Writes down what is done, now and before.
fn save(out: &Path, points: &[Point], before: &Record) -> Result<()> {
    let other = |p: &&Point| !points.iter().any(|n| n.setting == p.setting);
    let points = points.iter().chain(before.points.iter().filter(other)).cloned().collect();
    let json = serde_json::to_vec_pretty(&Record { points }).map_err(|e| Error::Usage(format!("{RECORD}: {e}")))?;
    write_whole(&out.join(RECORD), &json)
}
