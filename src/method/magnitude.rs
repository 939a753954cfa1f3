//! Magnitude pruning of task vectors: the baseline MWP that LwPTV is compared with (arXiv 2506.09093, table 3).

use super::parameters::{DENSITY, LAMBDA, NORMALIZE_SUM, RESCALE_OFF, SCOPE, WEIGHT};
use super::sparse::{Join, Sparse, Sparsifier};
use super::{Basis, Entry, Model};

pub const ENTRY: Entry = Entry {
    name: "magnitude",
    summary: "Keeps the largest values of task vectors, per tensor or over the whole model, and adds them to the base.",
    formula: "tau_k := its floor(density_k * n) largest by magnitude; theta = theta_0 + lambda * sum_k weight_k * tau_k",
    source: "magnitude pruning; a baseline of arXiv 2506.09093, table 3, which leaves the scope open",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "3 (4 for tensors where more values tie with the last one kept than there is room for, and have more digits than 16 bits give); scope model: 3",
    memory: "512 KiB per expert and large tensor of a wave (4 bytes per element of small ones), and per expert and thread; scope model: 512 KiB per expert, once and per thread",
    differs: &[
        "MergeLM drops all values that tie with the threshold; here so many are kept that the count is exact, those that stand first.",
    ],
    parameters: &[WEIGHT, DENSITY, SCOPE, RESCALE_OFF, LAMBDA, NORMALIZE_SUM],
    start: |model: &Model<'_>| {
        let of_tensors = model.of_tensors()?;
        let sparsifier = if of_tensors { Sparsifier::Magnitude } else { Sparsifier::MagnitudeOfModel };
        Sparse::start(sparsifier, Join::Sum, model)
    },
};
