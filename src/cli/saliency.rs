//! `taskvec saliency`: pass 1 alone.

use super::args::{Common, SaliencyArgs};
use super::merge::{io, links, make_plan};
use super::{Outcome, planned, print, progress};
use taskvec::job::{self, Run, Scoring};
use taskvec::mask::Mask;
use taskvec::pass::Stop;
use taskvec::plan::Plan;
use taskvec::report::{Picture, Table, svg};
use taskvec::sink::{Existing, Unfinished};
use taskvec::{Error, Result};

pub fn saliency(args: &SaliencyArgs, common: &Common, stop: &Stop) -> Outcome {
    let plan = make_plan(args.path.as_deref(), &args.recipe, &args.limits)?;
    planned();
    let progress = progress::choose(common);
    let run = Run {
        io: io(args.limits.io),
        links: links(&args.recipe),
        delta: None,
        masks: None,
        hash_inputs: false,
        existing: Existing::Refuse,
        unfinished: Unfinished::Discard,
        read_back: false,
        journal: None,
        progress: progress.as_ref(),
        stop,
    };
    let scoring = job::score(&plan, &run)?;
    let Some(mask) = &scoring.mask else {
        return Err(Error::Usage("the recipe has no lwptv block; pass --eta".into()));
    };
    if let Some(path) = &args.svg {
        std::fs::write(path, draw(&plan, &scoring, mask)).map_err(Error::io(path, "write"))?;
    }
    if args.json { print_json(&plan, &scoring, mask) } else { print_table(&plan, &scoring, mask) }
}

fn tasks(plan: &Plan) -> Vec<String> {
    plan.experts().map(|s| plan.sources[s].label.clone()).collect()
}

/// The last part of a path.
fn short(task: &str) -> String {
    task.rsplit('/').find(|p| !p.is_empty()).unwrap_or(task).to_owned()
}

fn draw(plan: &Plan, scoring: &Scoring, mask: &Mask) -> String {
    let layers: Vec<String> = plan.layers.iter().map(|l| l.name.clone()).collect();
    let kept: Vec<bool> = (0..layers.len()).map(|l| mask.keeps(l)).collect();
    svg(&Picture {
        title: "LwPTV: saliency of each layer and task, and what is kept",
        tasks: &tasks(plan).iter().map(|t| short(t)).collect::<Vec<_>>(),
        layers: &layers,
        scores: &scoring.scores,
        kept_by: &mask.kept_by,
        kept: &kept,
        eta: plan.recipe.lwptv.as_ref().map_or(0.0, |l| l.eta.get()),
    })
}

fn print_json(plan: &Plan, scoring: &Scoring, mask: &Mask) -> Outcome {
    let thresholds: Vec<Option<f64>> = mask.thresholds.iter().map(|t| t.value()).collect();
    let json = serde_json::json!({
        "tasks": tasks(plan),
        "eta": plan.recipe.lwptv.as_ref().map(|l| l.eta.get()),
        "thresholds": thresholds,
        "layers": scoring.layers(plan),
        "bytes_read": scoring.runs.iter().map(|r| r.bytes_read).sum::<u64>(),
    });
    print::out(serde_json::to_string_pretty(&json).unwrap_or_default())
}

fn print_table(plan: &Plan, scoring: &Scoring, mask: &Mask) -> Result<()> {
    let tasks = tasks(plan);
    let names: Vec<String> = tasks.iter().map(|t| short(t)).collect();
    let heading: Vec<&str> = ["layer"].into_iter().chain(names.iter().map(String::as_str)).chain(["kept"]).collect();
    let mut table = Table::new(&heading);
    for (l, layer) in plan.layers.iter().enumerate() {
        let cell = |k: usize| format!("{:.3e}{}", scoring.scores[l][k], if mask.kept_by[l][k] { "*" } else { " " });
        let kept = if mask.keeps(l) { "yes" } else { "-" };
        table.row([layer.name.clone()].into_iter().chain((0..tasks.len()).map(cell)).chain([kept.to_owned()]));
    }
    let threshold = |t: &taskvec::mask::Threshold| t.value().map_or_else(|| "-".into(), |v| format!("{v:.3e} "));
    table.row(["threshold".to_owned()].into_iter().chain(mask.thresholds.iter().map(threshold)));
    print::out(table.to_string().trim_end())?;
    let kept: Vec<usize> = (0..plan.layers.len()).filter(|&l| mask.keeps(l)).collect();
    let elements: u64 = kept.iter().map(|&l| plan.layers[l].elements).sum();
    let share = 100.0 * elements as f64 / plan.elements().max(1) as f64;
    print::out(format_args!(
        "* above the task's threshold. Kept by the shared mask: {} of {} layers, {share:.1} % of the elements",
        kept.len(),
        plan.layers.len()
    ))
}
