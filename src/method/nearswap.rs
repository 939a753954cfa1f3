//! Nearswap: a model takes over what is near to it in another.

use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::survey::Survey;

/// Differences below this count as this.
const SMALLEST_DIFFERENCE: f32 = 1e-6;

pub const ENTRY: Entry = Entry {
    name: "nearswap",
    summary: "Replaces values of one model by another's where they are near, and moves towards them elsewhere.",
    formula: "w = clamp(t / max(abs(a - b), 1e-6), 0, 1); theta = w b + (1 - w) a, element by element",
    source: "as in mergekit",
    basis: Basis::Weights,
    experts: (2, 2),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &[],
    parameters: &[Parameter {
        name: "t",
        scope: Scope::Global,
        kind: Kind::Number { min: 0.0, max: f32::MAX as f64 },
        default: None,
        help: "Values that differ by at most t are replaced. a is the model that base_model names, else the first.",
    }],
    start: |model: &Model<'_>| Ok(Box::new(Nearswap { ends: model.ends() })),
};

struct Nearswap {
    ends: (usize, usize),
}

impl Method for Nearswap {
    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        let t = settings.number("t");
        let (a, b) = (&tile.experts[self.ends.0], &tile.experts[self.ends.1]);
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            let w = (t / (a - b).abs().max(SMALLEST_DIFFERENCE)).clamp(0.0, 1.0);
            *out = w * b + (1.0 - w) * a;
        }
    }
}
