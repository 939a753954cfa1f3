//! A pass that feeds a statistic.

use super::job::{Cut, Job, jobs};
use super::pipeline::Pipeline;
use super::scratch::{Order, Reader, Scratch, Spans, blocks};
use super::{Engine, PassRun, Work};
use crate::error::Result;
use crate::source::Counter;
use crate::survey::{Block, Form, Progress as Step, Statistic};

impl Engine<'_> {
    /// Shows `works` to `statistic`, in as many passes as it wants, in blocks as `cut` says; in the first pass only those
    /// in `first`. Sources marked in `hash` are hashed in the first.
    pub fn survey(
        &self,
        (first, works): (&[Work], &[Work]),
        statistic: &mut dyn Statistic,
        cut: Cut,
        hash: &[bool],
    ) -> Result<Vec<PassRun>> {
        let mut runs = Vec::new();
        let mut hash = hash.to_vec();
        let mut now = first;
        loop {
            let wanted: Vec<Work> = now.iter().filter(|w| statistic.wants(w.tensor)).cloned().collect();
            if !wanted.is_empty() {
                runs.push(match self.rounds {
                    None => self.survey_once(&wanted, statistic, cut, &hash)?,
                    Some(rounds) => rounds.pass(self, &wanted, statistic, cut, &hash)?,
                });
            }
            hash.fill(false);
            now = works;
            if statistic.end_pass() == Step::Complete {
                return Ok(runs);
            }
        }
    }

    /// Shows `works` to `statistic` once.
    pub fn survey_once(
        &self,
        works: &[Work],
        statistic: &mut dyn Statistic,
        cut: Cut,
        hash: &[bool],
    ) -> Result<PassRun> {
        let name = statistic.name();
        let form = statistic.form();
        let counter = Counter::default();
        // The statistic observes from many threads, then folds on one: never both at once.
        let statistic = std::sync::RwLock::new(statistic);
        let lock = || statistic.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let worker = |index: usize| {
            let mut scratch = Scratch::new(self.plan.expert_count());
            let mut reader = Reader::new(self);
            let counter = &counter;
            move |job: &Job| {
                let mut sums = Vec::with_capacity(job.tiles.len());
                let runs = self.map_runs(works, job, counter)?;
                for tile in &job.tiles {
                    let work = &works[tile.work];
                    let spans = Spans::read(self, work, (tile, &runs), &mut reader, counter, hash, Order::Natural)?;
                    let mut of_tile = Vec::new();
                    for block in blocks(tile.elements, cut.block(&self.plan.tensors[work.tensor])) {
                        spans.load(&block, form, false, &mut scratch)?;
                        let base = if form == Form::TaskVectors { &scratch.base[..] } else { &[] };
                        lock().observe(
                            index,
                            Block { place: spans.at(&block), base, experts: &scratch.experts },
                            &mut of_tile,
                        );
                    }
                    sums.push(of_tile);
                }
                Ok(sums)
            }
        };
        let fold = |job: Job, sums: Vec<Vec<f64>>| {
            let mut statistic = statistic.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            for (tile, sums) in job.tiles.iter().zip(&sums) {
                statistic.fold(works[tile.work].tensor, sums);
            }
            self.progress.advance(job.traffic);
            Ok(())
        };
        let pipeline = Pipeline { pool: &self.pool, window: &self.window, stop: self.stop };
        self.measured(name, works, false, || {
            pipeline.run(jobs(self.plan, works, false, cut), |job| self.prepare(works, job), worker, fold)?;
            Ok(counter.get())
        })
    }
}
