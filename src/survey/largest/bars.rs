//! What a ranking finds.

use std::collections::BTreeMap;

/// What a value must clear to be among the m largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Larger keys are among them.
    pub key: u32,
    /// Equal keys are among them in all blocks before the one that starts here.
    pub(super) first: u64,
    /// And so many, from the left, in this block.
    pub(super) quota: usize,
}

impl Bar {
    pub(super) const ALL: Self = Self { key: 0, first: u64::MAX, quota: 0 };
    pub(super) const NONE: Self = Self { key: u32::MAX, first: 0, quota: 0 };

    /// How many of the values that equal the bar are taken in the block that starts at `first`: those on the left.
    pub fn equals_in(&self, first: u64) -> usize {
        match first.cmp(&self.first) {
            std::cmp::Ordering::Less => usize::MAX,
            std::cmp::Ordering::Equal => self.quota,
            std::cmp::Ordering::Greater => 0,
        }
    }
}

/// The bars of groups, and the group of each tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    pub(super) group_of: BTreeMap<usize, usize>,
    pub(super) bars: Vec<Vec<Bar>>,
}

impl Bars {
    /// The bars of a tensor: for each row, one per count that was asked for.
    pub fn of(&self, tensor: usize) -> &[Bar] {
        &self.bars[self.group_of[&tensor]]
    }

    /// The bars of the whole model.
    pub fn model(&self) -> &[Bar] {
        &self.bars[0]
    }
}
