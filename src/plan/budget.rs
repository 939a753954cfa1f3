//! Memory: how large jobs may be, how many may be under way, and the peak that follows.

use super::{Options, PlannedTensor, Source, adapter};
use crate::error::{Error, Result};
use crate::limits::{
    BLOCK_ELEMENTS, CODED_BLOCK_ELEMENTS, CODER_BYTES, FIXED_BYTES, JOB_MAX_BYTES, JOB_MIN_BYTES, LOSSY_BYTES,
    MAP_SLOP_BYTES, QUEUE_JOBS_PER_THREAD,
};
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
    /// Of what is left: bytes of inputs that are held for a later pass.
    pub held_bytes: usize,
}

impl Budget {
    /// `ranges`: byte ranges of a tile; `block`: bytes (over all models and the output) and elements of the largest block;
    /// `kept`: what the method and others keep.
    fn new(
        options: &Options,
        (sources, ranges): (usize, usize),
        tensors: usize,
        block: (usize, usize),
        kept: usize,
    ) -> Result<Self> {
        let threads = options.threads;
        let lists = list_bytes(sources, tensors);
        // Decoded blocks, a method's copies of them, and what it keeps per element: signs, sums, ranks, probabilities.
        let scratch = (threads + 1) * (2 * sources + 12) * block.1 * size_of::<f32>();
        let resident_bytes = FIXED_BYTES + lists + scratch + kept;

        let smallest_job = JOB_MIN_BYTES.max(block.0);
        let jobs = in_flight_jobs(threads);
        let slop = ranges * MAP_SLOP_BYTES;
        let available = usize::try_from(options.memory_bytes).unwrap_or(usize::MAX).saturating_sub(resident_bytes);
        let job_bytes = (available / jobs).saturating_sub(slop).min(JOB_MAX_BYTES.max(smallest_job));
        if job_bytes < smallest_job {
            let needed = resident_bytes + jobs * (smallest_job + slop);
            return Err(Error::BudgetTooSmall {
                given: Bytes(options.memory_bytes),
                needed: Bytes((needed as u64).next_multiple_of(1_000_000)),
            });
        }
        let window_bytes = jobs * (job_bytes + slop);
        let held_bytes = if options.hold { available.saturating_sub(window_bytes) / 2 } else { 0 };
        Ok(Self { job_bytes, window_bytes, resident_bytes, held_bytes })
    }

    /// Peak memory.
    pub fn peak_bytes(&self) -> u64 {
        (self.resident_bytes + self.window_bytes + self.held_bytes) as u64
    }
}

/// The budget of a merge of these tensors, with what the method and others keep.
pub fn settle(
    options: &Options,
    sources: &[Source],
    tensors: &[PlannedTensor],
    delta: bool,
    kept: usize,
) -> Result<Budget> {
    let longest_block = tensors.iter().map(|t| t.block_elements).max().unwrap_or(1);
    let lossy = sources.iter().any(|s| s.error_bound.is_some());
    let decodes = tensors.iter().any(|t| t.is_coded(0..sources.len()));
    let adapters = adapter::thread_bytes(tensors);
    let ranges = tensors.iter().map(|t| t.ranges(0..sources.len())).max().unwrap_or(sources.len());
    let budget_of = |delta: bool| {
        let block = |t: &PlannedTensor| {
            let coded = t.is_coded(0..sources.len());
            let unit = tile_unit(t.block_elements, t.elements, (coded, delta));
            let tile = (unit as u64).min(t.elements.max(1));
            let read = held_elements(t, 0..sources.len(), tile, unit);
            read as usize * t.element_bytes(0..sources.len()) + tile as usize * t.written_bytes(delta)
        };
        let smallest_job = tensors.iter().map(block).max().unwrap_or(1);
        let coders = CODER_BYTES * (usize::from(delta) + usize::from(decodes)) + if lossy { LOSSY_BYTES } else { 0 };
        let kept = kept + options.threads * (coders + adapters);
        Budget::new(options, (sources.len(), ranges), tensors.len(), (smallest_job, longest_block), kept)
    };
    budget_of(delta).map_err(|error| match error {
        Error::BudgetTooSmall { given, needed } if delta && budget_of(false).is_ok() => {
            Error::DeltaBudgetTooSmall { given, needed }
        }
        error => error,
    })
}

/// Elements that tiles are made of, of a tensor of so many, where the method sees blocks of `block`. Where delta blocks are
/// written, both: each is coded by one thread, whole. Where they are only read, at least as many as a delta block has: what
/// a tile shares with its neighbour is decoded twice.
pub fn tile_unit(block: usize, elements: u64, (read, written): (bool, bool)) -> usize {
    // No tile is longer than its tensor.
    let whole = usize::try_from(elements).unwrap_or(usize::MAX / 2).max(1).next_multiple_of(block);
    match (read, written) {
        (_, true) => lcm(block, CODED_BLOCK_ELEMENTS).min(whole),
        (true, false) => CODED_BLOCK_ELEMENTS.next_multiple_of(block).min(whole),
        (false, false) => block,
    }
}

/// Elements that are decoded for a tile of so many, made of such units, where delta blocks are read.
fn decoded_elements(tile: u64, unit: usize, elements: u64) -> u64 {
    let around = if unit.is_multiple_of(CODED_BLOCK_ELEMENTS) { 0 } else { 2 * CODED_BLOCK_ELEMENTS as u64 };
    (tile + around).min(elements)
}

/// Elements of each source that are held for a tile of so many, made of such units.
pub fn held_elements(t: &PlannedTensor, sources: impl Iterator<Item = usize> + Clone, tile: u64, unit: usize) -> u64 {
    if t.is_coded(sources.clone()) {
        decoded_elements(tile, unit, t.elements)
    } else if t.is_computed(sources) && !unit.is_multiple_of(BLOCK_ELEMENTS) {
        (tile + 2 * BLOCK_ELEMENTS as u64).min(t.elements)
    } else {
        tile
    }
}

/// The least common multiple of a number and a power of two.
fn lcm(number: usize, power: usize) -> usize {
    let shared = number.trailing_zeros().min(power.trailing_zeros());
    (number >> shared).saturating_mul(power)
}

/// Elements of a block made of whole units, near [`BLOCK_ELEMENTS`] where units are small, never more than the tensor
/// needs.
pub fn block_elements(unit: u64, elements: u64) -> usize {
    let unit = usize::try_from(unit.clamp(1, elements.max(1))).unwrap_or(usize::MAX);
    if unit >= BLOCK_ELEMENTS { unit } else { BLOCK_ELEMENTS / unit * unit }
}

/// What the lists of sources by tensor take.
pub fn list_bytes(sources: usize, tensors: usize) -> usize {
    tensors * (sources * (24 + 24 + 16) + 640)
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
