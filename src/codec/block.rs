//! One block: the choice of its kind, encoding, decoding.

use super::order::{Arithmetic, Word};
use super::permutation::Permutation;
use super::stream::Streams;
use super::survey::Prices;
use super::{BLOCK, Codec, Corrupt, Kind, PLANTED, Result, fit, s1, s2, solo, sparse};
use crate::tensor::Dtype;

/// The buffers and zstd contexts of one worker.
pub struct Scratch {
    coder: Coder,
    words: AnyWords,
    base: Vec<u8>,
    result: Vec<u8>,
}

/// Buffers for one width of elements at a time: those for other widths are empty.
#[derive(Default)]
struct AnyWords {
    bytes: usize,
    u8: Words<u8>,
    u16: Words<u16>,
    u32: Words<u32>,
    u64: Words<u64>,
}

impl AnyWords {
    /// Frees the buffers for all widths but `bytes`.
    fn only(&mut self, bytes: usize) -> &mut Self {
        if self.bytes != bytes {
            *self = Self { bytes, ..Self::default() };
        }
        self
    }
}

/// What planes may take more than their bytes: the lengths of their streams.
const TRIAL_EXTRA_BYTES: usize = 64;

/// What does not depend on the width of elements.
struct Coder {
    streams: Streams,
    permutation: Permutation,
    plane: Vec<u8>,
    trial: Vec<u8>,
}

#[derive(Default)]
struct Words<W> {
    /// Differences in natural order.
    natural: Vec<W>,
    /// Differences in permuted order.
    permuted: Vec<W>,
    s2: s2::Buffers<W>,
}

impl<W: Word> Words<W> {
    const RESIDENT_BYTES: usize = 2 * BLOCK * (W::BITS as usize / 8) + s2::Buffers::<W>::RESIDENT_BYTES;
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Buffers that grow when they are first used.
    pub fn new() -> Self {
        let coder = Coder {
            streams: Streams::new(),
            permutation: Permutation::default(),
            plane: Vec::new(),
            trial: Vec::new(),
        };
        Self { coder, words: AnyWords::default(), base: Vec::new(), result: Vec::new() }
    }

    /// Bytes that a scratch holds at most, whatever blocks it meets.
    pub const fn resident_bytes() -> u64 {
        let words = Words::<u64>::RESIDENT_BYTES;
        let plane_and_trial = BLOCK + 8 * BLOCK + TRIAL_EXTRA_BYTES;
        let narrowed = 2 * 2 * BLOCK;
        // Places and values of a sparse block.
        let sparse = BLOCK;
        (Streams::RESIDENT_BYTES + Permutation::RESIDENT_BYTES + words + plane_and_trial + narrowed + sparse) as u64
    }
}

/// Appends the bytes of one block to `out` and says how they are to be read.
///
/// `result` holds at most [`BLOCK`] elements of `dtype`, and so does `base`, as many. The output depends on these and
/// `codec` alone. It is never longer than `result`.
pub fn encode(
    codec: Codec,
    dtype: Dtype,
    base: Option<&[u8]>,
    result: &[u8],
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Kind {
    check(dtype, base, result.len());
    if base.is_some_and(|b| b == result) {
        return Kind::EQUAL;
    }
    if codec == Codec::Raw || result.is_empty() {
        out.extend_from_slice(result);
        return Kind::RAW;
    }
    let start = out.len();
    let Scratch { coder, words, base: narrow_base, result: narrow_result } = scratch;
    if let (Some(base), Codec::Auto | Codec::S2) = (base, codec) {
        coder.permutation.derive(dtype, base);
    }
    let kind = if let Some((transform, base)) = narrow(dtype, base, result, narrow_base, narrow_result) {
        let kind = encode_words(codec, inner(transform), base, narrow_result, coder, &mut words.only(2).u16, out);
        kind.with_transform(transform)
    } else {
        let words = words.only(dtype.bytes());
        match dtype.bytes() {
            1 => encode_words(codec, dtype, base, result, coder, &mut words.u8, out),
            2 => encode_words(codec, dtype, base, result, coder, &mut words.u16, out),
            4 => encode_words(codec, dtype, base, result, coder, &mut words.u32, out),
            _ => encode_words(codec, dtype, base, result, coder, &mut words.u64, out),
        }
    };
    if out.len() - start < result.len() {
        return kind;
    }
    out.truncate(start);
    out.extend_from_slice(result);
    Kind::RAW
}

fn check(dtype: Dtype, base: Option<&[u8]>, result_bytes: usize) {
    assert!(result_bytes <= BLOCK * dtype.bytes(), "a block is at most {BLOCK} elements");
    assert!(result_bytes.is_multiple_of(dtype.bytes()), "a block is whole elements");
    assert!(base.is_none_or(|b| b.len() == result_bytes), "a block has as many elements as its base");
}

/// The dtype that a transform codes F32 as.
fn inner(transform: u8) -> Dtype {
    if transform == Kind::F16_IN_F32 { Dtype::F16 } else { Dtype::BF16 }
}

/// F32 as a 16-bit type, if every element of the result is exactly of that type: the transform and the narrowed base.
/// The narrowed result is in `narrow_result`.
fn narrow<'a>(
    dtype: Dtype,
    base: Option<&[u8]>,
    result: &[u8],
    narrow_base: &'a mut Vec<u8>,
    narrow_result: &mut Vec<u8>,
) -> Option<(u8, Option<&'a [u8]>)> {
    if dtype != Dtype::F32 {
        return None;
    }
    fit(narrow_result, result.len() / 2);
    fit(narrow_base, base.map_or(0, <[u8]>::len) / 2);
    if is_bf16(result) {
        upper_halves(result, narrow_result);
        if let Some(base) = base {
            upper_halves(base, narrow_base);
        }
        return Some((Kind::BF16_IN_F32, base.map(|_| narrow_base.as_slice())));
    }
    let exact = narrow_f16(result, narrow_result) && base.is_none_or(|base| narrow_f16(base, narrow_base));
    exact.then(|| (Kind::F16_IN_F32, base.map(|_| narrow_base.as_slice())))
}

