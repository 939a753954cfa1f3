//! Many merges, one after another or in lanes side by side: each by itself, so that one that fails does not keep the others
//! from being made.

use super::done::is_done_knowing;
use super::{Memo, Run, StagedPlan, plan_stages, read_recipe};
use crate::error::{Error, Result};
use crate::limits::MEMO_BYTES;
use crate::pass::Silent;
use crate::plan::Options;
use crate::recipe::{Batch, BatchJob, RecipeText};
use crate::report::Report;
use crate::sink::{Existing, Staging, Unfinished, free_bytes};
use crate::tensor::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    /// So many jobs at once, each with its share of threads and memory.
    pub lanes: usize,
    /// Hears what happens.
    pub events: &'a mut Events<'a>,
}

/// Hears what happens, from one thread at a time.
pub type Events<'a> = dyn FnMut(&Event<'_>) + Send + 'a;

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
        /// Bytes of tensors that were taken from earlier outputs.
        bytes_reused: u64,
        /// Bytes of these, and of their deltas, that went from file to file inside the kernel.
        bytes_moved: u64,
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
        Self::Done {
            bytes_read,
            bytes_written: run.bytes_written,
            bytes_reused: run.bytes_reused.unwrap_or(0),
            bytes_moved: run.bytes_moved.unwrap_or(0),
        }
    }
}

/// A job that is not done yet, and what it needs.
struct Wanted {
    /// The models that it reads: jobs that have them in common share their pass 1.
    models: String,
    /// All else that decides its bytes but for eta: what merges have in common that share their tensors.
    like: String,
    eta: f64,
    bytes_written: u64,
    disk_bytes: u64,
}

/// What all lanes have in common.
struct Shared<'a> {
    run: Run<'a>,
    options: Options,
    folder: &'a Path,
    keep: usize,
    lanes: usize,
    dry: bool,
    memo: Memo,
}

/// A job and its output.
type Job<'a> = (&'a BatchJob, &'a Path);

/// Runs all jobs. Those that read the same models follow each other in one lane; of these, those that differ in eta alone, the
/// smallest eta first: its output has every tensor that the others merge. Fails before the first job if the disk is too small
/// for all.
pub fn batch(batch: &Batch, how: BatchRun<'_>) -> Result<Vec<JobResult>> {
    let (shared, events) = Shared::new(how)?;
    let outputs: Vec<PathBuf> = batch.jobs.iter().map(|job| shared.folder.join(&job.output)).collect();
    let jobs: Vec<Job<'_>> = batch.jobs.iter().zip(outputs.iter().map(PathBuf::as_path)).collect();
    let (mut results, mut wanted) = (BTreeMap::new(), Vec::new());
    for (index, &job) in jobs.iter().enumerate() {
        let start = Instant::now();
        let over = match shared.look(job) {
            Ok(Some(needs)) => {
                wanted.push((index, needs));
                continue;
            }
            Ok(None) => End::UpToDate,
            Err(e) => End::failed(&e),
        };
        results.insert(index, shared.tell(job, start, events, || over));
    }
    let key = |needs: &Wanted| (needs.models.clone(), needs.like.clone());
    wanted.sort_by(|(_, a), (_, b)| key(a).cmp(&key(b)).then(a.eta.total_cmp(&b.eta)));
    shared.check_disk(wanted.iter().map(|(i, needs)| (jobs[*i].1, needs)))?;
    results.extend(shared.run(&jobs, &wanted, events));
    Ok(results.into_values().collect())
}

impl<'a> Shared<'a> {
    /// Gives each lane its share of memory and threads.
    fn new(how: BatchRun<'a>) -> Result<(Self, &'a mut Events<'a>)> {
        let BatchRun { mut run, mut options, folder, keep, memo, dry, lanes, events } = how;
        if lanes == 0 {
            return Err(Error::Usage("--jobs 0: expected at least 1".into()));
        }
        options.memo = true;
        if lanes > 1 {
            // What jobs know from each other is there once.
            let known = MEMO_BYTES as u64;
            options.memory_bytes = options.memory_bytes.saturating_sub(known) / lanes as u64 + known;
            options.threads = (options.threads / lanes).max(1);
            run.progress = &Silent;
        }
        run.existing = if keep > 0 { Existing::Rotate(keep) } else { Existing::Replace };
        (run.unfinished, run.delta, run.masks) = (Unfinished::Resume, None, None);
        Ok((Self { run, options, folder, keep, lanes, dry, memo }, events))
    }

