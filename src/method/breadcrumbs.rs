//! Model Breadcrumbs (arXiv 2312.06795), ranked per tensor.

use super::parameters::{DENSITY, GAMMA, LAMBDA, NORMALIZE_SUM, RESCALE_OFF, WEIGHT};
use super::sparse::{Join, Sparse, Sparsifier};
use super::{Basis, Entry};

pub const ENTRY: Entry = Entry {
    name: "breadcrumbs",
    summary: "Drops the largest and the smallest values of task vectors and adds the rest to the base.",
    formula: "tau_k := the floor(density_k * n) largest of the tensor after its floor(gamma_k * n) largest are dropped; \
              theta = theta_0 + lambda * sum_k weight_k * tau_k",
    source: "Davari and Belilovsky 2024, arXiv 2312.06795, sec. 3; ranked per tensor as in mergekit",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "3 (4 for tensors where values tie with the last one kept)",
    parameters: &[WEIGHT, DENSITY, GAMMA, RESCALE_OFF, LAMBDA, NORMALIZE_SUM],
    start: |model| Sparse::start(Sparsifier::Inliers, Join::Sum, model),
};
