//! Pass 1: the score of every (task, tensor), arXiv 2506.09093, eq. 5.
//!
//! Memory: 24 bytes per task and tensor, whatever their sizes.

use super::{Block, BlockSum, Form, Statistic};
use crate::kernel;

/// What a layer of a task is scored by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Score {
    /// Mean absolute deviation from the mean task vector (eq. 5). The base cancels and is not read.
    #[default]
    Saliency,
    /// Mean absolute value of the task vector (the paper's ablation without saliency).
    Magnitude,
    /// A number drawn for the task and the layer's name; nothing is read.
    Random,
}

/// Gathers the sums that scores are made of.
#[derive(Debug)]
pub struct Saliency {
    score: Score,
    /// For each tensor and task, tasks fastest.
    sums: Vec<BlockSum>,
    models: usize,
}

impl Saliency {
    /// For `tensors` tensors of `models` experts. `score` must be one that reads.
    pub fn new(score: Score, models: usize, tensors: usize) -> Self {
        assert_ne!(score, Score::Random, "random scores read nothing");
        Self { score, sums: vec![BlockSum::default(); models * tensors], models }
    }

    /// The sum over a tensor, for a task.
    pub fn sum(&self, tensor: usize, task: usize) -> f64 {
        self.sums[tensor * self.models + task].get()
    }

    /// Sets the sum over a tensor, for a task of which it is known.
    pub fn know(&mut self, tensor: usize, task: usize, sum: f64) {
        self.sums[tensor * self.models + task] = BlockSum::of(sum);
    }

    /// The mean score of task `k` over the elements of `tensors`, which together are one layer.
    pub fn mean(&self, k: usize, tensors: impl Iterator<Item = (usize, u64)>) -> f64 {
        let (mut sum, mut elements) = (0.0, 0);
        for (tensor, n) in tensors {
            sum += self.sums[tensor * self.models + k].get();
            elements += n;
        }
        let scale = if self.score == Score::Saliency { self.models as f64 } else { 1.0 };
        if elements == 0 { 0.0 } else { sum / (scale * elements as f64) }
    }
}

impl Statistic for Saliency {
    fn name(&self) -> &'static str {
        match self.score {
            Score::Saliency => "saliency",
            Score::Magnitude | Score::Random => "magnitude",
        }
    }

    fn form(&self) -> Form {
        if self.score == Score::Saliency { Form::Weights } else { Form::TaskVectors }
    }

    fn observe(&self, _worker: usize, block: Block<'_>, sums: &mut Vec<f64>) {
        let start = sums.len();
        sums.resize(start + self.models, 0.0);
        match self.score {
            Score::Saliency => kernel::deviations(block.experts, &mut sums[start..]),
            Score::Magnitude | Score::Random => {
                for (sum, x) in sums[start..].iter_mut().zip(block.experts) {
                    *sum = kernel::magnitudes(x);
                }
            }
        }
    }

    fn fold(&mut self, tensor: usize, sums: &[f64]) {
        let mine = &mut self.sums[tensor * self.models..][..self.models];
        for block in sums.chunks_exact(self.models) {
            for (sum, &b) in mine.iter_mut().zip(block) {
                sum.add(b);
            }
        }
    }

    fn width(&self) -> usize {
        self.models
    }

    fn fold_chunks(&mut self, tensor: usize, sums: &[f64]) {
        let mine = &mut self.sums[tensor * self.models..][..self.models];
        for chunk in sums.chunks_exact(self.models) {
            mine.iter_mut().zip(chunk).for_each(|(sum, &c)| sum.add_chunks(c));
        }
    }
}

/// The score of a layer under [`Score::Random`]: uniform in [0, 1), from the seed, the task's number and the layer's name.
pub fn random_score(seed: u64, task: usize, layer: &str) -> f64 {
    let mut hasher = blake3::Hasher::new_derive_key("taskvec 2026 random layer score");
    hasher.update(&seed.to_le_bytes()).update(&(task as u64).to_le_bytes()).update(layer.as_bytes());
    let bytes = *hasher.finalize().as_bytes();
    let draw = u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]);
    (draw >> 11) as f64 * 2f64.powi(-53)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_of_a_layer_of_several_tensors_is_the_mean_over_all_their_elements() {
        let mut s = Saliency::new(Score::Saliency, 2, 2);
        s.fold(0, &[6.0, 2.0]);
        s.fold(1, &[2.0, 0.0, 4.0, 0.0]);
        assert_eq!(s.mean(0, [(0, 2), (1, 4)].into_iter()), 12.0 / (2.0 * 6.0));
        assert_eq!(s.mean(1, [(0, 2), (1, 4)].into_iter()), 2.0 / (2.0 * 6.0));
        assert_eq!(s.mean(0, std::iter::empty()), 0.0);
    }

    #[test]
    fn random_scores_depend_on_seed_task_and_layer_and_on_nothing_else() {
        let draw = random_score(1, 0, "a");
        assert_eq!(draw, random_score(1, 0, "a"));
        assert!((0.0..1.0).contains(&draw));
        for other in [random_score(2, 0, "a"), random_score(1, 1, "a"), random_score(1, 0, "b")] {
            assert_ne!(draw, other);
        }
    }
}
