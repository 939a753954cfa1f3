//! What the user chooses besides the recipe.

use crate::limits::{MEMORY_DEFAULT_BYTES, SHARD_DEFAULT_BYTES};

/// What the user can choose besides the recipe.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is one choice")]
pub struct Options {
    /// Peak memory allowed, in bytes.
    pub memory_bytes: u64,
    /// Compute threads.
    pub threads: usize,
    /// Tensor bytes of one output shard, at most (a larger tensor gets a shard of its own).
    pub shard_bytes: u64,
    /// Seed of random scores and draws.
    pub seed: u64,
    /// Whether NaN and infinities may pass.
    pub allow_non_finite: bool,
    /// Whether the delta from the base to the output is written too, if there is a base.
    pub delta: bool,
    /// Whether the masks of the method are written to a file of their own.
    pub masks: bool,
    /// Whether tokenizer files are copied to the output.
    pub copy_tokenizer: bool,
    /// Whether the output gets a model card.
    pub write_card: bool,
    /// Whether the merge knows from others, and tells them, what they have in common.
    pub memo: bool,
    /// Whether half of the memory that is left holds what pass 1 reads for the merge.
    pub hold: bool,
    /// Whether stages are fused that can be; for tests. `None`: where it moves fewer bytes.
    pub fuse: Option<bool>,
    /// Elements of a tile, at most; for tests. `None`: from the budget.
    pub tile_elements: Option<usize>,
    /// Bytes that statistics of a wave keep, at most; for tests. `None`: from the budget.
    pub wave_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_bytes: MEMORY_DEFAULT_BYTES,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            shard_bytes: SHARD_DEFAULT_BYTES,
            seed: 0,
            allow_non_finite: false,
            delta: true,
            masks: false,
            copy_tokenizer: true,
            write_card: true,
            memo: false,
            hold: false,
            fuse: None,
            tile_elements: None,
            wave_bytes: None,
        }
    }
}
