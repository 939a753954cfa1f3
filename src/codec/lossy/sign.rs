//! One bit an element: its sign, and the mean magnitude of its group.

use super::super::simd;
use super::groups::{Groups, Place, mean_magnitude, nearest_bf16, read_scales, write_scales};
use super::{Reader, Result, Streams, Work, bits};

/// The groups of a block.
pub fn groups(place: Place, elements: usize) -> Groups {
    Groups::rows(place, 128, elements)
}

/// Appends scales and signs; the values of both are in `values`.
pub fn encode(
    groups: Groups,
    base: &[f32],
    work: &mut Work,
    streams: &mut Streams,
    out: &mut Vec<u8>,
    values: &mut [f32],
) {
    let Work { tau, scales, codes, bytes, .. } = work;
    scales.clear();
    scales.extend(groups.ranges().map(|range| {
        let count = range.len();
        nearest_bf16(mean_magnitude(tau[range].iter().copied(), count))
    }));
    codes.clear();
    codes.extend(tau.iter().map(|&t| u8::from(t < 0.0)));
    write_scales(scales, bytes, streams, out);
    bits::write(codes, 1, bytes, streams, out);
    apply(groups, base, scales, codes, values);
}

/// Fills `values`.
pub fn decode(
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
    bits::read(reader, 1, bytes, streams, codes)?;
    apply(groups, base, scales, codes, values);
    Ok(())
}

/// `values = base + scale`, or `base - scale` where the code is 1.
fn apply(groups: Groups, base: &[f32], scales: &[f32], codes: &[u8], values: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for (range, &scale) in groups.ranges().zip(scales) {
                let (base, codes) = (&base[range.clone()], &codes[range.clone()]);
                for ((v, &b), &c) in values[range].iter_mut().zip(base).zip(codes) {
                    *v = b + f32::from_bits(scale.to_bits() ^ u32::from(c) << 31);
                }
            }
        },
    );
}
