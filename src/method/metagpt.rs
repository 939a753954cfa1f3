//! MetaGPT (arXiv 2406.11385): coefficients by the squared lengths of task vectors.

use super::parameters::LAMBDA;
use super::{Basis, Entry, Method, Model, Scene, Settings, Tile};
use crate::kernel;
use crate::survey::{Block, Finding, Form, Sums, Survey};

pub const ENTRY: Entry = Entry {
    name: "metagpt",
    summary: "Adds task vectors to the base, each with its share of the squared lengths.",
    formula: "lambda_k = norm(tau_k)^2 / sum_j norm(tau_j)^2, over the whole model; theta = theta_0 + lambda * sum_k lambda_k tau_k",
    source: "Zhou et al. 2024, arXiv 2406.11385, eq. 15; under lwptv the norms are those of the pruned task vectors",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "2",
    memory: "a few sums per tensor",
    differs: &[],
    parameters: &[LAMBDA],
    start: |model: &Model<'_>| Ok(Box::new(MetaGpt { experts: model.experts, tensors: model.tensors })),
};

struct MetaGpt {
    experts: usize,
    tensors: usize,
}

impl Method for MetaGpt {
    fn next_survey<'a>(&'a self, _scene: Scene<'a>, done: &'a [Survey]) -> Option<Box<dyn Finding + 'a>> {
        let measure = |block: &Block<'_>, sums: &mut [f64]| {
            block.experts.iter().zip(sums).for_each(|(x, sum)| *sum = kernel::squares(x));
        };
        done.is_empty().then(|| {
            Box::new(Sums::new("norms", Form::TaskVectors, self.experts, Box::new(measure))) as Box<dyn Finding>
        })
    }

    fn surveys(&self, _settings: &[Settings]) -> u64 {
        1
    }

    fn resident_bytes(&self, _workers: usize) -> usize {
        self.tensors * Sums::tensor_bytes(self.experts)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        let squares = done[0].total_sums(self.experts);
        let all: f64 = squares.iter().sum();
        out.fill(0.0);
        for (square, x) in squares.iter().zip(&*tile.experts) {
            let share = if all > 0.0 { square / all } else { 0.0 };
            kernel::axpy(share as f32, x, out);
        }
        kernel::add_scaled(tile.base, settings.number("lambda"), out);
    }
}
