//! The LwPTV stage: pass 1, scores, thresholds, masks.

use super::known;
use super::noted::NotedScores;
use super::resume::{Past, Record};
use crate::error::Result;
use crate::kernel;
use crate::mask::{Consensus, Mask, Threshold};
use crate::pass::{Cut, Elements, Engine, PassRun, Work};
use crate::plan::{Layer, Plan};
use crate::recipe::Lwptv;
use crate::survey::{Block, Finding as _, Form, Largest, Saliency, Score, random_score};
use std::collections::BTreeMap;

/// Names of the passes that rank elements.
const ELEMENTS: [&str; 3] = ["element scores, upper digit", "element scores, lower digit", "element scores"];

/// What pass 1 found; empty without LwPTV.
#[derive(Debug)]
pub struct Scoring {
    /// `[layer][task]`.
    pub scores: Vec<Vec<f64>>,
    /// `None` without LwPTV, and where elements are pruned one by one.
    pub mask: Option<Mask>,
    /// The tasks' thresholds.
    pub thresholds: Vec<Threshold>,
    /// By tensor: the sums over its elements, by task.
    pub(super) sums: BTreeMap<usize, Vec<f64>>,
    /// What it cost.
    pub runs: Vec<PassRun>,
    /// By source: whether its float tensors have been read, and hashed if hashing is on.
    pub(super) hashed: Vec<bool>,
    /// Which elements are kept, where they are pruned one by one.
    pub(super) elements: Option<Elements>,
}

impl Scoring {
    /// Scores that are on record, and the mask that they give.
    pub(super) fn known(plan: &Plan, scores: Vec<Vec<f64>>, mask: Mask) -> Self {
        Self {
            scores,
            thresholds: mask.thresholds.clone(),
            mask: Some(mask),
            sums: BTreeMap::new(),
            runs: Vec::new(),
            hashed: vec![false; plan.sources.len()],
            elements: None,
        }
    }

    /// Gathers what `past` does not know, and notes it in `record`.
    pub(super) fn gather(plan: &Plan, engine: &Engine<'_>, past: &Past, record: Option<&mut Record>) -> Result<Self> {
        let mut found = Self {
            scores: Vec::new(),
            mask: None,
            thresholds: Vec::new(),
            sums: BTreeMap::new(),
            runs: Vec::new(),
            hashed: vec![false; plan.sources.len()],
            elements: None,
        };
        match &plan.recipe.lwptv {
            None => {}
            Some(lwptv) if plan.prunes_elements() => found.rank_elements(plan, lwptv, engine)?,
            Some(lwptv) => found.score_layers(plan, lwptv, engine, past, record)?,
        }
        Ok(found)
    }

    fn score_layers(
        &mut self,
        plan: &Plan,
        lwptv: &Lwptv,
        engine: &Engine<'_>,
        past: &Past,
        record: Option<&mut Record>,
    ) -> Result<()> {
        let tasks = plan.expert_count();
        if lwptv.score == Score::Random {
            let of_layer = |l: &Layer| (0..tasks).map(|k| random_score(plan.options.seed, k, &l.name)).collect();
            self.scores = plan.layers.iter().map(of_layer).collect();
        } else {
            let mut works = works(plan, lwptv.score);
            works.iter().flat_map(|w| &w.sources).for_each(|&s| self.hashed[s] = true);
            let mut saliency = Saliency::new(lwptv.score, tasks, plan.tensors.len());
            if lwptv.score == Score::Magnitude && known::magnitudes(plan, &works, &mut saliency) {
                tracing::info!("magnitudes are known from the delta files");
                self.hashed.fill(false);
            } else {
                let known =
                    past.sums.iter().flat_map(|(&t, sums)| sums.iter().enumerate().map(move |(k, &s)| (t, k, s)));
                known.for_each(|(t, k, sum)| saliency.know(t, k, sum));
                works.retain(|w| !past.sums.contains_key(&w.tensor));
                self.runs = match record {
                    None => engine.survey((&works, &works), &mut saliency, Cut::Sums, &self.hashed)?,
                    Some(record) => {
                        let mut noted = NotedScores::new(&mut saliency, record, engine, tasks);
                        let runs = engine.survey((&works, &works), &mut noted, Cut::Sums, &self.hashed);
                        noted.finish(runs)?
                    }
                };
            }
            let floats = plan.layers.iter().flat_map(|l| &l.tensors);
            self.sums = floats.map(|&t| (t, (0..tasks).map(|k| saliency.sum(t, k)).collect())).collect();
            let mean = |l: &Layer, k| saliency.mean(k, l.tensors.iter().map(|&t| (t, plan.tensors[t].elements)));
            self.scores = plan.layers.iter().map(|l| (0..tasks).map(|k| mean(l, k)).collect()).collect();
        }
        let mask = Mask::new(&self.scores, tasks, lwptv.eta, lwptv.rank_base, lwptv.consensus);
        self.thresholds.clone_from(&mask.thresholds);
        self.mask = Some(mask);
        Ok(())
    }

