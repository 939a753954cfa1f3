//! How task vectors lie to each other: counts and the largest magnitude of one, signs of two.

use super::simd;

/// The elements of `x` that are not zero.
pub fn nonzero(x: &[f32]) -> u64 {
    simd(
        #[inline(always)]
        || x.iter().map(|v| u64::from(*v != 0.0)).sum(),
    )
}

/// The largest magnitude in `x`; 0 if there is none.
pub fn largest_magnitude(x: &[f32]) -> f32 {
    let bits = simd(
        #[inline(always)]
        || x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)),
    );
    f32::from_bits(bits)
}

/// Of the elements at which neither `x` nor `y` is zero: how many there are, and at how many both have one sign.
pub fn signs(x: &[f32], y: &[f32]) -> (u64, u64) {
    assert_eq!(x.len(), y.len());
    simd(
        #[inline(always)]
        || {
            let (mut both, mut same) = (0u32, 0u32);
            for (x, y) in x.iter().zip(y) {
                let meet = u32::from(*x != 0.0) & u32::from(*y != 0.0);
                both += meet;
                same += meet & u32::from((*x > 0.0) == (*y > 0.0));
            }
            (u64::from(both), u64::from(same))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_either_sign_are_no_change_and_meet_nothing() {
        let (x, y) = ([1.0, -0.0, -2.0, 0.0, 3.0], [2.0, 1.0, 5.0, -0.0, f32::MIN_POSITIVE]);
        assert_eq!((nonzero(&x), nonzero(&y)), (3, 4));
        assert_eq!(largest_magnitude(&x), 3.0);
        assert_eq!(signs(&x, &y), (3, 2));
        assert_eq!((nonzero(&[]), largest_magnitude(&[]), signs(&[], &[])), (0, 0.0, (0, 0)));
    }
}
