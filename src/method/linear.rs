//! Weighted averaging of weights (model soups).

use super::task_arithmetic::{weighted_errors, weighted_sum};
use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::Survey;

pub const ENTRY: Entry = Entry {
    name: "linear",
    summary: "Averages weights; needs no base (under lwptv the base fills pruned layers).",
    formula: "theta = sum_k weight_k * theta_k   (normalize: divided by sum_k weight_k)",
    source: "Wortsman et al. 2022, arXiv 2203.05482, eq. 1; parameter names as in mergekit",
    basis: Basis::Weights,
    experts: (1, usize::MAX),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &["Weights that sum to 0 are refused with normalize; mergekit writes infinities."],
    parameters: &[
        Parameter {
            name: "weight",
            scope: Scope::Model,
            kind: Kind::NUMBER,
            default: None,
            help: "Share of this model.",
        },
        Parameter {
            name: "normalize",
            scope: Scope::Global,
            kind: Kind::Flag,
            default: Some(1.0),
            help: "Divide by the sum of weights.",
        },
    ],
    start: |model: &Model<'_>| {
        let zero = |s: &&Settings| s.flag("normalize") && s.get("weight").iter().sum::<f64>() == 0.0;
        match model.settings.iter().find(zero) {
            Some(_) => {
                Err("the weights sum to 0, so they cannot be normalised; set `normalize: false` or other weights"
                    .into())
            }
            None => Ok(Box::new(Linear)),
        }
    },
};

struct Linear;

impl Method for Linear {
    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        weighted_sum(settings, tile.experts, out);
        if settings.flag("normalize") {
            let sum: f64 = settings.get("weight").iter().sum();
            kernel::divide(sum as f32, out);
        }
    }

    fn error_bound(&self, settings: &Settings, errors: &[f64]) -> Option<f64> {
        let sum: f64 = settings.get("weight").iter().sum();
        let divisor = if settings.flag("normalize") { f64::from(sum as f32).abs() } else { 1.0 };
        Some(weighted_errors(settings, errors) / divisor)
    }
}
