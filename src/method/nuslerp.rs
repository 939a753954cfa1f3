//! Spherical interpolation of two models or task vectors by weights.

use super::combination::{Combination, Gram, Vectors};
use super::parameters::WEIGHT;
use super::{Basis, Entry, Kind, Model, Parameter, Scope, Settings};

const SMALLEST_SUM: f64 = 1e-6;
const SMALLEST_NORM: f64 = 1e-7;
const SMALLEST_SINE: f64 = 1e-8;

pub const ENTRY: Entry = Entry {
    name: "nuslerp",
    summary: "Interpolates two models, or their task vectors, along the arc between them, by their weights.",
    formula: "t = weight_2 / (weight_1 + weight_2); cos(phi) = <a, b> / (norm(a) norm(b)); \
              (sin((1 - t) phi) a + sin(t phi) b) / sin(phi), plus theta_0 if there is a base",
    source: "as in mergekit",
    basis: Basis::Either,
    experts: (2, 2),
    passes: "2; 1 with nuslerp_flatten: false",
    memory: "a few sums per tensor; with nuslerp_flatten: false a row, or with nuslerp_row_wise the tensor",
    differs: &[],
    parameters: &[
        WEIGHT,
        Parameter {
            name: "nuslerp_flatten",
            scope: Scope::Global,
            kind: Kind::Flag,
            default: Some(1.0),
            help: "Take each tensor as one vector; else each run along its last dimension.",
        },
        Parameter {
            name: "nuslerp_row_wise",
            scope: Scope::Global,
            kind: Kind::Flag,
            default: Some(0.0),
            help: "With nuslerp_flatten: false, take each run along the first dimension (mergekit's name for it).",
        },
    ],
    start: |model: &Model<'_>| {
        let flatten = model.uniform("nuslerp_flatten")? == [1.0];
        let first = model.uniform("nuslerp_row_wise")? == [1.0];
        let vectors = match (flatten, first) {
            (true, _) => Vectors::Tensor,
            (false, true) => Vectors::Columns,
            (false, false) => Vectors::Rows,
        };
        Ok(Combination::start(model, vectors, Box::new(coefficients)))
    },
};

fn coefficients(settings: &Settings, gram: &Gram) -> Vec<f64> {
    let weights = settings.get("weight");
    let sum = weights[0] + weights[1];
    let t = if sum.abs() < SMALLEST_SUM { 0.5 } else { weights[1] / sum };
    let length = |i| gram.norm(i).max(SMALLEST_NORM);
    let phi = libm::acos((gram.dot(0, 1) / (length(0) * length(1))).clamp(-1.0, 1.0));
    let sine = libm::sin(phi);
    if sine.abs() < SMALLEST_SINE {
        return vec![1.0 - t, t];
    }
    vec![libm::sin((1.0 - t) * phi) / sine, libm::sin(t * phi) / sine]
}
