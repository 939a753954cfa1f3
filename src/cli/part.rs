//! `taskvec plan --partitions`, `part`, `reduce`, `commit`, `status`: one merge on several machines.

use super::args::{Common, IoKind, PlanArgs};
use super::merge::{from_flags, io, links, options, size, threads};
use super::{Outcome, print, progress};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use taskvec::job::{self, Asked, CommitRun, Committed, Next, PartDone, PartRun, Parted};
use taskvec::mask::Eta;
use taskvec::pass::Stop;
use taskvec::plan::Options;
use taskvec::tensor::Bytes;
use taskvec::{Error, Result};

#[derive(Debug, Args)]
pub struct PartArgs {
    #[command(subcommand)]
    pub command: PartCommand,
}

#[derive(Debug, Subcommand)]
pub enum PartCommand {
    /// Gather a part's share of a round: a pass over the whole model.
    Survey {
        #[command(flatten)]
        part: OnePart,
        /// The round, from 1 [default: the first that is not reduced].
        #[arg(long, value_name = "R")]
        round: Option<usize>,
    },
    /// Make a part's bytes of the output.
    Merge {
        #[command(flatten)]
        part: OnePart,
    },
}

#[derive(Debug, Args)]
pub struct OnePart {
    /// Which part, from 0; with or without the number of parts [default: SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX].
    #[arg(long, value_name = "PART[/PARTS]")]
    pub part: Option<String>,
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Arguments of every stage.
#[derive(Debug, Args)]
pub struct StageArgs {
    /// plan.json, or its folder.
    #[arg(long, value_name = "RUN")]
    pub plan: PathBuf,
    /// Peak memory, mapped pages included: 512MiB, 2GB [default: 1GiB, or 3/4 of what machine, cgroup and ulimit allow].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Compute threads [default: all cores].
    #[arg(short = 'j', long, value_name = "N")]
    pub num_threads: Option<usize>,
    /// How inputs are read: mmap, or pread for network file systems.
    #[arg(long, value_enum, default_value_t = IoKind::Mmap)]
    pub io: IoKind,
}

#[derive(Debug, Args)]
pub struct ReduceArgs {
    #[command(flatten)]
    pub stage: StageArgs,
    /// Succeed only if this round is reduced then [default: reduce the next].
    #[arg(long, value_name = "R")]
    pub round: Option<usize>,
}

#[derive(Debug, Args)]
pub struct CommitArgs {
    #[command(flatten)]
    pub stage: StageArgs,
    /// Take the parts' word for the hashes of pieces that are whole files: only pieces that must be copied are read.
    #[arg(long)]
    pub no_read_back: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// plan.json, or its folder.
    #[arg(long, value_name = "RUN")]
    pub plan: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `taskvec plan --out RUN --partitions P`.
pub fn write_plan(args: &PlanArgs, out: &Path, parts: usize) -> Outcome {
    let (text, folder) = match &args.path {
        Some(path) if args.recipe.method.is_none() => {
            (job::read_recipe(path)?, path.parent().unwrap_or(Path::new("")).to_owned())
        }
        Some(_) => return Err(Error::Usage("give either a recipe file or --method, not both".into())),
        None => (from_flags(&args.recipe)?.text, PathBuf::new()),
    };
    let eta = |e| Eta::new(e).ok_or_else(|| Error::Usage(format!("--eta {e}: expected 0 to 1")));
    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
    let asked = Asked {
        recipe: text,
        folder,
        eta: args.recipe.eta.map(eta).transpose()?,
        no_lwptv: args.recipe.no_lwptv,
        links: links(&args.recipe),
        options: options(&args.limits, Options { delta: false, ..Options::default() })?,
        parts,
    };
    let (plan, parts, path) = job::write_plan(&asked, out)?;
    plan.warnings.iter().for_each(|w| print::note(format_args!("note: {w}")));
    let bytes: Vec<u64> = (0..parts.count()).map(|p| parts.bytes(&plan, p)).collect();
    let [least, most] = [bytes.iter().min(), bytes.iter().max()].map(|b| Bytes(b.copied().unwrap_or(0)));
    print::out(format_args!(
        "plan      {}\nparts     {}, each reads and writes {least} to {most}",
        path.display(),
        parts.count()
    ))?;
    print::out(format_args!(
        "delta     none; `taskvec diff BASE {}` makes one of the output",
        out.join("model").display()
    ))?;
    tell_next(&path)
}

pub fn part(args: &PartArgs, common: &Common, stop: &Stop) -> Outcome {
    let (one, round) = match &args.command {
        PartCommand::Survey { part, round } => (part, Some(*round)),
        PartCommand::Merge { part } => (part, None),
    };
    if round == Some(Some(0)) {
        return Err(Error::Usage("--round 0: rounds are counted from 1".into()));
    }
    with_plan(&one.stage, common, stop, |parted, run| {
        let part = which(one.part.as_deref(), parted.parts.count())?;
        let done = match round {
            Some(round) => job::survey_part(parted, part, round, run)?,
            None => job::merge_part(parted, part, run)?,
        };
        tell(
            common,
            match done {
                PartDone::Before => format!("part {part}: nothing is left to do"),
                PartDone::Now { bytes_read, bytes_written } => {
                    format!("part {part}: read {}, wrote {}", Bytes(bytes_read), Bytes(bytes_written))
                }
            },
        );
        Ok(())
    })
}

pub fn reduce(args: &ReduceArgs, common: &Common, stop: &Stop) -> Outcome {
    with_plan(&args.stage, common, stop, |parted, run| {
        let found = job::reduce(parted, args.round, run)?;
        let next = if found.more { "another round comes" } else { "the merge comes" };
        tell(common, format!("{} rounds are reduced; {next}", found.rounds));
        Ok(())
    })
}

pub fn commit(args: &CommitArgs, common: &Common, stop: &Stop) -> Outcome {
    with_plan(&args.stage, common, stop, |parted, run| {
        let how = CommitRun { run: *run, read_back: !args.no_read_back };
        tell(
            common,
            match job::commit(parted, &how)? {
                Committed::Now(out) => format!("{}: published", out.display()),
                Committed::Before(out) => format!("{}: was published before", out.display()),
            },
        );
        Ok(())
    })
}

pub fn status(args: &StatusArgs) -> Outcome {
    if !args.json {
        return tell_next(&args.plan);
    }
    let status = job::status(&args.plan)?;
    print::out(serde_json::to_string(&status).unwrap_or_default())
}

fn tell_next(plan: &Path) -> Outcome {
    let s = job::status(plan)?;
    let listed = |what: &str| {
        let names: Vec<String> = s.missing.iter().take(10).map(usize::to_string).collect();
        let more = if s.missing.len() > 10 { ", ..." } else { "" };
        format!("`taskvec part {what}` for parts {}{more}", names.join(", "))
    };
    let next = match s.next {
        Next::Survey => listed(&format!("survey --round {}", s.round.unwrap_or(1))),
        Next::Reduce => "`taskvec reduce`".to_owned(),
        Next::Merge => listed("merge"),
        Next::Commit => "`taskvec commit`".to_owned(),
        Next::Nothing => "nothing: the output is published".to_owned(),
    };
    print::out(format_args!("rounds    {} reduced, of at most {}", s.reduced, s.rounds))?;
    print::out(format_args!("surveyed  {} of {} parts in the round that comes", s.surveyed, s.parts))?;
    print::out(format_args!("merged    {} of {} parts", s.merged, s.parts))?;
    print::out(format_args!("next      {next}"))
}

fn tell(common: &Common, text: String) {
    if !common.quiet {
        print::note(text);
    }
}

/// Opens the plan and hands it over with what stages need.
fn with_plan(
    args: &StageArgs,
    common: &Common,
    stop: &Stop,
    go: impl FnOnce(&Parted, &PartRun<'_>) -> Outcome,
) -> Outcome {
    let memory_bytes = args.memory.as_ref().map_or_else(|| Ok(job::default_memory()), |m| size("--memory", m))?;
    let threads = threads(args.num_threads)?;
    let parted = Parted::open(&args.plan, memory_bytes, threads)?;
    let progress = progress::choose(common);
    go(&parted, &PartRun { io: io(args.io), memory_bytes, threads, progress: progress.as_ref(), stop })
}

/// The part that `--part` names, or the scheduler's environment.
fn which(asked: Option<&str>, count: usize) -> Result<usize> {
    let scheduled = || {
        let names = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];
        names.iter().find_map(|name| Some((*name, std::env::var(name).ok()?)))
    };
    let (origin, text) = match asked {
        Some(text) => ("--part", text.to_owned()),
        None => scheduled().ok_or_else(|| {
            Error::Usage("which part? pass --part, or set SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX".into())
        })?,
    };
    let (part, of) = text.split_once('/').map_or((text.as_str(), None), |(part, of)| (part, Some(of)));
    if of.is_some_and(|of| of.parse() != Ok(count)) {
        return Err(Error::Usage(format!("{origin} {text}: the plan has {count} parts")));
    }
    part.parse().map_err(|_| Error::Usage(format!("{origin} {text}: expected a number from 0 to {}", count - 1)))
}
