//! From a tensor's bytes and its base's to coded blocks, with what is known of the task vector.

use super::decode::{block_base, convert};
use super::lossy::{Given, LossyBlocks, codes, convert_root};
use crate::codec::lossy::{Loss, Place, Scheme};
use crate::codec::{self, BLOCK, Codec, Coding, Kind};
use crate::container::{BINS, LOW_BITS, checksum};
use crate::kernel::{self, Change};
use crate::limits::{BLOCK_ELEMENTS, CODED_BLOCK_ELEMENTS, CODER_BYTES};
use crate::tensor::Dtype;
use std::ops::Range;

/// Runs shorter than this are counted by sorting instead of in a table.
const COUNT_BY_SORTING: usize = 4096;

const _: () = assert!(BLOCK == CODED_BLOCK_ELEMENTS);
const _: () = assert!(codec::Scratch::resident_bytes() as usize + 2 * 4 * BINS < CODER_BYTES);

/// Coded blocks of one tensor, in order, without a gap.
#[derive(Debug, Default)]
pub struct CodedRun {
    /// Index of the tensor.
    pub tensor: usize,
    /// The blocks' bytes, one after another.
    pub bytes: Vec<u8>,
    /// Kind, length and checksum of each block.
    pub blocks: Vec<(u8, usize, u64)>,
    /// `None` where the task vector is not made of finite numbers.
    pub statistics: Option<RunStatistics>,
    /// How those blocks are coded that are not exact; `None` where all are.
    pub scheme: Option<Scheme>,
    /// What they have lost, as a part of the whole task vector.
    pub loss: Loss,
}

/// What is known of a run of a task vector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunStatistics {
    /// Elements that differ, and by how much at most.
    pub change: Change,
    /// For each block of sums its sum of magnitudes and of squares.
    pub sums: Vec<[f64; 2]>,
    /// Counts by the upper bits of magnitudes, ascending.
    pub histogram: Vec<(u16, u64)>,
}

/// One compute thread's means of coding.
pub struct Coder {
    codec: Codec,
    scratch: codec::Scratch,
    lossy: Option<(Scheme, LossyBlocks)>,
    converted: Vec<u8>,
    converted_root: Vec<u8>,
    padded: Vec<u8>,
    block: Vec<u8>,
    /// What the last run decodes to, where it is lossy.
    restored: Vec<u8>,
    counts: Vec<u32>,
    keys: Vec<u16>,
}

