//! One compute thread's buffers, and the step from tile bytes to blocks of `f32`.

use super::adapter::Adapters;
use super::decode::{Decoder, Wanted};
use super::elements::Kept;
use super::job::{Tile, Work, range};
use super::runs::Runs;
use super::stage::Maker;
use super::{Engine, Source, Stage};
use crate::codec::Permutation;
use crate::error::{Error, Result};
use crate::kernel;
use crate::limits::{BLOCK_ELEMENTS, CODED_BLOCK_ELEMENTS};
use crate::plan::Place;
use crate::source::{Counter, Span};
use crate::survey::{self, Form};
use std::ops::Range;
use std::path::PathBuf;

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
    /// Bytes of each source, and how many elements lie before the tile's first.
    spans: Vec<(Span<'a>, usize)>,
    /// The base in natural order and the order of each block, where the spans are permuted.
    order: Option<(Span<'a>, &'a [Permutation])>,
    /// What adapters add, where there are any.
    adapters: Option<&'a Adapters>,
}

/// In which order a pass may see the elements of a delta file's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In their own.
    Natural,
    /// In that of the base's exponents, the same for all sources, where it spares work.
    Any,
}

/// One compute thread's means of reading tiles.
pub struct Reader {
    buffers: Buffers,
    adapters: Adapters,
}

/// Bytes of tiles.
struct Buffers {
    /// One per source.
    sources: Vec<Vec<u8>>,
    /// Rows on their way into a buffer.
    raw: Vec<u8>,
    base: Vec<u8>,
    permuted_base: Vec<u8>,
    orders: Vec<Permutation>,
    decoder: Option<Decoder>,
    /// One per fused stage.
    makers: Vec<Maker>,
}

impl Reader {
    /// For the tiles of this engine's plan.
    pub fn new(engine: &Engine<'_>) -> Self {
        let sources = engine.plan.sources.len();
        let buffers = Buffers {
            sources: vec![Vec::new(); sources],
            raw: Vec::new(),
            base: Vec::new(),
            permuted_base: Vec::new(),
            orders: Vec::new(),
            decoder: None,
            makers: engine.stages.iter().map(Stage::maker).collect(),
        };
        Self { buffers, adapters: Adapters::new(sources) }
    }
}

impl<'a> Spans<'a> {
    /// Reads (or looks up in maps, or decodes) the tile. Sources marked in `hash` are hashed.
    pub fn read(
        engine: &'a Engine<'a>,
        work: &'a Work,
        (tile, runs): (&'a Tile, &'a Runs),
        reader: &'a mut Reader,
        counter: &Counter,
        hash: &[bool],
        order: Order,
    ) -> Result<Self> {
        let t = &engine.plan.tensors[work.tensor];
        reader.adapters.load(engine.plan, engine.files, work, tile, counter)?;
        let read = match t.is_coded(work.sources.iter().copied()) {
            true if order == Order::Any && permutable(engine, work, tile) => Self::decode_permuted,
            true => Self::decode_all,
            false => Self::read_all,
        };
        let spans = read(engine, work, (tile, runs), &mut reader.buffers, counter, hash)?;
        Ok(Self { adapters: Some(&reader.adapters), ..spans })
    }

    /// The same where no source is a delta file.
    fn read_all(
        engine: &'a Engine<'a>,
        work: &'a Work,
        (tile, runs): (&'a Tile, &'a Runs),
        buffers: &'a mut Buffers,
        counter: &Counter,
        hash: &[bool],
    ) -> Result<Self> {
        let mut spans = Vec::with_capacity(work.sources.len());
        let Buffers { sources: buffers, raw, makers, .. } = buffers;
        for (&source, buffer) in work.sources.iter().zip(buffers) {
            let helpers = (&mut *raw, &mut **makers);
            spans.push(Self::read_one(engine, (work, tile, runs), source, buffer, helpers, counter, hash)?);
        }
        Ok(Self { engine, work, tile, spans, order: None, adapters: None })
    }

