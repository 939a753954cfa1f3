//! A sum in two levels: blocks into chunks, chunks into the total, both in order.

use crate::limits::CHUNK_BLOCKS;

/// A running sum of block sums. Machines that share a tensor are cut at chunk borders, so that this gives the same bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockSum {
    total: f64,
    chunk: f64,
    blocks: usize,
}

impl BlockSum {
    /// A sum that is complete.
    pub fn of(total: f64) -> Self {
        Self { total, ..Self::default() }
    }

    /// Adds the next block's sum.
    pub fn add(&mut self, block: f64) {
        self.chunk += block;
        self.blocks += 1;
        if self.blocks == CHUNK_BLOCKS {
            *self = Self { total: self.total + self.chunk, chunk: 0.0, blocks: 0 };
        }
    }

    /// Adds the sums of whole chunks, or of the last one.
    pub fn add_chunks(&mut self, chunks: f64) {
        assert_eq!(self.blocks, 0, "a chunk is under way");
        self.total += chunks;
    }

    /// The sum of all blocks so far.
    pub fn get(self) -> f64 {
        self.total + self.chunk
    }
}
