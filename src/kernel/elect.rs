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

/// `x[i] = 0` where `mask[i]` is not zero.
pub fn drop_where_set(mask: &[f32], x: &mut [f32]) {
    assert_eq!(mask.len(), x.len());
    simd(
        #[inline(always)]
        || {
            for (x, &m) in x.iter_mut().zip(mask) {
                *x = if m == 0.0 { *x } else { 0.0 };
            }
        },
    );
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

/// Where `x[i]` is not zero and agrees with `sign[i]` (a sign that is not positive counts as negative): `acc[i] += x[i]` and
/// `divisor[i] += weight`.
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

/// Elements that are looked at together.
const LANES: usize = 32;

/// What becomes of the values that have the elected sign.
#[derive(Clone, Copy, Debug)]
pub enum Agreed<'a> {
    /// Their sum.
    Sum,
    /// Their sum over the sum of these numbers of their models; 0 counts as 1.
    Mean(&'a [f32]),
    /// The one of the largest magnitude, the first of equals.
    Max,
}

/// The vote of TIES and what follows from it. The elected sign is that of `sum_k x_k[i]`, added in order; a sum of zero elects
/// plus if `zero_is_plus`, else minus. `acc[i]` becomes what `agreed` makes of `scales[k] * x_k[i]` for the `x_k[i]` of that sign.
pub fn elect(x: &[Vec<f32>], zero_is_plus: bool, scales: &[f32], agreed: Agreed<'_>, acc: &mut [f32]) {
    let shares = if let Agreed::Mean(shares) = agreed { shares } else { scales };
    let terms: Vec<(f32, f32)> = scales.iter().zip(shares).map(|(&scale, &share)| (scale, share)).collect();
    assert_eq!(x.len(), terms.len());
    match agreed {
        Agreed::Sum => simd(
            #[inline(always)]
            || in_chunks::<SUM>(x, zero_is_plus, &terms, acc),
        ),
        Agreed::Mean(_) => simd(
            #[inline(always)]
            || in_chunks::<MEAN>(x, zero_is_plus, &terms, acc),
        ),
        Agreed::Max => simd(
            #[inline(always)]
            || in_chunks::<MAX>(x, zero_is_plus, &terms, acc),
        ),
    }
}

// `Agreed` as constants, so that each loop is compiled by itself.
const SUM: u8 = 0;
const MEAN: u8 = 1;
const MAX: u8 = 2;

#[inline(always)]
fn in_chunks<const AGREED: u8>(x: &[Vec<f32>], zero_is_plus: bool, terms: &[(f32, f32)], acc: &mut [f32]) {
    let whole = acc.len() / LANES * LANES;
    let (body, tail) = acc.split_at_mut(whole);
    let chunks: Vec<&[[f32; LANES]]> = x.iter().map(|x| x[..whole].as_chunks().0).collect();
    for (i, acc) in body.as_chunks_mut().0.iter_mut().enumerate() {
        *acc = vote::<LANES, AGREED>(&chunks, i, zero_is_plus, terms);
    }
    let singles: Vec<&[[f32; 1]]> = x.iter().map(|x| x[whole..].as_chunks().0).collect();
    for (i, acc) in tail.iter_mut().enumerate() {
        [*acc] = vote::<1, AGREED>(&singles, i, zero_is_plus, terms);
    }
}

/// Conditions are masks of bits here: LLVM makes vectors of those, and not of branches.
#[inline(always)]
fn vote<const N: usize, const AGREED: u8>(
    rows: &[&[[f32; N]]],
    at: usize,
    zero_is_plus: bool,
    terms: &[(f32, f32)],
) -> [f32; N] {
    let mut votes = [0.0; N];
    for row in rows {
        let x = &row[at];
        for i in 0..N {
            votes[i] += x[i];
        }
    }
    // The sign bit where minus is elected: with all signs flipped there, what agrees is above zero.
    let mut flip = [0u32; N];
    for i in 0..N {
        let minus = if zero_is_plus { votes[i] < 0.0 } else { votes[i] <= 0.0 };
        flip[i] = u32::from(minus) << 31;
    }
    if AGREED == MAX {
        return largest(rows, at, terms, flip);
    }
    let (mut sum, mut divisor) = ([0f32; N], [0f32; N]);
    for (row, &(scale, share)) in rows.iter().zip(terms) {
        let x = &row[at];
        for i in 0..N {
            let agrees = mask(f32::from_bits(x[i].to_bits() ^ flip[i]) > 0.0);
            sum[i] += f32::from_bits((scale * x[i]).to_bits() & agrees);
            divisor[i] += f32::from_bits(share.to_bits() & agrees);
        }
    }
    if AGREED == MEAN {
        for i in 0..N {
            sum[i] /= if divisor[i] == 0.0 { 1.0 } else { divisor[i] };
        }
    }
    sum
}

#[inline(always)]
fn largest<const N: usize>(rows: &[&[[f32; N]]], at: usize, terms: &[(f32, f32)], flip: [u32; N]) -> [f32; N] {
    let mut largest = [0f32; N];
    for (row, &(scale, _)) in rows.iter().zip(terms) {
        let x = &row[at];
        for i in 0..N {
            let value = scale * x[i];
            let agrees = mask(f32::from_bits(x[i].to_bits() ^ flip[i]) > 0.0);
            let taken = agrees & mask(value.abs() > largest[i].abs());
            largest[i] = f32::from_bits(value.to_bits() & taken | largest[i].to_bits() & !taken);
        }
    }
    largest
}

#[inline(always)]
fn mask(condition: bool) -> u32 {
    0u32.wrapping_sub(u32::from(condition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_agreeing_values_are_summed_and_divided_by_their_shares() {
        let x = [vec![2.0, -1.0, 0.0, 4.0], vec![-1.0, -1.0, 3.0, -4.0]];
        let elected = |zero_is_plus, scales: [f32; 2], agreed| {
            let mut acc = [9.0; 4];
            elect(&x, zero_is_plus, &scales, agreed, &mut acc);
            acc
        };
        assert_eq!(elected(true, [1.0, 1.0], Agreed::Sum), [2.0, -2.0, 3.0, 4.0]);
        assert_eq!(elected(false, [1.0, 0.5], Agreed::Sum), [2.0, -1.5, 1.5, -2.0]);
        assert_eq!(elected(false, [1.0, 0.5], Agreed::Mean(&[0.5, 2.0])), [4.0, -0.6, 0.75, -1.0]);
        assert_eq!(elected(true, [1.0, 2.0], Agreed::Max), [2.0, -2.0, 6.0, 4.0]);
    }

    #[test]
    fn an_election_is_the_same_in_one_step_as_in_several() {
        for models in 1..6 {
            let value = |k: usize, i: usize| ((k * 131 + i * 37) % 7) as f32 * 0.3 - 0.9;
            let x: Vec<Vec<f32>> = (0..models).map(|k| (0..77).map(|i| value(k, i)).collect()).collect();
            let weights: Vec<f32> = (1..=models).map(|k| k as f32 * 0.7).collect();
            let (mut sign, mut want, mut divisor, mut got) = ([0.0; 77], [0.0; 77], [0.0; 77], [9.0; 77]);
            elect_sum(&x, &mut sign);
            x.iter().zip(&weights).for_each(|(x, &w)| select_weighted(w, x, &sign, &mut want, &mut divisor));
            want.iter_mut().zip(&divisor).for_each(|(o, &d)| *o /= if d == 0.0 { 1.0 } else { d });
            elect(&x, false, &vec![1.0; models], Agreed::Mean(&weights), &mut got);
            assert_eq!(got, want);
        }
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
