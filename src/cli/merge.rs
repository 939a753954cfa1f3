//! `taskvec merge` and `taskvec plan`.

use super::args::{Common, InputArgs, IoKind, LimitArgs, MergeArgs, PlanArgs, RecipeArgs};
use super::{Outcome, part, planned, print, progress};
use std::path::{Path, PathBuf};
use std::time::Duration;
use taskvec::job::StagedPlan;
use taskvec::mask::Eta;
use taskvec::pass::{Progress, Stop};
use taskvec::plan::{Options, Plan, PlannedStage};
use taskvec::recipe::{Flags, Recipe, Stages};
use taskvec::report::{Report, TensorAction};
use taskvec::sink::{Existing, Unfinished, free_bytes};
use taskvec::source::{Io, Links};
use taskvec::tensor::{Bytes, parse_size};
use taskvec::{Error, Result, job};

pub fn merge(args: &MergeArgs, common: &Common, stop: &Stop) -> Outcome {
    let (recipe, out) = match (args.paths.as_slice(), &args.recipe.method) {
        ([recipe, out], None) => (Some(recipe), out),
        ([out], Some(_)) => (None, out),
        ([_], None) => {
            return Err(Error::Usage("merge needs RECIPE.yml and OUT, or OUT with --method and --model".into()));
        }
        _ => return Err(Error::Usage("give either a recipe file or --method, not both".into())),
    };
    let recipe = recipe.map(PathBuf::as_path);
    let wanted = Options {
        delta: !args.no_delta,
        masks: args.masks.is_some(),
        copy_tokenizer: !args.no_copy_tokenizer,
        write_card: !args.no_write_model_card,
        memo: args.cache.is_some(),
        hold: args.cache.is_some(),
        ..Options::default()
    };
    let plan = make_plans(recipe, &args.recipe, &args.limits, wanted, out)?;
    tell_notes(&plan, args, common);
    if args.dry_run {
        return show_plan(&plan, Some(out), links(&args.recipe));
    }
    planned();
    let progress = progress::choose(common);
    let run = job::Run {
        io: io(args.limits.io),
        links: links(&args.recipe),
        hash_inputs: !args.no_input_hashes,
        delta: args.delta.as_deref(),
        masks: args.masks.as_deref(),
        existing: if args.publish.overwrite { Existing::Replace } else { Existing::Refuse },
        unfinished: unfinished(args.publish.resume),
        read_back: args.publish.paranoid,
        journal: Some(journal_every(args.publish.journal_every)?),
        progress: progress.as_ref(),
        stop,
    };
    if args.publish.resume && plan.is_done(out, &run)? {
        if !common.quiet {
            print::note(format_args!("{}: whole already, from this recipe and these inputs", out.display()));
        }
        return Ok(());
    }
    let memo = args.cache.as_deref().map(job::Memo::open).transpose()?;
    let report = plan.merge_knowing(out, &run, memo.as_ref())?;
    if !common.quiet {
        summarise(&report, out);
    }
    Ok(())
}

pub fn plan(args: &PlanArgs) -> Outcome {
    if let (Some(out), Some(parts)) = (&args.out, args.partitions) {
        return part::write_plan(args, out, parts);
    }
    let wanted = Options { delta: !args.no_delta, ..Options::default() };
    let plan = make_plans(args.path.as_deref(), &args.recipe, &args.limits, wanted, Path::new("OUT"))?;
    if args.coefficients {
        return print_coefficients(&plan.last);
    }
    show_plan(&plan, None, links(&args.recipe))
}

/// The weights that each tensor has in this merge, as `coefficients:` reads them.
fn print_coefficients(plan: &Plan) -> Outcome {
    let mut layers = serde_json::Map::new();
    for t in plan.tensors.iter().filter(|t| t.layer.is_some()) {
        let Some(weights) = plan.settings[t.settings].find("weight") else {
            return Err(Error::Usage(format!("`{}` has no weights", plan.recipe.method.name)));
        };
        layers.insert(t.name.clone(), serde_json::json!(weights));
    }
    let tasks: Vec<&str> = plan.experts().map(|s| plan.sources[s].label.as_str()).collect();
    let file = serde_json::json!({ "tasks": tasks, "base": 1.0, "layers": layers });
    print::out(serde_json::to_string_pretty(&file).unwrap_or_default())
}

