//! Draws that depend on a key and a counter alone, so that threads and tiles cannot change them.
//!
//! Elements 2 j and 2 j + 1 of a tensor share 64 bits, the finaliser of splitmix64 over j: the lower half is the number of
//! the even one. A value stays with probability p where its number is below p 2^32.

use super::simd;

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Numbers that are drawn together; even.
const STRIP: usize = 256;

/// The numbers of elements `2 pair` and `2 pair + 1` under `key`, uniform, the first one in the lower half.
#[inline(always)]
fn draw_two(key: u64, pair: u64) -> u64 {
    let mut z = key.wrapping_add(pair.wrapping_add(1).wrapping_mul(STEP));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The number of element `index` under `key`.
#[inline(always)]
fn draw(key: u64, index: u64) -> u32 {
    (draw_two(key, index / 2) >> (index % 2 * 32)) as u32
}

/// What numbers must lie below to come with this probability.
#[inline(always)]
fn limit(probability: f64) -> f64 {
    probability * 2f64.powi(32)
}

/// The numbers of the elements from `first` on.
#[inline(always)]
fn draw_each(key: u64, first: u64, numbers: &mut [u32]) {
    let odd = (first % 2) as usize;
    let (head, rest) = numbers.split_at_mut(odd.min(numbers.len()));
    head.iter_mut().for_each(|n| *n = draw(key, first));
    let first_pair = first.div_ceil(2);
    let (pairs, last) = rest.as_chunks_mut::<2>();
    for (j, pair) in pairs.iter_mut().enumerate() {
        let two = draw_two(key, first_pair + j as u64);
        *pair = [two as u32, (two >> 32) as u32];
    }
    let end = first_pair + pairs.len() as u64;
    last.iter_mut().for_each(|n| *n = draw(key, 2 * end));
}

/// `x[i]` stays with `probability`, else it becomes 0. `x[0]` is element `first` of its tensor.
pub fn keep_at_random(key: u64, first: u64, probability: f64, x: &mut [f32]) {
    // The largest number that is kept; numbers are whole.
    let last = limit(probability).ceil() - 1.0;
    if last < 0.0 {
        return x.fill(0.0);
    }
    let last = last as u32;
    let mut numbers = [0; STRIP];
    simd(
        #[inline(always)]
        || {
            for (i, x) in x.chunks_mut(STRIP).enumerate() {
                let numbers = &mut numbers[..x.len()];
                draw_each(key, first + (i * STRIP) as u64, numbers);
                for (x, &number) in x.iter_mut().zip(&*numbers) {
                    *x = if number <= last { *x } else { 0.0 };
                }
            }
        },
    );
}

/// `x[i]` stays with `probability[i]`, else it becomes 0.
pub fn keep_each_at_random(key: u64, first: u64, probability: &[f64], x: &mut [f32]) {
    assert_eq!(probability.len(), x.len());
    let mut numbers = vec![0; x.len()];
    draw_each(key, first, &mut numbers);
    for ((x, &number), &p) in x.iter_mut().zip(&numbers).zip(probability) {
        *x = if f64::from(number) < limit(p) { *x } else { 0.0 };
    }
}

/// Bins of a row's magnitudes: 128 for each power of two, up to the row's largest; smaller ones are in the first.
const BINS: usize = 1024;

/// Bits of a magnitude that its bin does not tell.
const BIN_SHIFT: u32 = 16;

/// How far a rank that is found by multiplying may be off, and more: up to [`NEEDED_MOST`] the roundings of `f32` add up to less
/// than 1, and the cut to a whole number to less than another.
const MARGIN: i32 = 3;

/// Needed ranks are found by multiplying if they lie below this.
const NEEDED_MOST: f64 = (1 << 20) as f64;

/// Values whose ranks are found one by one; with more of them the row is sorted.
const UNSURE: usize = 48;

/// A row of values: each stays with a probability that rises with the rank of its magnitude, from `density - epsilon` for the
/// smallest to `density + epsilon` for the largest (of equal ones the first is the smaller), else it becomes 0.
///
/// Its number tells what rank a value needs, a count of magnitudes in bins what rank it has at least and at most. Only where
/// that does not decide is the rank itself found.
pub fn keep_by_rank(key: u64, first: u64, density: f64, epsilon: f64, x: &mut [f32]) {
    if x.len() < 2 || epsilon == 0.0 {
        return keep_at_random(key, first, density, x);
    }
    let last = (x.len() - 1) as f64;
    let chance = |rank: usize| (density - epsilon) + 2.0 * epsilon * rank as f64 / last;
    let most = last / (2.0 * epsilon);
    if most > NEEDED_MOST {
        let probability: Vec<f64> = ranks(x).into_iter().map(chance).collect();
        return keep_each_at_random(key, first, &probability, x);
    }
    let (slope, offset) = ((most / limit(1.0)) as f32, (most * (density - epsilon)) as f32);
    let mut numbers = vec![0u32; x.len()];
    let mut needed = vec![0i32; x.len()];
    let (mut kept, mut unsure) = (x.to_vec(), vec![0u32; x.len()]);
    let count = simd(
        #[inline(always)]
        || {
            draw_each(key, first, &mut numbers);
            for (rank, &number) in needed.iter_mut().zip(&numbers) {
                *rank = (number as f32 * slope - offset) as i32;
            }
            Bins::of(x).judge(&needed, &mut kept, &mut unsure)
        },
    );
    unsure.truncate(count);
    let sorted = (unsure.len() > UNSURE).then(|| ranks(x));
    for i in unsure.into_iter().map(|i| i as usize) {
        let rank = sorted.as_ref().map_or_else(|| rank(x, i), |ranks| ranks[i]);
        kept[i] = if f64::from(numbers[i]) < limit(chance(rank)) { x[i] } else { 0.0 };
    }
    x.copy_from_slice(&kept);
}

/// The ranks that values of a row can have, by bins.
struct Bins {
    /// The bin of the largest magnitude, counted from the smallest.
    top: u32,
    /// The lowest rank of the bin's next value.
    low: [i32; BINS],
    /// How far its rank may lie above that.
    spread: [i32; BINS],
    /// 1 where all magnitudes of the bin are equal, so that ranks go by place; else 0.
    step: [i32; BINS],
}

impl Bins {
    #[inline(always)]
    fn of(x: &[f32]) -> Self {
        let top = x.iter().fold(0, |m, v| m.max(magnitude(*v))) >> BIN_SHIFT;
        let mut bins = Self { top, low: [0; BINS], spread: [0; BINS], step: [1; BINS] };
        let mut seen = [u32::MAX; BINS];
        for v in x {
            let (bin, own) = (bins.bin(*v), magnitude(*v));
            bins.spread[bin] += 1;
            bins.step[bin] &= i32::from(own == seen[bin] || seen[bin] == u32::MAX);
            seen[bin] = own;
        }
        let mut below = 0;
        for bin in 0..BINS {
            bins.low[bin] = below;
            below += bins.spread[bin];
            bins.spread[bin] = (1 - bins.step[bin]) * (bins.spread[bin] - 1);
        }
        bins
    }

    #[inline(always)]
    fn bin(&self, v: f32) -> usize {
        (BINS - 1).saturating_sub((self.top - (magnitude(v) >> BIN_SHIFT)) as usize)
    }

    /// Drops values of too low a rank. Lists those whose rank is not known well enough, and returns how many there are.
    #[inline(always)]
    fn judge(&mut self, needed: &[i32], x: &mut [f32], unsure: &mut [u32]) -> usize {
        let mut count = 0;
        for ((i, v), &needed) in (0..).zip(x).zip(needed) {
            let bin = self.bin(*v);
            let low = self.low[bin];
            self.low[bin] += self.step[bin];
            // No branches: they would go either way half of the time.
            unsure[count] = i;
            let near = [low < needed + MARGIN, low + self.spread[bin] > needed - MARGIN, magnitude(*v) != 0];
            count += near.iter().fold(1, |all, near| all & usize::from(*near));
            *v = f32::from_bits(v.to_bits() & 0u32.wrapping_sub(u32::from(low > needed)));
        }
        count
    }
}

/// The magnitude as a number of the same order.
#[inline(always)]
fn magnitude(v: f32) -> u32 {
    v.to_bits() & 0x7fff_ffff
}

/// The rank of one value of a row.
fn rank(x: &[f32], at: usize) -> usize {
    let own = magnitude(x[at]);
    simd(
        #[inline(always)]
        || {
            let before = x[..at].iter().map(|v| u32::from(magnitude(*v) <= own)).sum::<u32>();
            let after = x[at + 1..].iter().map(|v| u32::from(magnitude(*v) < own)).sum::<u32>();
            (before + after) as usize
        },
    )
}

/// The ranks of all values of a row.
fn ranks(x: &[f32]) -> Vec<usize> {
    let mut order: Vec<u64> = x.iter().zip(0..).map(|(v, i)| u64::from(magnitude(*v)) << 32 | i).collect();
    order.sort_unstable();
    let mut ranks = vec![0; x.len()];
    order.iter().enumerate().for_each(|(rank, &entry)| ranks[entry as u32 as usize] = rank);
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_the_finaliser_of_splitmix64_over_pairs_of_elements() {
        // The first three numbers of the reference generator for seed 1234567.
        let reference: [u64; 3] = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        let halves = reference.map(|z| [z as u32, (z >> 32) as u32]).concat();
        assert_eq!((0..6).map(|i| draw(1_234_567, i)).collect::<Vec<_>>(), halves);
        for (first, end) in [(0, 6), (1, 6), (1, 5), (2, 5), (3, 3), (3, 4)] {
            let mut numbers = vec![0; end - first];
            draw_each(1_234_567, first as u64, &mut numbers);
            assert_eq!(numbers, halves[first..end]);
        }
    }

    #[test]
    fn ranks_are_found_by_bins_as_by_sorting() {
        let spread = |i: usize| ((i * 7919) % 1009) as f32 * if i.is_multiple_of(2) { 1e-3 } else { -2e-3 };
        let few = |i: usize| [0.0, 0.5, -0.5, 1e-9][i % 4];
        let wide = |i: usize| (i as f32 * 0.37 - 90.0).exp2();
        for value in [&spread as &dyn Fn(usize) -> f32, &few, &wide] {
            for (density, epsilon) in
                [(0.5, 0.1), (0.5, 0.49), (0.03, 0.01), (0.9, 0.05), (0.5, 0.0006), (0.5, 1e-5), (0.5, 1e-12)]
            {
                for row in [2, 3, 77, 1000, 20_000] {
                    let x: Vec<f32> = (0..row).map(value).collect();
                    let chance = |rank: usize| (density - epsilon) + 2.0 * epsilon * rank as f64 / (row - 1) as f64;
                    let ranks = ranks(&x);
                    let probability: Vec<f64> = ranks.iter().map(|&rank| chance(rank)).collect();
                    let (mut got, mut want) = (x.clone(), x.clone());
                    keep_by_rank(9, 31, density, epsilon, &mut got);
                    keep_each_at_random(9, 31, &probability, &mut want);
                    assert_eq!(got, want, "{density} {epsilon} {row}");
                    let some = (0..row).step_by(1 + row / 1000);
                    some.for_each(|i| assert_eq!(rank(&x, i), ranks[i]));
                }
            }
        }
    }

    #[test]
    fn probability_one_keeps_all_zero_keeps_none_and_the_rest_its_share() {
        for (probability, low, high) in [(1.0, 100_000, 100_000), (0.0, 0, 0), (0.3, 29_500, 30_500)] {
            let mut x = vec![1.0; 100_000];
            keep_at_random(7, 5, probability, &mut x);
            let kept = x.iter().filter(|&&x| x == 1.0).count();
            assert!((low..=high).contains(&kept), "{probability}: {kept}");
            let mut same = vec![1.0; 100_000];
            keep_each_at_random(7, 5, &vec![probability; 100_000], &mut same);
            assert_eq!(x, same);
        }
    }
}
