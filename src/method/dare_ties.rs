//! DARE with the election of TIES (arXiv 2311.03099).

use super::parameters::{DENSITY, LAMBDA, NORMALIZE_OFF, RESCALE, RESCALE_BY, WEIGHT};
use super::sparse::{Join, Sparse, Sparsifier};
use super::{Basis, Entry};

pub const ENTRY: Entry = Entry {
    name: "dare_ties",
    summary: "Drops values of task vectors at random, rescales the rest, elects a sign per element, merges what agrees.",
    formula: "tau_k := weight_k * tau_k * bernoulli(density_k) * c_k, c_k = norm1(tau_k) / norm1(kept) or 1 / density_k; \
              g = sign(sum_k tau_k), 0 := +; theta = theta_0 + lambda * sum_k{tau_k : sign(tau_k) = g}",
    source: "Yu et al. 2024, arXiv 2311.03099, sec. 3; election, normalize and rescale_by: norm as in mergekit",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "2 (1 with rescale_by: probability, or without rescale)",
    memory: "the sums of norms, where they are kept",
    differs: &["As dare_linear."],
    parameters: &[WEIGHT, DENSITY, RESCALE, RESCALE_BY, LAMBDA, NORMALIZE_OFF],
    start: |model| Sparse::start(Sparsifier::Random, Join::Elect, model),
};
