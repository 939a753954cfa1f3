//! WiSE-FT (arXiv 2109.01903): part of the way from the base to a fine-tuned model.

use super::parameters::LAMBDA;
use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::Survey;

pub const ENTRY: Entry = Entry {
    name: "wise_ft",
    summary: "Moves from the base part of the way to a fine-tuned model; several models add up their parts.",
    formula: "theta = theta_0 + lambda * sum_k alpha_k tau_k; of one model with lambda 1: (1 - alpha) theta_0 + alpha theta_1",
    source: "Wortsman et al. 2022, arXiv 2109.01903, eq. 1; several models as in arXiv 2506.09093, table 3",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &[],
    parameters: &[
        Parameter {
            name: "alpha",
            scope: Scope::Model,
            kind: Kind::FRACTION,
            default: Some(0.5),
            help: "How far towards this model.",
        },
        LAMBDA,
    ],
    start: |_: &Model<'_>| Ok(Box::new(WiseFt)),
};

struct WiseFt;

impl Method for WiseFt {
    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        out.fill(0.0);
        settings.per_model("alpha").zip(&*tile.experts).for_each(|(alpha, x)| kernel::axpy(alpha, x, out));
        kernel::add_scaled(tile.base, settings.number("lambda"), out);
    }
}
