//! `taskvec report` and `taskvec explain`: what a merge did, as a page and in a few lines.

use super::args::Common;
use super::compare::{compare_run, write};
use super::delta_args::FileArgs;
use super::{Outcome, print, progress};
use clap::Args;
use std::path::{Path, PathBuf};
use taskvec::job::{self, Account};
use taskvec::pass::Stop;
use taskvec::report::{Beside, Comparison, escape, merge_page};
use taskvec::{Error, Result};

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The folder of a merged model, or its taskvec.json.
    pub out: PathBuf,
    /// The file to write; one that is there is replaced [default: OUT.report.html, beside OUT].
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Also read the inputs, and show how the task vectors lie to each other: cosines and sign conflicts.
    #[arg(long)]
    pub inputs: bool,
    /// Peak memory for --inputs, mapped pages included: 512MiB, 2GB.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub memory: String,
    #[command(flatten)]
    pub files: FileArgs,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The folder of a merged model, or its taskvec.json.
    pub out: PathBuf,
}

pub fn explain(args: &ExplainArgs) -> Outcome {
    tell(&job::read_account(&args.out)?, &args.out)
}

pub fn report(args: &ReportArgs, common: &Common, stop: &Stop) -> Outcome {
    let account = job::read_account(&args.out)?;
    let vectors = args.inputs.then(|| read_inputs(&account, args, common, stop)).transpose()?;
    let name = output_name(&account.folder);
    let html = args.html.clone().unwrap_or_else(|| beside(&account.folder, &name));
    let page = merge_page(
        &account.record,
        &Beside {
            name: &name,
            out: &args.out.display().to_string(),
            recipe: account.recipe.as_deref(),
            vectors: vectors.as_ref(),
        },
    );
    write(&html, &page)?;
    if args.html.is_none() {
        tell(&account, &args.out)?;
    }
    if !common.quiet {
        print::note(format_args!("{}: written, {} bytes", escape(&html.display().to_string()), page.len()));
    }
    Ok(())
}

fn tell(account: &Account, out: &Path) -> Outcome {
    let lines = account.record.gist(&out.display().to_string());
    print::out(lines.iter().map(|l| escape(l)).collect::<Vec<_>>().join("\n"))
}

/// Never inside the output: `verify` knows the files that belong there.
fn beside(folder: &Path, name: &str) -> PathBuf {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    folder.parent().unwrap_or(Path::new("/")).join(format!("{name}.report.html"))
}

fn output_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().map_or_else(|| "merged model".to_owned(), |n| n.to_string_lossy().into_owned())
}

/// The inputs must be where they were, with files as long as they were.
fn read_inputs(account: &Account, args: &ReportArgs, common: &Common, stop: &Stop) -> Result<Comparison> {
    let record = &account.record;
    let (Some(base), experts) = (record.base(), record.experts()) else {
        return Err(Error::Usage(
            "--inputs: this merge has no single base, so there are no task vectors to read".into(),
        ));
    };
    if let Some(stage) =
        experts.iter().copied().chain([base]).find(|i| i.files.is_empty() || i.path.starts_with("stage "))
    {
        let problem = format!("--inputs: `{}` is the result of a stage, which is not kept", escape(&stage.path));
        return Err(Error::Usage(problem));
    }
    for input in std::iter::once(base).chain(experts.iter().copied()) {
        unchanged(input)?;
    }
    let progress = progress::choose(common);
    let run = compare_run(&args.memory, &args.files, progress.as_ref(), stop)?;
    let models: Vec<String> = experts.iter().map(|i| i.name()).collect();
    job::compare(&base.name(), &models, &run)
}

fn unchanged(input: &taskvec::report::Input) -> Outcome {
    let path = Path::new(&input.path);
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    for file in &input.files {
        let place = folder.join(&file.name);
        let places = std::iter::once(place.clone()).chain(input.adapter.iter().map(|a| Path::new(a).join(&file.name)));
        let length = |p: PathBuf| std::fs::metadata(p).ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        let found: Vec<u64> = places.filter_map(length).collect();
        if found.is_empty() {
            let problem = "is not there; --inputs reads the models that were merged. Run it in the folder where the merge \
                           ran, or leave --inputs out";
            return Err(Error::InputMissing { path: place, problem: problem.into() });
        }
        if !found.contains(&file.bytes) {
            let problem = format!("expected {} bytes, as when it was merged; it was changed since", file.bytes);
            return Err(Error::InputMissing { path: place, problem });
        }
    }
    Ok(())
}
