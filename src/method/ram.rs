//! RAM: values that one model alone changed are taken whole, shared ones are averaged.

use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::Survey;

pub const EPSILON: Parameter = Parameter {
    name: "epsilon",
    scope: Scope::Global,
    kind: Kind::Number { min: 0.0, max: 1.0 },
    default: Some(1e-5),
    help: "Task vectors at or below this magnitude count as unchanged.",
};

pub const ENTRY: Entry = Entry {
    name: "ram",
    summary: "Takes what one model alone changed, and the mean where several did.",
    formula: "k is active where abs(tau_k) > epsilon; theta = theta_0 + mean{tau_k : k is active}",
    source: "arXiv 2601.13572; as in mergekit",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &[],
    parameters: &[EPSILON],
    start: |_: &Model<'_>| Ok(Box::new(Ram)),
};

struct Ram;

impl Method for Ram {
    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        merge_active(settings.number("epsilon"), tile.experts, &vec![1.0; tile.experts.len()], out);
        kernel::add_scaled(tile.base, 1.0, out);
    }
}

/// The mean of active values; a value that is active alone is multiplied by its model's factor.
pub fn merge_active(epsilon: f32, experts: &[Vec<f32>], factors: &[f32], out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let active = || experts.iter().zip(factors).filter(|(x, _)| x[i].abs() > epsilon);
        let (sum, count) = active().fold((0.0, 0.0), |(sum, n), (x, _)| (sum + x[i], n + 1.0));
        *out = match active().next() {
            Some((x, factor)) if count == 1.0 => factor * x[i],
            Some(_) => sum / count,
            None => 0.0,
        };
    }
}
