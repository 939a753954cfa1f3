//! Random masks: the baseline that LwPTV is compared with (arXiv 2506.09093, table 3).

use super::parameters::{DENSITY, LAMBDA, NORMALIZE_SUM, WEIGHT};
use super::sparse::{Join, Sparse, Sparsifier};
use super::{Basis, Entry};

pub const ENTRY: Entry = Entry {
    name: "random_mask",
    summary: "Drops values of task vectors at random and adds the rest to the base, without rescaling.",
    formula: "theta = theta_0 + lambda * sum_k weight_k * tau_k * bernoulli(density_k)",
    source: "a baseline of arXiv 2506.09093, table 3",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &[],
    parameters: &[WEIGHT, DENSITY, LAMBDA, NORMALIZE_SUM],
    start: |model| Sparse::start(Sparsifier::Random, Join::Sum, model),
};
