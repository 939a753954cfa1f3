//! What one machine has gathered of a pass over a whole model, to be joined with what the others have.
//!
//! Counts are integers and add in any order. Sums are kept for each chunk (512 blocks): put together in order, they give
//! the bits that one machine gets.

use super::{Block, Form, Statistic};
use crate::limits::CHUNK_BLOCKS;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A share of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// What was counted: place and number.
    pub counts: Vec<(usize, u64)>,
    /// By tensor the bits of the sums of its chunks, [`Statistic::width`] for each.
    pub sums: BTreeMap<usize, Vec<u64>>,
}

impl Share {
    /// The sums of a tensor.
    pub fn floats(bits: &[u64]) -> Vec<f64> {
        bits.iter().map(|&b| f64::from_bits(b)).collect()
    }

    /// Gives everything to `statistic`; `false` if it is not of that statistic.
    pub fn give(&self, statistic: &mut dyn Statistic) -> bool {
        let width = statistic.width();
        if !self.sums.values().all(|bits| width > 0 && bits.len().is_multiple_of(width)) {
            return false;
        }
        self.sums.iter().for_each(|(&tensor, bits)| statistic.fold_chunks(tensor, &Self::floats(bits)));
        statistic.add_counts(&self.counts)
    }
}

/// Shows a part of a pass to a statistic and keeps the sums of its chunks. The part begins and ends at chunk borders.
pub struct Gathering<'a> {
    statistic: &'a mut dyn Statistic,
    sums: BTreeMap<usize, Chunks>,
}

#[derive(Debug, Default)]
struct Chunks {
    sums: Vec<f64>,
    blocks: usize,
}

impl<'a> Gathering<'a> {
    /// `statistic` has seen nothing of this pass yet.
    pub fn new(statistic: &'a mut dyn Statistic) -> Self {
        Self { statistic, sums: BTreeMap::new() }
    }

    /// What was gathered.
    pub fn finish(self) -> Share {
        let bits = |chunks: Chunks| chunks.sums.into_iter().map(f64::to_bits).collect();
        let sums = self.sums.into_iter().map(|(tensor, chunks)| (tensor, bits(chunks))).collect();
        Share { counts: self.statistic.counts(), sums }
    }
}

impl Statistic for Gathering<'_> {
    fn name(&self) -> &'static str {
        self.statistic.name()
    }

    fn form(&self) -> Form {
        self.statistic.form()
    }

    fn observe(&self, worker: usize, block: Block<'_>, sums: &mut Vec<f64>) {
        self.statistic.observe(worker, block, sums);
    }

    fn fold(&mut self, tensor: usize, sums: &[f64]) {
        let width = self.statistic.width();
        if width == 0 {
            return;
        }
        let mine = self.sums.entry(tensor).or_default();
        for block in sums.chunks_exact(width) {
            if mine.blocks.is_multiple_of(CHUNK_BLOCKS) {
                mine.sums.resize(mine.sums.len() + width, 0.0);
            }
            let open = mine.sums.len() - width;
            mine.sums[open..].iter_mut().zip(block).for_each(|(sum, b)| *sum += b);
            mine.blocks += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Finding as _, Sums, Survey};
    use super::*;

    fn statistic() -> Sums<'static> {
        Sums::new("test", Form::Weights, 2, Box::new(|_, _| {}))
    }

    /// Sums of blocks whose bits depend on the order in which they are added.
    fn block_sums(blocks: usize) -> Vec<f64> {
        (0..2 * blocks).map(|i| 1.0 / (i * i % 977 + 3) as f64).collect()
    }

    #[test]
    fn chunks_gathered_apart_give_the_bits_of_the_whole() {
        let blocks = block_sums(5 * CHUNK_BLOCKS + 17);
        let mut whole = statistic();
        whole.fold(7, &blocks);
        let want = Box::new(whole).finish();
        for cut in 0..=5 {
            let (a, b) = blocks.split_at(2 * cut * CHUNK_BLOCKS);
            let mut joined = statistic();
            for part in [a, b].into_iter().filter(|part| !part.is_empty()) {
                let mut own = statistic();
                let mut gathering = Gathering::new(&mut own);
                part.chunks(2 * 100).for_each(|tile| gathering.fold(7, tile));
                assert!(gathering.finish().give(&mut joined));
            }
            let found = Box::new(joined).finish();
            let bits = |s: &Survey| s.sums(7).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&want), "cut at chunk {cut}");
        }
    }

    #[test]
    fn what_is_not_of_the_statistic_is_refused() {
        let odd = Share { counts: Vec::new(), sums: [(0, vec![1, 2, 3])].into() };
        assert!(!odd.give(&mut statistic()));
        let counted = Share { counts: vec![(0, 1)], sums: BTreeMap::new() };
        assert!(!counted.give(&mut statistic()));
    }
}
