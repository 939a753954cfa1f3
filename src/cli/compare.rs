//! `taskvec compare`: how models differ.

use super::args::{Common, CompareArgs, FileArgs};
use super::delta::links;
use super::merge::{io, size, threads};
use super::{Outcome, print, progress};
use std::path::Path;
use taskvec::job::{self, CompareRun};
use taskvec::pass::{Progress, Stop};
use taskvec::{Error, Result};

pub fn compare(args: &CompareArgs, common: &Common, stop: &Stop) -> Outcome {
    let progress = progress::choose(common);
    let mut run = compare_run(&args.memory, &args.files, progress.as_ref(), stop)?;
    run.tile_elements = args.tile_elements;
    let found = job::compare(&args.models[0], &args.models[1..], &run)?;
    if let Some(path) = &args.html {
        write(path, &taskvec::report::compare_page(&found))?;
    }
    if args.json {
        return print::out(serde_json::to_string_pretty(&found).unwrap_or_default());
    }
    print::out(found.text().trim_end())
}

/// What the flags say about reading the inputs.
pub fn compare_run<'a>(
    memory: &str,
    files: &FileArgs,
    progress: &'a (dyn Progress + 'a),
    stop: &'a Stop,
) -> Result<CompareRun<'a>> {
    Ok(CompareRun {
        memory_bytes: size("--memory", memory)?,
        threads: threads(files.num_threads)?,
        tile_elements: None,
        io: io(files.io),
        links: links(files),
        progress,
        stop,
    })
}

/// Writes a file whole or not at all.
pub fn write(path: &Path, text: &str) -> Outcome {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let written = std::fs::write(part, text).and_then(|()| std::fs::rename(part, path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(part);
        Error::io(path, "write")(e)
    })
}
