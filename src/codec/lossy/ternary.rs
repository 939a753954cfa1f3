//! The largest elements of a block: where they are, their signs, and their mean magnitude in each group.

use super::super::stream::write_u24;
use super::groups::{Groups, Place, mean_magnitude, nearest_bf16, read_scales, write_scales};
use super::{Corrupt, Reader, Result, Streams, Work, bits};

/// As a gap: this many elements that are the base's, and the gap goes on.
const SKIP: u8 = 255;

/// The groups of a block: long ones, because few of their elements are kept.
pub fn groups(place: Place, elements: usize) -> Groups {
    Groups::rows(place, 1024, elements)
}

/// Appends scales, gaps and signs; the values of these are in `values`.
pub fn encode(
    density_per_mille: u16,
    groups: Groups,
    base: &[f32],
    work: &mut Work,
    streams: &mut Streams,
    out: &mut Vec<u8>,
    values: &mut [f32],
) {
    let Work { tau, scales, codes: gaps, bytes, keys, signs } = work;
    let kept = (tau.len() * usize::from(density_per_mille)).div_ceil(1000);
    largest(tau, kept, keys);
    write_gaps(keys, gaps);
    signs.clear();
    signs.extend(keys.iter().map(|&place| u8::from(tau[place as usize] < 0.0)));
    scales.clear();
    let mut rest = keys.as_slice();
    scales.extend(groups.ranges().map(|range| {
        let (here, after) = rest.split_at(rest.partition_point(|&place| (place as usize) < range.end));
        rest = after;
        nearest_bf16(mean_magnitude(here.iter().map(|&place| tau[place as usize]), here.len()))
    }));
    write_scales(scales, bytes, streams, out);
    write_u24(gaps.len(), out);
    streams.write(gaps, out);
    bits::write(signs, 1, bytes, streams, out);
    apply(groups, base, scales, keys, signs, values);
}

/// The places of the `kept` elements of largest magnitude, ascending: of equal ones the first; a zero never.
fn largest(tau: &[f32], kept: usize, places: &mut Vec<u32>) {
    let key = |t: &f32| t.abs().to_bits();
    places.clear();
    if kept == 0 {
        return;
    }
    places.extend(tau.iter().map(key));
    let (_, &mut threshold, above) = places.select_nth_unstable(tau.len() - kept);
    let mut equal = 1 + above.iter().filter(|&&k| k == threshold).count();
    places.clear();
    for (place, t) in tau.iter().enumerate().filter(|(_, t)| key(t) >= threshold.max(1)) {
        if key(t) == threshold {
            if equal == 0 {
                continue;
            }
            equal -= 1;
        }
        places.push(place as u32);
    }
}

fn write_gaps(places: &[u32], gaps: &mut Vec<u8>) {
    gaps.clear();
    let mut next = 0;
    for &place in places {
        let gap = place - next;
        gaps.extend(std::iter::repeat_n(SKIP, (gap / u32::from(SKIP)) as usize));
        gaps.push((gap % u32::from(SKIP)) as u8);
        next = place + 1;
    }
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
    let Work { scales, codes: gaps, bytes, keys, signs, .. } = work;
    read_scales(reader, groups, bytes, streams, scales)?;
    let len = reader.u24()?;
    if len > values.len() {
        return Err(Corrupt("there are more gaps than elements"));
    }
    gaps.resize(len, 0);
    streams.read(reader, gaps)?;
    read_gaps(gaps, values.len(), keys)?;
    signs.resize(keys.len(), 0);
    bits::read(reader, 1, bytes, streams, signs)?;
    apply(groups, base, scales, keys, signs, values);
    Ok(())
}

fn read_gaps(gaps: &[u8], elements: usize, places: &mut Vec<u32>) -> Result<()> {
    places.clear();
    let mut next = 0;
    for &gap in gaps {
        next += usize::from(gap);
        if gap != SKIP {
            if next >= elements {
                return Err(Corrupt("a gap leads out of the block"));
            }
            places.push(next as u32);
            next += 1;
        }
    }
    Ok(())
}

/// `values = base`, with the scale of the group added at `places`, or subtracted where the sign is 1.
fn apply(groups: Groups, base: &[f32], scales: &[f32], places: &[u32], signs: &[u8], values: &mut [f32]) {
    values.copy_from_slice(base);
    let mut kept = places.iter().zip(signs).peekable();
    for (range, &scale) in groups.ranges().zip(scales) {
        while let Some((&place, &sign)) = kept.next_if(|&(&place, _)| (place as usize) < range.end) {
            values[place as usize] += f32::from_bits(scale.to_bits() ^ u32::from(sign) << 31);
        }
    }
}