    /// Runs these jobs, in as many lanes as there are to be. Each lane takes the next jobs that read the same models.
    fn run(&self, jobs: &[Job<'_>], wanted: &[(usize, Wanted)], events: &mut Events<'_>) -> Vec<(usize, JobResult)> {
        let events = Mutex::new(events);
        let groups = Mutex::new(wanted.chunk_by(|(_, a), (_, b)| a.models == b.models));
        let results = Mutex::new(Vec::with_capacity(wanted.len()));
        let next = || lock(&groups).next();
        let lane = || {
            while let Some(group) = next() {
                for (index, needs) in group {
                    let result = self.run_one(jobs[*index], needs, &mut |event| lock(&events)(event));
                    lock(&results).push((*index, result));
                }
            }
        };
        std::thread::scope(|scope| {
            (1..self.lanes).for_each(|_| drop(scope.spawn(lane)));
            lane();
        });
        results.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_one(&self, job: Job<'_>, needs: &Wanted, events: &mut dyn FnMut(&Event<'_>)) -> JobResult {
        self.tell(job, Instant::now(), events, || {
            if self.dry {
                return End::Planned { bytes_written: needs.bytes_written };
            }
            self.make(job).unwrap_or_else(|e| End::failed(&e))
        })
    }

    /// Runs one job and tells of it.
    fn tell(
        &self,
        (job, out): Job<'_>,
        start: Instant,
        events: &mut dyn FnMut(&Event<'_>),
        run: impl FnOnce() -> End,
    ) -> JobResult {
        let end = if self.run.stop.check().is_err() {
            End::NotStarted
        } else {
            events(&Event::Started { job: &job.name, output: out });
            run()
        };
        let seconds = start.elapsed().as_secs_f64();
        let result = JobResult { job: job.name.clone(), output: out.to_owned(), end, seconds };
        events(&Event::Ended(&result));
        result
    }

    /// What a job needs; `None` if its output is up to date.
    fn look(&self, job: Job<'_>) -> Result<Option<Wanted>> {
        self.run.stop.check()?;
        let (plan, out) = (self.plan(job)?, job.1);
        // An output of another recipe, or of other inputs, is out of date.
        match is_done_knowing(&plan, out, &self.run, &self.memo) {
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
            models: serde_json::json!(models).to_string(),
            like: like.to_string(),
            eta: plan.last.recipe.lwptv.as_ref().map_or(-1.0, |l| l.eta.get()),
            bytes_written: plan.last.output_bytes(),
            disk_bytes: plan.disk_bytes(self.run.links)?.0,
        }))
    }

    fn make(&self, job: Job<'_>) -> Result<End> {
        let report = self.plan(job)?.merge_knowing(job.1, &self.run, Some(&self.memo))?;
        Ok(End::done(&report))
    }

    fn plan(&self, (job, out): Job<'_>) -> Result<StagedPlan> {
        let (text, folder) = match &job.recipe {
            RecipeText::Inline(text) => (text.clone(), self.folder.to_owned()),
            RecipeText::Path(path) => {
                let path = self.folder.join(path);
                (read_recipe(&path)?, path.parent().unwrap_or(Path::new("")).to_owned())
            }
        };
        plan_stages(job.stages(&text)?, &folder, self.run.links, self.options, out).map_err(|e| job.located(e))
    }

    /// Fails if the outputs do not fit all together, each as large as its weights: how small delta files are shows at the end.
    fn check_disk<'w>(&self, wanted: impl Iterator<Item = (&'w Path, &'w Wanted)>) -> Result<()> {
        let mut disks: BTreeMap<u64, Disk> = BTreeMap::new();
        for (out, needs) in wanted {
            let disk = disks.entry(device(out)).or_default();
            let (left, old) = (Staging::left_bytes(out), if self.keep == 0 { folder_bytes(out) } else { 0 });
            let stays = i128::from(needs.bytes_written) - i128::from(old);
            disk.add(self.lanes, stays, i128::from(needs.disk_bytes) - i128::from(left));
            let (needed, free) = (Bytes(disk.most.max(0) as u64), free_bytes(out)?);
            if needed > free {
                return Err(Error::NoSpace { path: out.to_owned(), needed, free });
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a file system must hold.
#[derive(Default)]
struct Disk {
    /// Bytes that outputs add for good, less those of the outputs that they replace.
    stays: i128,
    /// Of several lanes: what jobs take while they are under way and give back, the most first, as many as there are lanes.
    passing: Vec<i128>,
    /// The most at any time.
    most: i128,
}

impl Disk {
    /// A job that adds bytes for good, and takes so many while it is under way. Of several lanes nobody knows which jobs meet,
    /// nor when: those that give back most at once, and what others give back does not count.
    fn add(&mut self, lanes: usize, stays: i128, under_way: i128) {
        if lanes == 1 {
            self.most = self.most.max(self.stays + under_way);
            self.stays += stays;
            return;
        }
        let stays = stays.max(0);
        self.passing.push(under_way - stays);
        self.passing.sort_unstable_by(|a, b| b.cmp(a));
        self.passing.truncate(lanes);
        self.stays += stays;
        self.most = self.stays + self.passing.iter().sum::<i128>();
    }
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
