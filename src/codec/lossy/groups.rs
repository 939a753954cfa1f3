//! The elements of a block that share a scale, and how the scales are stored.

use super::{Corrupt, Reader, Result, Streams};
use std::ops::Range;

/// Where a block lies in its tensor.
///
/// A scale belongs to a row, as far as it is in the block. Rows that are shorter than a scheme's least length are taken
/// several at a time, so that scales stay few: as many as reach that length, counted from the tensor's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Elements of a row: the last dimension; 1 where there is none.
    pub row: u64,
    /// Elements of the tensor before the block.
    pub first: u64,
}

/// Ranges of equal length, but for the first and the last.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    first: usize,
    length: usize,
    elements: usize,
}

impl Groups {
    /// The rows of a block of `elements`, joined to at least `least` elements.
    pub fn rows(place: Place, least: u64, elements: usize) -> Self {
        let row = place.row.max(1);
        let length = row * least.div_ceil(row);
        let first = length - place.first % length;
        // Of what is longer than the block, only that matters.
        let within = |n: u64| usize::try_from(n).map_or(elements, |n| n.min(elements)).max(1);
        Self { first: within(first), length: within(length), elements }
    }

    pub fn count(self) -> usize {
        if self.elements == 0 { 0 } else { 1 + (self.elements - self.first).div_ceil(self.length) }
    }

    /// The ranges, which cover the block in order.
    #[inline(always)]
    pub fn ranges(self) -> impl Iterator<Item = Range<usize>> {
        let start = move |i: usize| if i == 0 { 0 } else { self.first + (i - 1) * self.length };
        (0..self.count()).map(move |i| start(i)..start(i + 1).min(self.elements))
    }
}

/// Appends scales, each of them a BF16: all low bytes, all high bytes.
pub fn write_scales(scales: &[f32], bytes: &mut Vec<u8>, streams: &mut Streams, out: &mut Vec<u8>) {
    for down in [16, 24] {
        bytes.clear();
        bytes.extend(scales.iter().map(|s| (s.to_bits() >> down) as u8));
        streams.write(bytes, out);
    }
}

/// Reads as many scales as there are groups.
pub fn read_scales(
    reader: &mut Reader<'_>,
    groups: Groups,
    bytes: &mut Vec<u8>,
    streams: &mut Streams,
    scales: &mut Vec<f32>,
) -> Result<()> {
    scales.clear();
    scales.resize(groups.count(), 0.0);
    bytes.resize(groups.count(), 0);
    for up in [16, 24] {
        streams.read(reader, bytes)?;
        for (s, &b) in scales.iter_mut().zip(&*bytes) {
            *s = f32::from_bits(s.to_bits() | u32::from(b) << up);
        }
    }
    if scales.iter().all(|s| s.is_finite()) { Ok(()) } else { Err(Corrupt("a scale is not finite")) }
}

/// The nearest BF16, of two the even one. `value` is finite and not negative; what is too large becomes infinite.
pub fn nearest_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// The smallest BF16 that is not below `value`, which is finite and not negative.
#[inline(always)]
pub fn bf16_above(value: f32) -> f32 {
    f32::from_bits((value.to_bits() + 0xffff) & 0xffff_0000)
}

/// The mean magnitude of what `values` gives `count` of: a sum in f64, in their order.
pub fn mean_magnitude(values: impl Iterator<Item = f32>, count: usize) -> f32 {
    let sum: f64 = values.map(|v| f64::from(v.abs())).sum();
    if count == 0 { 0.0 } else { (sum / count as f64) as f32 }
}
