//! How S2 cuts a block into groups of exponents, and codes each: by the cost that histograms foretell.
//!
//! Only the encoder asks; the choice is stored. All sums are integers, so that it is the same on every CPU.

use super::order::Word;
use super::permutation::Starts;
use super::{Corrupt, Result};

/// How the symbols of a group are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// The distances between what is not 0.
    Gaps,
    /// Symbols of 1, 2, 4 or 8 bits.
    Bits(u32),
}

/// Elements whose base has an exponent after the group before, up to `last_key`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// The highest exponent of the group.
    pub last_key: u8,
    /// How symbols are stored.
    pub width: Width,
    /// Low bits that are stored as they are: a multiple of 4.
    pub shift: u32,
}

impl Group {
    /// Bytes of a stored group.
    pub const BYTES: usize = 2;

    pub fn store(self) -> [u8; Self::BYTES] {
        let code = match self.width {
            Width::Gaps => 0,
            Width::Bits(bits) => bits.ilog2() + 1,
        };
        [self.last_key, ((self.shift << 2) | code) as u8]
    }

    pub fn load<W: Word>([last_key, mode]: [u8; Self::BYTES]) -> Result<Self> {
        let width = match mode & 15 {
            0 => Width::Gaps,
            code @ 1..=4 => Width::Bits(1 << (code - 1)),
            _ => return Err(Corrupt("a group has an unknown width")),
        };
        let shift = u32::from(mode >> 4) * 4;
        if shift >= W::BITS {
            return Err(Corrupt("a group is shifted by more bits than there are"));
        }
        Ok(Self { last_key, width, shift })
    }
}

/// A range of exponents with fewer elements is not looked at by itself. A block has at most 170 such ranges, so that the
/// number of groups fits a byte.
const LEAST_ELEMENTS: usize = 768;
/// Ranges that are joined to one group at most.
const LONGEST: usize = 8;
/// Elements that are counted of a range, about.
const SAMPLE: usize = 2048;

/// Bytes that the choice of groups holds at most.
pub const RESIDENT_BYTES: usize = 256 << 10;

/// What time is worth, in [`ONE`]s.
#[derive(Clone, Copy)]
pub struct Prices {
    /// An element that no symbol of 4 bits holds.
    wide: u64,
}

impl Prices {
    /// Size alone counts.
    pub const SMALL: Self = Self { wide: 0 };
    /// Low bits are rather stored as they are.
    pub const FAST: Self = Self { wide: 160 };
}

/// One range of exponents: how its differences, shifted, are distributed.
struct Range {
    last_key: u8,
    shift: u32,
    counts: [u32; 256],
}

/// The groups that should cost least.
pub fn groups<W: Word>(prices: Prices, starts: &Starts, z: &[W]) -> Vec<Group> {
    let ranges = ranges(prices, starts, z);
    // best[i]: the least cost of the ranges before i, and the first range of the last group.
    let mut best = vec![(0u64, 0usize, Width::Gaps); ranges.len() + 1];
    for end in 1..=ranges.len() {
        best[end].0 = u64::MAX;
    }
    for first in 0..ranges.len() {
        let mut counts = [0; 256];
        for (end, range) in ranges.iter().enumerate().skip(first).take(LONGEST) {
            if range.shift != ranges[first].shift {
                break;
            }
            counts.iter_mut().zip(&range.counts).for_each(|(sum, c)| *sum += c);
            let (cost, width) = cheapest(&counts);
            if best[first].0 + cost < best[end + 1].0 {
                best[end + 1] = (best[first].0 + cost, first, width);
            }
        }
    }
    let mut groups = Vec::new();
    let mut end = ranges.len();
    while end > 0 {
        let (_, first, width) = best[end];
        groups.push(Group { last_key: ranges[end - 1].last_key, width, shift: ranges[first].shift });
        end = first;
    }
    groups.reverse();
    groups
}

/// Walks the exponents upwards; a range ends where it and the rest have enough elements.
fn ranges<W: Word>(prices: Prices, starts: &Starts, z: &[W]) -> Vec<Range> {
    let mut ranges = Vec::new();
    let mut first = 0;
    for key in 0..=u8::MAX {
        let end = starts.at(usize::from(key) + 1);
        let enough = end - first >= LEAST_ELEMENTS && z.len() - end >= LEAST_ELEMENTS;
        if enough || key == u8::MAX {
            ranges.push(range(prices, key, &z[first..end]));
            first = end;
        }
    }
    ranges
}

fn range<W: Word>(prices: Prices, last_key: u8, z: &[W]) -> Range {
    let step = (z.len() / SAMPLE).max(1);
    let shift = shift(prices, z);
    let mut counts = [0; 256];
    for &z in z.iter().step_by(step) {
        counts[usize::from((z >> shift).min(W::from(255)).low())] += step as u32;
    }
    Range { last_key, shift, counts }
}

