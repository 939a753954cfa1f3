//! `taskvec sweep`.

use super::args::{Common, InputArgs, LimitArgs};
use super::merge::{in_file, options, run_each};
use super::{Outcome, compare, print, progress};
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use taskvec::job::{self, Point, Setting, SweepRun};
use taskvec::mask::Eta;
use taskvec::pass::Stop;
use taskvec::plan::Options;
use taskvec::report::{SweepRow, Table, escape, sweep_page};
use taskvec::tensor::Bytes;
use taskvec::{Error, Result};

/// What stands for the model's folder in `--eval`.
const MODEL: &str = "{model}";
/// The metrics that are taken for the best if none is asked for.
const HARMONIC: [&str; 3] = ["h_score", "h", "H"];
/// Points of a sweep, at most.
const POINTS_MAX: usize = 1000;

#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The recipe.
    #[arg(value_name = "RECIPE.yml")]
    pub path: PathBuf,
    /// The folder for the results, sweep.json and sweep.html. A sweep that is there is gone on with.
    pub out: PathBuf,
    /// Pruning ratios: numbers and ranges FIRST..LAST:STEP, as in 0.1..0.9:0.1 or 0,0.5,0.7.
    #[arg(long, value_name = "LIST", value_parser = numbers)]
    pub eta: List,
    /// Values of the parameter `lambda`, in the same form [default: the recipe's].
    #[arg(long, value_name = "LIST", value_parser = numbers)]
    pub lambda: Option<List>,
    /// Keep the models; else their delta files.
    #[arg(long)]
    pub full: bool,
    /// Run this command on each model, with {model} replaced by its folder. It prints a number or a JSON object of numbers last.
    #[arg(long, value_name = "CMD")]
    pub eval: Option<String>,
    /// The metric that picks the best [default: h_score, h or H, or the only one].
    #[arg(long, value_name = "NAME", requires = "eval")]
    pub metric: Option<String>,
    /// The best is the smallest, as of a loss.
    #[arg(long, requires = "eval")]
    pub smallest: bool,
    /// Print the results as JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// Numbers as given.
#[derive(Clone, Debug)]
pub struct List(Vec<f64>);

fn numbers(text: &str) -> std::result::Result<List, String> {
    let mut all = Vec::new();
    for part in text.split(',') {
        match part.split_once("..") {
            None => all.push(number(part)?),
            Some((first, rest)) => {
                let (last, step) = rest.split_once(':').ok_or("expected FIRST..LAST:STEP, as in 0.1..0.9:0.1")?;
                all.extend(range((first, number(first)?), number(last)?, (step, number(step)?))?);
            }
        }
        if all.len() > POINTS_MAX {
            return Err(format!("more than {POINTS_MAX} values"));
        }
    }
    all.sort_by(f64::total_cmp);
    all.dedup();
    Ok(List(all))
}

fn number(text: &str) -> std::result::Result<f64, String> {
    let value = text.trim().parse::<f64>().ok().filter(|v| v.is_finite());
    value.ok_or_else(|| format!("`{text}` is not a number"))
}

/// The values as one would write them: 0.1, 0.2, 0.3, not 0.30000000000000004.
fn range((first, start): (&str, f64), last: f64, (step, by): (&str, f64)) -> std::result::Result<Vec<f64>, String> {
    if by <= 0.0 || last < start {
        return Err("a range goes up, by a step above 0".into());
    }
    let steps = ((last - start) / by + 1e-9).floor();
    if steps >= POINTS_MAX as f64 {
        return Err(format!("more than {POINTS_MAX} values"));
    }
    let decimals = |text: &str| text.trim().split_once('.').map_or(0, |(_, digits)| digits.len());
    let places = decimals(first).max(decimals(step));
    (0..=steps as usize).map(|i| number(&format!("{:.places$}", start + i as f64 * by))).collect()
}

