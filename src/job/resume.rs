//! What a merge notes in its journal, and how a later run takes it up.

use super::Run;
use crate::disk;
use crate::error::{Error, Result};
use crate::kernel::Change;
use crate::pass::{CodedRun, Engine, Follower, PassRun, TensorHashes};
use crate::plan::Plan;
use crate::sink::{DeltaSink, Journal, Left, Shards, Staging, Told, WrittenTensor};
use crate::source::{Files, HashState, PieceHash};
use crate::survey::{Block, Form, Saliency, Statistic};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes read at a time when parts are hashed again.
const REHASH_BYTES: u64 = 4 << 20;

/// A run that is killed may have written so long after its last sign of life: a job, on a disk that is busy.
const LIFE: Duration = Duration::from_millis(200);

/// What a line of the journal says: everything that came since the line before.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Line {
    /// Pass 1: the bits of a tensor's sums, by task.
    sums: Vec<(usize, Vec<u64>)>,
    /// The merge: so many leading tensors are written.
    tensors: usize,
    /// Their changed elements, and the bits of their largest change.
    changes: Vec<(usize, u64, u32)>,
    /// The hashes of the base's side and the result's, as far as they are wanted.
    hashes: Vec<(usize, Option<String>, Option<String>)>,
    /// The payloads of the delta file.
    delta: Vec<WrittenTensor>,
    /// By shard: what has been written.
    written: Vec<(usize, HashState)>,
    /// By input file: what has been read and hashed.
    inputs: Vec<(usize, HashState)>,
    /// What tells the weight files and the delta file from changed ones, where the run was stopped.
    parts: Option<Vec<[i64; 6]>>,
}

/// What an earlier run has done.
#[derive(Debug, Default)]
pub struct Past {
    /// Pass 1: the sums of tensors, by task.
    pub sums: BTreeMap<usize, Vec<f64>>,
    /// So many leading tensors are written.
    pub tensors: usize,
    changes: BTreeMap<usize, Change>,
    hashes: BTreeMap<usize, (Option<String>, Option<String>)>,
    /// The payloads of the delta file.
    pub delta: Vec<WrittenTensor>,
    written: BTreeMap<usize, HashState>,
    inputs: BTreeMap<usize, HashState>,
    parts: Option<Vec<[i64; 6]>>,
    /// When it was killed, if the machine still knows what it wrote.
    alive: Option<Duration>,
}

/// Notes what is done.
#[derive(Debug)]
pub struct Record {
    journal: Journal,
    /// Whether there is anything to go on with.
    pub has_lines: bool,
    /// Leading tensors that are written, and of which the journal knows.
    done: usize,
    noted: usize,
    changes: Vec<Option<Change>>,
    /// Bytes of each file of which the journal knows.
    inputs: Vec<u64>,
    written: Vec<u64>,
    /// Weight files written to since the last sync.
    unsynced: BTreeSet<usize>,
}

impl Past {
    fn from_left(left: Left) -> Self {
        let mut past = Self { alive: left.alive, ..Self::default() };
        for line in left.lines {
            let Ok(line) = serde_json::from_value::<Line>(line) else { break };
            let float = |bits: Vec<u64>| bits.into_iter().map(f64::from_bits).collect();
            past.sums.extend(line.sums.into_iter().map(|(t, bits)| (t, float(bits))));
            past.tensors = line.tensors.max(past.tensors);
            let change = |(t, elements, bits)| (t, Change { elements, max_abs: f32::from_bits(bits) });
            past.changes.extend(line.changes.into_iter().map(change));
            past.hashes.extend(line.hashes.into_iter().map(|(t, base, result)| (t, (base, result))));
            past.delta.extend(line.delta);
            past.written.extend(line.written);
            past.inputs.extend(line.inputs);
            past.parts = line.parts;
        }
        past
    }

    /// Whether there is anything to go on with.
    pub fn is_empty(&self) -> bool {
        self.tensors == 0 && self.sums.is_empty()
    }

    /// Forgets the merge: its parts are damaged.
    pub fn forget_merge(&mut self) {
        *self =
            Self { sums: std::mem::take(&mut self.sums), inputs: std::mem::take(&mut self.inputs), ..Self::default() };
    }

    /// Takes over the hashes of inputs.
    pub fn restore_inputs(&self, engine: &mut Engine<'_>) {
        for (&file, state) in &self.inputs {
            engine.restore_hash(file, state);
        }
    }

    /// What is known of the output's tensors.
    pub fn changes(&self, tensors: usize) -> Vec<Option<Change>> {
        (0..tensors).map(|t| self.changes.get(&t).copied()).collect()
    }

    /// Takes over the hashes of tensors.
    pub fn restore_tensors(&self, plan: &Plan, hashes: &mut TensorHashes) {
        for (&t, (base, result)) in &self.hashes {
            let planned = &plan.tensors[t];
            let base_bytes = planned.elements * planned.places[0].dtype.bytes() as u64;
            if let Some(hash) = restored(base_bytes, base.as_ref()) {
                hashes.base[t] = hash;
            }
            if let Some(hash) = restored(planned.bytes(), result.as_ref()) {
                hashes.result[t] = hash;
            }
        }
    }

