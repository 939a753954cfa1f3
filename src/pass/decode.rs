//! From a base's bytes and the payloads of a chain of deltas to a tensor's bytes.

use super::lossy::{Given, LossyBlocks, codes, convert_root};
use crate::codec::lossy::{Place, Scheme};
use crate::codec::{self, BLOCK, Corrupt, Kind, Permutation};
use crate::container::{ENTRY_BYTES, Entry, HEADER_BYTES, block_count, checksum};
use crate::error::{Error, Result};
use crate::limits::BLOCK_ELEMENTS;
use crate::source::{Counter, Files, PieceHash};
use crate::tensor::{Coded, Dtype, Link, Payload};
use std::ops::Range;

/// Read ahead beyond where a block should end if all were of one length.
const PREFETCH_SLACK: u64 = 64 << 10;

/// One compute thread's means of decoding.
pub struct Decoder {
    scratch: codec::Scratch,
    /// Made when the first payload with lossy blocks is met.
    lossy: Option<LossyBlocks>,
    /// The result of the step before.
    before: Vec<u8>,
    converted: Vec<u8>,
    converted_root: Vec<u8>,
    padded: Vec<u8>,
    read: Vec<u8>,
}

/// What is to be decoded.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// For messages.
    pub tensor: &'a str,
    /// The chain.
    pub coded: &'a Coded,
    /// Added to the payloads' file numbers.
    pub first_file: usize,
    /// The base's dtype and its bytes from the first wanted element on; `None` if there is no such tensor.
    pub base: Option<(Dtype, &'a [u8])>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// With empty buffers.
    pub fn new() -> Self {
        Self {
            scratch: codec::Scratch::new(),
            lossy: None,
            before: Vec::new(),
            converted: Vec::new(),
            converted_root: Vec::new(),
            padded: Vec::new(),
            read: Vec::new(),
        }
    }

    /// Fills `out` with the bytes of `elements`, whole blocks of the tensor. `hashes`: one per file, fed with what is read.
    pub fn decode(
        &mut self,
        files: &Files,
        wanted: Wanted<'_>,
        elements: Range<u64>,
        counter: &Counter,
        hashes: Option<&[PieceHash]>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut before = std::mem::take(&mut self.before);
        let mut dtype = wanted.base.map(|(d, _)| d);
        for (i, link) in wanted.coded.links.iter().enumerate() {
            let base = match (i, wanted.base) {
                (0, Some((_, bytes))) => bytes,
                (0, None) => &[],
                _ => {
                    std::mem::swap(&mut before, out);
                    &before
                }
            };
            self.step(files, &wanted, link, (dtype, base), elements.clone(), out, counter, hashes)?;
            dtype = Some(link.dtype);
        }
        self.before = before;
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "one step of one loop")]
    fn step(
        &mut self,
        files: &Files,
        wanted: &Wanted<'_>,
        link: &Link,
        (dtype, base): (Option<Dtype>, &[u8]),
        elements: Range<u64>,
        out: &mut Vec<u8>,
        counter: &Counter,
        hashes: Option<&[PieceHash]>,
    ) -> Result<()> {
        let size = link.dtype.bytes();
        let end = elements.end.min(link.elements);
        let count = end.saturating_sub(elements.start) as usize;
        let common = link.base_elements.min(end).saturating_sub(elements.start) as usize;
        let base = convert(dtype, link.dtype, base, common, &mut self.converted);
        out.resize(count * size, 0);
        let Some(payload) = link.payload else {
            // Every block is EQUAL; where the base ends inside the last one, the rest is the padding.
            let (same, padding) = out.split_at_mut(base.len());
            same.copy_from_slice(base);
            padding.fill(0);
            return Ok(());
        };
        if count == 0 {
            return Ok(());
        }
        let file = wanted.first_file + payload.file;
        let table = Table { files, file, payload, link, tensor: wanted.tensor };
        let Self { scratch, lossy, converted_root, padded, read, .. } = self;
        let coded = dtype.filter(|d| codes(*d, link.dtype) && link.base_elements == link.elements);
        let coded = coded.and(payload.lossy).map(|coded| {
            let root = convert_root(wanted.base, link.dtype, out.len(), converted_root);
            let place = Place { row: coded.row, first: elements.start };
            (coded.scheme, Given { dtype: link.dtype, base, root, place })
        });
        table.for_each(elements.start / BLOCK as u64..block_count(end), read, counter, hashes, |i, kind, bytes| {
            let range = i * BLOCK * size..((i + 1) * BLOCK * size).min(out.len());
            if kind == Kind::LOSSY.byte() {
                let ((scheme, parameter), given) = coded.ok_or(Corrupt("a lossy block where all must be exact"))?;
                let scheme = Scheme::from_code(scheme, parameter)?;
                let lossy = lossy.get_or_insert_with(LossyBlocks::new);
                return lossy.decode(scheme, given.block(&range), bytes, &mut out[range]);
            }
            let base = block_base(base, &range, padded);
            codec::decode(kind, link.dtype, base, bytes, scratch, &mut out[range])
        })
    }

    /// The same for a chain of one link whose base has its dtype and shape, in the order of `orders`, one for each block.
    /// `wanted.base` is in that order.
    #[allow(clippy::too_many_arguments, reason = "as `decode`, with the orders")]
    pub fn decode_permuted(
        &mut self,
        files: &Files,
        wanted: Wanted<'_>,
        elements: Range<u64>,
        orders: &[Permutation],
        counter: &Counter,
        hashes: Option<&[PieceHash]>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let link = &wanted.coded.links[0];
        let base = wanted.base.map_or(&[][..], |(_, bytes)| bytes);
        let Some(payload) = link.payload else {
            out.clear();
            out.extend_from_slice(base);
            return Ok(());
        };
        let size = link.dtype.bytes();
        out.resize(base.len(), 0);
        let file = wanted.first_file + payload.file;
        let table = Table { files, file, payload, link, tensor: wanted.tensor };
        let Self { scratch, read, .. } = self;
        let blocks = elements.start / BLOCK as u64..block_count(elements.end);
        table.for_each(blocks, read, counter, hashes, |i, kind, bytes| {
            let range = i * BLOCK * size..((i + 1) * BLOCK * size).min(base.len());
            let base = &base[range.clone()];
            codec::decode_permuted(kind, link.dtype, base, &orders[i], bytes, scratch, &mut out[range])
        })
    }
}

