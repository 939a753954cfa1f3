//! What delta files say of their task vectors, so that a pass need not read them.

use crate::error::Result;
use crate::pass::Work;
use crate::plan::Plan;
use crate::source::{self, Files};
use crate::survey::{Finding, Saliency};
use crate::tensor::Payload;

/// Fills in the sums of magnitudes, if every expert has them for every tensor of `works`.
pub fn magnitudes(plan: &Plan, works: &[Work], saliency: &mut Saliency) -> bool {
    let sum = |tensor: usize, source: usize| {
        let coded = plan.tensors[tensor].places[source].coded.as_ref()?;
        Some(coded.statistics?.sum_abs)
    };
    let known = |w: &Work| plan.experts().all(|s| sum(w.tensor, s).is_some());
    if works.is_empty() || !works.iter().all(known) {
        return false;
    }
    for w in works {
        for (task, source) in plan.experts().enumerate() {
            saliency.know(w.tensor, task, sum(w.tensor, source).unwrap_or_default());
        }
    }
    true
}

/// Tells `statistic` the histograms of the tensors for which all experts have one. Returns the works that are left to be
/// read in its first pass.
pub fn histograms(plan: &Plan, files: &Files, works: &[Work], statistic: &mut dyn Finding) -> Result<Vec<Work>> {
    if !statistic.takes_histograms() {
        return Ok(works.to_vec());
    }
    let (known, left): (Vec<&Work>, Vec<&Work>) =
        works.iter().partition(|w| plan.experts().all(|s| !w.sources.contains(&s) || has_histogram(plan, w.tensor, s)));
    for w in &known {
        let t = &plan.tensors[w.tensor];
        for (task, source) in plan.experts().enumerate() {
            let place = &t.places[source];
            let payload = place.coded.as_ref().and_then(|c| c.links[0].payload).filter(|_| w.sources.contains(&source));
            let read = |p: Payload| source::histogram(files, place.first_file + p.file, &t.name, p, t.elements);
            let found = payload.map(read).transpose()?.flatten();
            statistic.know(task, &found.unwrap_or_else(|| vec![(0, t.elements)]));
        }
    }
    tracing::info!("the first digits of {} tensors are known from the delta files", known.len());
    Ok(left.into_iter().cloned().collect())
}

fn has_histogram(plan: &Plan, tensor: usize, source: usize) -> bool {
    let Some(coded) = &plan.tensors[tensor].places[source].coded else { return false };
    // Without a payload the bytes are those of the base in the model's dtype: the values differ if that one is narrower.
    coded.statistics.is_some_and(|s| match coded.links[0].payload {
        Some(payload) => payload.histogram_bytes > 0,
        None => s.changed == 0,
    })
}
