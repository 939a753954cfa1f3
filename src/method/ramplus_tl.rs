//! RAM+ per tensor: values that one model alone changed are strengthened by how much it shares.

use super::ram::{EPSILON, merge_active};
use super::{Basis, Entry, Kind, Method, Model, Parameter, Scene, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::{Block, Finding, Form, Sums, Survey};

pub const ENTRY: Entry = Entry {
    name: "ramplus_tl",
    summary: "As ram, with what one model alone changed strengthened where that model shares many changes.",
    formula: "k is active where abs(tau_k) > epsilon; alone: tau_k * (1 + r * min(shared_k / alone_k, alpha)), both counted \
              in the tensor; several: their mean; plus theta_0",
    source: "arXiv 2601.13572; as in mergekit",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "2",
    memory: "a few sums per tensor",
    differs: &[],
    parameters: &[
        EPSILON,
        Parameter { name: "r", scope: Scope::Global, kind: Kind::NUMBER, default: Some(0.1), help: "Strength." },
        Parameter {
            name: "alpha",
            scope: Scope::Global,
            kind: Kind::Number { min: 0.0, max: 1e6 },
            default: Some(0.2),
            help: "The ratio of shared to lone changes counts up to this.",
        },
    ],
    start: |model: &Model<'_>| Ok(Box::new(RamPlus { experts: model.experts })),
};

struct RamPlus {
    experts: usize,
}

impl Method for RamPlus {
    fn next_survey<'a>(&'a self, scene: Scene<'a>, done: &'a [Survey]) -> Option<Box<dyn Finding + 'a>> {
        let measure = move |block: &Block<'_>, sums: &mut [f64]| {
            let epsilon = scene.of(block.place.tensor).settings.number("epsilon");
            count_active(epsilon, block.experts, sums);
        };
        done.is_empty().then(|| {
            let sums = Sums::new("active elements", Form::TaskVectors, 2 * self.experts, Box::new(measure));
            Box::new(sums) as Box<dyn Finding>
        })
    }

    fn surveys(&self, _settings: &[Settings]) -> u64 {
        1
    }

    fn tensor_bytes(&self, _elements: u64) -> Option<usize> {
        Some(Sums::tensor_bytes(2 * self.experts))
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        let (r, alpha) = (settings.get("r")[0], settings.get("alpha")[0]);
        let counts = done[0].sums(tile.place.tensor);
        let factor = |c: &[f64]| (1.0 + r * (c[1] / c[0].max(1.0)).min(alpha)) as f32;
        let factors: Vec<f32> = counts.chunks_exact(2).map(factor).collect();
        merge_active(settings.number("epsilon"), tile.experts, &factors, out);
        kernel::add_scaled(tile.base, 1.0, out);
    }
}

/// For each expert: the elements that are active in it alone, and those that are active in others too.
fn count_active(epsilon: f32, experts: &[Vec<f32>], sums: &mut [f64]) {
    for i in 0..experts[0].len() {
        let shared = experts.iter().filter(|x| x[i].abs() > epsilon).count() > 1;
        for (x, sums) in experts.iter().zip(sums.chunks_exact_mut(2)) {
            sums[usize::from(shared)] += f64::from(u8::from(x[i].abs() > epsilon));
        }
    }
}
