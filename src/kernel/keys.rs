//! Numbers as unsigned keys of the same order, for counting digits.

use super::simd;

/// The key of a magnitude: the sign is dropped, 0 has the smallest key. NaN ranks above infinity.
#[inline(always)]
pub fn magnitude_key(x: f32) -> u32 {
    x.to_bits() << 1
}

/// The magnitude that has this key.
pub fn magnitude_of_key(key: u32) -> f32 {
    f32::from_bits(key >> 1)
}

/// The key of a number with its sign; both zeros have the same.
#[inline(always)]
pub fn signed_key(x: f32) -> u32 {
    let bits = if x == 0.0 { 0 } else { x.to_bits() };
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// The number that has this key.
pub fn number_of_key(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// Keys that are looked at together.
const CHUNK: usize = 32;

/// Counts the keys whose upper digit is `bucket` and whose lower digit is 0. Calls `f` with the lower digit of the others in
/// that bucket: quick where they are few.
#[inline(always)]
pub fn count_in_bucket(keys: &[u32], bucket: u32, mut f: impl FnMut(u16)) -> u64 {
    simd(
        #[inline(always)]
        || {
            let (chunks, rest) = keys.as_chunks::<CHUNK>();
            let mut zeros = [0u32; CHUNK];
            for keys in chunks {
                let mut others = 0;
                for i in 0..CHUNK {
                    zeros[i] += u32::from(keys[i] == bucket << 16);
                    others |= u32::from(keys[i] >> 16 == bucket) & u32::from(keys[i] & 0xffff != 0);
                }
                if others != 0 {
                    for key in keys {
                        if is_other(*key, bucket) {
                            f(*key as u16);
                        }
                    }
                }
            }
            for key in rest {
                zeros[0] += u32::from(*key == bucket << 16);
                if is_other(*key, bucket) {
                    f(*key as u16);
                }
            }
            zeros.iter().map(|&n| u64::from(n)).sum()
        },
    )
}

#[inline(always)]
fn is_other(key: u32, bucket: u32) -> bool {
    key >> 16 == bucket && key & 0xffff != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_bucket_are_found_wherever_they_lie() {
        let of_bucket = |i: u32| if i.is_multiple_of(2) { 5 << 16 } else { 5 << 16 | i };
        let keys: Vec<u32> =
            (0..77).map(|i| if [3, 30, 31, 32, 70, 75].contains(&i) { of_bucket(i) } else { i << 20 }).collect();
        let mut found = Vec::new();
        assert_eq!(count_in_bucket(&keys, 5, |digit| found.push(digit)), 3);
        assert_eq!(found, [3, 31, 75]);
    }

    #[test]
    fn keys_order_as_numbers_do_and_lead_back() {
        let sorted = [f32::NEG_INFINITY, -2.0, -1.5, -f32::MIN_POSITIVE, 0.0, 1e-45, 1.0, f32::MAX, f32::INFINITY];
        for pair in sorted.windows(2) {
            assert!(signed_key(pair[0]) < signed_key(pair[1]), "{pair:?}");
            assert_eq!(pair[0].abs() < pair[1].abs(), magnitude_key(pair[0]) < magnitude_key(pair[1]));
        }
        for x in sorted {
            assert_eq!((number_of_key(signed_key(x)), magnitude_of_key(magnitude_key(x))), (x, x.abs()));
        }
        assert_eq!(signed_key(-0.0), signed_key(0.0));
    }
}
