//! The steps of TIES: trim by magnitude, elect a sign, take what agrees.

use super::simd;

/// `x[i] = 0` where `abs(x[i]) < threshold`.
pub fn trim(threshold: f32, x: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for x in x.iter_mut() {
                *x = if x.abs() < threshold { 0.0 } else { *x };
            }
        },
    );
}

/// `x[i] = 0` unless `abs(x[i]) > threshold`, or it is one of the first `equals` values of that magnitude.
pub fn keep_above(threshold: f32, equals: usize, x: &mut [f32]) {
    match equals {
        usize::MAX => trim(threshold, x),
        0 => simd(
            #[inline(always)]
            || {
                for x in x.iter_mut() {
                    *x = if x.abs() > threshold { *x } else { 0.0 };
                }
            },
        ),
        _ => {
            let mut room = equals;
            for x in x {
                let equal = x.abs() == threshold && room > 0;
                room -= usize::from(equal);
                *x = if equal || x.abs() > threshold { *x } else { 0.0 };
            }
        }
    }
}

/// `sign[i]` = sign of `sum_k x_k[i]`: -1, 0 or 1. The sum runs over models in order.
pub fn elect_sum(x: &[Vec<f32>], sign: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            sign.fill(0.0);
            for x in x {
                for (s, &x) in sign.iter_mut().zip(x) {
                    *s += x;
                }
            }
            for s in sign.iter_mut() {
                *s = if *s > 0.0 {
                    1.0
                } else if *s < 0.0 {
                    -1.0
                } else {
                    0.0
                };
            }
        },
    );
}

/// Where `x[i]` is not zero and agrees with `sign[i]` (a sign that is not positive counts as negative):
/// `acc[i] += weight * x[i]` and `count[i] += 1`.
pub fn select_sum(weight: f32, x: &[f32], sign: &[f32], acc: &mut [f32], count: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for (((a, c), &x), &s) in acc.iter_mut().zip(count.iter_mut()).zip(x).zip(sign) {
                let agrees = if s > 0.0 { x > 0.0 } else { x < 0.0 };
                *a += if agrees { weight * x } else { 0.0 };
                *c += if agrees { 1.0 } else { 0.0 };
            }
        },
    );
}

/// Where `x[i]` is not zero and agrees with `sign[i]`: `acc[i] += x[i]` and `divisor[i] += weight`.
pub fn select_weighted(weight: f32, x: &[f32], sign: &[f32], acc: &mut [f32], divisor: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for (((a, d), &x), &s) in acc.iter_mut().zip(divisor.iter_mut()).zip(x).zip(sign) {
                let agrees = if s > 0.0 { x > 0.0 } else { x < 0.0 };
                *a += if agrees { x } else { 0.0 };
                *d += if agrees { weight } else { 0.0 };
            }
        },
    );
}

/// As [`select_sum`], but `acc[i]` becomes the selected value of the largest magnitude.
pub fn select_max(weight: f32, x: &[f32], sign: &[f32], acc: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for ((a, &x), &s) in acc.iter_mut().zip(x).zip(sign) {
                let agrees = if s > 0.0 { x > 0.0 } else { x < 0.0 };
                let value = weight * x;
                *a = if agrees && value.abs() > a.abs() { value } else { *a };
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_agreeing_values_are_summed_and_counted() {
        let x = [vec![2.0, -1.0, 0.0, 4.0], vec![-1.0, -1.0, 3.0, -4.0]];
        let (mut sign, mut acc, mut count) = ([9.0; 4], [0.0; 4], [0.0; 4]);
        elect_sum(&x, &mut sign);
        assert_eq!(sign, [1.0, -1.0, 1.0, 0.0]);
        x.iter().for_each(|x| select_sum(1.0, x, &sign, &mut acc, &mut count));
        assert_eq!((acc, count), ([2.0, -2.0, 3.0, -4.0], [1.0, 2.0, 1.0, 1.0]));
    }

    #[test]
    fn of_equal_values_as_many_stay_as_there_is_room_for() {
        for (room, want) in
            [(0, [0.0, 0.0, 0.0, 0.5]), (1, [0.25, 0.0, 0.0, 0.5]), (usize::MAX, [0.25, -0.25, 0.0, 0.5])]
        {
            let mut x = [0.25, -0.25, 0.125, 0.5];
            keep_above(0.25, room, &mut x);
            assert_eq!(x, want);
        }
    }

    #[test]
    fn values_at_the_threshold_stay() {
        let mut x = [0.5, -0.25, 0.25, -0.2499];
        trim(0.25, &mut x);
        assert_eq!(x, [0.5, -0.25, 0.25, 0.0]);
    }
}
