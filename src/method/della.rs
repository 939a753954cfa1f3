//! DELLA with the election of TIES (arXiv 2406.11617).

use super::parameters::{DENSITY, EPSILON, LAMBDA, NORMALIZE, RESCALE, RESCALE_BY, WEIGHT};
use super::sparse::{Join, Sparse, Sparsifier};
use super::{Basis, Entry};

pub const ENTRY: Entry = Entry {
    name: "della",
    summary: "Drops small values of each row more often than large ones, elects a sign per element, merges what agrees.",
    formula: "p = density_k - epsilon_k + 2 epsilon_k * rank(abs(tau_k)) / (n - 1), rank 0..n-1 in the row; \
              tau_k := weight_k * tau_k * bernoulli(p) * c_k, c_k = norm1(tau_k) / norm1(kept) or 1 / p; \
              g = sign(sum_k tau_k), 0 := +; theta = theta_0 + lambda * sum_k{tau_k : sign(tau_k) = g} / sum_k{weight_k}",
    source: "Deep et al. 2024, arXiv 2406.11617, sec. 3; normalize and rescale_by: norm as in mergekit",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "2 (1 with rescale_by: probability, or without rescale)",
    memory: "a row of the tensor; the sums of norms, where they are kept",
    differs: &[
        "As dare_linear. The released code fails on rows of one element; here they are kept with probability density.",
        "Tensors of more than two dimensions are ranked along the second, as in mergekit.",
    ],
    parameters: &[WEIGHT, DENSITY, EPSILON, RESCALE, RESCALE_BY, LAMBDA, NORMALIZE],
    start: |model| Sparse::start(Sparsifier::RandomByRank, Join::Elect, model),
};
