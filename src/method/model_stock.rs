//! Model Stock (arXiv 2403.19522).

use super::combination::{Combination, Gram, Vectors};
use super::{Basis, Entry, Kind, Model, Parameter, Scope, Settings};

/// Products of lengths below this are not divided by.
const SMALLEST_PRODUCT: f64 = 1e-6;

/// Experts that sum to nothing (two opposed scalars, for instance) leave no direction: the base stays.
const SMALLEST_DIVISOR: f64 = 1e-8;

pub const ENTRY: Entry = Entry {
    name: "model_stock",
    summary: "Moves from the base towards the mean of the experts, as far as the angle between them says.",
    formula: "c = mean over pairs of cos(angle(tau_i, tau_j)); t = K c / (1 + (K - 1) c); \
              theta = theta_0 + t * mean_k tau_k",
    source: "Jang et al. 2024, arXiv 2403.19522, eq. 2 and 6; mean of cosines as in mergekit",
    basis: Basis::TaskVectors,
    experts: (2, usize::MAX),
    passes: "2; 1 with filter_wise",
    memory: "a few sums per tensor; with filter_wise a row",
    differs: &[
        "fusion_bench averages angles instead of cosines, which differs for more than two models.",
        "Experts that cancel (1 + (K - 1) c below 1e-8, as two opposed scalars do) give the base; mergekit divides by zero.",
    ],
    parameters: &[
        Parameter {
            name: "filter_wise",
            scope: Scope::Global,
            kind: Kind::Flag,
            default: Some(0.0),
            help: "An angle for each run along the last dimension instead of one for each tensor.",
        },
        Parameter {
            name: "clamp",
            scope: Scope::Global,
            kind: Kind::Flag,
            default: Some(0.0),
            help: "Keep t in [0, 1]: experts that point apart give t below 0 or large ones.",
        },
    ],
    start: |model: &Model<'_>| {
        let rows = model.uniform("filter_wise")? == [1.0];
        let vectors = if rows { Vectors::Rows } else { Vectors::Tensor };
        Ok(Combination::start(model, vectors, Box::new(coefficients)))
    },
};

fn coefficients(settings: &Settings, gram: &Gram) -> Vec<f64> {
    let experts = gram.vectors();
    let cosine = |i: usize, j: usize| {
        let lengths = (gram.norm(i) * gram.norm(j)).max(SMALLEST_PRODUCT);
        (gram.dot(i, j) / lengths).clamp(-1.0, 1.0)
    };
    let pairs = (0..experts).flat_map(|i| (i + 1..experts).map(move |j| (i, j)));
    let (sum, count) = pairs.fold((0.0, 0.0), |(sum, count), (i, j)| (sum + cosine(i, j), count + 1.0));
    let (n, c) = (experts as f64, sum / count);
    let divisor = 1.0 + (n - 1.0) * c;
    let t = if divisor < SMALLEST_DIVISOR { 0.0 } else { n * c / divisor };
    let t = if settings.flag("clamp") { t.clamp(0.0, 1.0) } else { t };
    vec![t / n; experts]
}
