//! The Karcher mean of several models on the sphere.

use super::combination::{Combination, Gram, Vectors};
use super::{Basis, Entry, Kind, Model, Parameter, Scope, Settings};

pub const ENTRY: Entry = Entry {
    name: "karcher",
    summary: "Merges models by the mean of their directions on the sphere, at their mean length.",
    formula: "u minimises sum_k angle(u, theta_k)^2, by max_iter steps of u := exp_u(mean_k log_u(theta_k / norm(theta_k))); \
              theta = u * mean_k norm(theta_k)",
    source: "Karcher 1977; start, steps and tolerances as in mergekit",
    basis: Basis::Weights,
    experts: (2, usize::MAX),
    passes: "2",
    memory: "a few sums per tensor",
    differs: &[
        "In mergekit a base_model becomes one more model; here it is theta_0 of lwptv only.",
        "The steps run on inner products in f64 instead of resident tensors.",
    ],
    parameters: &[
        Parameter {
            name: "max_iter",
            scope: Scope::Global,
            kind: Kind::Number { min: 0.0, max: 10000.0 },
            default: Some(10.0),
            help: "Steps, at most.",
        },
        Parameter {
            name: "tol",
            scope: Scope::Global,
            kind: Kind::Number { min: 0.0, max: 1.0 },
            default: Some(1e-5),
            help: "A shorter step ends the search; shorter models and smaller angles are left out.",
        },
    ],
    start: |model: &Model<'_>| Ok(Combination::start(model, Vectors::Tensor, Box::new(coefficients))),
};

/// The search runs on the coefficients of `u` over the models: `u` never leaves their span.
fn coefficients(settings: &Settings, gram: &Gram) -> Vec<f64> {
    let (max_iter, tol) = (settings.get("max_iter")[0] as usize, settings.get("tol")[0]);
    let models = gram.vectors();
    let norms: Vec<f64> = (0..models).map(|k| gram.norm(k)).collect();
    let counted: Vec<usize> = (0..models).filter(|&k| norms[k] > tol).collect();
    let Some(&first) = counted.first() else { return vec![0.0; models] };
    let share = 1.0 / counted.len() as f64;
    let mut u = vec![0.0; models];
    counted.iter().for_each(|&k| u[k] = share / norms[k]);
    match gram.norm_of(&u) {
        length if length < tol => {
            u.fill(0.0);
            u[first] = 1.0 / norms[first];
        }
        length => u.iter_mut().for_each(|u| *u /= length),
    }
    for _ in 0..max_iter {
        let step = tangent(gram, &u, &counted, &norms, tol);
        let length = gram.norm_of(&step);
        if length < tol {
            break;
        }
        let (sine, cosine) = (libm::sin(length), libm::cos(length));
        u.iter_mut().zip(&step).for_each(|(u, s)| *u = cosine * *u + sine * s / length);
        let length = gram.norm_of(&u);
        u.iter_mut().for_each(|u| *u /= length);
    }
    let mean = norms.iter().sum::<f64>() / models as f64;
    u.iter().map(|u| u * mean).collect()
}

/// The mean of the directions as seen from `u`.
fn tangent(gram: &Gram, u: &[f64], counted: &[usize], norms: &[f64], tol: f64) -> Vec<f64> {
    let mut step = vec![0.0; u.len()];
    let share = 1.0 / counted.len() as f64;
    for &k in counted {
        let mut unit = vec![0.0; u.len()];
        unit[k] = 1.0 / norms[k];
        let cosine = gram.dot_of(&unit, u).clamp(-1.0, 1.0);
        let angle = libm::acos(cosine);
        let sine = libm::sin(angle);
        if angle < tol || sine < tol {
            continue;
        }
        let factor = share * angle / sine;
        step.iter_mut().zip(&unit).zip(u).for_each(|((s, unit), u)| *s += factor * (unit - cosine * u));
    }
    step
}