    /// Whether anybody has written to these files since the run ended.
    pub fn told(&self, shards: &Shards, delta: Option<&Path>) -> Result<Told> {
        let mut found = shards.identities()?;
        found.extend(delta.map(|path| disk::File::open(path)?.identity()).transpose()?);
        let untouched = match &self.parts {
            Some(parts) => *parts == found,
            None => self.alive.is_some_and(|alive| found.iter().all(|file| disk::changed(file) <= alive + LIFE)),
        };
        Ok(if untouched { Told::Untouched } else { Told::Unproven })
    }

    /// Hashes again what stands in the weight files, unless it is known to be untouched; `None` if it is not what was
    /// written.
    pub fn check_parts(
        &self,
        plan: &Plan,
        shards: &Shards,
        told: Told,
    ) -> Result<Option<(Vec<PieceHash>, PassRun)>> {
        let start = Instant::now();
        if self.tensors > plan.tensors.len() || (plan.writes_delta() && self.delta.len() != self.tensors) {
            return Ok(None);
        }
        let mut bytes_read = 0;
        let mut hashes = Vec::with_capacity(plan.shards.len());
        for (number, shard) in plan.shards.iter().enumerate() {
            let state = self.written.get(&number).cloned().unwrap_or_default();
            let Some(hash) = PieceHash::restore(shard.file_bytes(), &state) else { return Ok(None) };
            if !self.covers(plan, number, &state) {
                return Ok(None);
            }
            if told == Told::Unproven {
                let again = PieceHash::new(shard.file_bytes());
                let mut buffer = Vec::new();
                for &(from, to) in &state.covered {
                    let mut at = from;
                    while at < to {
                        buffer.resize(REHASH_BYTES.min(to - at) as usize, 0);
                        shards.read(number, at, &mut buffer)?;
                        again.update(at, &buffer);
                        at += buffer.len() as u64;
                    }
                    bytes_read += to - from;
                }
                if again.state() != state {
                    return Ok(None);
                }
            }
            hash.update(0, &shard.header);
            hashes.push(hash);
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok(Some((hashes, PassRun { name: "hash the parts again".into(), bytes_read, seconds })))
    }
}

impl Past {
    /// Whether all of a shard that belongs to written tensors is known.
    fn covers(&self, plan: &Plan, shard: usize, state: &HashState) -> bool {
        let written = plan.tensors[..self.tensors].iter().filter(|t| t.shard == shard && t.elements > 0);
        let inside = |from: u64, to: u64| state.covered.iter().any(|&(start, end)| start <= from && to <= end);
        let mut written = written.map(|t| inside(t.offset, t.offset + t.bytes()));
        written.all(|inside| inside)
    }
}

/// What is made of what: a journal with another first line is of another merge.
pub fn first_line(plan: &Plan, run: &Run<'_>, files: &Files) -> serde_json::Value {
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "plan": plan.id,
        "delta": plan.writes_delta().then(|| run.delta.map(|p| p.display().to_string())),
        "hash_inputs": run.hash_inputs,
        "inputs": files.identities(),
    })
}

/// A short name of what is made of what.
pub fn id(first: &serde_json::Value) -> String {
    blake3::hash(first.to_string().as_bytes()).to_hex().to_string()
}

/// Begins the journal of a merge in its folder, or takes up what is there.
pub fn open(
    plan: &Plan,
    run: &Run<'_>,
    staging: &Staging,
    first: &serde_json::Value,
) -> Result<(Option<Record>, Past)> {
    let Some(every) = run.journal else { return Ok((None, Past::default())) };
    let (journal, left) = Journal::open(&staging.journal(), first, every, run.unfinished, || staging.clear())?;
    let past = left.map(Past::from_left).unwrap_or_default();
    let record = Record {
        journal,
        has_lines: !past.is_empty(),
        done: 0,
        noted: 0,
        changes: vec![None; plan.tensors.len()],
        inputs: vec![0; plan.files.len()],
        written: vec![0; plan.shards.len()],
        unsynced: BTreeSet::new(),
    };
    Ok((Some(record), past))
}

impl Record {
    /// The merge goes on behind so many tensors.
    pub fn start_at(&mut self, tensors: usize) {
        (self.done, self.noted) = (tensors, tensors);
    }

    /// Removes the journal: everything is whole.
    pub fn finish(&mut self) -> Result<()> {
        self.journal.remove()
    }

    /// The run ends early with this error, after which not every disk can be believed.
    pub fn end(&mut self, error: &Error) {
        self.journal.end_with(error);
    }

    /// The states of hashes that know more than the journal.
    fn news(known: &mut [u64], hashes: &[PieceHash]) -> Vec<(usize, HashState)> {
        let mut news = Vec::new();
        for (file, (known, hash)) in known.iter_mut().zip(hashes).enumerate() {
            let state = hash.state();
            let bytes = state.covered.iter().map(|(start, end)| end - start).sum();
            if bytes != *known {
                *known = bytes;
                news.push((file, state));
            }
        }
        news
    }
}

/// A hash that is complete, to be kept.
pub fn known(hash: &PieceHash) -> Option<String> {
    hash.root().map(|root| root.to_hex().to_string())
}

/// The hash of so many bytes that was kept.
pub fn restored(bytes: u64, kept: Option<&String>) -> Option<PieceHash> {
    Some(PieceHash::known(bytes, blake3::Hash::from_hex(kept?).ok()?))
}

fn value(line: &Line) -> Result<serde_json::Value> {
    serde_json::to_value(line).map_err(|e| Error::Usage(format!("journal: {e}")))
}

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
            record.changes[tensor] = changes[tensor];
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
