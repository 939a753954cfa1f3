//! The sign that most elements of the model elect: TIES gives it to elements whose votes cancel exactly.

use super::{Block, Finding, Form, Statistic, Survey};
use crate::kernel;

/// Sums the elected signs of trimmed task vectors over the whole model.
#[derive(Debug)]
pub struct Majority {
    thresholds: Vec<f32>,
    sum: i64,
}

impl Majority {
    /// Trims task `k` below `thresholds[k]` before the vote.
    pub fn new(thresholds: Vec<f32>) -> Self {
        Self { thresholds, sum: 0 }
    }
}

impl Statistic for Majority {
    fn name(&self) -> &'static str {
        "majority sign"
    }

    fn form(&self) -> Form {
        Form::TaskVectors
    }

    fn observe(&self, _worker: usize, block: Block<'_>, sums: &mut Vec<f64>) {
        let mut trimmed = block.experts.to_vec();
        for (x, &threshold) in trimmed.iter_mut().zip(&self.thresholds) {
            kernel::trim(threshold, x);
        }
        let mut sign = vec![0.0; trimmed[0].len()];
        kernel::elect_sum(&trimmed, &mut sign);
        // At most a block of ones: exact.
        sums.push(f64::from(sign.iter().sum::<f32>()));
    }

    fn fold(&mut self, _tensor: usize, sums: &[f64]) {
        self.sum += sums.iter().map(|&s| s as i64).sum::<i64>();
    }

    // Sums of whole numbers, of chunks as of blocks: exact.
    fn width(&self) -> usize {
        1
    }
}

impl Finding for Majority {
    fn finish(self: Box<Self>) -> Survey {
        Survey::Majority(self.sum)
    }
}
