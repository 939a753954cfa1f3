//! The page of a sweep: what was measured, and what was kept, over eta.

use super::lines::{Line, lines};
use super::page::Page;
use crate::tensor::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One result of a sweep.
#[derive(Debug)]
pub struct SweepRow {
    /// The pruning ratio.
    pub eta: f64,
    /// Lambda; `None`: as the recipe has it.
    pub lambda: Option<f64>,
    /// Where the result is.
    pub result: String,
    /// Its length.
    pub bytes: u64,
    /// Layers that are merged, of all.
    pub layers: (usize, usize),
    /// What was measured.
    pub metrics: BTreeMap<String, f64>,
}

/// One HTML file that loads nothing. `best` is the best row, by the metric that it names.
pub fn sweep_page(recipe: &str, rows: &[SweepRow], best: Option<(usize, &str)>) -> String {
    write(recipe, rows, best).expect("a String takes any text")
}

fn write(recipe: &str, rows: &[SweepRow], best: Option<(usize, &str)>) -> Result<String, fmt::Error> {
    let sections = [("results", "Results"), ("recipe", "Recipe")];
    let mut page = Page::begin("Sweep", &format!("{} merges of one recipe", rows.len()), &sections)?;
    page.section("results", "Results", |page| {
        if let Some((row, metric)) = best {
            let (row, value) = (&rows[row], rows[row].metrics.get(metric).copied().unwrap_or(f64::NAN));
            page.paragraph(&format!("Best by {metric}: {value}, with {} ({})", setting(row), row.result))?;
        }
        for lambda in distinct(rows) {
            let of: Vec<&SweepRow> = rows.iter().filter(|r| r.lambda == lambda).collect();
            let marked = best.map(|(i, _)| &rows[i]).filter(|r| r.lambda == lambda).map(|r| r.eta);
            let title = lambda.map_or_else(|| "Over eta".to_owned(), |l| format!("Over eta, lambda {l}"));
            pictures(page, &title, &of, marked)?;
        }
        table(page, rows)
    })?;
    page.section("recipe", "Recipe", |page| page.verbatim("The recipe", recipe))?;
    Ok(page.finish())
}

fn distinct(rows: &[SweepRow]) -> Vec<Option<f64>> {
    let mut all: Vec<Option<f64>> = Vec::new();
    for row in rows {
        if !all.contains(&row.lambda) {
            all.push(row.lambda);
        }
    }
    all
}

fn setting(row: &SweepRow) -> String {
    row.lambda.map_or_else(|| format!("eta {}", row.eta), |l| format!("eta {}, lambda {l}", row.eta))
}

fn names(rows: &[&SweepRow]) -> BTreeSet<String> {
    rows.iter().flat_map(|r| r.metrics.keys().cloned()).collect()
}

fn pictures(page: &mut Page, title: &str, rows: &[&SweepRow], marked: Option<f64>) -> fmt::Result {
    page.subheading(title)?;
    let line = |name: String| {
        let points = rows.iter().filter_map(|r| Some((r.eta, *r.metrics.get(&name)?))).filter(|p| p.1.is_finite());
        Line { points: points.collect(), name }
    };
    let measured: Vec<Line> = names(rows).into_iter().map(line).filter(|l| !l.points.is_empty()).collect();
    if !measured.is_empty() {
        page.picture("What was measured, over eta", &lines("What was measured", "eta", &measured, marked))?;
    }
    let share = |r: &&SweepRow| (r.eta, 100.0 * r.layers.0 as f64 / r.layers.1.max(1) as f64);
    let kept = [Line { name: "layers kept, %".into(), points: rows.iter().map(share).collect() }];
    page.picture("Layers kept, over eta", &lines("Layers kept, %", "eta", &kept, marked))
}

fn table(page: &mut Page, rows: &[SweepRow]) -> fmt::Result {
    let names = names(&rows.iter().collect::<Vec<_>>());
    let head: Vec<&str> = ["result", "eta", "lambda", "layers kept", "size"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    let row = |r: &SweepRow| {
        let lambda = r.lambda.map_or_else(|| "recipe's".to_owned(), |l| l.to_string());
        let own = [
            r.result.clone(),
            r.eta.to_string(),
            lambda,
            format!("{}/{}", r.layers.0, r.layers.1),
            Bytes(r.bytes).to_string(),
        ];
        let metrics = names.iter().map(|n| r.metrics.get(n).map_or_else(String::new, ToString::to_string));
        own.into_iter().chain(metrics).collect()
    };
    page.table("All results", &head, rows.iter().map(row))
}
