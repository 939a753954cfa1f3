//! DELLA with a plain sum (arXiv 2406.11617).

use super::parameters::{DENSITY, EPSILON, LAMBDA, NORMALIZE_SUM, RESCALE, RESCALE_BY, WEIGHT};
use super::sparse::{Join, Sparse, Sparsifier};
use super::{Basis, Entry};

pub const ENTRY: Entry = Entry {
    name: "della_linear",
    summary: "Drops small values of each row more often than large ones, rescales the rest, adds them to the base.",
    formula: "p = density_k - epsilon_k + 2 epsilon_k * rank(abs(tau_k)) / (n - 1), rank 0..n-1 in the row; \
              tau_k := tau_k * bernoulli(p) * c_k, c_k = norm1(tau_k) / norm1(kept) or 1 / p; \
              theta = theta_0 + lambda * sum_k weight_k * tau_k",
    source: "Deep et al. 2024, arXiv 2406.11617, sec. 3; normalize and rescale_by: norm as in mergekit",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "2 (1 with rescale_by: probability, or without rescale)",
    memory: "a row of the tensor; the sums of norms, where they are kept",
    differs: &["As della."],
    parameters: &[WEIGHT, DENSITY, EPSILON, RESCALE, RESCALE_BY, LAMBDA, NORMALIZE_SUM],
    start: |model| Sparse::start(Sparsifier::RandomByRank, Join::Sum, model),
};
