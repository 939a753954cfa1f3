//! Many merges, one after another: each by itself, so that one that fails does not keep the others from being made.

use super::done::is_done_knowing;
use super::{Memo, Run, StagedPlan, plan_stages, read_recipe};
use crate::error::{Error, Result};
use crate::plan::Options;
use crate::recipe::{Batch, BatchJob, RecipeText};
use crate::report::Report;
use crate::sink::{Existing, Staging, Unfinished, free_bytes};
use crate::tensor::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How a batch runs.
pub struct BatchRun<'a> {
    /// How each merge runs; outputs and leftovers are the batch's own affair.
    pub run: Run<'a>,
    /// The options of all merges.
    pub options: Options,
    /// The folder that paths in the batch file count from.
    pub folder: &'a Path,
    /// Old outputs that are kept, as `OUT.1` (the newest) to `OUT.N`.
    pub keep: usize,
    /// What earlier runs found out.
    pub memo: Memo,
    /// Only says what would be done.
    pub dry: bool,
    /// Hears what happens.
    pub events: &'a mut dyn FnMut(&Event<'_>),
}

/// Something that happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A job begins.
    Started {
        /// The job's name.
        job: &'a str,
        /// Its output.
        output: &'a Path,
    },
    /// A job is over.
    Ended(&'a JobResult),
}

/// How a job went.
#[derive(Debug, Serialize)]
pub struct JobResult {
    /// Its name.
    pub job: String,
    /// Its output.
    pub output: PathBuf,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
    /// How long it took.
    pub seconds: f64,
}

/// How a job ended.
#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum End {
    /// The output is new.
    Done {
        /// Bytes that all passes read.
        bytes_read: u64,
        /// Bytes of the weight files.
        bytes_written: u64,
        /// Bytes of merged tensors that were taken from earlier outputs of the batch.
        bytes_reused: u64,
    },
    /// The output was there, made from the same recipe and inputs.
    UpToDate,
    /// It would be made; of a dry run.
    Planned {
        /// Bytes of the weight files.
        bytes_written: u64,
    },
    /// It failed; what was there is there still.
    Failed {
        /// What `taskvec merge` would exit with.
        exit_code: u8,
        /// Why.
        error: String,
    },
    /// The batch was stopped before.
    NotStarted,
}

impl End {
    fn failed(error: &Error) -> Self {
        Self::Failed { exit_code: error.exit_code(), error: error.to_string() }
    }

    fn done(report: &Report) -> Self {
        let run = &report.run;
        let bytes_read = run.passes.iter().map(|p| p.bytes_read).sum();
        Self::Done { bytes_read, bytes_written: run.bytes_written, bytes_reused: run.bytes_reused.unwrap_or(0) }
    }
}

/// A job that is not done yet, and what it needs.
struct Wanted {
    /// All that decides its bytes but for eta: what merges have in common that share their tensors.
    like: String,
    eta: f64,
    bytes_written: u64,
    disk_bytes: u64,
}

/// Runs all jobs. Those that differ in eta alone follow each other, the smallest eta first: its output has every tensor that
/// the others merge. Fails before the first job if the disk is too small for all.
pub fn batch(batch: &Batch, mut how: BatchRun<'_>) -> Result<Vec<JobResult>> {
    how.options.memo = true;
    let memo = std::mem::take(&mut how.memo);
    let outputs: Vec<PathBuf> = batch.jobs.iter().map(|job| how.folder.join(&job.output)).collect();
    let mut results: Vec<Option<JobResult>> = Vec::with_capacity(batch.jobs.len());
    let mut wanted = Vec::new();
    for (index, (job, out)) in batch.jobs.iter().zip(&outputs).enumerate() {
        let start = Instant::now();
        let over = match look(job, out, &how, &memo) {
            Ok(Some(needs)) => {
                wanted.push((index, needs));
                results.push(None);
                continue;
            }
            Ok(None) => End::UpToDate,
            Err(e) => End::failed(&e),
        };
        results.push(Some(tell(job, out, start, &mut how, |_| over)));
    }
    wanted.sort_by(|(_, a), (_, b)| a.like.cmp(&b.like).then(a.eta.total_cmp(&b.eta)));
    check_disk(wanted.iter().map(|(i, needs)| (outputs[*i].as_path(), needs)), how.keep)?;
    for (index, needs) in wanted {
        let (job, out) = (&batch.jobs[index], &outputs[index]);
        let run = |how: &BatchRun<'_>| {
            if how.dry {
                return End::Planned { bytes_written: needs.bytes_written };
            }
            make(job, out, how, &memo).unwrap_or_else(|e| End::failed(&e))
        };
        results[index] = Some(tell(job, out, Instant::now(), &mut how, run));
    }
    Ok(results.into_iter().flatten().collect())
}

