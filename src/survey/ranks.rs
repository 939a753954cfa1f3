//! Exact order statistics of each task's magnitudes over the whole model, by counting digits.
//!
//! The magnitude of an `f32` orders as its 31 bits do. The first pass counts the upper 16, which tells the bucket of the
//! wanted rank; the second counts the lower 15 inside that bucket. Memory: 512 KiB per task and thread.

use super::{Block, Finding, Form, Progress, Statistic, Survey};
use std::sync::{Mutex, PoisonError};

const HIGH: usize = 1 << 16;
const LOW_BITS: u32 = 15;

/// For each task the value of one rank.
#[derive(Debug)]
pub struct Ranks {
    /// 1-based ranks, smallest first.
    ranks: Vec<u64>,
    /// Elements that are zero and never shown (pruned layers).
    hidden_zeros: u64,
    /// Counts of each worker: `[task][digit]`.
    counts: Vec<Mutex<Vec<u64>>>,
    /// After the first pass: each task's bucket, how many values lie below it, and how many in it.
    buckets: Option<Vec<(u32, u64, u64)>>,
    found: Vec<f32>,
}

impl Ranks {
    /// Asks for `ranks[k]` (1-based, ascending) of task `k`, counting `hidden_zeros` elements that are not shown.
    pub fn new(ranks: Vec<u64>, hidden_zeros: u64, workers: usize) -> Self {
        let counts = (0..workers).map(|_| Mutex::new(vec![0; ranks.len() * HIGH])).collect();
        Self { ranks, hidden_zeros, counts, buckets: None, found: Vec::new() }
    }

    /// Bytes that the counts take.
    pub fn resident_bytes(models: usize, workers: usize) -> usize {
        models * workers * HIGH * size_of::<u64>()
    }

    fn take_counts(&mut self) -> Vec<u64> {
        let mut total = vec![0; self.ranks.len() * HIGH];
        for worker in &mut self.counts {
            let worker = worker.get_mut().unwrap_or_else(PoisonError::into_inner);
            total.iter_mut().zip(worker.iter()).for_each(|(t, w)| *t += w);
            worker.fill(0);
        }
        total
    }
}

/// The digit that holds the 1-based `rank`, how many values lie below it and how many have it; 0 where nothing was
/// counted at all.
fn locate(counts: &[u64], rank: u64) -> (u32, u64, u64) {
    let mut below = 0;
    for (digit, &n) in counts.iter().enumerate() {
        if below + n >= rank {
            return (digit as u32, below, n);
        }
        below += n;
    }
    assert_eq!(below, 0, "rank {rank} beyond {below} counted values");
    (0, 0, 0)
}

impl Statistic for Ranks {
    fn name(&self) -> &'static str {
        if self.buckets.is_none() { "magnitudes, upper digit" } else { "magnitudes, lower digit" }
    }

    fn form(&self) -> Form {
        Form::TaskVectors
    }

    fn observe(&self, worker: usize, block: Block<'_>, _sums: &mut Vec<f64>) {
        let mut counts = self.counts[worker].lock().unwrap_or_else(PoisonError::into_inner);
        for (k, x) in block.experts.iter().enumerate() {
            let counts = &mut counts[k * HIGH..(k + 1) * HIGH];
            match &self.buckets {
                None => {
                    for v in x {
                        counts[((v.to_bits() & 0x7fff_ffff) >> LOW_BITS) as usize] += 1;
                    }
                }
                Some(buckets) => {
                    let bucket = buckets[k].0;
                    for v in x {
                        let bits = v.to_bits() & 0x7fff_ffff;
                        if bits >> LOW_BITS == bucket {
                            counts[(bits & ((1 << LOW_BITS) - 1)) as usize] += 1;
                        }
                    }
                }
            }
        }
    }

    fn fold(&mut self, _tensor: usize, _sums: &[f64]) {}

    fn takes_histograms(&self) -> bool {
        self.buckets.is_none()
    }

    fn know(&mut self, task: usize, histogram: &[(u16, u64)]) {
        let counts = self.counts[0].get_mut().unwrap_or_else(PoisonError::into_inner);
        for &(bin, count) in histogram {
            counts[task * HIGH + usize::from(bin)] += count;
        }
    }

    fn end_pass(&mut self) -> Progress {
        let counts = self.take_counts();
        let zeros = self.hidden_zeros;
        let of_task = |k: usize| &counts[k * HIGH..(k + 1) * HIGH];
        match &self.buckets {
            None => {
                let buckets = self.ranks.iter().enumerate().map(|(k, &rank)| match rank.checked_sub(zeros) {
                    None | Some(0) => (0, 0, of_task(k)[0]),
                    Some(rank) => locate(of_task(k), rank),
                });
                self.buckets = Some(buckets.collect());
                Progress::Again
            }
            // A histogram that was taken on trust did not tell the truth: count everything.
            Some(buckets) if (0..buckets.len()).any(|k| of_task(k).iter().sum::<u64>() != buckets[k].2) => {
                self.buckets = None;
                Progress::Again
            }
            Some(buckets) => {
                let found = self.ranks.iter().zip(buckets).enumerate().map(|(k, (&rank, &(bucket, below, _)))| {
                    // Hidden zeros are the smallest of all values: ranks among them are zero.
                    match rank.checked_sub(zeros + below) {
                        None | Some(0) => 0.0,
                        Some(rank) => f32::from_bits(bucket << LOW_BITS | locate(of_task(k), rank).0),
                    }
                });
                self.found = found.collect();
                Progress::Complete
            }
        }
    }
}

impl Finding for Ranks {
    fn finish(self: Box<Self>) -> Survey {
        Survey::Ranks(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;
    use proptest::prelude::*;

    fn found(values: &[f32], rank: u64, zeros: u64) -> f32 {
        let mut ranks = Box::new(Ranks::new(vec![rank], zeros, 2));
        loop {
            for (i, block) in values.chunks(7).enumerate() {
                let experts = [block.to_vec()];
                ranks.observe(
                    i % 2,
                    Block { place: Place { tensor: 0, name: "t", shape: &[], first: 0 }, base: &[], experts: &experts },
                    &mut Vec::new(),
                );
            }
            if ranks.end_pass() == Progress::Complete {
                break;
            }
        }
        match ranks.finish() {
            Survey::Ranks(found) => found[0],
            other @ Survey::Majority(_) => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn every_rank_is_the_one_that_sorting_gives(
            values in prop::collection::vec(prop_oneof![Just(0.0f32), -2.0..2.0f32, any::<f32>()], 1..60),
            zeros in 0u64..9,
        ) {
            let values: Vec<f32> = values.into_iter().filter(|v| !v.is_nan()).chain([0.25]).collect();
            let mut sorted: Vec<f32> = values.iter().map(|v| v.abs()).chain((0..zeros).map(|_| 0.0)).collect();
            sorted.sort_by(f32::total_cmp);
            for (i, &want) in sorted.iter().enumerate() {
                prop_assert_eq!(found(&values, i as u64 + 1, zeros), want);
            }
        }
    }
}
