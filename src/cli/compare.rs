//! `taskvec compare`: how models differ.

use super::args::Common;
use super::delta::links;
use super::delta_args::FileArgs;
use super::merge::{io, size, threads};
use super::{Outcome, print, progress};
use clap::Args;
use std::path::{Path, PathBuf};
use taskvec::job::{self, CompareRun};
use taskvec::pass::{Progress, Stop};
use taskvec::{Error, Result};

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// BASE MODEL, or BASE MODEL MODEL...: folders, .safetensors files, shard indexes, Hugging Face ids; the models may
    /// also be delta files from BASE, or MODEL+ADAPTER.
    #[arg(value_name = "BASE MODEL", num_args = 2.., required = true)]
    pub models: Vec<String>,
    /// Peak memory, mapped pages included: 512MiB, 2GB.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub memory: String,
    #[command(flatten)]
    pub files: FileArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Also draw the result into this HTML file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Elements of a tile, at most (for tests: no number depends on it).
    #[arg(long, value_name = "N", hide = true)]
    pub tile_elements: Option<usize>,
}

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