/// Runs one job and tells of it.
fn tell(
    job: &BatchJob,
    out: &Path,
    start: Instant,
    how: &mut BatchRun<'_>,
    run: impl FnOnce(&BatchRun<'_>) -> End,
) -> JobResult {
    let end = if how.run.stop.check().is_err() {
        End::NotStarted
    } else {
        (how.events)(&Event::Started { job: &job.name, output: out });
        run(how)
    };
    let seconds = start.elapsed().as_secs_f64();
    let result = JobResult { job: job.name.clone(), output: out.to_owned(), end, seconds };
    (how.events)(&Event::Ended(&result));
    result
}

/// What a job needs; `None` if its output is up to date.
fn look(job: &BatchJob, out: &Path, how: &BatchRun<'_>, memo: &Memo) -> Result<Option<Wanted>> {
    how.run.stop.check()?;
    let plan = plan(job, out, how)?;
    // An output of another recipe, or of other inputs, is out of date.
    match is_done_knowing(&plan, out, &how.job_run(), memo) {
        Ok(true) => return Ok(None),
        Ok(false) | Err(Error::OutputExists { .. }) => {}
        Err(other) => return Err(other),
    }
    if !is_empty(out) && !out.join("taskvec.json").exists() {
        let problem = "holds files that taskvec did not write; a batch replaces its own outputs only".to_owned();
        return Err(Error::OutputExists { path: out.to_owned(), problem });
    }
    let mut like = plan.last.recipe.canonical();
    if let Some(lwptv) = like.get_mut("lwptv").and_then(serde_json::Value::as_object_mut) {
        lwptv.remove("eta");
    }
    let models: Vec<_> = plan.last.models.iter().map(|m| m.path.display().to_string()).collect();
    Ok(Some(Wanted {
        like: serde_json::json!([like, models]).to_string(),
        eta: plan.last.recipe.lwptv.as_ref().map_or(-1.0, |l| l.eta.get()),
        bytes_written: plan.last.output_bytes(),
        disk_bytes: plan.disk_bytes(how.run.links)?.0,
    }))
}

fn make(job: &BatchJob, out: &Path, how: &BatchRun<'_>, memo: &Memo) -> Result<End> {
    plan(job, out, how)?.merge_knowing(out, &how.job_run(), Some(memo)).map(|report| End::done(&report))
}

impl BatchRun<'_> {
    fn job_run(&self) -> Run<'_> {
        let existing = if self.keep > 0 { Existing::Rotate(self.keep) } else { Existing::Replace };
        Run { existing, unfinished: Unfinished::Resume, delta: None, masks: None, ..self.run }
    }
}

fn plan(job: &BatchJob, out: &Path, how: &BatchRun<'_>) -> Result<StagedPlan> {
    let (text, folder) = match &job.recipe {
        RecipeText::Inline(text) => (text.clone(), how.folder.to_owned()),
        RecipeText::Path(path) => {
            let path = how.folder.join(path);
            (read_recipe(&path)?, path.parent().unwrap_or(Path::new("")).to_owned())
        }
    };
    plan_stages(job.stages(&text)?, &folder, how.run.links, how.options, out).map_err(|e| job.located(e))
}

/// What a file system must hold.
#[derive(Default)]
struct Disk {
    /// Bytes that outputs add for good, less those of the outputs that they replace.
    stays: i128,
    /// The most at any time.
    most: i128,
}

/// Fails if the outputs do not fit all together, each as large as its weights: how small delta files are shows at the end.
fn check_disk<'a>(wanted: impl Iterator<Item = (&'a Path, &'a Wanted)>, keep: usize) -> Result<()> {
    let mut disks: BTreeMap<u64, Disk> = BTreeMap::new();
    for (out, needs) in wanted {
        let disk = disks.entry(device(out)).or_default();
        let (left, old) = (Staging::left_bytes(out), if keep == 0 { folder_bytes(out) } else { 0 });
        disk.most = disk.most.max(disk.stays + i128::from(needs.disk_bytes) - i128::from(left));
        disk.stays += i128::from(needs.bytes_written) - i128::from(old);
        let (needed, free) = (Bytes(disk.most.max(0) as u64), free_bytes(out)?);
        if needed > free {
            return Err(Error::NoSpace { path: out.to_owned(), needed, free });
        }
    }
    Ok(())
}

/// The file system that would hold `out`.
fn device(out: &Path) -> u64 {
    let whole = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    whole.ancestors().find_map(|a| std::fs::metadata(a).ok()).map_or(0, |m| m.dev())
}

fn folder_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| m.len()).sum()
}

fn is_empty(folder: &Path) -> bool {
    folder.read_dir().map_or(true, |mut files| files.next().is_none())
}
