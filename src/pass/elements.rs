//! PwPTV (arXiv 2506.09093, appendix B.10): elements that score too low have zero task vectors, before any method sees them.

use crate::kernel;
use crate::survey::{Form, Score};

/// Which elements are kept.
#[derive(Clone, Debug)]
pub struct Elements {
    /// What elements are scored by.
    pub score: Score,
    /// Task `k` keeps what scores above this; the scale is the kernels'.
    pub thresholds: Vec<f32>,
    /// Whether what any task keeps is merged from all tasks (eq. 7).
    pub shared: bool,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub struct Kept {
    scores: Vec<Vec<f32>>,
    /// Whether any task keeps the element.
    any: Vec<bool>,
    /// Whether one task keeps the element.
    own: Vec<bool>,
}

impl Elements {
    /// Scores a block of weights.
    pub fn judge(&self, base: &[f32], experts: &[Vec<f32>], kept: &mut Kept) {
        kept.scores.resize(experts.len(), Vec::new());
        match self.score {
            Score::Magnitude => kernel::element_magnitudes(base, experts, &mut kept.scores),
            Score::Saliency | Score::Random => kernel::element_deviations(experts, &mut kept.scores),
        }
        kept.any.clear();
        kept.any.resize(base.len(), false);
        for (scores, &threshold) in kept.scores.iter().zip(&self.thresholds) {
            kernel::mark_above(scores, threshold, &mut kept.any);
        }
    }

    /// Takes what is not kept out of the experts, which are in this form now.
    pub fn prune(&self, kept: &mut Kept, form: Form, base: &[f32], experts: &mut [Vec<f32>]) {
        let Kept { scores, any, own } = kept;
        for ((x, scores), &threshold) in experts.iter_mut().zip(scores).zip(&self.thresholds) {
            let marked = if self.shared {
                &*any
            } else {
                own.clear();
                own.resize(x.len(), false);
                kernel::mark_above(scores, threshold, own);
                &*own
            };
            match form {
                Form::Weights => kernel::replace_unmarked(marked, base, x),
                Form::TaskVectors => kernel::clear_unmarked(marked, x),
            }
        }
    }
}

impl Kept {
    /// Gives elements that no task keeps the base's values.
    pub fn restore(&self, base: &[f32], out: &mut [f32]) {
        kernel::replace_unmarked(&self.any, base, out);
    }
}
