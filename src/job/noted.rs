//! The passes of a merge, which note in its journal how far they are.

use super::resume::{Line, Record, known, value};
use crate::disk;
use crate::error::{Error, Result};
use crate::kernel::Change;
use crate::pass::{CodedRun, Engine, Follower, TensorHashes};
use crate::sink::{DeltaSink, Shards};
use crate::source::PieceHash;
use crate::survey::{Block, Form, Saliency, Statistic};
use std::collections::{BTreeMap, BTreeSet};

/// Pass 1, noted tensor by tensor.
pub struct NotedScores<'a, 'e> {
    saliency: &'a mut Saliency,
    record: &'a mut Record,
    engine: &'a Engine<'e>,
    tasks: usize,
    /// The tensor under way, and whole ones that are not noted yet.
    current: Option<usize>,
    whole: Vec<usize>,
    problem: Option<Error>,
}

impl<'a, 'e> NotedScores<'a, 'e> {
    pub fn new(saliency: &'a mut Saliency, record: &'a mut Record, engine: &'a Engine<'e>, tasks: usize) -> Self {
        Self { saliency, record, engine, tasks, current: None, whole: Vec::new(), problem: None }
    }

    fn line(&mut self) -> Result<serde_json::Value> {
        let inputs = Record::news(&mut self.record.inputs, self.engine.hashes().unwrap_or_default());
        let mut line = Line { inputs, ..Line::default() };
        let sums = |t: usize| (0..self.tasks).map(|k| self.saliency.sum(t, k).to_bits()).collect();
        line.sums = self.whole.drain(..).map(|t| (t, sums(t))).collect();
        self.record.has_lines = true;
        value(&line)
    }

    fn note(&mut self) -> Result<()> {
        if self.whole.is_empty() || !self.record.journal.is_due() {
            return Ok(());
        }
        let line = self.line()?;
        self.record.journal.add(line, || Ok(Vec::new()))
    }

    /// Ends the pass, which went as `result` says.
    pub fn finish<T>(mut self, result: Result<T>) -> Result<T> {
        match result {
            Ok(done) => {
                // Every tensor is whole.
                self.whole.extend(self.current);
                if !self.whole.is_empty() {
                    let line = self.line()?;
                    self.record.journal.add_and_sync(line, Vec::new())?;
                }
                self.problem.map_or(Ok(done), Err)
            }
            Err(error) => {
                if error.can_resume()
                    && !self.whole.is_empty()
                    && let Ok(line) = self.line()
                {
                    let _ = self.record.journal.add_last(line, Vec::new());
                }
                Err(error)
            }
        }
    }
}

impl Statistic for NotedScores<'_, '_> {
    fn name(&self) -> &'static str {
        self.saliency.name()
    }

    fn form(&self) -> Form {
        self.saliency.form()
    }

    fn observe(&self, worker: usize, block: Block<'_>, sums: &mut Vec<f64>) {
        self.saliency.observe(worker, block, sums);
    }

    fn fold(&mut self, tensor: usize, sums: &[f64]) {
        if self.current != Some(tensor) {
            self.whole.extend(self.current.replace(tensor));
            if self.problem.is_none() {
                self.problem = self.note().err();
            }
        }
        self.saliency.fold(tensor, sums);
    }
}

/// The merge, noted as far as its bytes are on the disk.
pub struct NotedMerge<'a, 'e> {
    pub record: Option<&'a mut Record>,
    pub engine: &'a Engine<'e>,
    pub shards: &'a Shards,
    pub delta: Option<&'a mut DeltaSink>,
    pub hashes: Option<&'a TensorHashes>,
    pub written: &'a [PieceHash],
    /// What is known of tensors that no pass makes.
    pub moved: &'a BTreeMap<usize, Option<Change>>,
    /// The tensor of the pass's first work.
    pub first: usize,
}

