//! Tables that count the upper or lower 16 bits of keys.

pub(super) const DIGITS: usize = 1 << 16;

/// Places for digit 0 besides its own, one per lane: many task vectors are mostly zeros, and adding to one place again and
/// again waits for memory.
const SPARE: usize = 8;

/// The counts of one ranking: digits, then the spare places.
pub(super) const TABLE: usize = DIGITS + SPARE;

/// Counts upper digits.
pub(super) fn count_digits(keys: &[u32], counts: &mut [u64; TABLE]) {
    let (chunks, rest) = keys.as_chunks::<SPARE>();
    for keys in chunks {
        for (lane, key) in keys.iter().enumerate() {
            let digit = (key >> 16) as usize;
            counts[if digit == 0 { DIGITS + lane } else { digit }] += 1;
        }
    }
    for key in rest {
        counts[(key >> 16) as usize] += 1;
    }
}

/// Adds what lies in the spare places to digit 0.
pub(super) fn gather_spare(counts: &mut [u64]) {
    let (digits, spare) = counts.split_at_mut(DIGITS);
    digits[0] += spare.iter_mut().map(std::mem::take).sum::<u64>();
}

/// The digit of the `count`-th largest, how many values lie above it, and how many have it.
pub(super) fn locate(counts: &[u64], count: u64) -> (u32, u64, u64) {
    let mut above = 0;
    for (digit, &n) in counts.iter().enumerate().rev() {
        if above + n >= count {
            return (digit as u32, above, n);
        }
        above += n;
    }
    panic!("{above} values were counted, the {count}-th largest was asked for")
}

pub(super) fn table_bytes() -> usize {
    TABLE * size_of::<u64>()
}
