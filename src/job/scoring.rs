//! The LwPTV stage: pass 1, scores, thresholds, masks.

use super::known;
use crate::error::Result;
use crate::mask::Mask;
use crate::pass::{Cut, Engine, PassRun, Work};
use crate::plan::{Layer, Plan};
use crate::survey::{Saliency, Score, random_score};

/// What pass 1 found; empty without LwPTV.
#[derive(Debug)]
pub struct Scoring {
    /// `[layer][task]`.
    pub scores: Vec<Vec<f64>>,
    /// `None` without LwPTV.
    pub mask: Option<Mask>,
    /// What it cost.
    pub runs: Vec<PassRun>,
    /// By source: whether its float tensors have been read, and hashed if hashing is on.
    pub(super) hashed: Vec<bool>,
}

impl Scoring {
    pub(super) fn gather(plan: &Plan, engine: &Engine<'_>) -> Result<Self> {
        let mut none =
            Self { scores: Vec::new(), mask: None, runs: Vec::new(), hashed: vec![false; plan.sources.len()] };
        let Some(lwptv) = &plan.recipe.lwptv else { return Ok(none) };
        let tasks = plan.expert_count();
        if lwptv.score == Score::Random {
            let of_layer = |l: &Layer| (0..tasks).map(|k| random_score(plan.options.seed, k, &l.name)).collect();
            none.scores = plan.layers.iter().map(of_layer).collect();
        } else {
            let sources = if lwptv.score == Score::Saliency { plan.experts() } else { 0..plan.sources.len() };
            sources.clone().for_each(|s| none.hashed[s] = true);
            let floats = (0..plan.tensors.len()).filter(|&t| plan.tensors[t].layer.is_some());
            let works: Vec<Work> = floats.map(|tensor| Work { tensor, sources: sources.clone().collect() }).collect();
            let mut saliency = Saliency::new(lwptv.score, tasks, plan.tensors.len());
            if lwptv.score == Score::Magnitude && known::magnitudes(plan, &works, &mut saliency) {
                tracing::info!("magnitudes are known from the delta files");
                none.hashed.fill(false);
            } else {
                none.runs = engine.survey((&works, &works), &mut saliency, Cut::Sums, &none.hashed)?;
            }
            let mean = |l: &Layer, k| saliency.mean(k, l.tensors.iter().map(|&t| (t, plan.tensors[t].elements)));
            none.scores = plan.layers.iter().map(|l| (0..tasks).map(|k| mean(l, k)).collect()).collect();
        }
        none.mask = Some(Mask::new(&none.scores, tasks, lwptv.eta, lwptv.rank_base, lwptv.consensus));
        Ok(none)
    }
}
