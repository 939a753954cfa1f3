//! The sums behind saliency (arXiv 2506.09093, eq. 5), over one block of elements, in `f64`.

use super::products::{LANES, STRIP, Strip, tree, widen};
use super::simd;
use pulp::{Arch, Simd, WithSimd};

/// Models whose strips and lanes are held at once.
const GROUP: usize = 8;

/// For each model `k`: the sum over elements of `abs(K * x_k - sum_j x_j)`, that is `K` times the absolute deviation from
/// the mean. `x_k` may be weights: the base cancels. `sums` has one place per model, at most 4096 of them.
///
/// Multiplying by `K` instead of dividing the sum by it is exact (an `f32` times a small integer fits an `f64`), so
/// elements that are equal in all models give exactly 0.
pub fn deviations(x: &[Vec<f32>], sums: &mut [f64]) {
    assert_eq!(x.len(), sums.len());
    Arch::new().dispatch(Deviations { x, sums });
}

/// A strip of all models is widened and summed, then each model is compared with the sum.
struct Deviations<'a> {
    x: &'a [Vec<f32>],
    sums: &'a mut [f64],
}

impl WithSimd for Deviations<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, sums } = self;
        let models = simd.splat_f64s(x.len() as f64);
        let elements = x.first().map_or(0, Vec::len);
        let mut wide = [[0.0; STRIP]; GROUP + 1];
        for (group, sums) in sums.chunks_mut(GROUP).enumerate() {
            let mut lanes = [[0.0; LANES]; GROUP];
            for start in (0..elements).step_by(STRIP) {
                let strip = start..elements.min(start + STRIP);
                let mut minus_total = [0.0; STRIP];
                for (k, x) in x.iter().enumerate() {
                    // Models of other groups only count in the sum.
                    let place = if k / GROUP == group { k % GROUP } else { GROUP };
                    widen(&x[strip.clone()], &mut wide[place]);
                    minus_total.iter_mut().zip(&wide[place]).for_each(|(t, w)| *t -= w);
                }
                let mine = wide.iter().zip(&mut lanes).take(sums.len());
                mine.for_each(|(wide, lanes)| deviate(simd, models, wide, &minus_total, lanes));
            }
            sums.iter_mut().zip(&lanes).for_each(|(sum, lanes)| *sum = tree(lanes));
        }
    }
}

/// `lanes += abs(models * wide - total)`. The products are exact, so that it does not matter whether they are fused.
#[inline(always)]
fn deviate<S: Simd>(simd: S, models: S::f64s, wide: &Strip, minus_total: &Strip, lanes: &mut [f64; LANES]) {
    let (lanes, _) = S::as_mut_simd_f64s(lanes);
    let ((wide, _), (minus_total, _)) = (S::as_simd_f64s(wide), S::as_simd_f64s(minus_total));
    let vectors = lanes.len();
    for (first, lane) in lanes.iter_mut().enumerate() {
        for i in (first..wide.len()).step_by(vectors) {
            let deviation = simd.mul_add_e_f64s(models, wide[i], minus_total[i]);
            *lane = simd.add_f64s(*lane, simd.abs_f64s(deviation));
        }
    }
}

/// The sum over elements of `abs(x)`.
pub fn magnitudes(x: &[f32]) -> f64 {
    simd(
        #[inline(always)]
        || {
            let mut lanes = [0.0; LANES];
            let (x8, x1) = x.as_chunks::<LANES>();
            for x in x8 {
                for i in 0..LANES {
                    lanes[i] += f64::from(x[i].abs());
                }
            }
            for (i, &x) in x1.iter().enumerate() {
                lanes[i] += f64::from(x.abs());
            }
            tree(&lanes)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::InstructionSet;
    use super::*;

    #[test]
    fn deviations_of_the_paper_s_definition_by_hand() {
        // Tensor e of methods.md G1: K times 7/9, 7/9 and 10/9 of 3 elements.
        let x = [vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 4.0]];
        let mut sums = [0.0; 3];
        deviations(&x, &mut sums);
        assert_eq!(sums, [7.0, 7.0, 10.0]);
    }

    #[test]
    fn elements_equal_in_all_models_deviate_by_exactly_zero() {
        let x = vec![vec![0.1f32, -3.3e-38, 1.7e38, f32::MIN_POSITIVE]; 19];
        let mut sums = [1.0; 19];
        deviations(&x, &mut sums);
        assert_eq!(sums, [0.0; 19]);
    }

    #[test]
    fn a_common_offset_cancels_where_it_is_exact() {
        let tau = |k: usize| (0..1000).map(move |i| ((i * 7 + k * 13) % 32) as f32 / 1024.0);
        let taus: Vec<Vec<f32>> = (0..5).map(|k| tau(k).collect()).collect();
        let thetas: Vec<Vec<f32>> = taus.iter().map(|t| t.iter().map(|x| x + 8.0).collect()).collect();
        let (mut a, mut b) = ([0.0; 5], [0.0; 5]);
        deviations(&taus, &mut a);
        deviations(&thetas, &mut b);
        assert_eq!(a, b);
    }

    /// What the documents say, element by element: lanes by place, each step rounded by itself.
    fn by_lanes(x: &[Vec<f32>], k: usize) -> f64 {
        let mut lanes = [0.0; LANES];
        for i in 0..x[0].len() {
            let total = x.iter().fold(0.0, |t, x| t + f64::from(x[i]));
            lanes[i % LANES] += (x.len() as f64 * f64::from(x[k][i]) - total).abs();
        }
        tree(&lanes)
    }

    #[test]
    fn deviations_are_the_same_bits_lane_by_lane_on_every_instruction_set_for_any_number_of_models() {
        for (models, elements) in [(1, 9), (2, 2048), (3, 257), (5, 64), (8, 0), (8, 200), (9, 130), (17, 65)] {
            let value = |i: usize| ((i * 2_654_435_761) as u32 as f32 / 4e9 - 0.5) * 0.3;
            let x: Vec<Vec<f32>> = (0..models).map(|k| (0..elements).map(|i| value(i * 19 + k)).collect()).collect();
            for set in InstructionSet::all() {
                let mut sums = vec![1.0; models];
                set.run(Deviations { x: &x, sums: &mut sums });
                for (k, sum) in sums.iter().enumerate() {
                    assert_eq!(
                        sum.to_bits(),
                        by_lanes(&x, k).to_bits(),
                        "{set:?}, {k} of {models}, {elements} elements"
                    );
                }
            }
        }
    }

    #[test]
    fn magnitudes_are_added_without_their_signs() {
        let x: Vec<f32> = (0..11).map(|i| if i % 2 == 0 { 0.5 } else { -0.25 }).collect();
        assert_eq!(magnitudes(&x), 6.0 * 0.5 + 5.0 * 0.25);
    }
}
