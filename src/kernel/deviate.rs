//! The sums behind saliency (arXiv 2506.09093, eq. 5), over one block of elements, in `f64`.

use super::simd;

/// Partial sums of a block: element `i` goes to lane `i % LANES`, the lanes are added as a fixed tree.
const LANES: usize = 8;

/// Elements whose sum over models is held at once.
const STRIP: usize = 256;

/// For each model `k`: the sum over elements of `abs(K * x_k - sum_j x_j)`, that is `K` times the absolute deviation from
/// the mean. `x_k` may be weights: the base cancels. `sums` has one place per model, at most 4096 of them.
///
/// Multiplying by `K` instead of dividing the sum by it is exact (an `f32` times a small integer fits an `f64`), so
/// elements that are equal in all models give exactly 0.
pub fn deviations(x: &[Vec<f32>], sums: &mut [f64]) {
    assert_eq!(x.len(), sums.len());
    simd(
        #[inline(always)]
        || {
            let models = x.len() as f64;
            let elements = x.first().map_or(0, Vec::len);
            sums.fill(0.0);
            let mut lanes = [[0.0; LANES]; 16];
            for group in 0..x.len().div_ceil(16) {
                let mine = group * 16..x.len().min(group * 16 + 16);
                lanes.fill([0.0; LANES]);
                for start in (0..elements).step_by(STRIP) {
                    let end = elements.min(start + STRIP);
                    let mut total = [0.0; STRIP];
                    for x in x {
                        add(&x[start..end], &mut total);
                    }
                    for (k, lanes) in mine.clone().zip(&mut lanes) {
                        deviate(models, &x[k][start..end], &total, lanes);
                    }
                }
                for (k, lanes) in mine.zip(&lanes) {
                    sums[k] = tree(lanes);
                }
            }
        },
    );
}

#[inline(always)]
fn add(x: &[f32], total: &mut [f64; STRIP]) {
    for (t, &x) in total.iter_mut().zip(x) {
        *t += f64::from(x);
    }
}

#[inline(always)]
fn deviate(models: f64, x: &[f32], total: &[f64; STRIP], lanes: &mut [f64; LANES]) {
    let mut local = *lanes;
    let (x8, x1) = x.as_chunks::<LANES>();
    let (t8, _) = total.as_chunks::<LANES>();
    for (x, t) in x8.iter().zip(t8) {
        for i in 0..LANES {
            local[i] += (models * f64::from(x[i]) - t[i]).abs();
        }
    }
    for (i, &x) in x1.iter().enumerate() {
        local[i] += (models * f64::from(x) - total[x8.len() * LANES + i]).abs();
    }
    *lanes = local;
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

fn tree(l: &[f64; LANES]) -> f64 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn magnitudes_are_added_without_their_signs() {
        let x: Vec<f32> = (0..11).map(|i| if i % 2 == 0 { 0.5 } else { -0.25 }).collect();
        assert_eq!(magnitudes(&x), 6.0 * 0.5 + 5.0 * 0.25);
    }
}