fn is_bf16(f32s: &[u8]) -> bool {
    f32s.chunks(4096)
        .all(|chunk| chunk.as_chunks::<4>().0.iter().fold(0, |any, b| any | b[0] | if PLANTED { 0 } else { b[1] }) == 0)
}

/// The upper halves of F32: BF16, rounded towards 0.
fn upper_halves(f32s: &[u8], halves: &mut [u8]) {
    for (h, f) in halves.as_chunks_mut::<2>().0.iter_mut().zip(f32s.as_chunks::<4>().0) {
        *h = [f[2], f[3]];
    }
}

/// Rounds F32 to F16; whether that was exact for every bit pattern.
fn narrow_f16(f32s: &[u8], f16s: &mut [u8]) -> bool {
    const STEP: usize = 1024;
    let (mut values, mut back) = ([0f32; STEP], [0u8; STEP * 4]);
    f32s.chunks(STEP * 4).zip(f16s.chunks_mut(STEP * 2)).all(|(wide, narrow)| {
        let (values, back) = (&mut values[..wide.len() / 4], &mut back[..wide.len()]);
        Dtype::F32.decode(wide, values);
        Dtype::F16.encode(values, narrow);
        widen_f16(narrow, values, back);
        back == wide
    })
}

fn widen_f16(f16s: &[u8], values: &mut [f32], f32s: &mut [u8]) {
    Dtype::F16.decode(f16s, values);
    Dtype::F32.encode(values, f32s);
}

/// Blocks of floats that S2 leaves larger than this many percent of their bytes are tried without the base, too.
fn solo_trial_percent(dtype: Dtype) -> usize {
    if dtype.bytes() > 2 { 75 } else { 60 }
}

fn encode_words<W: Word>(
    codec: Codec,
    dtype: Dtype,
    base: Option<&[u8]>,
    result: &[u8],
    coder: &mut Coder,
    words: &mut Words<W>,
    out: &mut Vec<u8>,
) -> Kind {
    let start = out.len();
    fit(&mut words.natural, result.len() / dtype.bytes());
    let Some(base) = base else {
        solo::encode(dtype, result, &mut words.natural, &mut coder.streams, &mut coder.plane, out);
        return Kind::SOLO;
    };
    Arithmetic::of(dtype).difference(base, result, &mut words.natural);
    let kind = encode_difference(codec, coder, words, out);
    let bytes = out.len() - start;
    if codec != Codec::Auto || bytes * 100 < result.len() * solo_trial_percent(dtype) {
        return kind;
    }
    coder.trial.clear();
    coder.trial.reserve_exact(result.len() + TRIAL_EXTRA_BYTES);
    solo::encode(dtype, result, &mut words.natural, &mut coder.streams, &mut coder.plane, &mut coder.trial);
    keep_smaller(kind, Kind::SOLO, start, &coder.trial, out)
}

