//! The tensors of the output, and where each lies in each source.

use super::adapter;
use super::assemble::Taken;
use crate::tensor::{Coded, Dtype, LowRank};
use crate::vocabulary::RowMap;
use std::sync::Arc;

/// A tensor of the output.
#[derive(Clone, Debug)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Product of the shape.
    pub elements: u64,
    /// Its layer; `None` for tensors that are copied: integers, bools, and what the recipe says.
    pub layer: Option<usize>,
    /// Why the recipe has it copied; all of `places` are then the same.
    pub taken: Option<Taken>,
    /// Index into [`Plan::settings`](super::Plan::settings).
    pub settings: usize,
    /// Where it lies in each source.
    pub places: Vec<Place>,
    /// Elements of the blocks that the method sees.
    pub block_elements: usize,
    /// Its dtype in the output.
    pub dtype: Dtype,
    /// Index into [`Plan::shards`](super::Plan::shards).
    pub shard: usize,
    /// First byte in the shard's file.
    pub offset: u64,
    /// Where its masks are, if they are written.
    pub masks: Option<Masks>,
}

/// Where the masks of a tensor are: those of all experts one after another, each in whole bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masks {
    /// First byte in the file of masks.
    pub offset: u64,
    /// Number of experts.
    pub experts: usize,
}

/// Where a tensor lies in a source.
#[derive(Clone, Debug)]
pub struct Place {
    /// Index into [`Plan::files`](super::Plan::files).
    pub file: usize,
    /// Its dtype there.
    pub dtype: Dtype,
    /// First byte in the file.
    pub offset: u64,
    /// How to make it from the base, where the source is a delta file.
    pub coded: Option<Coded>,
    /// What an adapter adds to it; its files are indices into [`Plan::files`](super::Plan::files).
    pub adapter: Option<Box<LowRank>>,
    /// What the files of `coded` count from.
    pub first_file: usize,
    /// How the output's rows are gathered from this tensor's, where they are not the same. They are then held as
    /// `dtype`, F32, whatever the file has.
    pub rows: Option<Rows>,
    /// The tensor of a fused stage that it is, where nothing holds it: it is made as it is read. The other fields, but for
    /// `dtype`, then mean nothing.
    pub computed: Option<Computed>,
}

/// A tensor that a fused stage makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    /// Index into [`Plan::fused`](super::Plan::fused).
    pub stage: usize,
    /// Index into that plan's tensors.
    pub tensor: usize,
    /// Bytes that are read to make it.
    pub read_bytes: u64,
    /// Bytes that are held for one element while it is made.
    pub held_bytes: usize,
    /// Byte ranges that are read for a tile.
    pub ranges: usize,
}

/// How rows are gathered.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Where each comes from.
    pub map: Arc<RowMap>,
    /// Elements of a row.
    pub width: u64,
    /// The dtype in the file.
    pub stored: Dtype,
}

impl Place {
    /// The dtype in the file.
    pub fn stored(&self) -> Dtype {
        self.rows.as_ref().map_or(self.dtype, |r| r.stored)
    }

    /// Bytes that are read for a tensor of so many elements, the base not counted.
    pub fn read_bytes(&self, elements: u64) -> u64 {
        if let Some(computed) = self.computed {
            return computed.read_bytes;
        }
        let adapter = self.adapter.as_ref().map_or(0, |a| a.bytes(elements));
        adapter
            + match &self.coded {
                None => elements * self.stored().bytes() as u64,
                Some(coded) => coded.links.iter().filter_map(|l| l.payload).map(|p| p.bytes).sum(),
            }
    }

    /// Bytes that are held for one element while it is read and decoded.
    fn held_bytes(&self) -> usize {
        if let Some(computed) = self.computed {
            return computed.held_bytes;
        }
        match &self.coded {
            // Rows of any source, stored and as F32.
            None if self.rows.is_some() => self.dtype.bytes() + Dtype::F64.bytes(),
            None => self.dtype.bytes() + self.adapter.as_ref().map_or(0, |a| adapter::element_bytes(a)),
            Some(coded) => {
                let widest = coded.links.iter().map(|l| l.dtype.bytes()).max().unwrap_or(1);
                (if coded.links.len() > 1 { 4 } else { 2 }) * widest
            }
        }
    }
}

impl PlannedTensor {
    /// Bytes of the tensor in the output.
    pub fn bytes(&self) -> u64 {
        self.elements * self.dtype.bytes() as u64
    }

    /// Bytes of the masks of so many of its elements.
    pub fn mask_bytes(&self, elements: usize) -> usize {
        self.masks.map_or(0, |m| m.experts * elements.div_ceil(8))
    }

    /// Bytes that are held for an element on its way to the output; `delta` if it is coded too.
    pub fn written_bytes(&self, delta: bool) -> usize {
        // Masks are made in buffers of their own.
        self.dtype.bytes() * if delta { 3 } else { 1 } + 2 * self.masks.map_or(0, |m| m.experts.div_ceil(8))
    }

    /// Bytes of one element in all these sources together, while they are held.
    pub fn element_bytes(&self, sources: impl Iterator<Item = usize>) -> usize {
        sources.map(|s| self.places[s].held_bytes()).sum()
    }

    /// Bytes that are read of the tensor in one source.
    pub fn source_bytes(&self, source: usize) -> u64 {
        if self.taken.is_some() && source > 0 { 0 } else { self.places[source].read_bytes(self.elements) }
    }

    /// Whether the reference's bytes can be the output's: same dtype, same rows.
    pub fn can_copy(&self, reference: usize) -> bool {
        self.places[reference].rows.is_none() && self.places[reference].dtype == self.dtype
    }

    /// Byte ranges that are read for a tile of these sources.
    pub fn ranges(&self, sources: impl Iterator<Item = usize>) -> usize {
        sources.map(|s| self.places[s].computed.map_or(1, |c| c.ranges)).sum()
    }

    /// Whether any of these sources is the result of a fused stage.
    pub fn is_computed(&self, mut sources: impl Iterator<Item = usize>) -> bool {
        sources.any(|s| self.places[s].computed.is_some())
    }

    /// Whether any of these sources is a delta file.
    pub fn is_coded(&self, mut sources: impl Iterator<Item = usize>) -> bool {
        sources.any(|s| self.places[s].coded.is_some())
    }
}
