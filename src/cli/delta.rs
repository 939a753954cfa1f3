//! `taskvec diff`, `taskvec apply` and `taskvec verify`.

use super::args::Common;
use super::delta_args::{ApplyArgs, DiffArgs, FileArgs, VerifyArgs, VerifyKind};
use super::merge::{io, journal_every, threads, unfinished};
use super::{Outcome, print, progress};
use taskvec::job::{self, ApplyRun, DeepRun, DiffRun, Verify};
use taskvec::limits::MEMORY_DEFAULT_BYTES;
use taskvec::pass::{Progress, Stop};
use taskvec::sink::{Existing, Unfinished};
use taskvec::source::{Links, is_delta};
use taskvec::tensor::Bytes;
use taskvec::{Error, Result};

pub fn diff(args: &DiffArgs, common: &Common, stop: &Stop) -> Outcome {
    let progress = progress::choose(common);
    let run = DiffRun {
        coding: args.codec,
        threads: threads(args.files.num_threads)?,
        io: io(args.files.io),
        links: links(&args.files),
        existing: existing(args.overwrite),
        unfinished: unfinished(args.resume),
        journal: Some(journal_every(args.journal_every)?),
        progress: progress.as_ref(),
        stop,
    };
    let made = job::diff(&args.base, args.on.as_deref(), &args.model, &args.output, &run)?;
    if made.was_whole && !common.quiet {
        print::note(format_args!("{}: whole already, from this base to this model", args.output.display()));
    } else if !common.quiet {
        print::note(format_args!(
            "{}: {} of {} ({:.2} %), {} of {} tensors equal the base; read {} in {:.2} s, {:.2} GB/s of model",
            args.output.display(),
            Bytes(made.delta_bytes),
            Bytes(made.tensor_bytes),
            100.0 * made.delta_bytes as f64 / made.tensor_bytes.max(1) as f64,
            made.equal,
            made.tensors,
            Bytes(made.bytes_read),
            made.seconds,
            made.tensor_bytes as f64 / 1e9 / made.seconds,
        ));
        if let Some(loss) = made.loss {
            print::note(format_args!(
                "lossy: no value is off by more than {}; relative L2 error of the task vector {:.4}",
                f64::from(loss.bound),
                loss.relative()
            ));
        }
    }
    Ok(())
}

pub fn apply(args: &ApplyArgs, common: &Common, stop: &Stop) -> Outcome {
    let progress = progress::choose(common);
    let verify = match args.verify {
        VerifyKind::None => Verify::None,
        VerifyKind::Fast => Verify::Fast,
        VerifyKind::Full => Verify::Full,
    };
    let run = ApplyRun {
        unfinished: unfinished(args.publish.resume),
        read_back: args.publish.paranoid,
        journal: Some(journal_every(args.publish.journal_every)?),
        ..apply_run(&args.files, verify, existing(args.publish.overwrite), progress.as_ref(), stop)?
    };
    let made = job::apply(&args.base, &args.delta, &args.output, &run)?;
    if !common.quiet {
        print::note(format_args!(
            "{}: {} tensors in {} files; read {}, wrote {} in {:.2} s",
            args.output.display(),
            made.tensors,
            made.files,
            Bytes(made.bytes_read),
            Bytes(made.bytes_written),
            made.seconds,
        ));
    }
    Ok(())
}

pub fn verify(args: &VerifyArgs, common: &Common, stop: &Stop) -> Outcome {
    let progress = progress::choose(common);
    let run = apply_run(&args.files, Verify::Full, Existing::Refuse, progress.as_ref(), stop)?;
    if args.deep && is_delta(&args.path) {
        let problem = "--deep is for merged models; a delta file is made again with --against BASE";
        return Err(Error::Usage(format!("{}: {problem}", args.path.display())));
    }
    let (things, made) = if is_delta(&args.path) {
        ("tensors", job::check_delta(&args.path, args.against.as_deref(), &run)?)
    } else {
        ("files", job::check_output(&args.path, &run)?)
    };
    let count = if things == "files" { made.files } else { made.tensors };
    print::out(format_args!(
        "{}: whole; {count} {things}, read {} in {:.2} s",
        args.path.display(),
        Bytes(made.bytes_read),
        made.seconds
    ))?;
    if args.deep { verify_deep(args, &run) } else { Ok(()) }
}

fn verify_deep(args: &VerifyArgs, run: &ApplyRun<'_>) -> Outcome {
    if !(0.0..=1.0).contains(&args.share) {
        return Err(Error::Usage(format!("--share {}: expected 0 to 1", args.share)));
    }
    let deep = DeepRun {
        share: args.share,
        seed: args.seed,
        folder: args.recipe_folder.as_deref(),
        threads: run.threads,
        memory_bytes: MEMORY_DEFAULT_BYTES,
        io: run.io,
        links: run.links,
        progress: run.progress,
        stop: run.stop,
    };
    let made = job::check_deep(&args.path, &deep)?;
    print::out(format_args!(
        "{}: {} tiles made again, {} of {} compared, all equal; read {} of the inputs",
        args.path.display(),
        made.tiles,
        Bytes(made.bytes),
        Bytes(made.of_bytes),
        Bytes(made.bytes_read)
    ))
}

fn apply_run<'a>(
    files: &FileArgs,
    verify: Verify,
    existing: Existing,
    progress: &'a (dyn Progress + 'a),
    stop: &'a Stop,
) -> Result<ApplyRun<'a>> {
    let threads = threads(files.num_threads)?;
    let (io, links, unfinished) = (io(files.io), links(files), Unfinished::Discard);
    Ok(ApplyRun { verify, threads, io, links, existing, unfinished, read_back: false, journal: None, progress, stop })
}

fn existing(overwrite: bool) -> Existing {
    if overwrite { Existing::Replace } else { Existing::Refuse }
}

/// Which links the arguments allow.
pub fn links(files: &FileArgs) -> Links {
    if files.follow_links { Links::All } else { Links::Inside }
}
