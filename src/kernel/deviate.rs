//! The sums behind saliency (arXiv 2506.09093, eq. 5), over one block of elements, in `f64`.

use super::simd;

/// Partial sums of a block: element `i` goes to lane `i % LANES`, the lanes are added as a fixed tree.
const LANES: usize = 8;

/// Lanes of one vector of `f64`.
const HALF: usize = LANES / 2;

/// Models whose lanes are held at once.
const GROUP: usize = 16;

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
        || match x.len() {
            2 => few::<2>(x, sums),
            3 => few::<3>(x, sums),
            4 => few::<4>(x, sums),
            _ => many(x, sums),
        },
    );
}

/// For so few models that all their lanes stay in registers: one look at each element.
#[inline(always)]
fn few<const K: usize>(x: &[Vec<f32>], sums: &mut [f64]) {
    let elements = x[0].len();
    let x: [&[f32]; K] = std::array::from_fn(|k| &x[k][..elements]);
    let chunks: [&[[f32; LANES]]; K] = std::array::from_fn(|k| x[k].as_chunks::<LANES>().0);
    let mut low = [[0.0; HALF]; K];
    let mut high = [[0.0; HALF]; K];
    for i in 0..elements / LANES {
        step(std::array::from_fn(|k| [chunks[k][i][0], chunks[k][i][1], chunks[k][i][2], chunks[k][i][3]]), &mut low);
        step(std::array::from_fn(|k| [chunks[k][i][4], chunks[k][i][5], chunks[k][i][6], chunks[k][i][7]]), &mut high);
    }
    for i in elements / LANES * LANES..elements {
        let total = x.iter().fold(0.0, |t, x| t + f64::from(x[i]));
        for k in 0..K {
            let half = if i % LANES < HALF { &mut low[k] } else { &mut high[k] };
            half[i % HALF] += (K as f64 * f64::from(x[k][i]) - total).abs();
        }
    }
    for k in 0..K {
        sums[k] = tree(&low[k], &high[k]);
    }
}

#[inline(always)]
fn step<const K: usize>(x: [[f32; HALF]; K], lanes: &mut [[f64; HALF]; K]) {
    let wide = x.map(|x| x.map(f64::from));
    let mut total = wide[0];
    for w in &wide[1..] {
        for i in 0..HALF {
            total[i] += w[i];
        }
    }
    for k in 0..K {
        for i in 0..HALF {
            lanes[k][i] += (K as f64 * wide[k][i] - total[i]).abs();
        }
    }
}

/// For any number of models: their sum first, a strip at a time, then each model against it.
#[inline(always)]
fn many(x: &[Vec<f32>], sums: &mut [f64]) {
    let models = x.len() as f64;
    let elements = x.first().map_or(0, Vec::len);
    sums.fill(0.0);
    for group in 0..x.len().div_ceil(GROUP) {
        let mine = group * GROUP..x.len().min((group + 1) * GROUP);
        let mut lanes = [([0.0; HALF], [0.0; HALF]); GROUP];
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
        for (k, (low, high)) in mine.zip(&lanes) {
            sums[k] = tree(low, high);
        }
    }
}

#[inline(always)]
fn add(x: &[f32], total: &mut [f64; STRIP]) {
    for (t, &x) in total.iter_mut().zip(x) {
        *t += f64::from(x);
    }
}

#[inline(always)]
fn deviate(models: f64, x: &[f32], total: &[f64; STRIP], lanes: &mut ([f64; HALF], [f64; HALF])) {
    let (mut low, mut high) = *lanes;
    let (x8, x1) = x.as_chunks::<LANES>();
    let (t8, _) = total.as_chunks::<LANES>();
    for (x, t) in x8.iter().zip(t8) {
        for i in 0..HALF {
            low[i] += (models * f64::from(x[i]) - t[i]).abs();
        }
        for i in 0..HALF {
            high[i] += (models * f64::from(x[i + HALF]) - t[i + HALF]).abs();
        }
    }
    for (i, &x) in x1.iter().enumerate() {
        let half = if i < HALF { &mut low } else { &mut high };
        half[i % HALF] += (models * f64::from(x) - total[x8.len() * LANES + i]).abs();
    }
    *lanes = (low, high);
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
            tree(&[lanes[0], lanes[1], lanes[2], lanes[3]], &[lanes[4], lanes[5], lanes[6], lanes[7]])
        },
    )
}

#[inline(always)]
fn tree(low: &[f64; HALF], high: &[f64; HALF]) -> f64 {
    ((low[0] + high[0]) + (low[2] + high[2])) + ((low[1] + high[1]) + (low[3] + high[3]))
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
    fn few_and_many_models_are_summed_alike() {
        for elements in [0, 1, 7, 8, 255, 256, 257, 4096] {
            let value = |i: usize| ((i * 2_654_435_761) as u32 as f32 / 4e9 - 0.5) * 0.3;
            let x: Vec<Vec<f32>> = (0..4).map(|k| (0..elements).map(|i| value(i * 5 + k)).collect()).collect();
            for models in 2..=4 {
                let (mut a, mut b) = (vec![1.0; models], vec![2.0; models]);
                deviations(&x[..models], &mut a);
                many(&x[..models], &mut b);
                assert_eq!(a, b, "{models} models, {elements} elements");
            }
        }
    }

    #[test]
    fn magnitudes_are_added_without_their_signs() {
        let x: Vec<f32> = (0..11).map(|i| if i % 2 == 0 { 0.5 } else { -0.25 }).collect();
        assert_eq!(magnitudes(&x), 6.0 * 0.5 + 5.0 * 0.25);
    }
}
