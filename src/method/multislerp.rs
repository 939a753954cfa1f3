//! The weighted mean direction of several models or task vectors, at their mean length.

use super::combination::{Combination, Gram, Vectors};
use super::parameters::WEIGHT;
use super::{Basis, Entry, Kind, Model, Parameter, Scope, Settings};

pub const ENTRY: Entry = Entry {
    name: "multislerp",
    summary: "Merges models, or their task vectors, by their mean direction and their mean length.",
    formula: "mu = sum_k w_k x_k / norm(x_k), w_k = weight_k / sum weight; theta = mu / norm(mu) * sum_k w_k norm(x_k), plus \
              theta_0 if there is a base",
    source: "as in mergekit, whose tangent step is zero in exact arithmetic and left out here",
    basis: Basis::Either,
    experts: (2, usize::MAX),
    passes: "2",
    memory: "a few sums per tensor",
    differs: &[
        "A mean direction shorter than eps gives the weighted sum for any number of models; mergekit fails for more than two.",
    ],
    parameters: &[
        WEIGHT,
        Parameter {
            name: "normalize_weights",
            scope: Scope::Global,
            kind: Kind::Flag,
            default: Some(1.0),
            help: "Divide the weights by their sum.",
        },
        Parameter {
            name: "eps",
            scope: Scope::Global,
            kind: Kind::Number { min: 0.0, max: 1.0 },
            default: Some(1e-8),
            help: "Added to lengths that are divided by. If the mean direction is shorter, the weighted sum is taken.",
        },
    ],
    start: |model: &Model<'_>| {
        for settings in model.settings.iter().filter(|s| s.flag("normalize_weights")) {
            if settings.get("weight").iter().sum::<f64>() == 0.0 {
                return Err("the weights sum to 0; set `normalize_weights: false` or other weights".into());
            }
        }
        Ok(Combination::start(model, Vectors::Tensor, Box::new(coefficients)))
    },
};

fn coefficients(settings: &Settings, gram: &Gram) -> Vec<f64> {
    let mut weights = settings.get("weight").to_vec();
    let eps = settings.get("eps")[0];
    if settings.flag("normalize_weights") {
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    let direction: Vec<f64> = weights.iter().enumerate().map(|(k, w)| w / (gram.norm(k) + eps)).collect();
    let length = gram.norm_of(&direction);
    if length <= eps || !direction.iter().all(|d| d.is_finite()) {
        return weights;
    }
    let mean: f64 = weights.iter().enumerate().map(|(k, w)| w * gram.norm(k)).sum();
    direction.iter().map(|d| d / length * mean).collect()
}
