//! The score of single elements (PwPTV: arXiv 2506.09093, appendix B.10).

use super::simd;

/// Elements whose sum over models is held at once.
const STRIP: usize = 256;

/// `scores[k][i] = abs(K * x_k[i] - sum_j x_j[i])`: `K` times the absolute deviation from the mean, in `f64`, rounded once.
/// `x` may be weights: the base cancels.
pub fn element_deviations(x: &[Vec<f32>], scores: &mut [Vec<f32>]) {
    scores.iter_mut().zip(x).for_each(|(scores, x)| scores.resize(x.len(), 0.0));
    simd(
        #[inline(always)]
        || {
            let models = x.len() as f64;
            let elements = x.first().map_or(0, Vec::len);
            for start in (0..elements).step_by(STRIP) {
                let strip = start..elements.min(start + STRIP);
                let mut total = [0.0; STRIP];
                for x in x {
                    total.iter_mut().zip(&x[strip.clone()]).for_each(|(t, &x)| *t += f64::from(x));
                }
                for (x, scores) in x.iter().zip(&mut *scores) {
                    for ((s, &x), t) in scores[strip.clone()].iter_mut().zip(&x[strip.clone()]).zip(&total) {
                        *s = (models * f64::from(x) - t).abs() as f32;
                    }
                }
            }
        },
    );
}

/// `scores[k][i] = abs(x_k[i] - base[i])`, in `f32`.
pub fn element_magnitudes(base: &[f32], x: &[Vec<f32>], scores: &mut [Vec<f32>]) {
    for (x, scores) in x.iter().zip(scores) {
        scores.clear();
        scores.extend(x.iter().zip(base).map(|(x, b)| (x - b).abs()));
    }
}

/// `marked[i] |= scores[i] > threshold`.
pub fn mark_above(scores: &[f32], threshold: f32, marked: &mut [bool]) {
    simd(
        #[inline(always)]
        || marked.iter_mut().zip(scores).for_each(|(marked, &s)| *marked |= s > threshold),
    );
}

/// `x[i] = other[i]` where `i` is not marked.
pub fn replace_unmarked(marked: &[bool], other: &[f32], x: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for ((x, &other), &marked) in x.iter_mut().zip(other).zip(marked) {
                *x = if marked { *x } else { other };
            }
        },
    );
}

/// `x[i] = 0` where `i` is not marked.
pub fn clear_unmarked(marked: &[bool], x: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for (x, &marked) in x.iter_mut().zip(marked) {
                *x = if marked { *x } else { 0.0 };
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_set_above_the_threshold_and_what_has_none_is_replaced() {
        let mut marked = [false, false, true, false];
        mark_above(&[1.0, 2.0, 0.0, f32::NAN], 1.0, &mut marked);
        assert_eq!(marked, [false, true, true, false]);
        let (mut x, mut y) = ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]);
        replace_unmarked(&marked, &[5.0, 6.0, 7.0, -0.0], &mut x);
        clear_unmarked(&marked, &mut y);
        assert_eq!((x, y), ([5.0, 2.0, 3.0, 0.0], [0.0, 2.0, 3.0, 0.0]));
    }

    #[test]
    fn elements_score_by_their_distance_from_the_mean_or_from_the_base() {
        let x = [vec![1.0, 0.1], vec![0.0, 0.1], vec![-4.0, 0.1]];
        let mut scores = vec![Vec::new(); 3];
        element_deviations(&x, &mut scores);
        assert_eq!(scores, [[6.0, 0.0], [3.0, 0.0], [9.0, 0.0]]);
        element_magnitudes(&[1.0, -0.9], &x, &mut scores);
        assert_eq!(scores, [[0.0, 1.0], [1.0, 1.0], [5.0, 1.0]]);
    }
}
