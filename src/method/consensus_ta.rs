//! Consensus task arithmetic by TALL masks (arXiv 2405.07813).

use super::parameters::LAMBDA;
use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::Survey;

pub const MASK_LAMBDA: Parameter = Parameter {
    name: "mask_lambda",
    scope: Scope::Model,
    kind: Kind::Number { min: 0.0, max: 1e6 },
    default: Some(0.4),
    help: "How much of what the other models add this model's value must exceed to count; the paper's codes try 0.2 to 0.6.",
};

pub const ENTRY: Entry = Entry {
    name: "consensus_ta",
    summary: "Adds the sum of task vectors to the base where enough models count the element as theirs.",
    formula: "tau = sum_k tau_k; m_k = abs(tau_k) > mask_lambda_k * abs(tau - tau_k); \
              theta = theta_0 + lambda * tau where sum_k m_k >= min_tasks, else theta_0",
    source: "Wang et al. 2024, arXiv 2405.07813, eq. 5 and 6, on task vectors instead of rebuilt weights",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &[
        "The authors compare rebuilt weights in f32; here task vectors are compared, which can differ in the last bit.",
    ],
    parameters: &[
        MASK_LAMBDA,
        Parameter {
            name: "min_tasks",
            scope: Scope::Global,
            kind: Kind::Number { min: 0.0, max: 4096.0 },
            default: Some(2.0),
            help: "Models that must count an element; 0 keeps all, 1 drops what no model counts.",
        },
        LAMBDA,
    ],
    start: |_: &Model<'_>| Ok(Box::new(Consensus)),
};

struct Consensus;

/// `sum = sum_k x_k`.
pub fn add_all(x: &[Vec<f32>], sum: &mut [f32]) {
    sum.fill(0.0);
    x.iter().for_each(|x| kernel::axpy(1.0, x, sum));
}

/// Whether an element counts as this model's.
pub fn counts(mask_lambda: f32, own: f32, sum: f32) -> bool {
    own.abs() > mask_lambda * (sum - own).abs()
}

/// Appends which elements count as which model's, a bit each.
pub fn mask_all(settings: &Settings, block: &Tile<'_>, masks: &mut [Vec<u8>]) {
    let elements = block.experts.first().map_or(0, Vec::len);
    let mut sum = vec![0.0; elements];
    add_all(block.experts, &mut sum);
    for ((mask_lambda, x), mask) in settings.per_model("mask_lambda").zip(&*block.experts).zip(masks) {
        let bit = |(i, (&x, &sum)): (usize, (&f32, &f32))| u8::from(counts(mask_lambda, x, sum)) << (7 - i);
        let byte = |(x, sum): (&[f32], &[f32])| x.iter().zip(sum).enumerate().map(bit).sum::<u8>();
        mask.extend(x.chunks(8).zip(sum.chunks(8)).map(byte));
    }
}

impl Method for Consensus {
    fn is_elementwise(&self) -> bool {
        true
    }

    fn has_masks(&self) -> bool {
        true
    }

    fn mask(&self, settings: &Settings, block: &Tile<'_>, masks: &mut [Vec<u8>]) {
        mask_all(settings, block, masks);
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        add_all(tile.experts, out);
        let mut models = vec![0.0; out.len()];
        for (mask_lambda, x) in settings.per_model("mask_lambda").zip(&*tile.experts) {
            for ((n, &x), &sum) in models.iter_mut().zip(x).zip(&*out) {
                *n += f32::from(u8::from(counts(mask_lambda, x, sum)));
            }
        }
        let least = settings.number("min_tasks");
        out.iter_mut().zip(models).filter(|(_, n)| *n < least).for_each(|(o, _)| *o = 0.0);
        kernel::add_scaled(tile.base, settings.number("lambda"), out);
    }
}
