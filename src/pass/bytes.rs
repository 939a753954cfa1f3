//! A pass that counts elements whose bytes differ from the base's: integers, bools, whatever has no task vector.

use super::job::{Cut, Job, jobs};
use super::pipeline::Pipeline;
use super::scratch::{Order, Reader, Spans};
use super::{Engine, PassRun, Work};
use crate::error::Result;
use crate::source::Counter;

impl Engine<'_> {
    /// For each of `works`, whose first source is the base, the elements of each other source that differ from it.
    pub fn count_unequal(&self, works: &[Work]) -> Result<(Vec<Vec<u64>>, PassRun)> {
        let mut counts: Vec<Vec<u64>> = works.iter().map(|w| vec![0; w.sources.len() - 1]).collect();
        let counter = Counter::default();
        let unhashed = vec![false; self.plan.sources.len()];
        let worker = |_| {
            let mut reader = Reader::new(self);
            let (counter, unhashed) = (&counter, &unhashed);
            move |job: &Job| {
                let mut found: Vec<Vec<u64>> = Vec::with_capacity(job.tiles.len());
                let runs = self.map_runs(works, job, counter)?;
                for tile in &job.tiles {
                    let work = &works[tile.work];
                    let spans = Spans::read(self, work, (tile, &runs), &mut reader, counter, unhashed, Order::Natural)?;
                    let size = self.plan.tensors[work.tensor].places[work.sources[0]].dtype.bytes();
                    let base = spans.bytes(work.sources[0]);
                    found.push(work.sources[1..].iter().map(|&s| unequal(base, spans.bytes(s), size)).collect());
                }
                Ok(found)
            }
        };
        let write = |job: Job, found: Vec<Vec<u64>>| {
            for (tile, found) in job.tiles.iter().zip(found) {
                counts[tile.work].iter_mut().zip(found).for_each(|(sum, n)| *sum += n);
            }
            self.progress.advance(job.traffic);
            Ok(())
        };
        let pipeline = Pipeline { pool: &self.pool, window: &self.window, stop: self.stop };
        let run = self.measured("compare bytes", works, false, || {
            let cut = Cut::Sums;
            pipeline.run(jobs(self.plan, works, false, cut), |job| self.prepare(works, job), worker, write)?;
            Ok(counter.get())
        })?;
        Ok((counts, run))
    }
}

fn unequal(a: &[u8], b: &[u8], size: usize) -> u64 {
    a.chunks_exact(size).zip(b.chunks_exact(size)).filter(|(a, b)| a != b).count() as u64
}
