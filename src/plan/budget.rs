//! Memory: how large jobs may be, how many may be under way, and the peak that follows.

use super::Options;
use crate::error::{Error, Result};
use crate::limits::{BLOCK_ELEMENTS, FIXED_BYTES, JOB_MAX_BYTES, JOB_MIN_BYTES, MAP_SLOP_BYTES, QUEUE_JOBS_PER_THREAD};
use crate::tensor::Bytes;

/// The plan's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of input and output of one job, at most (one block over all models may be more).
    pub job_bytes: usize,
    /// Bytes of all jobs under way, mapped pages included.
    pub window_bytes: usize,
    /// Everything else: program, headers, sums, tables, scratch.
    pub resident_bytes: usize,
}

impl Budget {
    /// `block`: bytes (over all models and the output) and elements of the largest block; `method_bytes`: what the
    /// method keeps.
    pub fn new(
        options: &Options,
        sources: usize,
        tensors: usize,
        block: (usize, usize),
        method_bytes: usize,
    ) -> Result<Self> {
        let threads = options.threads;
        let lists = tensors * (sources * (24 + 24 + 16) + 640);
        // Decoded blocks, a method's copies of them, and what it keeps per element: signs, sums, ranks, probabilities.
        let scratch = (threads + 1) * (2 * sources + 12) * block.1 * size_of::<f32>();
        let resident_bytes = FIXED_BYTES + lists + scratch + method_bytes;

        let smallest_job = JOB_MIN_BYTES.max(block.0);
        let jobs = in_flight_jobs(threads);
        let slop = sources * MAP_SLOP_BYTES;
        let available = usize::try_from(options.memory_bytes).unwrap_or(usize::MAX).saturating_sub(resident_bytes);
        let job_bytes = (available / jobs).saturating_sub(slop).min(JOB_MAX_BYTES.max(smallest_job));
        if job_bytes < smallest_job {
            let needed = resident_bytes + jobs * (smallest_job + slop);
            return Err(Error::BudgetTooSmall {
                given: Bytes(options.memory_bytes),
                needed: Bytes((needed as u64).next_multiple_of(1_000_000)),
            });
        }
        Ok(Self { job_bytes, window_bytes: jobs * (job_bytes + slop), resident_bytes })
    }

    /// Peak memory.
    pub fn peak_bytes(&self) -> u64 {
        (self.resident_bytes + self.window_bytes) as u64
    }
}

/// Elements of a block made of whole units, near [`BLOCK_ELEMENTS`] where units are small, never more than the tensor
/// needs.
pub fn block_elements(unit: u64, elements: u64) -> usize {
    let unit = usize::try_from(unit.clamp(1, elements.max(1))).unwrap_or(usize::MAX);
    if unit >= BLOCK_ELEMENTS { unit } else { BLOCK_ELEMENTS / unit * unit }
}

/// Jobs that are read, computed, or waiting for either or for the writer.
fn in_flight_jobs(threads: usize) -> usize {
    threads * (1 + 2 * QUEUE_JOBS_PER_THREAD) + 2
}

/// What a job of `bytes` over `tiles` tiles holds while it is under way, mapped pages included.
pub fn in_flight_bytes(bytes: usize, ranges: usize) -> usize {
    bytes + ranges * MAP_SLOP_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_whole_units_and_stay_small_where_units_are() {
        for (unit, elements, want) in
            [(1, 1 << 30, 2048), (48, 1 << 20, 2016), (8192, 1 << 20, 8192), (1 << 40, 500, 2000), (0, 0, 2048)]
        {
            assert_eq!(block_elements(unit, elements), want, "{unit} of {elements}");
        }
    }
}
