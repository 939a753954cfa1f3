//! The score of single elements (PwPTV: arXiv 2506.09093, appendix B.10).

/// `scores[k][i] = abs(K * x_k[i] - sum_j x_j[i])`: `K` times the absolute deviation from the mean, in `f64`, rounded once.
/// `x` may be weights: the base cancels.
pub fn element_deviations(x: &[Vec<f32>], scores: &mut [Vec<f32>]) {
    let models = x.len() as f64;
    let mut total = vec![0.0; x[0].len()];
    for x in x {
        total.iter_mut().zip(x).for_each(|(t, &x)| *t += f64::from(x));
    }
    for (x, scores) in x.iter().zip(scores) {
        scores.clear();
        scores.extend(x.iter().zip(&total).map(|(&x, t)| (models * f64::from(x) - t).abs() as f32));
    }
}

/// `scores[k][i] = abs(x_k[i] - base[i])`, in `f32`.
pub fn element_magnitudes(base: &[f32], x: &[Vec<f32>], scores: &mut [Vec<f32>]) {
    for (x, scores) in x.iter().zip(scores) {
        scores.clear();
        scores.extend(x.iter().zip(base).map(|(x, b)| (x - b).abs()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
