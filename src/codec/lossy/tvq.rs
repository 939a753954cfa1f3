//! Quantised task vectors: tau in steps of one size for each group.
//!
//! tau is coded as code * scale, where the codes of b bits are -2^(b-1) ..= 2^(b-1) - 1 and the scale has a sign. Its sign
//! turns the longer side of the codes to the larger extreme of tau, so that the step is the smallest with which every
//! element of the group is within half a step of a code: max(large / (2^(b-1) + 1/2), small / (2^(b-1) - 1/2)), where
//! large and small are the extremes on both sides of 0, as magnitudes. A zero stays a zero.

use super::super::simd;
use super::groups::{Groups, bf16_above, read_scales, write_scales};
use super::{Bits, Reader, Result, Streams, Work, bits};

/// 1.5 * 2^23: added to a small number, it leaves its integer, half to even, in the lowest bits.
const ROUNDER: f32 = 12_582_912.0;

/// Appends scales and codes; the values of both are in `values`.
pub fn encode(
    bits: Bits,
    groups: Groups,
    base: &[f32],
    work: &mut Work,
    streams: &mut Streams,
    out: &mut Vec<u8>,
    values: &mut [f32],
) {
    let Work { tau, scales, codes, bytes, .. } = work;
    scales.clear();
    scales.resize(groups.count(), 0.0);
    codes.resize(tau.len(), 0);
    quantise(bits, groups, tau, scales, codes);
    write_scales(scales, bytes, streams, out);
    bits::write(codes, slot(bits), bytes, streams, out);
    let mask = (0xff_u32 >> (8 - slot(bits))) as u8;
    codes.iter_mut().for_each(|c| *c &= mask);
    apply(bits, groups, base, scales, codes, values);
}

/// Fills `values`.
pub fn decode(
    bits: Bits,
    groups: Groups,
    base: &[f32],
    reader: &mut Reader<'_>,
    work: &mut Work,
    streams: &mut Streams,
    values: &mut [f32],
) -> Result<()> {
    let Work { scales, codes, bytes, .. } = work;
    read_scales(reader, groups, bytes, streams, scales)?;
    codes.resize(values.len(), 0);
    bits::read(reader, slot(bits), bytes, streams, codes)?;
    apply(bits, groups, base, scales, codes, values);
    Ok(())
}

/// The bits that a code is stored in; the entropy coder takes back what 3 bits leave free.
fn slot(bits: Bits) -> u32 {
    bits.count().next_power_of_two()
}

/// Codes are in two's complement.
fn quantise(bits: Bits, groups: Groups, tau: &[f32], scales: &mut [f32], codes: &mut [u8]) {
    let half = (1 << (bits.count() - 1)) as f32;
    simd(
        #[inline(always)]
        || {
            for (range, scale) in groups.ranges().zip(scales) {
                let (tau, codes) = (&tau[range.clone()], &mut codes[range]);
                *scale = signed_step(half, tau);
                let divisor = if *scale == 0.0 { 1.0 } else { *scale };
                for (c, &t) in codes.iter_mut().zip(tau) {
                    let v = t / divisor;
                    let v = if v > half - 1.0 { half - 1.0 } else { v };
                    let v = if v < -half { -half } else { v };
                    *c = (v + ROUNDER).to_bits() as u8;
                }
            }
        },
    );
}

/// The scale of a group. Integers order finite floats of one sign as they are.
#[inline(always)]
fn signed_step(half: f32, tau: &[f32]) -> f32 {
    let (mut above, mut below) = (0, 0);
    for t in tau {
        let bits = t.to_bits().cast_signed();
        above = above.max(bits);
        below = below.max(bits ^ i32::MIN);
    }
    let (above, below) = (f32::from_bits(above.cast_unsigned()), f32::from_bits(below.cast_unsigned()));
    let (large, small) = if above > below { (above, below) } else { (below, above) };
    let (needed, other) = (large / (half + 0.5), small / (half - 0.5));
    let step = bf16_above(if needed > other { needed } else { other });
    if above > below { -step } else { step }
}

/// `values = base + code * scale`. The product is exact: a byte by a BF16.
fn apply(bits: Bits, groups: Groups, base: &[f32], scales: &[f32], codes: &[u8], values: &mut [f32]) {
    let sign = 1 << (slot(bits) - 1);
    simd(
        #[inline(always)]
        || {
            for (range, &scale) in groups.ranges().zip(scales) {
                let (base, codes) = (&base[range.clone()], &codes[range.clone()]);
                for ((v, &b), &c) in values[range].iter_mut().zip(base).zip(codes) {
                    let code = (i32::from(c) ^ sign) - sign;
                    *v = b + code as f32 * scale;
                }
            }
        },
    );
}
