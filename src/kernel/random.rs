//! Draws that depend on a key and a counter alone, so that threads and tiles cannot change them.

use super::simd;

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of element `index` under `key`: 53 bits, uniform (the finaliser of splitmix64).
#[inline(always)]
pub fn draw(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_add(1).wrapping_mul(STEP));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) >> 11
}

/// Draws below this number come with this probability.
#[inline(always)]
fn limit(probability: f64) -> u64 {
    (probability * 2f64.powi(53)).ceil() as u64
}

/// `x[i]` stays with `probability`, else it becomes 0. `x[0]` is element `first` of its tensor.
pub fn keep_at_random(key: u64, first: u64, probability: f64, x: &mut [f32]) {
    let limit = limit(probability);
    simd(
        #[inline(always)]
        || {
            for (i, x) in x.iter_mut().enumerate() {
                *x = if draw(key, first + i as u64) < limit { *x } else { 0.0 };
            }
        },
    );
}

/// `x[i]` stays with `probability[i]`, else it becomes 0.
pub fn keep_each_at_random(key: u64, first: u64, probability: &[f64], x: &mut [f32]) {
    assert_eq!(probability.len(), x.len());
    for (i, (x, &p)) in x.iter_mut().zip(probability).enumerate() {
        *x = if draw(key, first + i as u64) < limit(p) { *x } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_the_finaliser_of_splitmix64_over_a_counter() {
        // The first three numbers of the reference generator for seed 1234567, without their lowest 11 bits.
        let reference = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([0, 1, 2].map(|i| draw(1_234_567, i)), reference.map(|z: u64| z >> 11));
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
