//! What a pass gathers: small numbers per tensor, task or model, exact and in a fixed order.
//!
//! A [`Statistic`] sees blocks of at most [`BLOCK_ELEMENTS`](crate::limits::BLOCK_ELEMENTS) elements over all models.
//! Counts may be kept as they come, for integers add in any order; floating-point sums are handed out per block and come
//! back in block order, so that neither threads nor tiles can change a bit.

mod differences;
mod largest;
mod majority;
mod saliency;
mod share;
mod sum;
mod sums;

pub use differences::{Differences, OfModel, OfPair, Totals};
pub use largest::{Asked, Bar, Bars, Largest, MAGNITUDES, View};
pub use majority::Majority;
pub use saliency::{Saliency, Score, random_score};
pub use share::{Gathering, Share};
pub use sum::BlockSum;
pub use sums::{Measure, Sums};

use std::collections::BTreeMap;

/// Where a block lies: what random draws are keyed by, and what row-wise and per-tensor methods go by.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The tensor's index in the plan.
    pub tensor: usize,
    /// Its name.
    pub name: &'a str,
    /// Its shape.
    pub shape: &'a [u64],
    /// The block's first element.
    pub first: u64,
}

/// A block of one tensor over all models.
#[derive(Debug)]
pub struct Block<'a> {
    /// Where it lies.
    pub place: Place<'a>,
    /// The base's values; empty if the statistic does not read the base.
    pub base: &'a [f32],
    /// For each expert its weights, or its task vector, as [`Statistic::form`] asks.
    pub experts: &'a [Vec<f32>],
}

/// What the values of experts are when a statistic or a method sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `theta_k`.
    Weights,
    /// `tau_k = theta_k - theta_0`.
    TaskVectors,
}

/// Whether a statistic is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It needs to see everything once more.
    Again,
    /// It has seen enough.
    Complete,
}

/// What a finished statistic found.
#[derive(Clone, Debug, PartialEq)]
pub enum Survey {
    /// What values must clear to be among the largest.
    Bars(Bars),
    /// The sum of the elected signs over the whole model.
    Majority(i64),
    /// Sums by tensor; a tensor without elements has none.
    Sums(BTreeMap<usize, Vec<f64>>),
}

impl Survey {
    /// The bars that were asked for.
    pub fn bars(&self) -> &Bars {
        match self {
            Self::Bars(bars) => bars,
            other => panic!("bars were asked for, not {other:?}"),
        }
    }

    /// The sums over all tensors, added in their order.
    pub fn total_sums(&self, width: usize) -> Vec<f64> {
        let mut total = vec![0.0; width];
        if let Self::Sums(sums) = self {
            sums.values().for_each(|s| total.iter_mut().zip(s).for_each(|(t, s)| *t += s));
        }
        total
    }

    /// The sums of a tensor that has elements.
    pub fn sums(&self, tensor: usize) -> &[f64] {
        match self {
            Self::Sums(sums) => &sums[&tensor],
            other => panic!("sums were asked for, not {other:?}"),
        }
    }
}

/// Something to gather in one or more passes.
pub trait Statistic: Send + Sync {
    /// For progress lines and the report.
    fn name(&self) -> &'static str;

    /// What the experts' values shall be. The base is read for [`Form::TaskVectors`].
    fn form(&self) -> Form;

    /// Whether the next pass shall show this tensor.
    fn wants(&self, _tensor: usize) -> bool {
        true
    }

    /// Takes in one block; `worker` is the number of the calling thread. Appends to `sums` what must be added in order.
    fn observe(&self, worker: usize, block: Block<'_>, sums: &mut Vec<f64>);

    /// Takes back the sums of whole tiles: tensors in plan order, blocks in order.
    fn fold(&mut self, tensor: usize, sums: &[f64]);

    /// Whether [`Statistic::know`] can stand in for the blocks of a tensor in the first pass.
    fn takes_histograms(&self) -> bool {
        false
    }

    /// Takes in all of a tensor's task vector of expert `task` at once: its magnitudes counted by their upper 16 bits
    /// (bin, count).
    fn know(&mut self, _task: usize, _histogram: &[(u16, u64)]) {}

    /// How many sums each block has that are added chunk by chunk; what machines that share a pass tell each other.
    fn width(&self) -> usize {
        0
    }

    /// Takes back the sums of whole chunks (or of the tensor's last one), in place of those of their blocks.
    fn fold_chunks(&mut self, tensor: usize, sums: &[f64]) {
        self.fold(tensor, sums);
    }

    /// What was counted in this pass besides, where it is not zero: place and number.
    fn counts(&mut self) -> Vec<(usize, u64)> {
        Vec::new()
    }

    /// Adds what others have counted; `false` if it is not of this statistic.
    fn add_counts(&mut self, counts: &[(usize, u64)]) -> bool {
        counts.is_empty()
    }

    /// Ends a pass.
    fn end_pass(&mut self) -> Progress {
        Progress::Complete
    }
}

/// A statistic that a method asks for.
pub trait Finding: Statistic {
    /// What was found.
    fn finish(self: Box<Self>) -> Survey;
}