    /// The tile of a source that is no delta file, and how many elements lie before it. Gathered rows are not hashed: a
    /// file's bytes are hashed once each.
    fn read_one(
        engine: &'a Engine<'a>,
        (work, tile, runs): (&Work, &Tile, &'a Runs),
        source: Source,
        buffer: &'a mut Vec<u8>,
        (raw, makers): (&mut Vec<u8>, &mut [Maker]),
        counter: &Counter,
        hash: &[bool],
    ) -> Result<(Span<'a>, usize)> {
        let place = &engine.plan.tensors[work.tensor].places[source];
        if let Some(c) = place.computed {
            let maker = &mut makers[c.stage];
            let skip = engine.stages[c.stage].make((c.tensor, tile), maker, counter, hash[source], buffer)?;
            return Ok((Span::Read(buffer), skip));
        }
        if place.rows.is_some() {
            engine.gather(tile.piece(work), source, raw, counter, buffer)?;
            return Ok((Span::Read(buffer), 0));
        }
        let (file, offset, bytes) = range(engine.plan, work, tile, source);
        let held = engine.held.as_ref();
        if held.is_some_and(|h| h.put(file, offset..offset + bytes as u64, buffer)) {
            return Ok((Span::Read(buffer), 0));
        }
        let span = match runs.bytes(file, offset, bytes) {
            Some(mapped) => Span::Read(mapped),
            None => engine.files.span(file, offset, bytes, buffer, counter)?,
        };
        held.iter().for_each(|h| h.take(file, offset, &span));
        if hash[source] {
            engine.hash_input(file, offset, &span);
        }
        Ok((span, 0))
    }

    /// The same where some sources are delta files: these are decoded from the base, in whole blocks around the tile.
    fn decode_all(
        engine: &'a Engine<'a>,
        work: &'a Work,
        (tile, runs): (&'a Tile, &'a Runs),
        buffers: &'a mut Buffers,
        counter: &Counter,
        hash: &[bool],
    ) -> Result<Self> {
        let plan = engine.plan;
        let t = &plan.tensors[work.tensor];
        let Buffers { sources: buffers, raw, base, decoder, makers, .. } = buffers;
        let decoder = decoder.get_or_insert_with(Decoder::new);
        let unit = CODED_BLOCK_ELEMENTS as u64;
        let end = tile.start + tile.elements as u64;
        let cover = tile.start / unit * unit..end.next_multiple_of(unit).min(t.elements);
        let skip = (tile.start - cover.start) as usize;
        // A block that two tiles share is read twice, but a hash takes each byte once: such files are hashed at the end.
        let whole = skip == 0 && (cover.end == end);
        let around = Tile { work: tile.work, start: cover.start, elements: (cover.end - cover.start) as usize };
        let hashes = |source: Source| engine.hashes.as_ref().filter(|_| hash[source]);
        let mut spans = Vec::with_capacity(work.sources.len());
        let root = plan.base().expect("a plan with delta files has a base");
        let (file, offset, bytes) = range(plan, work, &around, root);
        let base = engine.files.span(file, offset, bytes, base, counter)?;
        let root_dtype = t.places[root].dtype;
        for (&source, buffer) in work.sources.iter().zip(buffers) {
            let place = &t.places[source];
            let Some(coded) = &place.coded else {
                if source == root {
                    continue;
                }
                let helpers = (&mut *raw, &mut **makers);
                spans.push(Self::read_one(engine, (work, tile, runs), source, buffer, helpers, counter, hash)?);
                continue;
            };
            let wanted =
                Wanted { tensor: &t.name, coded, first_file: place.first_file, base: Some((root_dtype, &base)) };
            let hashes = hashes(source).filter(|_| whole).map(|h| h.as_slice());
            decoder.decode(engine.files, wanted, cover.clone(), counter, hashes, buffer)?;
            spans.push((Span::Read(buffer), skip));
        }
        if work.sources.first() == Some(&root) {
            let (file, offset, bytes) = range(plan, work, tile, root);
            if hash[root] {
                engine.hash_input(file, offset, &base[skip * root_dtype.bytes()..][..bytes]);
            }
            spans.insert(0, (base, skip));
        }
        Ok(Self { engine, work, tile, spans, order: None, adapters: None })
    }

    /// The same in the order of the base's exponents, found once for all sources.
    fn decode_permuted(
        engine: &'a Engine<'a>,
        work: &'a Work,
        (tile, _): (&'a Tile, &'a Runs),
        buffers: &'a mut Buffers,
        counter: &Counter,
        hash: &[bool],
    ) -> Result<Self> {
        let plan = engine.plan;
        let t = &plan.tensors[work.tensor];
        let Buffers { sources: buffers, base: base_buffer, permuted_base, orders, decoder, .. } = buffers;
        let decoder = decoder.get_or_insert_with(Decoder::new);
        let root = work.sources[0];
        let (file, offset, bytes) = range(plan, work, tile, root);
        let base = engine.files.span(file, offset, bytes, base_buffer, counter)?;
        let hashes = |source: Source| engine.hashes.as_ref().filter(|_| hash[source]);
        if hash[root] {
            engine.hash_input(file, offset, &base);
        }
        let dtype = t.places[root].dtype;
        let block = CODED_BLOCK_ELEMENTS * dtype.bytes();
        orders.resize_with(base.len().div_ceil(block).max(orders.len()), Permutation::default);
        permuted_base.resize(base.len(), 0);
        for ((natural, permuted), order) in base.chunks(block).zip(permuted_base.chunks_mut(block)).zip(&mut *orders) {
            order.derive(dtype, natural);
            order.permute(natural, permuted);
        }
        let elements = tile.start..tile.start + tile.elements as u64;
        let mut spans = vec![(Span::Read(permuted_base.as_slice()), 0)];
        for (&source, buffer) in work.sources.iter().zip(buffers).skip(1) {
            let place = &t.places[source];
            let coded = place.coded.as_ref().expect("every expert is coded");
            let wanted =
                Wanted { tensor: &t.name, coded, first_file: place.first_file, base: Some((dtype, permuted_base)) };
            let hashes = hashes(source).map(|h| h.as_slice());
            decoder.decode_permuted(engine.files, wanted, elements.clone(), orders, counter, hashes, buffer)?;
            spans.push((Span::Read(buffer), 0));
        }
        Ok(Self { engine, work, tile, spans, order: Some((base, orders)), adapters: None })
    }

    /// The base's bytes in natural order.
    pub fn natural_base(&self, source: Source) -> &[u8] {
        self.order.as_ref().map_or_else(|| self.bytes(source), |(base, _)| base)
    }

    /// Brings values that were computed from these spans into natural order.
    pub fn restore(&self, size: usize, bytes: &mut [u8], permuted: &mut Vec<u8>) {
        let Some((_, orders)) = &self.order else { return };
        for (block, order) in bytes.chunks_mut(CODED_BLOCK_ELEMENTS * size).zip(*orders) {
            permuted.clear();
            permuted.extend_from_slice(block);
            order.unpermute_as(size, permuted, block);
        }
    }

    /// Whether the spans are in another order than the tensor's elements.
    pub fn is_permuted(&self) -> bool {
        self.order.is_some()
    }

    /// What is read.
    pub fn work(&self) -> &Work {
        self.work
    }

    /// The bytes of a source that the work reads.
    pub fn bytes(&self, source: Source) -> &[u8] {
        let index = self.work.sources.iter().position(|&s| s == source);
        let (span, skip) = &self.spans[index.expect("the work reads this source")];
        let size = self.place(source).dtype.bytes();
        &span[skip * size..(skip + self.tile.elements) * size]
    }

    /// Decodes one block of one source. Fails at the first value that is not finite, unless that is allowed.
    pub fn decode(&self, source: Source, block: &Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let place = self.place(source);
        let size = place.dtype.bytes();
        out.resize(block.len(), 0.0);
        let mut finite = place.dtype.decode(&self.bytes(source)[block.start * size..block.end * size], out);
        if let Some(adapters) = self.adapters.filter(|_| place.adapter.is_some()) {
            adapters.add(source, block, out);
            finite = false;
        }
        if finite || self.engine.plan.options.allow_non_finite {
            return Ok(());
        }
        match kernel::first_non_finite(out) {
            None => Ok(()),
            Some(at) => Err(Error::NonFinite {
                path: self.path_at_fault(source, block.start + at),
                tensor: self.engine.plan.tensors[self.work.tensor].name.clone(),
                index: self.tile.start + (block.start + at) as u64,
                value: out[at],
            }),
        }
    }

    /// The file that an element which is not finite comes from.
    fn path_at_fault(&self, source: Source, at: usize) -> PathBuf {
        let place = self.place(source);
        let Some(adapter) = &place.adapter else { return self.engine.path(place) };
        let (size, mut stored) = (place.dtype.bytes(), [0.0]);
        place.dtype.decode(&self.bytes(source)[at * size..(at + 1) * size], &mut stored);
        let file = if stored[0].is_finite() { adapter.a.file } else { place.file };
        self.engine.files.path(file).to_owned()
    }

    /// Decodes one block of all experts in this form. The base is decoded first if the form or `with_base` needs it. An
    /// expert that the work does not read gets a zero task vector.
    pub fn load(&self, block: &Range<usize>, form: Form, with_base: bool, scratch: &mut Scratch) -> Result<()> {
        scratch.base.clear();
        let plan = self.engine.plan;
        let elements = self.engine.elements.as_ref();
        if let Some(base) = plan.base().filter(|_| with_base || form == Form::TaskVectors || elements.is_some()) {
            self.decode(base, block, &mut scratch.base)?;
        }
        for (source, x) in plan.experts().zip(&mut scratch.experts) {
            let read = self.work.sources.contains(&source);
            if read {
                self.decode(source, block, x)?;
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
            elements.prune(&mut scratch.kept, form, &scratch.base, &mut scratch.experts);
        }
        Ok(())
    }

    /// Where a block of the tile lies.
    pub fn at(&self, block: &Range<usize>) -> survey::Place<'_> {
        let t = &self.engine.plan.tensors[self.work.tensor];
        let first = self.tile.start + block.start as u64;
        survey::Place { tensor: self.work.tensor, name: &t.name, shape: &t.shape, first }
    }

    fn place(&self, source: Source) -> &Place {
        &self.engine.plan.tensors[self.work.tensor].places[source]
    }
}

/// Whether all experts of the work are exact deltas right on the base, alike in dtype, and the tile is made of whole blocks.
fn permutable(engine: &Engine<'_>, work: &Work, tile: &Tile) -> bool {
    let t = &engine.plan.tensors[work.tensor];
    let Some(base) = engine.plan.base().filter(|b| work.sources.first() == Some(b)) else { return false };
    let end = tile.start + tile.elements as u64;
    let unit = CODED_BLOCK_ELEMENTS as u64;
    let whole = tile.start.is_multiple_of(unit) && (end.is_multiple_of(unit) || end == t.elements);
    let dtype = t.places[base].dtype;
    let plain = |source: &Source| match &t.places[*source].coded {
        Some(c) => {
            let link = &c.links[0];
            let exact = link.payload.is_none_or(|p| p.lossy.is_none());
            let alike = link.dtype == dtype && link.base_elements == t.elements && c.base.is_some();
            c.links.len() == 1 && exact && alike
        }
        None => false,
    };
    whole && work.sources.len() > 2 && dtype.is_float() && work.sources[1..].iter().all(plain)
}

/// A tile of so many elements, in blocks.
pub fn blocks(elements: usize, block: usize) -> impl Iterator<Item = Range<usize>> {
    (0..elements).step_by(block).map(move |start| start..(start + block).min(elements))
}
