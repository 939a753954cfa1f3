//! SPARSE: where the few changed elements are, and their differences.

use super::order::Word;
use super::stream::{Reader, Streams, write_u24};
use super::{Corrupt, Result, planes};

/// A block is sparse when fewer than one element in this many changed.
const SPARSE: usize = 512;
/// Bytes of a gap.
const GAP_PLANES: u32 = 3;

/// Whether some elements changed, but few.
pub fn is_worth_a_trial<W: Word>(z: &[W]) -> bool {
    let mut changed = 0;
    for chunk in z.chunks(4096) {
        changed += chunk.iter().filter(|&&z| z != W::default()).count();
        if changed >= z.len() / SPARSE {
            return false;
        }
    }
    changed > 0
}

/// Appends the places and values of what is not 0 in `z`.
pub fn encode<W: Word>(z: &[W], streams: &mut Streams, plane: &mut Vec<u8>, out: &mut Vec<u8>) {
    let (mut gaps, mut values, mut next) = (Vec::new(), Vec::new(), 0);
    for (i, &z) in z.iter().enumerate().filter(|(_, z)| **z != W::default()) {
        gaps.push((i - next) as u32);
        values.push(z);
        next = i + 1;
    }
    write_u24(gaps.len(), out);
    planes::write(&gaps, GAP_PLANES, streams, plane, out);
    planes::write(&values, W::BITS / 8, streams, plane, out);
}

/// Fills `z` from `block`.
pub fn decode<W: Word>(block: &[u8], streams: &mut Streams, plane: &mut Vec<u8>, z: &mut [W]) -> Result<()> {
    let mut reader = Reader::new(block);
    let count = reader.u24()?;
    if count > z.len() / SPARSE {
        return Err(Corrupt("a sparse block has too many elements"));
    }
    let (mut gaps, mut values) = (vec![0u32; count], vec![W::default(); count]);
    planes::read(&mut reader, GAP_PLANES, streams, plane, &mut gaps)?;
    planes::read(&mut reader, W::BITS / 8, streams, plane, &mut values)?;
    z.fill(W::default());
    let mut rest = z;
    for (gap, value) in gaps.into_iter().zip(values) {
        let gap = if super::PLANTED { rest[..gap as usize].len() } else { gap as usize };
        let (place, after) =
            rest.get_mut(gap..).and_then(<[W]>::split_first_mut).ok_or(Corrupt("a place is out of range"))?;
        *place = value;
        rest = after;
    }
    reader.finish()
}