/// The plan of a recipe of one stage.
pub fn make_plan(path: Option<&Path>, recipe: &RecipeArgs, limits: &LimitArgs) -> Result<Plan> {
    let wanted = Options { delta: false, ..Options::default() };
    let plan = make_plans(path, recipe, limits, wanted, Path::new("OUT"))?;
    if plan.before.is_empty() {
        return Ok(plan.last);
    }
    Err(Error::Usage("the recipe has several stages; give one that merges once".into()))
}

/// The plans of the recipe at `path`, or of the flags where there is none.
fn make_plans(
    path: Option<&Path>,
    recipe: &RecipeArgs,
    limits: &LimitArgs,
    wanted: Options,
    out: &Path,
) -> Result<StagedPlan> {
    let options = options(limits, wanted)?;
    let Some(path) = path else {
        let stages = Stages { before: Vec::new(), last: from_flags(recipe)? };
        return finish_plan(stages, Path::new(""), recipe, options, out);
    };
    if recipe.method.is_some() {
        return Err(Error::Usage("give either a recipe file or --method, not both".into()));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let plan = job::read_recipe(path).and_then(|text| finish_plan(Stages::parse(&text)?, folder, recipe, options, out));
    plan.map_err(|e| in_file(path, e))
}

/// A problem with a recipe, in the file that it is in.
pub fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Recipe { place, problem } => Error::recipe(format!("{}: {place}", path.display()), problem),
        other => other,
    }
}

/// How each of several merges runs: outputs replace others, and nothing is kept of what is not finished.
pub fn run_each<'a>(
    limits: &LimitArgs,
    inputs: &InputArgs,
    progress: &'a dyn Progress,
    stop: &'a Stop,
) -> job::Run<'a> {
    job::Run {
        io: io(limits.io),
        links: if inputs.follow_links { Links::All } else { Links::Inside },
        hash_inputs: !inputs.no_input_hashes,
        delta: None,
        masks: None,
        existing: Existing::Replace,
        unfinished: Unfinished::Discard,
        read_back: false,
        journal: None,
        progress,
        stop,
    }
}

fn finish_plan(
    mut stages: Stages,
    folder: &Path,
    recipe: &RecipeArgs,
    options: Options,
    out: &Path,
) -> Result<StagedPlan> {
    if let Some(eta) = recipe.eta {
        if !stages.before.is_empty() {
            return Err(Error::Usage(format!(
                "--eta {eta}: the recipe has several stages; write lwptv into one of them"
            )));
        }
        let problem = || Error::Usage(format!("--eta {eta}: expected the fraction of layers to prune, 0 to 1"));
        stages.last.set_eta(Eta::new(eta).ok_or_else(problem)?);
    }
    if recipe.no_lwptv {
        stages.last.lwptv = None;
        stages.before.iter_mut().for_each(|s| s.recipe.lwptv = None);
    }
    job::plan_stages(stages, folder, links(recipe), options, out)
}

/// The recipe that the flags describe.
pub fn from_flags(recipe: &RecipeArgs) -> Result<Recipe> {
    let Some(method) = &recipe.method else {
        return Err(Error::Usage("give a recipe file, or --method with --model".into()));
    };
    let eta = recipe
        .eta
        .map(|e| Eta::new(e).ok_or_else(|| Error::Usage(format!("--eta {e}: expected 0 to 1"))))
        .transpose()?;
    let flags = Flags {
        method: method.clone(),
        base: recipe.base.clone(),
        models: recipe.model.clone(),
        parameters: recipe.set.clone(),
        dtype: recipe.dtype.clone(),
        eta: eta.map(Eta::get),
    };
    flags.recipe()
}

