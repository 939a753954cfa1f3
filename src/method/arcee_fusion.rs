//! Arcee Fusion: a model takes over what matters most in another.

use super::{Basis, Entry, Method, Model, Scene, Settings, Tile};
use crate::kernel;
use crate::survey::{Block, Finding, Form, Largest, Survey};

/// Added to probabilities.
const FLOOR: f64 = 1e-8;

/// Quantiles that make the threshold.
const QUANTILES: [f64; 3] = [0.25, 0.5, 0.75];

const NAMES: [&str; 3] = ["importance, upper digit", "importance, lower digit", "importance"];

pub const ENTRY: Entry = Entry {
    name: "arcee_fusion",
    summary: "Takes over from a second model the values whose change is important, by an outlier rule per tensor.",
    formula: "importance = abs(b - a) * KL(softmax(b_row) + 1e-8 || softmax(a_row) + 1e-8); \
              threshold = q50 + 1.5 (q75 - q25) of the tensor; theta = b where importance >= threshold, else a",
    source: "as in mergekit, with exact quantiles where it samples tensors of more than 1e6 elements",
    basis: Basis::Weights,
    experts: (2, 2),
    passes: "3",
    memory: "3 x 512 KiB per expert and large tensor of a wave (4 bytes per element of small ones), and per expert and thread; a row of the tensor",
    differs: &[
        "mergekit takes quantiles of a random million elements of larger tensors; here they are exact, so that the same merge gives the same bytes.",
    ],
    parameters: &[],
    start: |model: &Model<'_>| Ok(Box::new(ArceeFusion { ends: model.ends() })),
};

struct ArceeFusion {
    /// a, which base_model names, else the first; and b.
    ends: (usize, usize),
}

impl ArceeFusion {
    /// The importance of each element of whole rows.
    fn importance(&self, shape: &[u64], experts: &[Vec<f32>]) -> Vec<f32> {
        let (a, b) = (&experts[self.ends.0], &experts[self.ends.1]);
        let row = shape.last().map_or(1, |&n| n as usize).max(1);
        let mut importance = Vec::with_capacity(a.len());
        for (a, b) in a.chunks(row).zip(b.chunks(row)) {
            let divergence = divergence(b, a) as f32;
            importance.extend(a.iter().zip(b).map(|(a, b)| (b - a).abs() * divergence));
        }
        importance
    }
}

/// KL(softmax(b) || softmax(a)).
fn divergence(b: &[f32], a: &[f32]) -> f64 {
    let softmax = |x: &[f32]| {
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = x.iter().map(|&v| libm::exp(f64::from(v) - f64::from(largest))).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(move |p| p / sum + FLOOR)
    };
    softmax(b).zip(softmax(a)).map(|(p, q)| p * libm::log(p / q)).sum()
}

impl Method for ArceeFusion {
    fn next_survey<'a>(&'a self, scene: Scene<'a>, done: &'a [Survey]) -> Option<Box<dyn Finding + 'a>> {
        if !done.is_empty() {
            return None;
        }
        let asked = |t: &super::Shown<'a>| {
            // The value at place r of n, counted from 0 and from below, is the (n - r)-th largest.
            let count = |q: &f64| t.elements - (q * t.elements.saturating_sub(1) as f64) as u64;
            (t.tensor, t.elements, vec![QUANTILES.iter().map(count).collect()])
        };
        let view = |block: &Block<'_>, keys: &mut [Vec<u32>]| {
            keys[0].clear();
            keys[0].extend(self.importance(block.place.shape, block.experts).into_iter().map(kernel::signed_key));
        };
        let largest =
            Largest::per_tensor(NAMES, Box::new(view), scene.tensors.iter().map(asked).collect(), scene.workers);
        Some(Box::new(largest.values_only().over(Form::Weights)))
    }

    fn surveys(&self, _settings: &[Settings]) -> u64 {
        2
    }

    fn unit(&self, shape: &[u64]) -> u64 {
        shape.last().copied().unwrap_or(1)
    }

    fn resident_bytes(&self, workers: usize) -> usize {
        Largest::local_bytes(QUANTILES.len(), workers)
    }

    fn tensor_bytes(&self, elements: u64) -> Option<usize> {
        Some(Largest::tensor_bytes(elements, QUANTILES.len()))
    }

    fn merge(&self, _settings: &Settings, done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        let bars = done[0].bars().of(tile.place.tensor);
        let [low, middle, high] = [0, 1, 2].map(|i| kernel::number_of_key(bars[i].key));
        let threshold = middle + 1.5 * (high - low);
        let importance = self.importance(tile.place.shape, tile.experts);
        let (a, b) = (&tile.experts[self.ends.0], &tile.experts[self.ends.1]);
        for (((out, &i), &a), &b) in out.iter_mut().zip(&importance).zip(a).zip(b) {
            *out = if i >= threshold { b } else { a };
        }
    }
}