/// About where the blocks of `elements` lie in a payload: file, offset, length. The first ones come with the block table.
pub fn likely_range(coded: &Coded, first_file: usize, elements: Range<u64>) -> Vec<(usize, u64, usize)> {
    let range = |link: &Link| {
        let p = link.payload?;
        let front = HEADER_BYTES as u64 + block_count(link.elements) * ENTRY_BYTES as u64;
        let body = (p.bytes - front) as f64;
        let place = |element: u64| (body * element.min(link.elements) as f64 / link.elements as f64) as u64;
        let start = if elements.start == 0 { 0 } else { front + place(elements.start) };
        let end = (front + place(elements.end) + PREFETCH_SLACK).min(p.bytes);
        Some((first_file + p.file, p.offset + start, end.saturating_sub(start) as usize))
    };
    coded.links.iter().filter_map(range).collect()
}

/// The part of `base` that lies in a block, padded with zeros where the base ends inside it; `None` beyond its end.
pub fn block_base<'a>(base: &'a [u8], block: &Range<usize>, padded: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    if block.end <= base.len() {
        return Some(&base[block.clone()]);
    }
    let part = base.get(block.start..).filter(|part| !part.is_empty())?;
    padded.clear();
    padded.extend_from_slice(part);
    padded.resize(block.len(), 0);
    Some(padded)
}

