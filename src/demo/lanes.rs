//! The arithmetic of the forward pass on 32 images side by side: each value is a [`Lanes`], each weight a scalar.
//!
//! A lane never meets another one, so an image's result does not depend on its neighbours. Every multiply and add is
//! rounded by itself, in the order written: the same bits on every CPU, whatever vectors `pulp` finds there.

#![expect(clippy::inline_always, reason = "what `pulp` compiles for an instruction set is what is inlined there")]

use pulp::Arch;

/// Images computed together: four AVX2 registers, so that four sums are under way at once.
pub const LANES: usize = 32;

/// One value of each image.
pub type Lanes = [f32; LANES];

const ZERO: Lanes = [0.0; LANES];

/// Runs `body`, a loop to be compiled for the widest vectors of this CPU.
///
/// A body is `inline(always)` too, and folds nothing: what the compiler leaves outside, `pulp` calls from several
/// instruction sets, and it is compiled for none of them.
#[inline(always)]
fn simd<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(body)
}

/// `out[r] += sum over k of weight[r][k] * x[k]`, with `weight` row-major.
pub fn add_product(weight: &[f32], x: &[Lanes], out: &mut [Lanes]) {
    assert_eq!(weight.len(), x.len() * out.len());
    simd(
        #[inline(always)]
        || {
            for (out, row) in out.iter_mut().zip(weight.chunks_exact(x.len())) {
                let mut sum = ZERO;
                for (w, x) in row.iter().zip(x) {
                    sum = zip(sum, x, |s, x| s + w * x);
                }
                *out = zip(*out, &sum, |o, s| o + s);
            }
        },
    );
}

/// `x[i] += bias[i]`.
pub fn add_bias(bias: &[f32], x: &mut [Lanes]) {
    assert_eq!(bias.len(), x.len());
    for (x, b) in x.iter_mut().zip(bias) {
        *x = map(*x, |x| x + b);
    }
}

/// `out = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias`.
pub fn layer_norm(weight: &[f32], bias: &[f32], epsilon: f32, x: &[Lanes], out: &mut [Lanes]) {
    assert!(weight.len() == x.len() && bias.len() == x.len() && out.len() == x.len());
    let count = x.len() as f32;
    simd(
        #[inline(always)]
        || {
            let (mut sum, mut squares) = (ZERO, ZERO);
            for x in x {
                sum = zip(sum, x, |s, x| s + x);
            }
            let mean = map(sum, |s| s / count);
            for (out, x) in out.iter_mut().zip(x) {
                *out = zip(*x, &mean, |x, m| x - m);
                squares = zip(squares, out, |s, o| s + o * o);
            }
            let deviation = map(squares, |s| (s / count + epsilon).sqrt());
            for ((out, w), b) in out.iter_mut().zip(weight).zip(bias) {
                *out = zip(*out, &deviation, |o, d| o / d * w + b);
            }
        },
    );
}

/// `x = x / (1 + exp(-1.702 x))`: the quick GELU.
pub fn quick_gelu(x: &mut [Lanes]) {
    simd(
        #[inline(always)]
        || {
            for x in x {
                *x = map(*x, |x| x / (1.0 + exp(-1.702 * x)));
            }
        },
    );
}

/// `out = softmax(scale * query . keys) . values`: one query of one attention head, for which `keys` and `values`
/// have `stride` values per token, of which the first `query.len()` are this head's.
/// `scores` has one entry per token and is overwritten.
pub fn attend(
    query: &[Lanes],
    keys: &[Lanes],
    values: &[Lanes],
    stride: usize,
    scores: &mut [Lanes],
    out: &mut [Lanes],
) {
    let scale = (query.len() as f32).sqrt().recip();
    simd(
        #[inline(always)]
        || {
            let mut most = [f32::NEG_INFINITY; LANES];
            for (score, key) in scores.iter_mut().zip(keys.chunks(stride)) {
                let dot =
                    query.iter().zip(key).fold(ZERO, |sum, (q, k)| zip(sum, &zip(*q, k, |q, k| q * k), |s, p| s + p));
                *score = map(dot, |dot| dot * scale);
                most = zip(most, score, f32::max);
            }
            let mut total = ZERO;
            for score in scores.iter_mut() {
                *score = zip(*score, &most, |s, m| exp(s - m));
                total = zip(total, score, |t, s| t + s);
            }
            out.fill(ZERO);
            for (score, value) in scores.iter().zip(values.chunks(stride)) {
                let share = zip(*score, &total, |s, t| s / t);
                for (out, v) in out.iter_mut().zip(value) {
                    *out = zip(*out, &zip(share, v, |s, v| s * v), |o, p| o + p);
                }
            }
        },
    );
}

/// `e^x` for x in [-87, 88], beyond which the nearer end counts; within 2 units in the last place.
///
/// `x = n ln 2 + r` with |r| <= ln 2 / 2; e^r by its series to r^7, 2^n by its bits. The library's `exp` is a call per
/// value, which no vector unit helps.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts: the first has so few bits that its product with n is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let series = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let e_to_r = series.iter().fold(0.0, |sum, c| sum * r + c);
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    e_to_r * two_to_n
}

/// `f(x)` in each lane. Lanes go in and out by value: so the compiler keeps them in registers.
#[inline(always)]
fn map(mut x: Lanes, f: impl Fn(f32) -> f32) -> Lanes {
    for x in &mut x {
        *x = f(*x);
    }
    x
}

/// `f(a, b)` in each lane.
#[inline(always)]
fn zip(mut a: Lanes, b: &Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    for l in 0..LANES {
        a[l] = f(a[l], b[l]);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_adds_one_sum_per_row() {
        let mut out = [[1.0; LANES]; 3];
        add_product(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], &[[10.0; LANES], [1.0; LANES]], &mut out);
        assert_eq!(out.map(|o| o[LANES - 1]), [2.0, 24.0, 46.0]);
    }

    #[test]
    fn a_layer_norm_has_mean_zero_and_variance_one() {
        let mut out = [[0.0; LANES]; 2];
        layer_norm(&[1.0, 2.0], &[0.0, 0.5], 0.0, &[[3.0; LANES], [5.0; LANES]], &mut out);
        assert_eq!(out.map(|o| o[0]), [-1.0, 2.5]);
    }

    #[test]
    fn attention_to_equal_keys_is_the_mean_of_the_values() {
        let values = [[1.0; LANES], [9.0; LANES], [3.0; LANES], [9.0; LANES]];
        let mut out = [[7.0; LANES]];
        attend(&[[0.5; LANES]], &[[1.0; LANES]; 4], &values, 2, &mut [[0.0; LANES]; 2], &mut out);
        assert_eq!(out, [[2.0; LANES]]);
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 2.0 * f64::from(f32::EPSILON), "exp({x})");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