pub fn sweep(args: &SweepArgs, common: &Common, stop: &Stop) -> Outcome {
    let text = job::read_recipe(&args.path)?;
    let settings = settings(args)?;
    if args.eval.as_ref().is_some_and(|cmd| !cmd.contains(MODEL)) {
        return Err(Error::Usage(format!("--eval: write {MODEL} where the folder of the model goes")));
    }
    let progress = progress::choose(common);
    let run = run_each(&args.limits, &args.inputs, progress.as_ref(), stop);
    let total = settings.len();
    let mut count = 0;
    let mut done = |point: &Point, before: bool| {
        count += 1;
        if !common.quiet {
            print::note(format_args!("[{count}/{total}] {}", line(point, before)));
        }
    };
    let command = args.eval.clone().unwrap_or_default();
    let mut measure = |model: &Path| evaluate(&command, model, stop);
    let points = job::sweep(
        &text,
        &settings,
        &args.out,
        SweepRun {
            run,
            options: options(&args.limits, Options::default())?,
            folder: args.path.parent().unwrap_or(Path::new("")),
            full: args.full,
            measure: args.eval.as_deref().map(|name| (name, &mut measure as _)),
            done: &mut done,
        },
    )
    .map_err(|e| in_file(&args.path, e))?;
    let best = best(&points, args)?;
    let rows: Vec<SweepRow> = points.iter().map(row).collect();
    let marked = best.as_ref().map(|(i, metric)| (*i, metric.as_str()));
    compare::write(&args.out.join("sweep.html"), &sweep_page(&text, &rows, marked))?;
    if args.json {
        let best = best.map(|(i, metric)| serde_json::json!({ "metric": metric, "point": points[i] }));
        let all = serde_json::json!({ "points": points, "best": best });
        return print::out(serde_json::to_string_pretty(&all).unwrap_or_default());
    }
    print::out(table(&rows))?;
    if let Some((i, metric)) = best {
        print::out(format_args!("best by {metric}: {}", args.out.join(&points[i].result).display()))?;
    }
    Ok(())
}

fn settings(args: &SweepArgs) -> Result<Vec<Setting>> {
    if let Some(eta) = args.eta.0.iter().find(|&&eta| Eta::new(eta).is_none()) {
        return Err(Error::Usage(format!("--eta: {eta} is not from 0 to 1")));
    }
    let lambdas = args.lambda.as_ref().map_or_else(|| vec![None], |l| l.0.iter().copied().map(Some).collect());
    let settings: Vec<Setting> =
        lambdas.iter().flat_map(|&lambda| args.eta.0.iter().map(move |&eta| Setting { eta, lambda })).collect();
    if settings.len() > POINTS_MAX {
        return Err(Error::Usage(format!("{} merges; at most {POINTS_MAX}", settings.len())));
    }
    Ok(settings)
}

