//! What a job of the merge pass makes: bytes and their places, what is to be copied, and the hashes of both.

use super::encode::CodedRun;
use super::job::Tile;
use crate::kernel::Change;
use crate::plan::PlannedTensor;
use crate::source::{Hashed, PieceHash};

/// The output bytes of a job: pieces of one buffer, and ranges to be copied.
#[derive(Debug, Default)]
pub struct Output {
    /// At least as long as the job's output; used again without being cleared.
    pub bytes: Vec<u8>,
    pub used: usize,
    pub parts: Vec<Part>,
    /// The tensors in `bytes`, one behind the other: tensor, shard, offset there, length.
    pub tiles: Vec<(usize, usize, u64, usize)>,
    pub hashed: Vec<HashedPart>,
    pub changes: Vec<(usize, Change)>,
    pub coded: Vec<CodedRun>,
}

/// Hashes of what is written to a shard; of one tensor alone, where these are wanted.
#[derive(Debug)]
pub struct HashedPart {
    pub shard: usize,
    pub tensor: Option<usize>,
    pub pieces: Vec<Hashed>,
}

#[derive(Debug)]
pub struct Part {
    pub shard: usize,
    pub offset: u64,
    pub bytes: usize,
    /// File and offset of a range to be copied, instead of the next bytes of the buffer.
    pub copy: Option<(usize, u64)>,
}

impl Output {
    /// Appends a part to the buffer, joined with the one before it where they touch.
    pub fn grow(&mut self, shard: usize, offset: u64, bytes: usize) -> &mut [u8] {
        match self.parts.last_mut() {
            Some(p) if p.copy.is_none() && p.shard == shard && p.offset + p.bytes as u64 == offset => p.bytes += bytes,
            _ => self.parts.push(Part { shard, offset, bytes, copy: None }),
        }
        let start = self.used;
        self.used += bytes;
        &mut self.bytes[start..self.used]
    }

    /// The same for a tile of a tensor.
    pub fn grow_by(&mut self, t: &PlannedTensor, tensor: usize, tile: &Tile) -> &mut [u8] {
        let size = t.dtype.bytes();
        let (offset, bytes) = (t.offset + tile.start * size as u64, tile.elements * size);
        self.tiles.push((tensor, t.shard, offset, bytes));
        self.grow(t.shard, offset, bytes)
    }

    /// Hashes what is in the buffer: by tensors, where that is wanted, else by parts, which are fewer. Masks, of which a plan
    /// whose tensors are wanted has none, have no hash.
    pub fn hash(&mut self, written: &[PieceHash], by_tensors: bool) {
        let tiles = self.tiles.iter().map(|&(tensor, shard, offset, bytes)| (Some(tensor), shard, offset, bytes));
        let parts = self.parts.iter().filter(|p| p.copy.is_none());
        let parts = parts.map(|p| (None, p.shard, p.offset, p.bytes));
        let pieces: Vec<_> = if by_tensors { tiles.collect() } else { parts.collect() };
        let mut at = 0;
        for (tensor, shard, offset, bytes) in pieces {
            if let Some(hash) = written.get(shard) {
                let pieces = hash.hash(offset, &self.bytes[at..at + bytes]);
                self.hashed.push(HashedPart { shard, tensor, pieces });
            }
            at += bytes;
        }
    }
}