fn encode_difference<W: Word>(codec: Codec, coder: &mut Coder, words: &mut Words<W>, out: &mut Vec<u8>) -> Kind {
    let start = out.len();
    let kind = if codec == Codec::S1 {
        s1::encode(&words.natural, &mut words.s2, &mut coder.streams, out);
        Kind::S1
    } else {
        fit(&mut words.permuted, words.natural.len());
        coder.permutation.scatter(&words.natural, &mut words.permuted);
        s2::encode(Prices::SMALL, coder.permutation.starts(), &words.permuted, &mut words.s2, &mut coder.streams, out);
        Kind::S2
    };
    if !sparse::is_worth_a_trial(&words.natural) {
        return kind;
    }
    coder.trial.clear();
    sparse::encode(&words.natural, &mut coder.streams, &mut coder.plane, &mut coder.trial);
    keep_smaller(kind, Kind::SPARSE, start, &coder.trial, out)
}

/// Replaces what stands after `start` by `trial`, if that is smaller.
fn keep_smaller(kind: Kind, trial_kind: Kind, start: usize, trial: &[u8], out: &mut Vec<u8>) -> Kind {
    if out.len() - start <= trial.len() {
        return kind;
    }
    out.truncate(start);
    out.extend_from_slice(trial);
    trial_kind
}

/// Fills `result` from the bytes of one block.
///
/// `kind` is the byte of a [`Kind`]; `base` holds as many elements of `dtype` as `result`, at most [`BLOCK`].
pub fn decode(
    kind: u8,
    dtype: Dtype,
    base: Option<&[u8]>,
    block: &[u8],
    scratch: &mut Scratch,
    result: &mut [u8],
) -> Result<()> {
    check(dtype, base, result.len());
    let kind = Kind(kind);
    if let (Kind::S2, Some(base)) = (kind.method(), base) {
        scratch.coder.permutation.derive(dtype, base);
    }
    let mut permutation = std::mem::take(&mut scratch.coder.permutation);
    let done = Decoder { kind, dtype, order: Order::Natural(&permutation) }.run(base, block, scratch, result);
    std::mem::swap(&mut scratch.coder.permutation, &mut permutation);
    done
}

/// Fills `result_permuted` from the bytes of one block, where `permuted_base` and the result are in the order of
/// `permutation`: a merge of several deltas of one base, element by element, needs no other order.
///
/// Works for every kind. `permutation` must be that of the base, of the same dtype.
pub fn decode_permuted(
    kind: u8,
    dtype: Dtype,
    permuted_base: &[u8],
    permutation: &Permutation,
    block: &[u8],
    scratch: &mut Scratch,
    result_permuted: &mut [u8],
) -> Result<()> {
    check(dtype, Some(permuted_base), result_permuted.len());
    assert!(permutation.len() * dtype.bytes() == permuted_base.len(), "the order is that of the base");
    let order = Order::Permuted(permutation);
    Decoder { kind: Kind(kind), dtype, order }.run(Some(permuted_base), block, scratch, result_permuted)
}