/// Both sides of a run.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// Index of the tensor.
    pub tensor: usize,
    /// Dtype of the result.
    pub dtype: Dtype,
    /// The result's bytes.
    pub result: &'a [u8],
    /// The base's dtype and bytes, as far as it has these elements.
    pub base: Option<(Dtype, &'a [u8])>,
    /// The same of the checkpoint under the base, if the tensor has its shape there too; for TALL masks.
    pub root: Option<(Dtype, &'a [u8])>,
    /// Whether the whole tensor has the base's shape, so that it has a task vector.
    pub same_shape: bool,
    /// Where the run lies in its tensor.
    pub place: Place,
}

impl Coder {
    /// For one way of coding.
    pub fn new(coding: Coding) -> Self {
        let (codec, scheme) = match coding {
            Coding::Exact(codec) => (codec, None),
            Coding::Lossy(scheme) => (Codec::Auto, Some(scheme)),
        };
        Self {
            codec,
            scratch: codec::Scratch::new(),
            lossy: scheme.map(|s| (s, LossyBlocks::new())),
            converted: Vec::new(),
            converted_root: Vec::new(),
            padded: Vec::new(),
            block: Vec::new(),
            restored: Vec::new(),
            counts: vec![0; BINS],
            keys: Vec::new(),
        }
    }

    /// Codes a run of whole blocks.
    pub fn code(&mut self, sides: Sides<'_>) -> CodedRun {
        self.restored.clear();
        let mut run = CodedRun { tensor: sides.tensor, ..CodedRun::default() };
        match self.lossy.take_if(|_| sides.same_shape && sides.base.is_some_and(|(d, _)| codes(d, sides.dtype))) {
            Some((scheme, mut lossy)) => {
                self.code_lossy(scheme, &mut lossy, sides, &mut run);
                self.lossy = Some((scheme, lossy));
            }
            None => self.code_exact(sides, &mut run),
        }
        let restored = std::mem::take(&mut self.restored);
        let result = if restored.is_empty() { sides.result } else { &restored };
        run.statistics = self.statistics(Sides { result, ..sides });
        self.restored = restored;
        run
    }

    /// What the last run decodes to, where that is not the result itself.
    pub fn restored(&self) -> Option<&[u8]> {
        (!self.restored.is_empty()).then_some(&self.restored)
    }

    fn code_exact(&mut self, sides: Sides<'_>, run: &mut CodedRun) {
        let elements = sides.base.map_or(0, |(dtype, bytes)| bytes.len() / dtype.bytes());
        let (base_dtype, bytes) = sides.base.unzip();
        let base = convert(base_dtype, sides.dtype, bytes.unwrap_or_default(), elements, &mut self.converted);
        for block in block_ranges(sides) {
            let base = block_base(base, &block, &mut self.padded);
            let before = run.bytes.len();
            let kind =
                codec::encode(self.codec, sides.dtype, base, &sides.result[block], &mut self.scratch, &mut run.bytes);
            run.end_block(kind, before);
        }
    }

    /// Codes each block lossily where that takes fewer bytes than exactly.
    fn code_lossy(&mut self, scheme: Scheme, lossy: &mut LossyBlocks, sides: Sides<'_>, run: &mut CodedRun) {
        let Self { codec, scratch, converted, converted_root, block: coded, restored, .. } = self;
        let (dtype, bytes) = (sides.dtype, sides.result.len());
        let (base_dtype, base) = sides.base.unzip();
        let base = convert(base_dtype, dtype, base.unwrap_or_default(), bytes / dtype.bytes(), converted);
        let root = convert_root(sides.root, dtype, bytes, converted_root);
        let given = Given { dtype, base, root, place: sides.place };
        restored.extend_from_slice(sides.result);
        for block in block_ranges(sides) {
            let (before, result, given) = (run.bytes.len(), &sides.result[block.clone()], given.block(&block));
            let kind = codec::encode(*codec, dtype, Some(given.base), result, scratch, &mut run.bytes);
            coded.clear();
            let restored = &mut restored[block];
            let loss = lossy.encode(scheme, given, result, restored, coded);
            if loss.is_some() && coded.len() < run.bytes.len() - before {
                run.bytes.truncate(before);
                run.bytes.extend_from_slice(coded);
                run.scheme = Some(scheme);
                run.loss = run.loss.join(loss.unwrap_or_default());
                run.end_block(Kind::LOSSY, before);
            } else {
                restored.copy_from_slice(result);
                let tau_squares = loss.map_or(0.0, |l| l.tau_squares);
                run.loss = run.loss.join(Loss { tau_squares, ..Loss::default() });
                run.end_block(kind, before);
            }
        }
    }

    fn statistics(&mut self, sides: Sides<'_>) -> Option<RunStatistics> {
        let (dtype, base) = sides.base.filter(|(d, _)| sides.same_shape && d.is_float() && sides.dtype.is_float())?;
        let elements = sides.result.len() / sides.dtype.bytes();
        let mut found = RunStatistics::default();
        let (mut b, mut x) = ([0.0; BLOCK_ELEMENTS], [0.0; BLOCK_ELEMENTS]);
        self.keys.clear();
        for start in (0..elements).step_by(BLOCK_ELEMENTS) {
            let end = (start + BLOCK_ELEMENTS).min(elements);
            let (b, x) = (&mut b[..end - start], &mut x[..end - start]);
            dtype.decode(&base[start * dtype.bytes()..end * dtype.bytes()], b);
            sides.dtype.decode(&sides.result[start * sides.dtype.bytes()..end * sides.dtype.bytes()], x);
            found.change = found.change.join(kernel::change(b, x));
            kernel::delta(b, x);
            let sums = [kernel::magnitudes(x), kernel::squares(x)];
            if !sums[0].is_finite() {
                self.counts.fill(0);
                return None;
            }
            found.sums.push(sums);
            self.count(x, elements);
        }
        found.histogram = self.take_histogram(elements);
        Some(found)
    }

    /// Counts a block of a task vector. Zeros, of which there are many, are not counted one by one.
    fn count(&mut self, x: &[f32], elements: usize) {
        let key = |v: &f32| ((v.to_bits() & 0x7fff_ffff) >> LOW_BITS) as u16;
        if elements < COUNT_BY_SORTING {
            self.keys.extend(x.iter().map(key));
            return;
        }
        let (mut keys, mut filled) = ([0u16; BLOCK_ELEMENTS], 0);
        for v in x {
            keys[filled] = key(v);
            filled += usize::from(key(v) != 0);
        }
        keys[..filled].iter().for_each(|&k| self.counts[usize::from(k)] += 1);
        self.counts[0] += (x.len() - filled) as u32;
    }

    fn take_histogram(&mut self, elements: usize) -> Vec<(u16, u64)> {
        if elements < COUNT_BY_SORTING {
            self.keys.sort_unstable();
            return self.keys.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u64)).collect();
        }
        let filled = self.counts.iter_mut().enumerate().filter(|(_, n)| **n > 0);
        filled.map(|(bin, n)| (bin as u16, u64::from(std::mem::take(n)))).collect()
    }
}

impl CodedRun {
    /// Notes a block whose bytes begin at `start`.
    fn end_block(&mut self, kind: Kind, start: usize) {
        let bytes = &self.bytes[start..];
        self.blocks.push((kind.byte(), bytes.len(), checksum(kind.byte(), bytes)));
    }
}

fn block_ranges(sides: Sides<'_>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (bytes, step) = (sides.result.len(), BLOCK * sides.dtype.bytes());
    (0..bytes).step_by(step).map(move |start| start..(start + step).min(bytes))
}
