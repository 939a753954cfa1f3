//! TIES merging (arXiv 2306.01708): trimmed per tensor, as mergekit does, or over the whole model, as the authors do.

use super::largest::magnitude_bars_of_model;
use super::parameters::{LAMBDA, NORMALIZE, RESCALE_OFF, SCOPE};
use super::sparse::{Join, Sparse, Sparsifier};
use super::{Basis, Entry, Kind, Method, Model, Parameter, Scene, Scope, Settings, Tile};
use crate::kernel::{self, Agreed};
use crate::survey::{Finding, Largest, Majority, Survey};

/// Words of `merge`.
pub const MERGES: &[&str] = &["disjoint_mean", "disjoint_sum", "disjoint_max"];

pub const ENTRY: Entry = Entry {
    name: "ties",
    summary: "Trims task vectors, elects a sign per element, merges what agrees.",
    formula: "scope tensor: tau_k := weight_k * (the floor(density_k * n) largest of the tensor), g = sign(sum_k tau_k), 0 := +, \
              theta = theta_0 + lambda * sum_k{tau_k : sign(tau_k) = g} / sum_k{weight_k}. \
              scope model: t_k = r-th smallest of abs(tau_k), r = d - floor(density_k * d); tau_k := 0 where abs(tau_k) < t_k; \
              g = sign(sum_k tau_k), 0 := sign(sum_i g_i); theta = theta_0 + lambda * merge{weight_k * tau_k : sign(tau_k) = g}",
    source: "Yadav et al. 2023, arXiv 2306.01708, alg. 1; scope tensor as in mergekit, scope model as in the authors' code",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "3 (4 for tensors where more values tie with the last one kept than there is room for, and have more digits than 16 bits give); scope model: 4",
    memory: "512 KiB per expert and large tensor of a wave (4 bytes per element of small ones), and per expert and thread; scope model: 512 KiB per expert, once and per thread",
    differs: &[
        "scope tensor is mergekit's, scope model the authors': they differ in what is ranked, in ties (cut; all stay), in when weights apply (before; after the election) and in what a vote of 0 gives (plus; the model's majority).",
        "Of values that tie with the last one kept, those that stand first stay; mergekit leaves it to its sort, which matters in bf16.",
        "mergekit fails where floor(density n) is 0; here such a tensor keeps the base.",
        "AdaMerging's code and LwPTV take scope model with merge: disjoint_sum.",
    ],
    parameters: &[
        Parameter {
            name: "weight",
            scope: Scope::Model,
            kind: Kind::NUMBER,
            default: Some(1.0),
            help: "Scale of this model's values: before the election with scope tensor, after it with scope model.",
        },
        Parameter {
            name: "density",
            scope: Scope::Model,
            kind: Kind::FRACTION,
            default: Some(1.0),
            help: "Fraction of values that the trim keeps; 1 trims nothing. With scope model the same for all tensors.",
        },
        LAMBDA,
        SCOPE,
        Parameter {
            name: "merge",
            scope: Scope::Global,
            kind: Kind::Choice(MERGES),
            default: Some(0.0),
            help: "How agreeing values become one: their mean, their sum, or the largest.",
        },
        NORMALIZE,
        RESCALE_OFF,
    ],
    start: |model: &Model<'_>| {
        if model.of_tensors()? {
            return Sparse::start(Sparsifier::Magnitude, Join::Elect, model);
        }
        Ok(Box::new(Ties { density: model.uniform("density")? }))
    },
};

/// The authors' form.
struct Ties {
    density: Vec<f64>,
}

impl Ties {
    /// Without ties one more than the fraction is kept: the threshold is the value of the rank below it.
    fn count(density: f64, elements: u64) -> u64 {
        ((density * elements as f64).floor() as u64 + 1).min(elements)
    }
}

fn thresholds(done: &[Survey]) -> Vec<f32> {
    done[0].bars().model().iter().map(|bar| kernel::magnitude_of_key(bar.key)).collect()
}

impl Method for Ties {
    fn surveys(&self, _settings: &[Settings]) -> u64 {
        3
    }

    fn next_survey<'a>(&'a self, scene: Scene<'a>, done: &'a [Survey]) -> Option<Box<dyn Finding + 'a>> {
        match done.len() {
            0 => {
                let counts = self.density.iter().map(|&d| Self::count(d, scene.elements)).collect();
                Some(Box::new(magnitude_bars_of_model(scene, counts)))
            }
            1 => Some(Box::new(Majority::new(thresholds(done)))),
            _ => None,
        }
    }

    fn resident_bytes(&self, workers: usize) -> usize {
        Largest::resident_bytes(self.density.len(), workers)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        for (x, threshold) in tile.experts.iter_mut().zip(thresholds(done)) {
            kernel::trim(threshold, x);
        }
        let zero_is_plus = match done {
            [_, Survey::Majority(sum)] => *sum > 0,
            _ => panic!("TIES merges after the majority is known"),
        };
        let weights: Vec<f32> = settings.per_model("weight").collect();
        let ones = vec![1.0; weights.len()];
        let agreed = match MERGES[settings.choice("merge")] {
            "disjoint_max" => Agreed::Max,
            "disjoint_mean" => Agreed::Mean(&ones),
            _ => Agreed::Sum,
        };
        kernel::elect(tile.experts, zero_is_plus, &weights, agreed, out);
        kernel::add_scaled(tile.base, settings.number("lambda"), out);
    }
}
