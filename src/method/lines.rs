//! LiNeS (arXiv 2410.17146): task vectors that grow with depth.

use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::Survey;

pub const ENTRY: Entry = Entry {
    name: "lines",
    summary: "Adds task vectors to the base, scaled by a line over the depth of the model.",
    formula: "theta = theta_0 + (alpha + beta * i / (B - 1)) * sum_k weight_k tau_k in block i of B (from 0); i = 0 outside \
              stacks of blocks",
    source: "Wang et al. 2025, arXiv 2410.17146, eq. 3; for several tasks the authors take alpha = 1 / K and tune beta",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &[
        "The number of blocks is counted from the names; the authors' code writes it down (12 or 24), wrong for deeper models.",
    ],
    parameters: &[
        Parameter {
            name: "weight",
            scope: Scope::Model,
            kind: Kind::NUMBER,
            default: Some(1.0),
            help: "Scale of this model's task vector.",
        },
        Parameter {
            name: "alpha",
            scope: Scope::Global,
            kind: Kind::NUMBER,
            default: None,
            help: "Scale in the first block, and outside stacks (embeddings, final norm, head).",
        },
        Parameter {
            name: "beta",
            scope: Scope::Global,
            kind: Kind::NUMBER,
            default: None,
            help: "What the last block's scale is above that. For one model: 1 - alpha.",
        },
    ],
    start: |_: &Model<'_>| Ok(Box::new(Lines)),
};

struct Lines;

impl Method for Lines {
    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        super::task_arithmetic::weighted_sum(settings, tile.experts, out);
        let scale = settings.get("alpha")[0] + settings.get("beta")[0] * settings.depth();
        kernel::add_scaled(tile.base, scale as f32, out);
    }
}
