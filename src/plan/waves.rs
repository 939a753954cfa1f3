//! Groups of tensors that are surveyed and merged one after another, so that what is kept for each tensor fits.

use super::PlannedTensor;
use crate::limits::WAVE_INPUT_BYTES;
use crate::method::Method;
use std::ops::Range;

/// Runs of the plan's tensors, in order.
#[derive(Clone, Debug)]
pub struct Waves {
    /// The runs.
    pub runs: Vec<Range<usize>>,
    /// Bytes that the statistics of one wave keep, at most.
    pub bytes: usize,
}

impl Waves {
    /// What the statistics of a wave keep shall fit `available` bytes; a tensor that alone needs more gets them.
    pub fn new(tensors: &[PlannedTensor], method: &dyn Method, available: u64) -> Self {
        let mut waves = Self { runs: Vec::new(), bytes: 0 };
        let (mut kept, mut input) = (0, 0);
        for (i, t) in tensors.iter().enumerate() {
            let bytes = method.tensor_bytes(t.elements).unwrap_or(0);
            let read: u64 = (0..t.places.len()).map(|s| t.source_bytes(s)).sum();
            let full = (kept + bytes) as u64 > available || input + read > WAVE_INPUT_BYTES;
            match waves.runs.last_mut() {
                Some(run) if kept == 0 || !full => run.end = i + 1,
                _ => {
                    waves.runs.push(i..i + 1);
                    (kept, input) = (0, 0);
                }
            }
            (kept, input) = (kept + bytes, input + read);
            waves.bytes = waves.bytes.max(kept);
        }
        waves
    }
}
