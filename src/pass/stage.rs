//! Fused stages: the tile of a stage's result is made when a later stage reads it.

use super::elements::Elements;
use super::job::Tile;
use super::merge::{Action, Copied, How};
use super::runs::Runs;
use super::scratch::{Order, Reader, Scratch, Spans};
use super::{Engine, Work};
use crate::error::Result;
use crate::method::Method;
use crate::source::Counter;
use std::ops::Range;

/// A fused stage, ready to make any part of its result.
pub struct Stage<'a> {
    engine: Engine<'a>,
    /// One for each tensor.
    works: Vec<Work>,
    actions: Vec<Action>,
    method: Box<dyn Method>,
}

/// One compute thread's means of making tiles of a stage's result.
pub struct Maker {
    reader: Reader,
    scratch: Scratch,
}

impl<'a> Stage<'a> {
    /// The engine is that of the stage's plan; works, actions and method are those of its merge.
    pub fn new(
        mut engine: Engine<'a>,
        elements: Option<Elements>,
        (works, actions): (Vec<Work>, Vec<Action>),
        method: Box<dyn Method>,
    ) -> Self {
        engine.elements = elements;
        Self { engine, works, actions, method }
    }

    /// Buffers for it.
    pub fn maker(&self) -> Maker {
        Maker { reader: Reader::new(&self.engine), scratch: Scratch::new(self.engine.plan.expert_count()) }
    }

    /// What is read to make a tile of one of its tensors: file, offset, length.
    pub fn ranges(&self, tensor: usize, tile: &Tile) -> Vec<(usize, u64, usize)> {
        self.engine.ranges(&self.works[tensor], &self.around(tensor, tile))
    }

    /// Makes the blocks around a tile of one of its tensors, as they would be stored. Returns how many elements of them lie
    /// before the tile. What is read is hashed if `hash`.
    pub fn make(
        &self,
        (tensor, tile): (usize, &Tile),
        maker: &mut Maker,
        counter: &Counter,
        hash: bool,
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let Maker { reader, scratch } = maker;
        let (work, around) = (&self.works[tensor], self.around(tensor, tile));
        let hash = vec![hash; self.engine.plan.sources.len()];
        let runs = Runs::default();
        let spans = Spans::read(&self.engine, work, (&around, &runs), reader, counter, &hash, Order::Natural)?;
        let t = &self.engine.plan.tensors[tensor];
        out.resize(around.elements * t.dtype.bytes(), 0);
        if self.actions[tensor].copied == Copied::Bytes {
            out.copy_from_slice(self.engine.copied_bytes(work, &around, &spans)?);
        } else {
            let how = How { actions: &self.actions, method: self.method.as_ref(), done: &[] };
            self.engine.make_values(how, &around, &spans, (scratch, None), out)?;
        }
        Ok((tile.start - around.start) as usize)
    }

    /// Whole blocks around a tile.
    fn around(&self, tensor: usize, tile: &Tile) -> Tile {
        let t = &self.engine.plan.tensors[tensor];
        let block = t.block_elements as u64;
        let wanted: Range<u64> = tile.start..tile.start + tile.elements as u64;
        let start = wanted.start / block * block;
        let end = wanted.end.next_multiple_of(block).min(t.elements);
        Tile { work: tensor, start, elements: (end - start) as usize }
    }
}
