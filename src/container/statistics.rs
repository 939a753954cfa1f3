//! The histogram behind a tensor's blocks: the magnitudes of its task vector counted by their upper 16 bits.
//!
//! For each bin that is not empty its distance from the one before (the first: from 0) and its count, as LEB128.

/// Bins: the upper 16 of the 31 bits of an `f32` magnitude.
pub const BINS: usize = 1 << 16;
/// Bits of a magnitude below those that choose its bin.
pub const LOW_BITS: u32 = 15;

/// Filled bins and their counts, ascending.
pub type Histogram = Vec<(u16, u64)>;

/// As stored.
pub fn put(histogram: &[(u16, u64)]) -> Vec<u8> {
    let (mut out, mut before) = (Vec::new(), 0);
    for &(bin, count) in histogram {
        put_number(u64::from(bin - before), &mut out);
        put_number(count, &mut out);
        before = bin;
    }
    out
}

/// Reads a histogram of `elements` magnitudes; `None` if the bytes are not exactly that.
pub fn parse(mut bytes: &[u8], elements: u64) -> Option<Histogram> {
    let (mut histogram, mut bin, mut left) = (Vec::new(), 0u64, elements);
    while !bytes.is_empty() {
        let gap = take_number(&mut bytes)?;
        if !histogram.is_empty() && gap == 0 {
            return None;
        }
        bin = bin.checked_add(gap)?;
        let count = take_number(&mut bytes)?;
        left = left.checked_sub(count)?;
        histogram.push((u16::try_from(bin).ok()?, count));
    }
    (left == 0).then_some(histogram)
}

fn put_number(mut n: u64, out: &mut Vec<u8>) {
    while n >= 128 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(byte & 127).checked_shl(shift)?;
        if byte < 128 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_comes_back_and_one_that_is_cut_short_does_not() {
        let histogram = vec![(0, 5), (1, 1 << 40), (65535, 127)];
        let elements = (1 << 40) + 132;
        let bytes = put(&histogram);
        assert_eq!(parse(&bytes, elements), Some(histogram));
        assert_eq!(parse(&bytes, elements + 1), None);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end], elements), None);
        }
    }
}
