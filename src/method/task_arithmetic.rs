//! Task arithmetic (arXiv 2212.04089).

use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::Survey;

pub const ENTRY: Entry = Entry {
    name: "task_arithmetic",
    summary: "Adds weighted task vectors to the base.",
    formula: "theta = theta_0 + lambda * sum_k weight_k * tau_k   (normalize: the sum divided by sum_k weight_k)",
    source: "Ilharco et al. 2023, arXiv 2212.04089, sec. 2; parameter names as in mergekit",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &[],
    parameters: &[
        Parameter {
            name: "weight",
            scope: Scope::Model,
            kind: Kind::NUMBER,
            default: None,
            help: "Scale of this model's task vector.",
        },
        Parameter {
            name: "lambda",
            scope: Scope::Global,
            kind: Kind::NUMBER,
            default: Some(1.0),
            help: "Scale of the merged task vector.",
        },
        Parameter {
            name: "normalize",
            scope: Scope::Global,
            kind: Kind::Flag,
            default: Some(0.0),
            help: "Divide by the sum of weights (by 1 if its magnitude is below 1e-8).",
        },
    ],
    start: |_: &Model<'_>| Ok(Box::new(TaskArithmetic)),
};

struct TaskArithmetic;

impl Method for TaskArithmetic {
    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        weighted_sum(settings, tile.experts, out);
        if settings.flag("normalize") {
            let sum: f64 = settings.get("weight").iter().sum();
            kernel::divide(if sum.abs() < 1e-8 { 1.0 } else { sum as f32 }, out);
        }
        kernel::add_scaled(tile.base, settings.number("lambda"), out);
    }

    fn error_bound(&self, settings: &Settings, errors: &[f64]) -> Option<f64> {
        let lambda = f64::from(settings.number("lambda").abs());
        (!settings.flag("normalize")).then(|| lambda * weighted_errors(settings, errors))
    }
}

/// What errors of the experts' values add up to in their weighted sum.
pub fn weighted_errors(settings: &Settings, errors: &[f64]) -> f64 {
    settings.per_model("weight").zip(errors).map(|(weight, e)| f64::from(weight.abs()) * e).sum()
}

/// `out = weight_1 x_1`, then `out += weight_k x_k` in recipe order.
pub fn weighted_sum(settings: &Settings, experts: &[Vec<f32>], out: &mut [f32]) {
    for (k, (weight, x)) in settings.per_model("weight").zip(experts).enumerate() {
        if k == 0 {
            kernel::scale(weight, x, out);
        } else {
            kernel::axpy(weight, x, out);
        }
    }
}
