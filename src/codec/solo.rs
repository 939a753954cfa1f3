//! SOLO: the byte planes of the values themselves, where no base helps.
//!
//! Floats wider than a byte are rotated left by one bit first, so that the highest plane is the exponent alone (of F16
//! and F64: with bits of the mantissa, without the lowest bits of the exponent), and the sign is the lowest bit.

use super::order::Word;
use super::stream::{Reader, Search, Streams};
use super::{Result, planes, simd};
use crate::tensor::Dtype;

fn rotation(dtype: Dtype) -> u32 {
    u32::from(dtype.is_float() && dtype.bytes() > 1)
}

/// Appends `result`, elements of `dtype`, whose width is that of `words`.
pub fn encode<W: Word>(
    dtype: Dtype,
    result: &[u8],
    words: &mut [W],
    streams: &mut Streams,
    plane: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    let left = rotation(dtype);
    simd(
        #[inline(always)]
        || {
            for (w, &r) in words.iter_mut().zip(W::split(result)) {
                *w = W::load(r).rotate(left);
            }
        },
    );
    // Unlike differences, values may repeat: counters, tables, what was quantised.
    streams.search(Search::On);
    planes::write(words, W::BITS / 8, streams, plane, out);
    streams.search(Search::Off);
}

/// Fills `result` from `block`.
pub fn decode<W: Word>(
    dtype: Dtype,
    block: &[u8],
    words: &mut [W],
    streams: &mut Streams,
    plane: &mut Vec<u8>,
    result: &mut [u8],
) -> Result<()> {
    let mut reader = Reader::new(block);
    planes::read(&mut reader, W::BITS / 8, streams, plane, words)?;
    let left = (W::BITS - rotation(dtype)) % W::BITS;
    simd(
        #[inline(always)]
        || {
            for (r, &w) in W::split_mut(result).iter_mut().zip(&*words) {
                *r = w.rotate(left).store();
            }
        },
    );
    reader.finish()
}
