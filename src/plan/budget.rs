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
    /// `widest`: bytes of one element over all models and the output; `method_bytes`: what the method keeps.
    pub fn new(options: &Options, sources: usize, tensors: usize, widest: usize, method_bytes: usize) -> Result<Self> {
        let threads = options.threads;
        let lists = tensors * (sources * (24 + 24 + 16) + 640);
        let scratch = (threads + 1) * (sources + 3) * BLOCK_ELEMENTS * size_of::<f32>();
        let resident_bytes = FIXED_BYTES + lists + scratch + method_bytes;

        let smallest_job = JOB_MIN_BYTES.max(widest * BLOCK_ELEMENTS);
        let jobs = in_flight_jobs(threads);
        let slop = sources * MAP_SLOP_BYTES;
        let available = usize::try_from(options.memory_bytes).unwrap_or(usize::MAX).saturating_sub(resident_bytes);
        let job_bytes = (available / jobs).saturating_sub(slop).min(JOB_MAX_BYTES.max(smallest_job));
        if job_bytes < smallest_job {
            let needed = resident_bytes + jobs * (smallest_job + slop);
            return Err(Error::BudgetTooSmall { given: Bytes(options.memory_bytes), needed: Bytes(needed as u64) });
        }
        Ok(Self { job_bytes, window_bytes: jobs * (job_bytes + slop), resident_bytes })
    }

    /// Peak memory.
    pub fn peak_bytes(&self) -> u64 {
        (self.resident_bytes + self.window_bytes) as u64
    }
}

/// Jobs that are read, computed, or waiting for either or for the writer.
fn in_flight_jobs(threads: usize) -> usize {
    threads * (1 + 2 * QUEUE_JOBS_PER_THREAD) + 2
}

/// What a job of `bytes` over `tiles` tiles holds while it is under way, mapped pages included.
pub fn in_flight_bytes(bytes: usize, ranges: usize) -> usize {
    bytes + ranges * MAP_SLOP_BYTES
}
