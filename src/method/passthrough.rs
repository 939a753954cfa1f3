//! One model as it is, or scaled.

use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::Survey;

pub const ENTRY: Entry = Entry {
    name: "passthrough",
    summary: "Passes one model through, its tensors scaled where the recipe says so.",
    formula: "theta = scale * theta_1",
    source: "as in mergekit",
    basis: Basis::Weights,
    experts: (1, 1),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &[],
    parameters: &[Parameter {
        name: "scale",
        scope: Scope::Model,
        kind: Kind::NUMBER,
        default: Some(1.0),
        help: "Factor of the weights.",
    }],
    start: |_: &Model<'_>| Ok(Box::new(Passthrough)),
};

struct Passthrough;

impl Method for Passthrough {
    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        kernel::scale(settings.get("scale")[0] as f32, &tile.experts[0], out);
    }
}
