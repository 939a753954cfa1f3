//! `taskvec batch`.

use super::args::{Common, InputArgs, LimitArgs};
use super::merge::{in_file, journal_every, options, run_each};
use super::{Outcome, print, progress};
use clap::Args;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};
use taskvec::job::{self, BatchRun, End, Event, JobResult, Memo};
use taskvec::pass::Stop;
use taskvec::plan::Options;
use taskvec::recipe::Batch;
use taskvec::report::escape;
use taskvec::tensor::Bytes;
use taskvec::{Error, Result};

#[derive(Debug, Args)]
pub struct BatchArgs {
    /// The batch file; paths in it count from its folder.
    #[arg(value_name = "JOBS.yml")]
    pub path: PathBuf,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Keep so many old outputs, as OUT.1 (the newest) to OUT.N.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep: usize,
    /// Keep in this file what merges know from each other, so that the next run reads only what has changed.
    #[arg(long, value_name = "FILE")]
    pub cache: Option<PathBuf>,
    /// So many jobs at once, where they read different models. Each gets its share of --memory and --num-threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub jobs: usize,
    /// Say what is up to date and what would be made, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
    /// Add a JSON line to this file when a job begins and when it ends.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Write no delta files.
    #[arg(long)]
    pub no_delta: bool,
    #[command(flatten)]
    pub inputs: InputArgs,
}

pub fn batch(args: &BatchArgs, common: &Common, stop: &Stop) -> Outcome {
    let start = Instant::now();
    let batch =
        job::read_recipe(&args.path).and_then(|text| Batch::parse(&text)).map_err(|e| in_file(&args.path, e))?;
    let progress = progress::choose(common);
    let run = run_each(&args.limits, &args.inputs, progress.as_ref(), stop);
    let run = job::Run { journal: Some(journal_every(1.0)?), ..run };
    let mut log = args.events.as_deref().map(Log::open).transpose()?;
    let total = batch.jobs.len();
    let mut begun = 0;
    let mut tell = |event: &Event<'_>| {
        if let Some(log) = &mut log {
            log.add(event);
        }
        if common.quiet {
            return;
        }
        match event {
            Event::Started { job, .. } => {
                begun += 1;
                print::note(format_args!("[{begun}/{total}] {}", escape(job)));
            }
            Event::Ended(result) if args.jobs > 1 => {
                print::note(format_args!("{}: {}", escape(&result.job), line(result)));
            }
            Event::Ended(result) => print::note(format_args!("        {}", line(result))),
        }
    };
    let jobs = job::batch(
        &batch,
        BatchRun {
            run,
            options: options(&args.limits, Options { delta: !args.no_delta, ..Options::default() })?,
            folder: args.path.parent().unwrap_or(Path::new("")),
            keep: args.keep,
            memo: args.cache.as_deref().map_or_else(|| Ok(Memo::default()), Memo::open)?,
            dry: args.dry_run,
            lanes: args.jobs,
            events: &mut tell,
        },
    )?;
    if let Some(problem) = log.and_then(|log| log.problem) {
        print::note(format_args!("note: {problem}"));
    }
    let summary = Summary::new(jobs, start.elapsed().as_secs_f64());
    if args.json {
        print::out(serde_json::to_string_pretty(&summary).unwrap_or_default())?;
    } else {
        print::out(summary.text())?;
    }
    stop.check()?;
    summary
        .first_exit_code
        .map_or(Ok(()), |exit_code| Err(Error::Batch { failed: summary.failed, jobs: total, exit_code }))
}

/// How all of it went.
#[derive(Debug, Serialize)]
struct Summary {
    /// In the order of the batch file.
    jobs: Vec<JobResult>,
    made: usize,
    planned: usize,
    up_to_date: usize,
    failed: usize,
    not_started: usize,
    bytes_read: u64,
    bytes_written: u64,
    bytes_reused: u64,
    bytes_moved: u64,
    seconds: f64,
    #[serde(skip)]
    first_exit_code: Option<u8>,
}

impl Summary {
    fn new(jobs: Vec<JobResult>, seconds: f64) -> Self {
        let mut all = Self {
            jobs: Vec::new(),
            made: 0,
            planned: 0,
            up_to_date: 0,
            failed: 0,
            not_started: 0,
            bytes_read: 0,
            bytes_written: 0,
            bytes_reused: 0,
            bytes_moved: 0,
            seconds,
            first_exit_code: None,
        };
        for job in &jobs {
            match &job.end {
                End::Done { bytes_read, bytes_written, bytes_reused, bytes_moved } => {
                    all.made += 1;
                    all.bytes_moved += bytes_moved;
                    all.bytes_read += bytes_read;
                    all.bytes_written += bytes_written;
                    all.bytes_reused += bytes_reused;
                }
                End::Planned { .. } => all.planned += 1,
                End::UpToDate => all.up_to_date += 1,
                End::NotStarted => all.not_started += 1,
                End::Failed { exit_code, .. } => {
                    all.failed += 1;
                    all.first_exit_code.get_or_insert(*exit_code);
                }
            }
        }
        Self { jobs, ..all }
    }

    fn text(&self) -> String {
        let width = self.jobs.iter().map(|r| escape(&r.job).chars().count()).max().unwrap_or(0);
        let lines = self.jobs.iter().map(|r| format!("{:width$}  {}", escape(&r.job), line(r)));
        let counts = [
            (self.made, "made"),
            (self.planned, "to be made"),
            (self.up_to_date, "up to date"),
            (self.failed, "failed"),
            (self.not_started, "not started"),
        ];
        let counts: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let mut last = format!("{} jobs: {}", self.jobs.len(), counts.join(", "));
        if self.made > 0 {
            last += &format!("; read {}, wrote {}", Bytes(self.bytes_read), Bytes(self.bytes_written));
        }
        last += &format!("; {:.2} s", self.seconds);
        lines.chain([last]).collect::<Vec<_>>().join("\n")
    }
}

/// One line about a job that is over.
fn line(result: &JobResult) -> String {
    match &result.end {
        End::Done { bytes_read, bytes_written, bytes_reused, .. } => {
            let reused =
                if *bytes_reused > 0 { format!(" ({} made before)", Bytes(*bytes_reused)) } else { String::new() };
            let (seconds, read, wrote) = (result.seconds, Bytes(*bytes_read), Bytes(*bytes_written));
            format!("made in {seconds:.2} s, read {read}, wrote {wrote}{reused}")
        }
        End::UpToDate => "up to date".into(),
        End::Planned { bytes_written } => format!("would be made, {}", Bytes(*bytes_written)),
        End::Failed { exit_code, error } => {
            format!("failed ({exit_code}): {}", escape(error.lines().next().unwrap_or_default()))
        }
        End::NotStarted => "not started".into(),
    }
}

/// A file that gets a JSON line for each event. It must not end the batch: the first problem is told at the end.
struct Log {
    file: std::fs::File,
    problem: Option<String>,
}

impl Log {
    fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(Error::io(path, "open"))?;
        Ok(Self { file, problem: None })
    }

    #[allow(clippy::disallowed_methods, reason = "a log has dates; it is no output")]
    fn add(&mut self, event: &Event<'_>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let mut line = serde_json::to_value(event).unwrap_or_default();
        line["time"] = now.into();
        if let Err(e) = writeln!(self.file, "{line}") {
            self.problem.get_or_insert(format!("events could not be written: {e}"));
        }
    }
}
