//! `taskvec compare`: models against their base, and their task vectors against each other, in one streaming pass.

use super::{check_memory, open_files, open_models};
use crate::error::{Error, Result};
use crate::pass::{Cut, Engine, PassRun, Progress, Stop, Work};
use crate::plan::{Options, Plan};
use crate::recipe::{Flags, Recipe};
use crate::report::{Apart, CompareCost, Comparison, Difference, ModelDifference, PairDifference, TensorDifference};
use crate::source::{Io, Links};
use crate::survey::{Differences, OfModel, OfPair, Totals};
use crate::tensor::{Bytes, Entry, Inventory};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

/// How a comparison runs; none of it changes a number.
#[derive(Clone, Copy, Debug)]
pub struct CompareRun<'a> {
    /// Peak memory allowed.
    pub memory_bytes: u64,
    /// Compute threads.
    pub threads: usize,
    /// Elements of a tile, at most; for tests.
    pub tile_elements: Option<usize>,
    /// How files are read.
    pub io: Io,
    /// Which links inside model folders are followed.
    pub links: Links,
    /// Hears how it goes.
    pub progress: &'a (dyn Progress + 'a),
    /// Can end it.
    pub stop: &'a Stop,
}

/// Compares `models` with `base`, and their task vectors with each other.
pub fn compare(base: &str, models: &[String], run: &CompareRun<'_>) -> Result<Comparison> {
    let start = Instant::now();
    let recipe = recipe(base, models)?;
    let mut inventories = open_models(&recipe, Path::new(""), run.links, &[])?;
    let places = places(&recipe, base, models);
    let apart = set_apart(&mut inventories, &places);
    let mut found = Comparison {
        schema_version: 1,
        base: base.to_owned(),
        models: models.to_vec(),
        elements: 0,
        total: difference(&Totals::new(models.len()), 0),
        tensors: Vec::new(),
        apart,
        run: CompareCost { passes: Vec::new(), peak_bytes: 0, seconds: 0.0 },
    };
    if !inventories[0].tensors.is_empty() {
        gather(recipe, inventories, run, &mut found)?;
    }
    found.run.seconds = start.elapsed().as_secs_f64();
    Ok(found)
}

/// A recipe that names the models; nothing is merged. A recipe's text could not name the base as a model too.
fn recipe(base: &str, models: &[String]) -> Result<Recipe> {
    let stand_ins = (0..models.len()).map(|k| format!("{base}/{k}=1")).collect();
    let flags =
        Flags { method: "task_arithmetic".into(), base: Some(base.to_owned()), models: stand_ins, ..Flags::default() };
    let mut recipe = flags.recipe()?;
    recipe.experts_mut().zip(models).for_each(|(expert, model)| expert.model.clone_from(model));
    Ok(recipe)
}

/// Which inventory is the base's, and which each model's: one path is opened once.
fn places(recipe: &Recipe, base: &str, models: &[String]) -> Vec<usize> {
    let references = recipe.references();
    let place = |name: &str| references.iter().position(|r| crate::recipe::same_path(r, name)).unwrap_or(0);
    std::iter::once(base).chain(models.iter().map(String::as_str)).map(place).collect()
}

/// Takes out of all inventories what not all of them have alike.
fn set_apart(inventories: &mut [Inventory], places: &[usize]) -> Vec<Apart> {
    let by_name: Vec<BTreeMap<&str, &Entry>> =
        inventories.iter().map(|i| i.tensors.iter().map(|t| (t.name.as_str(), t)).collect()).collect();
    let is_apart = |name: &str| {
        let base = by_name[0].get(name);
        by_name.iter().any(|m| !base.zip(m.get(name)).is_some_and(|(a, b)| alike(a, b)))
    };
    let show = |i: usize, name: &str| by_name[i].get(name).map(|t| format!("{} {:?}", t.dtype, t.shape));
    let mut seen = BTreeSet::new();
    let names = inventories.iter().flat_map(|i| &i.tensors).map(|t| t.name.as_str());
    let apart: Vec<Apart> = names
        .filter(|name| seen.insert(*name) && is_apart(name))
        .map(|name| Apart {
            name: name.to_owned(),
            base: show(places[0], name),
            models: places[1..].iter().map(|&i| show(i, name)).collect(),
        })
        .collect();
    let names: BTreeSet<&str> = apart.iter().map(|a| a.name.as_str()).collect();
    inventories.iter_mut().for_each(|i| i.tensors.retain(|t| !names.contains(t.name.as_str())));
    apart
}

fn alike(a: &Entry, b: &Entry) -> bool {
    a.shape == b.shape && (a.dtype == b.dtype || (a.dtype.is_float() && b.dtype.is_float()))
}

