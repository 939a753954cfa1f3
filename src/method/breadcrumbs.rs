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
    passes: "3 (4 for tensors where more values tie with the last one kept than there is room for, and have more digits than 16 bits give)",
    memory: "512 KiB per expert and large tensor of a wave (4 bytes per element of small ones), and per expert and thread",
    differs: &[
        "mergekit 0.1 empties tensors whose floor(gamma n) is 0 (any of less than 100 elements at the default gamma); here they lose no outliers.",
        "The authors' code ranks along the last dimension instead of the tensor.",
        "Of values that tie with the last one kept, those that stand first stay; other codes leave it to their sort.",
    ],
    parameters: &[WEIGHT, DENSITY, GAMMA, RESCALE_OFF, LAMBDA, NORMALIZE_SUM],
    start: |model| Sparse::start(Sparsifier::Inliers, Join::Sum, model),
};
