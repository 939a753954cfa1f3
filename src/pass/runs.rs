//! Small tensors that lie side by side are mapped together: a map of its own for each would cost more than its bytes.

use super::job::{Job, range};
use super::{Engine, Work};
use crate::error::Result;
use crate::limits::MAP_MIN_BYTES;
use crate::source::{Counter, Mapped};

/// Maps of the runs of small ranges that a job reads.
#[derive(Debug, Default)]
pub struct Runs(Vec<(usize, u64, Mapped)>);

impl Runs {
    /// The bytes of a range, if a run has them.
    pub fn bytes(&self, file: usize, offset: u64, bytes: usize) -> Option<&[u8]> {
        let after = self.0.partition_point(|(f, o, _)| (*f, *o) <= (file, offset));
        let (run_file, start, run) = self.0[..after].last()?;
        let first = (offset - start.min(&offset)) as usize;
        run.get(first..first + bytes).filter(|_| *run_file == file)
    }
}

impl Engine<'_> {
    /// Maps the runs of small ranges of a job. What they take, its tiles would take.
    pub(super) fn map_runs(&self, works: &[Work], job: &Job, counter: &Counter) -> Result<Runs> {
        if job.tiles.len() < 2 {
            return Ok(Runs::default());
        }
        let mut ranges = Vec::new();
        for tile in &job.tiles {
            let work = &works[tile.work];
            let places = &self.plan.tensors[work.tensor].places;
            if work.sources.iter().all(|&s| places[s].coded.is_none() && places[s].computed.is_none()) {
                let plain = work.sources.iter().filter(|&&s| places[s].rows.is_none());
                ranges.extend(plain.map(|&s| range(self.plan, work, tile, s)).filter(|r| r.2 < MAP_MIN_BYTES));
            }
        }
        ranges.sort_unstable();
        ranges.dedup();
        let mut runs = Vec::new();
        for run in ranges.chunk_by(|a, b| a.0 == b.0 && a.1 + a.2 as u64 == b.1) {
            let (file, offset, _) = run[0];
            let bytes: usize = run.iter().map(|r| r.2).sum();
            if run.len() > 1 && bytes >= MAP_MIN_BYTES {
                let mapped = self.files.map(file, offset, bytes, counter)?;
                runs.extend(mapped.map(|m| (file, offset, m)));
            }
        }
        Ok(Runs(runs))
    }
}