fn gather(recipe: Recipe, inventories: Vec<Inventory>, run: &CompareRun<'_>, found: &mut Comparison) -> Result<()> {
    let models = found.models.len();
    let kept = Differences::resident_bytes(models, inventories[0].tensors.len()) as u64;
    let options = Options {
        memory_bytes: run.memory_bytes.saturating_sub(kept),
        threads: run.threads,
        tile_elements: run.tile_elements,
        allow_non_finite: true,
        delta: false,
        ..Options::default()
    };
    let plan = Plan::new(recipe, inventories, None, options).map_err(|e| match e {
        Error::BudgetTooSmall { needed, .. } => {
            Error::BudgetTooSmall { given: Bytes(run.memory_bytes), needed: Bytes(needed.0 + kept) }
        }
        other => other,
    })?;
    check_memory(&plan)?;
    let files = open_files(&plan, run.io)?;
    let engine = Engine::new(&plan, &files, false, run.progress, run.stop)?;
    let (floats, others): (Vec<Work>, Vec<Work>) = (0..plan.tensors.len())
        .map(|tensor| Work { tensor, sources: (0..plan.sources.len()).collect(), only: None })
        .partition(|w| plan.tensors[w.tensor].dtype.is_float());
    let mut statistic = Differences::new(models);
    let unhashed = vec![false; plan.sources.len()];
    let mut passes = engine.survey((&floats, &floats), &mut statistic, Cut::Sums, &unhashed)?;
    let totals = statistic.finish();
    let counts = count(&engine, &others, &mut passes)?;
    files.check_unchanged()?;
    run.stop.check()?;
    found.tensors = tensors(&plan, &totals, &counts);
    found.elements = plan.tensors.iter().map(|t| t.elements).sum();
    found.total = total(models, found.elements, &totals, &counts);
    found.run.passes = passes;
    found.run.peak_bytes = plan.budget.peak_bytes() + kept;
    Ok(())
}

/// By tensor, the elements of each model that are not the base's.
fn count(engine: &Engine<'_>, works: &[Work], passes: &mut Vec<PassRun>) -> Result<BTreeMap<usize, Vec<u64>>> {
    if works.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (counts, pass) = engine.count_unequal(works)?;
    passes.push(pass);
    Ok(works.iter().map(|w| w.tensor).zip(counts).collect())
}

fn tensors(plan: &Plan, totals: &BTreeMap<usize, Totals>, counts: &BTreeMap<usize, Vec<u64>>) -> Vec<TensorDifference> {
    let models = plan.expert_count();
    let found = |(i, t): (usize, &crate::plan::PlannedTensor)| TensorDifference {
        name: t.name.clone(),
        shape: t.shape.clone(),
        dtypes: t.places.iter().map(|p| p.stored().to_string()).collect(),
        elements: t.elements,
        found: match (totals.get(&i), counts.get(&i)) {
            (Some(totals), _) => difference(totals, t.elements),
            (None, Some(counts)) => of_counts(counts, t.elements),
            // A tensor without elements was shown to no pass.
            (None, None) => difference(&Totals::new(models), 0),
        },
    };
    plan.tensors.iter().enumerate().map(found).collect()
}

fn total(
    models: usize,
    elements: u64,
    totals: &BTreeMap<usize, Totals>,
    counts: &BTreeMap<usize, Vec<u64>>,
) -> Difference {
    let mut sum = Totals::new(models);
    totals.values().for_each(|t| sum.add(t));
    for counts in counts.values() {
        sum.models.iter_mut().zip(counts).for_each(|(m, n)| m.changed += n);
    }
    difference(&sum, elements)
}

fn difference(found: &Totals, elements: u64) -> Difference {
    let base = found.base_squares;
    let model = |m: &OfModel| ModelDifference {
        changed: m.changed,
        changed_share: share(m.changed, elements),
        non_finite: m.non_finite,
        max_abs: Some(m.max_abs),
        l2: Some(m.squares.sqrt()),
        relative_l2: (base > 0.0).then(|| (m.squares / base).sqrt()),
        cosine_to_base: cosine(base + m.with_base, base, base + 2.0 * m.with_base + m.squares),
    };
    let n = found.models.len();
    let indices = (0..n).flat_map(|a| (a + 1..n).map(move |b| (a, b)));
    let pair = |((a, b), p): ((usize, usize), &OfPair)| PairDifference {
        a,
        b,
        cosine: cosine(p.product, found.models[a].squares, found.models[b].squares),
        both_changed: p.both,
        sign_agreement: (p.both > 0).then(|| share(p.same_sign, p.both)),
    };
    Difference {
        models: found.models.iter().map(model).collect(),
        pairs: indices.zip(&found.pairs).map(pair).collect(),
    }
}

/// Of tensors that have no task vector.
fn of_counts(counts: &[u64], elements: u64) -> Difference {
    let model = |&changed: &u64| ModelDifference {
        changed,
        changed_share: share(changed, elements),
        non_finite: 0,
        max_abs: None,
        l2: None,
        relative_l2: None,
        cosine_to_base: None,
    };
    Difference { models: counts.iter().map(model).collect(), pairs: Vec::new() }
}

fn share(part: u64, all: u64) -> f64 {
    part as f64 / all.max(1) as f64
}

/// From the inner product and both squares.
fn cosine(product: f64, a: f64, b: f64) -> Option<f64> {
    let lengths = (a.max(0.0) * b.max(0.0)).sqrt();
    (lengths > 0.0).then(|| (product / lengths).clamp(-1.0, 1.0))
}
