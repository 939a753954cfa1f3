//! One compute thread's buffers, and the step from tile bytes to blocks of `f32`.

use super::elements::Kept;
use super::job::{Tile, Work, range};
use super::{Engine, Source};
use crate::error::{Error, Result};
use crate::kernel;
use crate::limits::BLOCK_ELEMENTS;
use crate::plan::Place;
use crate::source::{Counter, Span};
use crate::survey::{self, Form};
use std::ops::Range;

/// Buffers that are used again for each block.
#[derive(Debug)]
pub struct Scratch {
    pub base: Vec<f32>,
    pub experts: Vec<Vec<f32>>,
    pub kept: Kept,
}

impl Scratch {
    pub fn new(experts: usize) -> Self {
        let block = || Vec::with_capacity(BLOCK_ELEMENTS);
        Self { base: block(), experts: (0..experts).map(|_| block()).collect(), kept: Kept::default() }
    }
}

/// A tile's bytes in the sources that its work reads.
pub struct Spans<'a> {
    engine: &'a Engine<'a>,
    work: &'a Work,
    tile: &'a Tile,
    spans: Vec<Span<'a>>,
}

impl<'a> Spans<'a> {
    /// Reads (or looks up in maps) the tile; `buffers` has one entry per source. Sources marked in `hash` are hashed.
    pub fn read(
        engine: &'a Engine<'a>,
        work: &'a Work,
        tile: &'a Tile,
        buffers: &'a mut [Vec<u8>],
        counter: &Counter,
        hash: &[bool],
    ) -> Result<Self> {
        let mut spans = Vec::with_capacity(work.sources.len());
        for (&source, buffer) in work.sources.iter().zip(buffers) {
            let (file, offset, bytes) = range(engine.plan, work, tile, source);
            let span = engine.files.span(file, offset, bytes, buffer, counter)?;
            if let Some(hashes) = engine.hashes.as_ref().filter(|_| hash[source]) {
                hashes[file].update(offset, &span);
            }
            spans.push(span);
        }
        Ok(Self { engine, work, tile, spans })
    }

    /// The bytes of a source that the work reads.
    pub fn bytes(&self, source: Source) -> &[u8] {
        let index = self.work.sources.iter().position(|&s| s == source);
        &self.spans[index.expect("the work reads this source")]
    }

    /// Decodes one block of one source and checks it.
    pub fn decode(&self, source: Source, block: &Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        self.widen(source, block, out);
        self.check(source, block, out)
    }

    fn widen(&self, source: Source, block: &Range<usize>, out: &mut Vec<f32>) {
        let place = self.place(source);
        let size = place.dtype.bytes();
        out.resize(block.len(), 0.0);
        place.dtype.decode(&self.bytes(source)[block.start * size..block.end * size], out);
    }

    /// Fails at the first value of a decoded block that is not finite, unless that is allowed.
    pub fn check(&self, source: Source, block: &Range<usize>, out: &[f32]) -> Result<()> {
        let place = self.place(source);
        if self.engine.plan.options.allow_non_finite {
            return Ok(());
        }
        match kernel::first_non_finite(out) {
            None => Ok(()),
            Some(at) => Err(Error::NonFinite {
                path: self.engine.files.path(place.file).to_owned(),
                tensor: self.engine.plan.tensors[self.work.tensor].name.clone(),
                index: self.tile.start + (block.start + at) as u64,
                value: out[at],
            }),
        }
    }

    /// Decodes one block of all experts in this form. The base is decoded first if the form or `with_base` needs it. An
    /// expert that the work does not read gets a zero task vector. Experts marked in `checked` are not checked.
    pub fn load(
        &self,
        block: &Range<usize>,
        form: Form,
        with_base: bool,
        checked: &[bool],
        scratch: &mut Scratch,
    ) -> Result<()> {
        scratch.base.clear();
        let plan = self.engine.plan;
        let elements = self.engine.elements.as_ref();
        if let Some(base) = plan.base().filter(|_| with_base || form == Form::TaskVectors || elements.is_some()) {
            self.decode(base, block, &mut scratch.base)?;
        }
        for (source, x) in plan.experts().zip(&mut scratch.experts) {
            let read = self.work.sources.contains(&source);
            if read {
                self.widen(source, block, x);
                if !checked[source] {
                    self.check(source, block, x)?;
                }
            }
            match form {
                _ if read => {}
                Form::Weights => x.clone_from(&scratch.base),
                Form::TaskVectors => {
                    x.clear();
                    x.resize(block.len(), 0.0);
                }
            }
        }
        if let Some(elements) = elements {
            elements.judge(&scratch.base, &scratch.experts, &mut scratch.kept);
        }
        if form == Form::TaskVectors {
            let read = plan.experts().map(|s| self.work.sources.contains(&s));
            let taken = scratch.experts.iter_mut().zip(read).filter(|(_, read)| *read);
            taken.for_each(|(x, _)| kernel::delta(&scratch.base, x));
        }
        if let Some(elements) = elements {
            elements.prune(&scratch.kept, form, &scratch.base, &mut scratch.experts);
        }
        Ok(())
    }

    /// Where a block of the tile lies.
    pub fn at(&self, block: &Range<usize>) -> survey::Place<'_> {
        let t = &self.engine.plan.tensors[self.work.tensor];
        let first = self.tile.start + block.start as u64;
        survey::Place { tensor: self.work.tensor, name: &t.name, shape: &t.shape, first }
    }

    fn place(&self, source: Source) -> Place {
        self.engine.plan.tensors[self.work.tensor].places[source]
    }
}

/// A tile of so many elements, in blocks.
pub fn blocks(elements: usize, block: usize) -> impl Iterator<Item = Range<usize>> {
    (0..elements).step_by(block).map(move |start| start..(start + block).min(elements))
}