/// Runs the command and takes the metrics from what it prints last.
fn evaluate(command: &str, model: &Path, stop: &Stop) -> Result<BTreeMap<String, f64>> {
    let quoted = format!("'{}'", model.display().to_string().replace('\'', r"'\''"));
    let failed = |problem: String| Error::Usage(format!("--eval: {problem}, on {}", model.display()));
    let mut shell = Command::new("sh");
    let shell = shell.arg("-c").arg(command.replace(MODEL, &quoted)).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = shell.output().map_err(|e| failed(format!("cannot run sh: {e}")))?;
    stop.check()?;
    if !output.status.success() {
        return Err(failed(format!("the command failed ({})", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    metrics(&text).ok_or_else(|| {
        let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("nothing");
        failed(format!("expected a number or a JSON object of numbers last, got `{}`", escape(last)))
    })
}

/// The numbers of the last JSON value: on a line of its own, or an object that begins a line and ends the text.
fn metrics(text: &str) -> Option<BTreeMap<String, f64>> {
    let text = text.trim_end();
    let last = text.rsplit('\n').next()?;
    let object = text.rfind("\n{").map_or(text, |at| &text[at + 1..]);
    let value = [last, object].into_iter().find_map(|t| serde_json::from_str::<serde_json::Value>(t).ok())?;
    if let Some(number) = value.as_f64() {
        return Some(BTreeMap::from([("metric".to_owned(), number)]));
    }
    let numbers = value.as_object()?.iter().filter_map(|(name, v)| Some((name.clone(), v.as_f64()?)));
    let numbers: BTreeMap<String, f64> = numbers.collect();
    (!numbers.is_empty()).then_some(numbers)
}

/// The best point, and by which metric.
fn best(points: &[Point], args: &SweepArgs) -> Result<Option<(usize, String)>> {
    if args.eval.is_none() {
        return Ok(None);
    }
    let names: Vec<&String> = points.first().map(|p| p.metrics.keys().collect()).unwrap_or_default();
    let usual = || names.iter().find(|n| HARMONIC.contains(&n.as_str()) || names.len() == 1);
    let metric = match &args.metric {
        Some(metric) => metric.clone(),
        None => usual().map(ToString::to_string).ok_or_else(|| {
            let all = names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
            Error::Usage(format!("say with --metric which of {all} picks the best; everything else is done"))
        })?,
    };
    let value = |p: &Point| p.metrics.get(&metric).copied().filter(|v| !v.is_nan());
    let better = |a: f64, b: f64| if args.smallest { a < b } else { a > b };
    let mut best: Option<(usize, f64)> = None;
    for (i, v) in points.iter().enumerate().filter_map(|(i, p)| Some((i, value(p)?))) {
        if best.is_none_or(|(_, b)| better(v, b)) {
            best = Some((i, v));
        }
    }
    let unknown = || Error::Usage(format!("--metric {metric}: the command prints no such number"));
    best.map(|(i, _)| Some((i, metric.clone()))).ok_or_else(unknown)
}

fn row(p: &Point) -> SweepRow {
    SweepRow {
        eta: p.setting.eta,
        lambda: p.setting.lambda,
        result: p.result.clone(),
        bytes: p.bytes,
        layers: (p.layers_kept, p.layers),
        metrics: p.metrics.clone(),
    }
}

fn line(point: &Point, before: bool) -> String {
    let metrics: Vec<String> = point.metrics.iter().map(|(name, v)| format!("{} {v}", escape(name))).collect();
    let how = if before { "there already".to_owned() } else { format!("read {}", Bytes(point.bytes_read)) };
    format!("{}: {}/{} layers kept, {how}  {}", point.result, point.layers_kept, point.layers, metrics.join(", "))
}

fn table(rows: &[SweepRow]) -> Table {
    let names: Vec<&String> = rows.first().map(|r| r.metrics.keys().collect()).unwrap_or_default();
    let head: Vec<&str> = ["result", "eta", "lambda", "layers kept", "size"]
        .into_iter()
        .chain(names.iter().map(|n| n.as_str()))
        .collect();
    let mut table = Table::new(&head);
    for r in rows {
        let lambda = r.lambda.map_or_else(|| "recipe's".to_owned(), |l| l.to_string());
        let size = Bytes(r.bytes).to_string();
        let own = [r.result.clone(), r.eta.to_string(), lambda, format!("{}/{}", r.layers.0, r.layers.1), size];
        let metrics = names.iter().map(|&n| r.metrics.get(n).map_or_else(String::new, ToString::to_string));
        table.row(own.into_iter().chain(metrics));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_give_the_numbers_that_one_would_write() {
        let values = |text| numbers(text).unwrap().0;
        assert_eq!(values("0.1..0.9:0.1"), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]);
        assert_eq!(values("0.7,0,0.5..0.6:0.05"), [0.0, 0.5, 0.55, 0.6, 0.7]);
        for bad in ["", "a", "0.1..0.9", "0.9..0.1:0.1", "0..1:0", "0..1:1e-9", "nan"] {
            assert!(numbers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metrics_are_taken_from_the_end_of_the_output() {
        let found = |text| metrics(text).map(|m| m.into_iter().collect::<Vec<_>>());
        assert_eq!(found("loading\n0.5\n"), Some(vec![("metric".into(), 0.5)]));
        assert_eq!(
            found("x {\n{\"b\": 2, \"a\": 1.5, \"c\": \"x\"}"),
            Some(vec![("a".into(), 1.5), ("b".into(), 2.0)])
        );
        assert_eq!(found("x\n{\n  \"id\": {\n    \"t\": 1\n  },\n  \"h\": 2\n}\n"), Some(vec![("h".into(), 2.0)]));
        assert_eq!(found("{\"a\": 1}\ndone"), None);
        assert_eq!(found("{\"a\": \"b\"}"), None);
    }
}
