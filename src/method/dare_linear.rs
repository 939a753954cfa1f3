//! DARE with a plain sum (arXiv 2311.03099).

use super::parameters::{DENSITY, LAMBDA, NORMALIZE_SUM, RESCALE, RESCALE_BY, WEIGHT};
use super::sparse::{Join, Sparse, Sparsifier};
use super::{Basis, Entry};

pub const ENTRY: Entry = Entry {
    name: "dare_linear",
    summary: "Drops values of task vectors at random, rescales the rest, adds them to the base.",
    formula: "tau_k := tau_k * bernoulli(density_k) * c_k, c_k = norm1(tau_k) / norm1(kept) or 1 / density_k; \
              theta = theta_0 + lambda * sum_k weight_k * tau_k",
    source: "Yu et al. 2024, arXiv 2311.03099, sec. 3.1; parameter names and rescale_by: norm as in mergekit",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "2 (1 with rescale_by: probability, or without rescale)",
    memory: "the sums of norms, where they are kept",
    differs: &[
        "`rescale_by: norm` is what mergekit calls rescale; the paper divides by the density (`probability`).",
        "Draws are this tool's own, so other tools agree in distribution only.",
    ],
    parameters: &[WEIGHT, DENSITY, RESCALE, RESCALE_BY, LAMBDA, NORMALIZE_SUM],
    start: |model| Sparse::start(Sparsifier::Random, Join::Sum, model),
};
