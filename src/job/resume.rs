//! What a merge notes in its journal, and how a later run takes it up.

use super::Run;
use crate::disk;
use crate::error::{Error, Result};
use crate::kernel::Change;
use crate::pass::{Engine, PassRun, TensorHashes};
use crate::plan::Plan;
use crate::sink::{Journal, Left, Shards, Staging, Told, WrittenTensor};
use crate::source::{Files, HashState, PieceHash};
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
pub struct Line {
    /// The merge begins anew: what earlier lines say of it does not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// Pass 1: the bits of a tensor's sums, by task.
    pub sums: Vec<(usize, Vec<u64>)>,
    /// The merge: so many leading tensors are written.
    pub tensors: usize,
    /// Their changed elements, and the bits of their largest change.
    pub changes: Vec<(usize, u64, u32)>,
    /// The hashes of the base's side and the result's, as far as they are wanted.
    pub hashes: Vec<(usize, Option<String>, Option<String>)>,
    /// The payloads of the delta file.
    pub delta: Vec<WrittenTensor>,
    /// By shard: what has been written.
    pub written: Vec<(usize, HashState)>,
    /// By input file: what has been read and hashed.
    pub inputs: Vec<(usize, HashState)>,
    /// What tells the weight files and the delta file from changed ones, where the run was stopped.
    pub parts: Option<Vec<[i64; 6]>>,
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
    pub journal: Journal,
    /// Whether there is anything to go on with.
    pub has_lines: bool,
    /// Leading tensors that are written, and of which the journal knows.
    pub done: usize,
    pub noted: usize,
    pub changes: Vec<Option<Change>>,
    /// Bytes of each file of which the journal knows.
    pub inputs: Vec<u64>,
    pub written: Vec<u64>,
    /// Weight files written to since the last sync.
    pub unsynced: BTreeSet<usize>,
}

impl Past {
    fn from_left(left: Left) -> Self {
        let mut past = Self { alive: left.alive, ..Self::default() };
        for line in left.lines {
            let Ok(line) = serde_json::from_value::<Line>(line) else { break };
            if line.anew {
                past.forget_merge();
            }
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
        let (sums, inputs) = (std::mem::take(&mut self.sums), std::mem::take(&mut self.inputs));
        *self = Self { sums, inputs, alive: self.alive, ..Self::default() };
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
    pub fn check_parts(&self, plan: &Plan, shards: &Shards, told: Told) -> Result<Option<(Vec<PieceHash>, PassRun)>> {
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
        "inputs": files.states(),
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

    /// Notes, before parts are made again, that there are none.
    pub fn begin_anew(&mut self) -> Result<()> {
        self.journal.add(value(&Line { anew: true, ..Line::default() })?, || Ok(Vec::new()))
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
    pub fn news(known: &mut [u64], hashes: &[PieceHash]) -> Vec<(usize, HashState)> {
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

/// A line as the journal takes it.
pub fn value(line: &Line) -> Result<serde_json::Value> {
    serde_json::to_value(line).map_err(|e| Error::Usage(format!("journal: {e}")))
}