/// The shift after which a symbol and its escapes cost least.
fn shift<W: Word>(prices: Prices, z: &[W]) -> u32 {
    let mut lengths = [0usize; 65];
    for &z in z.iter().step_by((z.len() / 1024).max(1)) {
        lengths[z.bit_length() as usize] += 1;
    }
    let all: usize = lengths.iter().sum();
    let mut best = (u64::MAX, 0);
    for shift in (0..W::BITS).step_by(4) {
        // Above the shift: entropy of the lengths and their free bits; escapes cost a symbol and whole bytes.
        let below: usize = lengths[..=shift as usize].iter().sum();
        let mut bits = all as u64 * u64::from(shift);
        let mut inner = log_sum(below);
        for (length, &count) in lengths.iter().enumerate().skip(shift as usize + 1) {
            let free = (length as u32 - shift - 1) as u64;
            let escape = if free >= 8 { 4 + free % 8 } else { 0 };
            bits += count as u64 * (free + escape);
            inner += log_sum(count);
        }
        let wide: usize = lengths.iter().skip(shift as usize + 5).sum();
        let cost = bits * ONE + log_sum(all).saturating_sub(inner) + wide as u64 * prices.wide;
        best = best.min((cost, shift));
    }
    best.1
}

/// One bit, in the unit of costs.
const ONE: u64 = 256;

/// `LOG[i]` = 256 log2(1 + i / 256), rounded down.
const LOG: [u16; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        // Eight fraction bits of the logarithm by squaring.
        let (mut x, mut bits, mut log) = ((256 + i as u64) << 22, 0, 0);
        while bits < 8 {
            x = (x * x) >> 30;
            log *= 2;
            if x >= 1 << 31 {
                x >>= 1;
                log += 1;
            }
            bits += 1;
        }
        table[i] = log;
        i += 1;
    }
    table
};

/// log2 of `x`, at least 1, in [`ONE`]s.
fn log2(x: u64) -> u64 {
    let whole = x.ilog2();
    let fraction = (x << (63 - whole) >> 55) & 0xff;
    u64::from(whole) * ONE + u64::from(LOG[fraction as usize])
}

/// x log2 x
fn log_sum(x: usize) -> u64 {
    let x = x as u64;
    if x == 0 { 0 } else { x * log2(x) }
}

/// The width that should cost least for these counts of symbols, and the cost.
fn cheapest(counts: &[u32; 256]) -> (u64, Width) {
    let n: u64 = counts.iter().map(|&c| u64::from(c)).sum();
    if n == 0 {
        return (0, Width::Gaps);
    }
    let inner: u64 = counts.iter().map(|&c| log_sum(c as usize)).sum();
    let entropy = log_sum(n as usize).saturating_sub(inner);
    let changed = n - u64::from(counts[0]);
    // The entropy is the same for all; what they lose is not.
    let gaps = if changed * 8 < n { changed * (ESCAPE_LOSS + GAP_LOSS) + GAP_TABLE * ONE } else { u64::MAX / 2 };
    [1, 2, 4, 8].into_iter().fold((entropy + gaps, Width::Gaps), |best, bits| {
        let cost = entropy + symbol_loss(counts, n, bits);
        if cost <= best.0 { (cost, Width::Bits(bits)) } else { best }
    })
}

/// What packed symbols of `bits` bits cost more than their entropy.
fn symbol_loss(counts: &[u32; 256], n: u64, bits: u32) -> u64 {
    let limit = (1usize << bits) - 1;
    let per_byte = u64::from(8 / bits);
    let escaped: u64 = counts[limit..].iter().map(|&c| u64::from(c)).sum();
    let distinct = counts.iter().filter(|&&c| c > 0).count().min(limit + 1) as u64;
    let table = 160 + 4 * distinct.pow(per_byte as u32).min(256);
    let whole_bits = n / per_byte * whole_bits_loss(u64::from(counts[0]), n, per_byte);
    whole_bits + escaped * ESCAPE_LOSS + table * ONE + n * u64::from(bits) * SPEED
}

/// What a gap costs more than its entropy.
const GAP_LOSS: u64 = 12;
/// Bits of the code that gaps need.
const GAP_TABLE: u64 = 800;
/// What an escape costs more than its entropy: it is coded among those of other groups, in whole bits.
const ESCAPE_LOSS: u64 = 80;

/// What a bit of a symbol costs for being coded at all.
const SPEED: u64 = 1;

/// What a Huffman code loses per byte of `per_byte` symbols where the byte 0 deserves less than a whole bit.
fn whole_bits_loss(zero: u64, n: u64, per_byte: u64) -> u64 {
    if zero == 0 {
        return 0;
    }
    let information = per_byte * (log2(n) - log2(zero));
    if information >= ONE {
        return 8;
    }
    // p = 2^-information by its first terms: p of the byte 0 in 1/65536.
    let mut p = 65536;
    for _ in 0..per_byte {
        p = p * zero / n;
    }
    let rest = 65536 - p;
    let of_rest = if rest == 0 { 0 } else { rest * (16 * ONE - log2(rest)) };
    let entropy = (p * information + of_rest) / 65536;
    ONE.saturating_sub(entropy)
}