/// The options that arguments ask for.
pub fn options(limits: &LimitArgs, wanted: Options) -> Result<Options> {
    Ok(Options {
        memory_bytes: limits.memory.as_ref().map_or_else(|| Ok(job::default_memory()), |m| size("--memory", m))?,
        threads: threads(limits.num_threads)?,
        shard_bytes: size("--out-shard-size", &limits.out_shard_size)?,
        seed: limits.random_seed,
        allow_non_finite: limits.allow_non_finite,
        tile_elements: limits.tile_elements,
        fuse: limits.fuse,
        ..wanted
    })
}

/// The bytes that a flag asks for.
pub fn size(flag: &str, text: &str) -> Result<u64> {
    parse_size(text).ok_or_else(|| Error::Usage(format!("{flag} {text}: expected a size such as 512MiB, 2GB or 5B")))
}

/// The number of compute threads that `--num-threads` asks for.
pub fn threads(asked: Option<usize>) -> Result<usize> {
    let threads = asked.unwrap_or(Options::default().threads);
    if threads == 0 || threads > 1024 {
        return Err(Error::Usage(format!("--num-threads {threads}: expected 1 to 1024")));
    }
    Ok(threads)
}

/// What `--resume` means.
pub fn unfinished(resume: bool) -> Unfinished {
    if resume { Unfinished::Resume } else { Unfinished::Discard }
}

/// The time between two lines of a journal.
pub fn journal_every(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|e| Error::Usage(format!("--journal-every {seconds}: {e}")))
}

/// The kind of I/O that an argument asks for.
pub fn io(kind: IoKind) -> Io {
    match kind {
        IoKind::Mmap => Io::Mmap,
        IoKind::Pread => Io::Pread,
    }
}

/// Which links the arguments allow.
pub fn links(recipe: &RecipeArgs) -> Links {
    if recipe.follow_links { Links::All } else { Links::Inside }
}

fn show_plan(plan: &StagedPlan, out: Option<&Path>, links: Links) -> Outcome {
    for PlannedStage { name, plan, how } in &plan.before {
        print::out(format_args!("stage     {name}\nresult    {how}\n{}\n", print::plain(plan)))?;
    }
    print::out(print::plain(&plan.last))?;
    let free = free_bytes(out.unwrap_or(Path::new(".")))?;
    print::out(format_args!("disk      needs {}, {free} free", plan.disk_bytes(links)?))
}

fn tell_notes(plan: &StagedPlan, args: &MergeArgs, common: &Common) {
    if common.quiet {
        return;
    }
    let old = args.old.given();
    if !old.is_empty() {
        print::note(format_args!("note: {} have no effect here", old.join(", ")));
    }
    if args.old.lora_merge_dtype.is_some() {
        print::note(format_args!("note: adapters are applied in float32, tile by tile, without a merged copy"));
    }
    for PlannedStage { name, plan, .. } in &plan.before {
        for warning in &plan.warnings {
            print::note(format_args!("note: stage {name}: {}", taskvec::report::escape(warning)));
        }
    }
    for warning in &plan.last.warnings {
        print::note(format_args!("note: {}", taskvec::report::escape(warning)));
    }
}

fn summarise(report: &Report, out: &Path) {
    let count = |action| report.tensors.iter().filter(|t| t.action == action).count();
    let [merged, pruned, copied] = [TensorAction::Merged, TensorAction::Pruned, TensorAction::Copied].map(count);
    let read: u64 = report.run.passes.iter().map(|p| p.bytes_read).sum();
    let reused = report.run.bytes_reused.map_or_else(String::new, |bytes| format!(" ({} made before)", Bytes(bytes)));
    print::note(format_args!(
        "{}: {merged} tensors merged, {pruned} pruned to the base, {copied} copied; read {}, wrote {}{reused} in {:.2} s, peak memory {}",
        out.display(),
        Bytes(read),
        Bytes(report.run.bytes_written),
        report.run.seconds,
        Bytes(report.run.peak_rss_bytes)
    ));
}
