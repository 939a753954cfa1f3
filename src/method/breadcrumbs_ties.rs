//! Model Breadcrumbs (arXiv 2312.06795) with the election of TIES.

use super::parameters::{DENSITY, GAMMA, LAMBDA, NORMALIZE_OFF, RESCALE_OFF, WEIGHT};
use super::sparse::{Join, Sparse, Sparsifier};
use super::{Basis, Entry};

pub const ENTRY: Entry = Entry {
    name: "breadcrumbs_ties",
    summary: "Drops the largest and the smallest values of task vectors, elects a sign per element, merges what agrees.",
    formula: "tau_k := weight_k * (the floor(density_k * n) largest of the tensor after its floor(gamma_k * n) largest are \
              dropped); g = sign(sum_k tau_k), 0 := +; theta = theta_0 + lambda * sum_k{tau_k : sign(tau_k) = g}",
    source: "as breadcrumbs, with the election of Yadav et al. 2023, arXiv 2306.01708; as in mergekit",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "3 (4 for tensors where more values tie with the last one kept than there is room for, and have more digits than 16 bits give)",
    memory: "512 KiB per expert and large tensor of a wave (4 bytes per element of small ones), and per expert and thread",
    differs: &["As breadcrumbs."],
    parameters: &[WEIGHT, DENSITY, GAMMA, RESCALE_OFF, LAMBDA, NORMALIZE_OFF],
    start: |model| Sparse::start(Sparsifier::Inliers, Join::Elect, model),
};