    /// The exact threshold of each task over all elements (PwPTV).
    fn rank_elements(&mut self, plan: &Plan, lwptv: &Lwptv, engine: &Engine<'_>) -> Result<()> {
        let tasks = plan.expert_count();
        // Saliency is ranked at its kernel's scale: K times eq. 5.
        let scale = if lwptv.score == Score::Saliency { tasks as f64 } else { 1.0 };
        let (value, bound) = match Threshold::place(plan.elements(), lwptv.eta, lwptv.rank_base) {
            Err(Threshold::KeepNone) => (Vec::new(), f32::INFINITY),
            Err(_) => (Vec::new(), f32::NEG_INFINITY),
            Ok(place) => (self.element_thresholds(plan, lwptv.score, place, engine)?, 0.0),
        };
        let all_or_none = if bound > 0.0 { Threshold::KeepNone } else { Threshold::KeepAll };
        let above = |k| value.get(k).map_or(all_or_none, |&v| Threshold::Above(f64::from(v) / scale));
        self.thresholds = (0..tasks).map(above).collect();
        let thresholds = (0..tasks).map(|k| value.get(k).copied().unwrap_or(bound)).collect();
        let shared = lwptv.consensus == Consensus::Or;
        self.elements = Some(Elements { score: lwptv.score, thresholds, shared });
        Ok(())
    }

    /// For each task the score at this place, from the smallest, from 0.
    fn element_thresholds(&mut self, plan: &Plan, score: Score, place: u64, engine: &Engine<'_>) -> Result<Vec<f32>> {
        let works = works(plan, score);
        let rows = vec![vec![plan.elements() - place]; plan.expert_count()];
        let view = move |block: &Block<'_>, keys: &mut [Vec<u32>]| {
            let mut scores = vec![Vec::new(); keys.len()];
            match score {
                Score::Magnitude => scores.clone_from_slice(block.experts),
                Score::Saliency | Score::Random => kernel::element_deviations(block.experts, &mut scores),
            }
            for (scores, keys) in scores.iter().zip(keys) {
                keys.clear();
                keys.extend(scores.iter().map(|&s| kernel::magnitude_key(s)));
            }
        };
        let form = if score == Score::Magnitude { Form::TaskVectors } else { Form::Weights };
        let (tensors, asked) = (works.iter().map(|w| w.tensor), (plan.elements(), &rows[..]));
        let largest = Largest::of_model(ELEMENTS, Box::new(view), tensors, asked, (0, 0), plan.options.threads);
        let largest = largest.values_only().over(form);
        let largest = if score == Score::Magnitude { largest.of_magnitudes() } else { largest };
        let mut largest = Box::new(largest);
        let first = if engine.is_shared() {
            works.clone()
        } else {
            known::histograms(plan, engine.files(), &works, largest.as_mut())?
        };
        let unhashed = vec![false; plan.sources.len()];
        self.runs = engine.survey((&first, &works), largest.as_mut(), Cut::Sums, &unhashed)?;
        let found = largest.finish();
        Ok(found.bars().model().iter().map(|bar| kernel::magnitude_of_key(bar.key)).collect())
    }
}

/// Every float tensor, over the sources that the score reads.
fn works(plan: &Plan, score: Score) -> Vec<Work> {
    let sources = if score == Score::Saliency { plan.experts() } else { 0..plan.sources.len() };
    let floats = (0..plan.tensors.len()).filter(|&t| plan.tensors[t].layer.is_some());
    floats.map(|tensor| Work { tensor, sources: sources.clone().collect(), only: None }).collect()
}