impl NotedMerge<'_, '_> {
    /// What came since the line before.
    fn line(&mut self) -> Result<Line> {
        let Some(record) = &mut self.record else { return Ok(Line::default()) };
        let tensors = record.noted..record.done;
        let mut line = Line { tensors: record.done, ..Line::default() };
        if let Some(delta) = &mut self.delta {
            delta.end_before(record.done)?;
            line.delta = delta.written(tensors.clone());
            delta.write_out()?;
        }
        // Only now that nothing can fail: what is told once is not told again.
        line.inputs = Record::news(&mut record.inputs, self.engine.hashes().unwrap_or_default());
        line.written = Record::news(&mut record.written, self.written);
        record.unsynced.extend(line.written.iter().map(|(shard, _)| *shard));
        let change = |t: usize| record.changes[t].map(|c| (t, c.elements, c.max_abs.to_bits()));
        line.changes = tensors.clone().filter_map(change).collect();
        if let Some(hashes) = self.hashes {
            line.hashes = tensors.map(|t| (t, known(&hashes.base[t]), known(&hashes.result[t]))).collect();
        }
        record.noted = record.done;
        record.has_lines = true;
        Ok(line)
    }

    /// Whether tensors are written that no line tells of.
    fn has_news(&self) -> bool {
        self.record.as_ref().is_some_and(|r| r.done > r.noted)
    }

    /// Notes the last tensors.
    pub fn finish(&mut self) -> Result<()> {
        if !self.has_news() {
            return Ok(());
        }
        let line = value(&self.line()?)?;
        let Some(record) = &mut self.record else { return Ok(()) };
        let files = unsynced(&mut record.unsynced, self.shards, self.delta.as_deref_mut())?;
        record.journal.add_and_sync(line, files)
    }

    /// Notes, before the run ends early, what is on the disk by then.
    pub fn stop(&mut self, error: &Error) {
        let worth = self.record.as_ref().is_some_and(|r| r.done > 0);
        if error.can_resume() && worth {
            // The error is what is told; without the line less is kept.
            let _ = self.last_line(error);
        }
    }

    fn last_line(&mut self, error: &Error) -> Result<()> {
        let mut line = self.line()?;
        let Some(record) = &mut self.record else { return Ok(()) };
        let files = unsynced(&mut record.unsynced, self.shards, self.delta.as_deref_mut())?;
        files.iter().try_for_each(disk::File::sync)?;
        if matches!(error, Error::Interrupted { .. }) {
            let mut parts = self.shards.identities()?;
            parts.extend(self.delta.as_deref_mut().map(|d| d.write_out()?.identity()).transpose()?);
            line.parts = Some(parts);
        }
        record.journal.add_last(value(&line)?, Vec::new())
    }
}

/// The files that were written to since the last sync.
fn unsynced(shards: &mut BTreeSet<usize>, all: &Shards, delta: Option<&mut DeltaSink>) -> Result<Vec<disk::File>> {
    let mut files = all.again(std::mem::take(shards).into_iter())?;
    files.extend(delta.map(DeltaSink::write_out).transpose()?);
    Ok(files)
}

impl Follower for NotedMerge<'_, '_> {
    fn take(&mut self, run: &CodedRun) -> Result<()> {
        self.delta.as_mut().map_or(Ok(()), |delta| delta.take_run(run))
    }

    fn reached(&mut self, works: usize, changes: &[Option<Change>]) -> Result<()> {
        let Some(record) = &mut self.record else { return Ok(()) };
        record.journal.touch();
        for tensor in record.done..self.first + works {
            record.changes[tensor] = changes[tensor].or(self.moved.get(&tensor).copied().flatten());
            record.done = tensor + 1;
        }
        if record.done == record.noted || !record.journal.is_due() {
            return Ok(());
        }
        let line = value(&self.line()?)?;
        let Some(record) = &mut self.record else { return Ok(()) };
        record.journal.add(line, || unsynced(&mut record.unsynced, self.shards, self.delta.as_deref_mut()))
    }
}
