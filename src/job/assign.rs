//! What the mask means for each tensor, and what the method asks for before it merges.

use super::{Scoring, known};
use crate::error::Result;
use crate::method::{Method, Scene, Shown};
use crate::pass::{Action, Copied, Cut, Engine, PassRun, Reason, Work};
use crate::plan::{Plan, Taken};
use crate::survey::Survey;

/// What the mask means for each tensor: which sources are read, and what is done.
pub(super) fn assign(plan: &Plan, scoring: &Scoring) -> (Vec<Work>, Vec<Action>) {
    let base = plan.base().filter(|_| plan.reads_base());
    let mut works = Vec::with_capacity(plan.tensors.len());
    let mut actions = Vec::with_capacity(plan.tensors.len());
    for (tensor, t) in plan.tensors.iter().enumerate() {
        let first = plan.experts().start;
        let same = t.can_copy(plan.reference());
        let (copied, reason, sources) = match (t.layer, &scoring.mask) {
            (None, _) if t.taken.is_some() => {
                let reason = if t.taken == Some(Taken::Excluded) { Reason::Excluded } else { Reason::CopiedFrom };
                (if same { Copied::Bytes } else { Copied::Cast }, reason, vec![plan.reference()])
            }
            (None, _) => (Copied::Bytes, Reason::NotFloat, (0..plan.sources.len()).collect()),
            (Some(layer), Some(mask)) if !mask.keeps(layer) => {
                (if same { Copied::Bytes } else { Copied::Cast }, Reason::Pruned, vec![plan.reference()])
            }
            (Some(layer), mask) => {
                let takes = |s: &usize| mask.as_ref().is_none_or(|m| m.takes(layer, s - first));
                let reason = match mask {
                    Some(_) => Reason::Kept,
                    None if scoring.elements.is_some() => Reason::Elements,
                    None => Reason::NoPruning,
                };
                (Copied::No, reason, base.into_iter().chain(plan.experts().filter(takes)).collect())
            }
        };
        works.push(Work { tensor, sources, only: None });
        actions.push(Action { copied, reason });
    }
    (works, actions)
}

/// Gathers what the method asks for, over the layers that are merged.
pub(super) fn survey(
    plan: &Plan,
    engine: &Engine<'_>,
    method: &dyn Method,
    works: &[Work],
    actions: &[Action],
    runs: &mut Vec<PassRun>,
) -> Result<Vec<Survey>> {
    let merged = works.iter().filter(|w| actions[w.tensor].copied == Copied::No && !w.is_empty());
    let merged: Vec<Work> = merged.cloned().collect();
    let shown: u64 = merged.iter().map(|w| plan.tensors[w.tensor].elements).sum();
    let tensors: Vec<Shown<'_>> = merged.iter().map(|w| shown_tensor(plan, w.tensor)).collect();
    let scene = Scene {
        experts: plan.expert_count(),
        elements: plan.elements(),
        hidden: plan.elements() - shown,
        workers: plan.options.threads,
        tensors: &tensors,
    };
    let unhashed = vec![false; plan.sources.len()];
    let mut done = Vec::new();
    loop {
        let Some(mut statistic) = method.next_survey(scene, &done) else { return Ok(done) };
        // What delta files say is about task vectors before single elements are pruned.
        // Parts do not read them: each would have to.
        let first = if plan.prunes_elements() || engine.is_shared() {
            merged.clone()
        } else {
            known::histograms(plan, engine.files(), &merged, statistic.as_mut())?
        };
        for run in engine.survey((&first, &merged), statistic.as_mut(), Cut::Method, &unhashed)? {
            match runs.iter_mut().find(|r| r.name == run.name) {
                Some(same) => same.join(&run),
                None => runs.push(run),
            }
        }
        let found = statistic.finish();
        done.push(found);
    }
}

fn shown_tensor(plan: &Plan, tensor: usize) -> Shown<'_> {
    let t = &plan.tensors[tensor];
    Shown { tensor, shape: &t.shape, elements: t.elements, settings: &plan.settings[t.settings] }
}