/// The first `elements` values of `base` in dtype `to`.
pub fn convert<'a>(
    from: Option<Dtype>,
    to: Dtype,
    base: &'a [u8],
    elements: usize,
    converted: &'a mut Vec<u8>,
) -> &'a [u8] {
    match from {
        Some(from) if from != to && from.is_float() && to.is_float() => {
            let mut values = [0.0; BLOCK_ELEMENTS];
            converted.resize(elements * to.bytes(), 0);
            let (from_bytes, to_bytes) = (from.bytes() * BLOCK_ELEMENTS, to.bytes() * BLOCK_ELEMENTS);
            for (b, c) in base[..elements * from.bytes()].chunks(from_bytes).zip(converted.chunks_mut(to_bytes)) {
                let values = &mut values[..c.len() / to.bytes()];
                from.decode(b, values);
                to.encode(values, c);
            }
            converted
        }
        Some(from) if from == to => &base[..elements * to.bytes()],
        _ => &[],
    }
}

/// The block table of one payload.
struct Table<'a> {
    files: &'a Files,
    file: usize,
    payload: Payload,
    link: &'a Link,
    tensor: &'a str,
}

impl Table<'_> {
    fn front_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + block_count(self.link.elements) * ENTRY_BYTES as u64
    }

    /// The entries of `blocks`, and before them the one in front of the first.
    fn read(&self, blocks: Range<u64>, counter: &Counter) -> Result<Vec<Entry>> {
        let skipped = blocks.start.saturating_sub(1);
        let at = self.payload.offset + HEADER_BYTES as u64 + skipped * ENTRY_BYTES as u64;
        let length = (blocks.end - skipped) as usize * ENTRY_BYTES;
        let mut buffer = Vec::new();
        let span = self.files.read(self.file, at, length, &mut buffer, counter)?;
        let start = (blocks.start == 0).then_some(Entry { end: 0, kind: 0, checksum: 0 });
        let (chunks, _) = span.as_chunks::<ENTRY_BYTES>();
        let entries: Vec<Entry> = start.into_iter().chain(chunks.iter().map(Entry::parse)).collect();
        let room = self.payload.bytes - self.front_bytes() - u64::from(self.payload.histogram_bytes);
        let raw = (BLOCK * self.link.dtype.bytes()) as u64;
        let fits = |w: &[Entry]| w[0].end <= w[1].end && w[1].end - w[0].end <= raw && w[1].end <= room;
        match entries.windows(2).position(|w| !fits(w)) {
            Some(i) => {
                Err(self.bad(format!("block {}: its place in the block table is impossible", blocks.start + i as u64)))
            }
            None => Ok(entries),
        }
    }

    /// Reads `blocks`, checks their sums, and shows number (from 0), kind and bytes of each to `decode`.
    fn for_each(
        &self,
        blocks: Range<u64>,
        buffer: &mut Vec<u8>,
        counter: &Counter,
        hashes: Option<&[PieceHash]>,
        mut decode: impl FnMut(usize, u8, &[u8]) -> std::result::Result<(), Corrupt>,
    ) -> Result<()> {
        let entries = self.read(blocks.clone(), counter)?;
        let (first, last) = (entries[0].end, entries[entries.len() - 1].end);
        let at = self.payload.offset + self.front_bytes() + first;
        let span = self.files.read(self.file, at, (last - first) as usize, buffer, counter)?;
        if let Some(hashes) = hashes {
            hashes[self.file].update(at, span);
        }
        for (i, pair) in entries.windows(2).enumerate() {
            let bytes = &span[(pair[0].end - first) as usize..(pair[1].end - first) as usize];
            let number = blocks.start + i as u64;
            self.check(number, &pair[1], bytes)?;
            decode(i, pair[1].kind, bytes).map_err(|why| {
                self.bad(format!("block {number}: {}; the file is damaged, or made for another base", why.0))
            })?;
        }
        Ok(())
    }

    fn check(&self, block: u64, entry: &Entry, bytes: &[u8]) -> Result<()> {
        let got = checksum(entry.kind, bytes);
        if got == entry.checksum {
            return Ok(());
        }
        Err(Error::HashDiffers {
            path: self.files.path(self.file).to_owned(),
            what: format!("tensor `{}`: block {block} is damaged", self.tensor),
            expected: format!("{:016x}", entry.checksum),
            got: format!("{got:016x}"),
            hint: "Fetch the file again.",
        })
    }

    fn bad(&self, problem: String) -> Error {
        Error::BadTensor { path: self.files.path(self.file).to_owned(), tensor: self.tensor.to_owned(), problem }
    }
}