/// The order in which the base is given and the result wanted.
#[derive(Clone, Copy)]
enum Order<'a> {
    Natural(&'a Permutation),
    Permuted(&'a Permutation),
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    kind: Kind,
    dtype: Dtype,
    order: Order<'a>,
}

impl Decoder<'_> {
    fn run(self, base: Option<&[u8]>, block: &[u8], scratch: &mut Scratch, result: &mut [u8]) -> Result<()> {
        let Scratch { coder, words, base: narrow_base, result: narrow_result } = scratch;
        match (self.kind.transform(), self.dtype.bytes()) {
            (0, 1) => self.words(base, block, coder, &mut words.only(1).u8, result),
            (0, 2) => self.words(base, block, coder, &mut words.only(2).u16, result),
            (0, 4) => self.words(base, block, coder, &mut words.only(4).u32, result),
            (0, _) => self.words(base, block, coder, &mut words.only(8).u64, result),
            (transform @ (Kind::BF16_IN_F32 | Kind::F16_IN_F32), _) if self.dtype == Dtype::F32 => {
                let base = base.map(|base| {
                    fit(narrow_base, base.len() / 2);
                    narrow_to(transform, base, narrow_base);
                    narrow_base.as_slice()
                });
                fit(narrow_result, result.len() / 2);
                let inner = Self { dtype: inner(transform), ..self };
                inner.words(base, block, coder, &mut words.only(2).u16, narrow_result)?;
                widen_from(transform, narrow_result, result);
                Ok(())
            }
            _ => Err(Corrupt("the block has an unknown transform")),
        }
    }

    fn words<W: Word>(
        self,
        base: Option<&[u8]>,
        block: &[u8],
        coder: &mut Coder,
        words: &mut Words<W>,
        result: &mut [u8],
    ) -> Result<()> {
        fit(&mut words.natural, result.len() / self.dtype.bytes());
        fit(&mut words.permuted, words.natural.len());
        match self.kind.method() {
            Kind::RAW if block.len() != result.len() => {
                Err(Corrupt("a raw block has another length than its elements"))
            }
            Kind::RAW => {
                self.place(W::split(block), W::split_mut(result));
                Ok(())
            }
            Kind::SOLO => self.solo(block, coder, words, result),
            method => self.on_base(method, base.ok_or(Corrupt("the block needs a base"))?, block, coder, words, result),
        }
    }

    fn solo<W: Word>(self, block: &[u8], coder: &mut Coder, words: &mut Words<W>, result: &mut [u8]) -> Result<()> {
        let Coder { streams, plane, trial, .. } = coder;
        let Order::Permuted(permutation) = self.order else {
            return solo::decode(self.dtype, block, &mut words.natural, streams, plane, result);
        };
        fit(trial, result.len());
        solo::decode(self.dtype, block, &mut words.natural, streams, plane, trial)?;
        permutation.scatter(W::split(trial), W::split_mut(result));
        Ok(())
    }

    fn on_base<W: Word>(
        self,
        method: Kind,
        base: &[u8],
        block: &[u8],
        coder: &mut Coder,
        words: &mut Words<W>,
        result: &mut [u8],
    ) -> Result<()> {
        let Coder { streams, plane, .. } = coder;
        let Words { natural, permuted, s2 } = words;
        let arithmetic = Arithmetic::of(self.dtype);
        match (method, self.order) {
            (Kind::EQUAL, _) if block.is_empty() => {
                result.copy_from_slice(base);
                return Ok(());
            }
            (Kind::S2, Order::Natural(permutation)) => {
                s2::decode(permutation.starts(), block, s2, streams, permuted)?;
                permutation.gather(permuted, natural);
            }
            (Kind::S2, Order::Permuted(permutation)) => {
                s2::decode(permutation.starts(), block, s2, streams, permuted)?;
                arithmetic.apply(base, permuted, result);
                return Ok(());
            }
            (Kind::S1, _) => s1::decode(block, s2, streams, natural)?,
            (Kind::SPARSE, _) => sparse::decode(block, streams, plane, natural)?,
            _ => return Err(Corrupt("the block has an unknown kind")),
        }
        if let (Kind::S1 | Kind::SPARSE, Order::Permuted(permutation)) = (method, self.order) {
            permutation.scatter(natural, permuted);
            arithmetic.apply(base, permuted, result);
        } else {
            arithmetic.apply(base, natural, result);
        }
        Ok(())
    }

    /// Copies elements in natural order to the order that is wanted.
    fn place<T: Copy>(self, natural: &[T], result: &mut [T]) {
        match self.order {
            Order::Natural(_) => result.copy_from_slice(natural),
            Order::Permuted(permutation) => permutation.scatter(natural, result),
        }
    }
}

fn narrow_to(transform: u8, f32s: &[u8], halves: &mut [u8]) {
    if transform == Kind::F16_IN_F32 {
        narrow_f16_lossy(f32s, halves);
    } else {
        upper_halves(f32s, halves);
    }
}

const STEP: usize = 1024;

fn narrow_f16_lossy(f32s: &[u8], f16s: &mut [u8]) {
    let mut values = [0f32; STEP];
    for (wide, narrow) in f32s.chunks(STEP * 4).zip(f16s.chunks_mut(STEP * 2)) {
        let values = &mut values[..wide.len() / 4];
        Dtype::F32.decode(wide, values);
        Dtype::F16.encode(values, narrow);
    }
}

fn widen_from(transform: u8, halves: &[u8], f32s: &mut [u8]) {
    if transform == Kind::F16_IN_F32 {
        let mut values = [0f32; STEP];
        for (narrow, wide) in halves.chunks(STEP * 2).zip(f32s.chunks_mut(STEP * 4)) {
            widen_f16(narrow, &mut values[..narrow.len() / 2], wide);
        }
    } else {
        for (f, h) in f32s.as_chunks_mut::<4>().0.iter_mut().zip(halves.as_chunks::<2>().0) {
            *f = [0, 0, h[0], h[1]];
        }
    }
}
