//! Tensors that an earlier output has in the same place: they go from file to file, with no pass reading them.
//!
//! What is trusted: a file of the same device, inode, length and times as when it was published holds what was written to it.
//! What is checked all the same: bytes that do not share a whole chunk of the hash with others' are read, and whatever is
//! copied through this process is hashed. With `--paranoid` all of it is.

use super::keys::{Key, Keys};
use super::memo::{Computed, Made, Memo, Seen};
use super::resume::Past;
use super::{Output, delta};
use crate::error::{Error, Result};
use crate::kernel::Change;
use crate::limits::{COPY_BYTES, MEMO_ENTRIES_MAX};
use crate::method::Method;
use crate::pass::{
    Action, Copied, Engine, PassRun, Progress, Reused, ReusedTensor, Stop, Target as _, TensorHashes, Work,
};
use crate::plan::{Plan, PlannedTensor};
use crate::sink::{DeltaSink, Hashes};
use crate::source::{Counter, Files, Io, PieceHash, RangeHash};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// What was taken from earlier outputs.
#[derive(Default)]
pub struct Moved {
    /// The tensors that are there, and how they differ from the base.
    pub changes: BTreeMap<usize, Option<Change>>,
    /// By tensor: what the hash of its file knows of it.
    pub ranges: BTreeMap<usize, RangeHash>,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes, of weights and of deltas, that no pass reads.
    pub unread: u64,
    /// What was read of them.
    pub run: Option<PassRun>,
    files: Option<Files>,
}

/// How tensors are taken.
pub struct Mover<'a> {
    pub plan: &'a Plan,
    pub progress: &'a dyn Progress,
    pub stop: &'a Stop,
    /// Whether everything is read and hashed.
    pub paranoid: bool,
}

/// The files that tensors are taken from.
struct Sources {
    files: Files,
    /// By tensor: index into the files, and the same of its delta.
    weights: BTreeMap<usize, usize>,
    deltas: BTreeMap<usize, usize>,
}

impl Moved {
    /// Fails if a file is no longer the one that was taken from.
    pub fn check_unchanged(&self) -> Result<()> {
        self.files.as_ref().map_or(Ok(()), Files::check_unchanged)
    }
}

impl Mover<'_> {
    /// Takes what earlier merges have made from their outputs, as far as those are as they were: from the same place into the
    /// output at once, from other places when the merge comes to them.
    pub fn take(
        &self,
        memo: &Memo,
        engine: &mut Engine<'_>,
        method: &dyn Method,
        (works, actions): (&mut [Work], &mut [Action]),
        (target, hashes): (&mut Output, &mut Option<TensorHashes>),
        past: &Past,
    ) -> Result<Moved> {
        let keys = Keys::new(self.plan, engine);
        let found = memo.find(&keys, method, works, actions);
        let sources = open(&found);
        let fits = |t: &usize, made: &Made| *t >= past.tensors && self.fits((*t, made), actions, &keys, &sources);
        let movable = found.iter().filter(|(t, made)| fits(t, made)).map(|(&t, made)| (t, made));
        // What an interrupted run has moved is there, as the journal knows.
        let missing = |t: usize| target.written[self.plan.tensors[t].shard].missing_of(self.range(t));
        let (there, mut movable): (Vec<_>, Vec<_>) = movable.partition(|(t, _)| missing(*t).is_empty());
        movable.retain(|(t, _)| missing(*t) == [self.range(*t)]);
        let mut moved = self.move_all(&movable, &sources, target)?;
        for (tensor, made) in &there {
            moved.changes.insert(*tensor, made.change);
            moved.ranges.extend(made.range.clone().map(|range| (*tensor, range)));
        }
        // What was not as it should be is made again; so is what cannot be checked, where all is.
        let tried: BTreeSet<usize> = there.iter().chain(&movable).map(|(t, _)| *t).collect();
        let left: BTreeMap<usize, Made> =
            found.iter().filter(|(t, _)| !tried.contains(t) && !self.paranoid).map(|(&t, m)| (t, m.clone())).collect();
        let mut deltas: BTreeMap<usize, Arc<File>> = BTreeMap::new();
        for (tensor, made) in there.into_iter().chain(movable).filter(|(t, _)| moved.changes.contains_key(t)) {
            let t = &self.plan.tensors[tensor];
            works[tensor].only = Some(0..0);
            moved.bytes += t.bytes();
            if let Some((hashes, base)) = hashes.as_mut().zip(keys.base_hash(tensor)) {
                hashes.base[tensor] = PieceHash::known(hashes.base[tensor].bytes(), base);
                if let Some(hash) = made.hash {
                    hashes.result[tensor] = PieceHash::known(t.bytes(), hash);
                }
            }
            let coded = made.coded.as_ref().zip(sources.deltas.get(&tensor));
            let coded = coded.and_then(|(coded, &file)| Some((coded, file, sources.files.file(file)?)));
            if let (Some(delta), Some((coded, file, open))) = (&mut target.delta, coded)
                && actions[tensor].copied != Copied::Bytes
            {
                if let Entry::Vacant(slot) = deltas.entry(file) {
                    let again = open.try_clone();
                    slot.insert(Arc::new(again.map_err(Error::io(sources.files.path(file), "open again"))?));
                }
                delta.take_from(tensor, (deltas[&file].clone(), coded.header_bytes), &coded.written);
                moved.unread += coded.written.payload_bytes();
            }
        }
        drop(keys);
        self.reuse(engine, left, (works, actions));
        moved.files = Some(sources.files);
        Ok(moved)
    }

    /// Has the merge take tensors that could not be moved from where they are.
    fn reuse(
        &self,
        engine: &mut Engine<'_>,
        mut found: BTreeMap<usize, Made>,
        (works, actions): (&mut [Work], &mut [Action]),
    ) {
        found.retain(|&t, _| actions[t].copied == Copied::No);
        let sources = open(&found);
        let base = self.plan.base().filter(|_| delta::wants_hashes(self.plan));
        let place = |(&t, &file): (&usize, &usize)| {
            (t, ReusedTensor { file, offset: found[&t].offset, change: found[&t].change })
        };
        let tensors: BTreeMap<usize, ReusedTensor> = sources.weights.iter().map(place).collect();
        for &tensor in tensors.keys() {
            works[tensor].sources = base.into_iter().collect();
            actions[tensor].copied = Copied::Reused;
        }
        engine.reuse(Reused::new(sources.files, tensors));
    }

    /// Where a tensor lies in its weight file.
    fn range(&self, tensor: usize) -> Range<u64> {
        let t = &self.plan.tensors[tensor];
        t.offset..t.offset + t.bytes()
    }

    /// Whether a tensor has the same place there, and everything is known that its delta and hashes need.
    fn fits(&self, (tensor, made): (usize, &Made), actions: &[Action], keys: &Keys<'_>, sources: &Sources) -> bool {
        let plan = self.plan;
        let t = &plan.tensors[tensor];
        let in_place = t.elements > 0
            && made.offset == t.offset
            && sources.weights.contains_key(&tensor)
            && made.range.as_ref().is_some_and(|r| r.is_at(&self.range(tensor), plan.shards[t.shard].file_bytes()));
        if !in_place || !delta::wants_hashes(plan) {
            return in_place;
        }
        let Some(base) = keys.base_hash(tensor) else { return false };
        let is_base = actions[tensor].copied == Copied::Bytes;
        let coded = || made.coded.as_ref().is_some_and(|c| c.base == base) && sources.deltas.contains_key(&tensor);
        is_base || made.hash.is_some() && (!plan.writes_delta() || coded())
    }

    /// Moves tensors, neighbours together.
    fn move_all(&self, tensors: &[(usize, &Made)], sources: &Sources, target: &Output) -> Result<Moved> {
        let start = Instant::now();
        let (counter, mut moved) = (Counter::default(), Moved::default());
        let range = |t: usize| self.range(t);
        let touch = |a: &(usize, &Made), b: &(usize, &Made)| {
            self.plan.tensors[a.0].shard == self.plan.tensors[b.0].shard
                && sources.weights[&a.0] == sources.weights[&b.0]
                && range(a.0).end == range(b.0).start
        };
        let name = "take from earlier outputs";
        self.progress.begin(name, tensors.iter().map(|(t, _)| self.plan.tensors[*t].bytes()).sum());
        for run in tensors.chunk_by(touch) {
            let (first, last) = (run[0].0, run[run.len() - 1].0);
            let shard = self.plan.tensors[first].shard;
            let (file, whole) = (sources.weights[&first], range(first).start..range(last).end);
            let unread = !self.paranoid && self.copy_in_kernel(target, shard, (sources, file), whole)?;
            for &(tensor, made) in run {
                let Some(known) = &made.range else { continue };
                if !unread && !self.copy(target, shard, (sources, file), range(tensor), known, &counter)? {
                    continue;
                }
                if give(known, &sources.files, file, &target.written[shard], &counter)? {
                    moved.changes.insert(tensor, made.change);
                    moved.ranges.insert(tensor, known.clone());
                    moved.unread += if unread { self.plan.tensors[tensor].bytes() } else { 0 };
                }
            }
            if run.iter().any(|(t, _)| !moved.changes.contains_key(t)) {
                let path = sources.files.path(file).display();
                tracing::warn!("{path}: is not as it was written; what differs is made again");
            }
        }
        self.progress.end();
        let run = PassRun { name: name.into(), bytes_read: counter.get(), seconds: start.elapsed().as_secs_f64() };
        moved.run = (!tensors.is_empty()).then_some(run);
        Ok(moved)
    }

    /// Takes a range inside the kernel, in pieces, so that a stop is heard. `false` if that cannot be.
    fn copy_in_kernel(
        &self,
        target: &Output,
        shard: usize,
        (sources, file): (&Sources, usize),
        range: Range<u64>,
    ) -> Result<bool> {
        let Some(open) = sources.files.file(file) else { return Ok(false) };
        let mut at = range.start;
        while at < range.end {
            self.stop.check()?;
            let end = (at / COPY_BYTES + 1).saturating_mul(COPY_BYTES).min(range.end);
            if !target.shards.take(shard, open, at..end)? {
                return Ok(false);
            }
            self.progress.advance(end - at);
            at = end;
        }
        Ok(true)
    }

    /// Copies a range through this process. `false` if it does not hold what it held.
    fn copy(
        &self,
        target: &Output,
        shard: usize,
        (sources, file): (&Sources, usize),
        range: Range<u64>,
        known: &RangeHash,
        counter: &Counter,
    ) -> Result<bool> {
        let hash = PieceHash::new(self.plan.shards[shard].file_bytes());
        let mut buffer = vec![0; self.plan.budget.job_bytes.min((range.end - range.start) as usize)];
        let mut at = range.start;
        while at < range.end {
            self.stop.check()?;
            let bytes = (range.end - at).min(buffer.len() as u64) as usize;
            sources.files.fill(file, at, &mut buffer[..bytes], counter)?;
            hash.update(at, &buffer[..bytes]);
            target.shards.write(shard, at, &buffer[..bytes])?;
            self.progress.advance(bytes as u64);
            at += bytes as u64;
        }
        Ok(RangeHash::of(&hash, range).as_ref() == Some(known))
    }
}

/// By tensor: to be told what the hash of its shard knows of it; `None` of more tensors than a memo keeps.
pub fn ranges(plan: &Plan) -> Option<Vec<PieceHash>> {
    let wanted = plan.masks.is_none() && plan.tensors.len() <= MEMO_ENTRIES_MAX;
    let of_tensor = |t: &PlannedTensor| PieceHash::new(plan.shards[t.shard].file_bytes());
    wanted.then(|| plan.tensors.iter().map(of_tensor).collect())
}

/// What is known of the tensors of an output.
pub struct Taken<'a> {
    pub actions: &'a [Action],
    pub changes: &'a [Option<Change>],
    pub moved: &'a Moved,
    pub ranges: Option<&'a [PieceHash]>,
}

impl Taken<'_> {
    /// What other merges may take of it, and where it is.
    pub fn computed(
        &self,
        plan: &Plan,
        keys: Vec<(usize, Key)>,
        hashes: Option<&[Hashes]>,
        delta: Option<&DeltaSink>,
    ) -> Vec<Computed> {
        let one = |(tensor, key): (usize, Key)| {
            let t = &plan.tensors[tensor];
            let fresh = || RangeHash::of(&self.ranges?[tensor], t.offset..t.offset + t.bytes());
            let hash = |hex: &String| blake3::Hash::from_hex(hex).ok();
            let of_tensor = hashes.map(|h| &h[tensor]);
            let base = of_tensor.and_then(|h| hash(h.base.as_ref()?));
            let coded = delta
                .zip(base)
                .and_then(|(delta, base)| Some((delta.header_bytes(), delta.written(tensor..tensor + 1).pop()?, base)));
            let moved = self.moved.ranges.get(&tensor);
            Computed {
                tensor,
                key,
                reused: moved.is_some() || self.actions[tensor].copied == Copied::Reused,
                change: self.changes[tensor],
                range: moved.cloned().or_else(fresh),
                hash: of_tensor.and_then(|h| hash(&h.result)),
                coded,
            }
        };
        keys.into_iter().map(one).collect()
    }
}

/// Tells the hash of a shard what is known of a range, after a look at its edges. `false` if these are not as they were, or if
/// the shard knows of the range.
fn give(known: &RangeHash, files: &Files, file: usize, shard: &PieceHash, counter: &Counter) -> Result<bool> {
    let mut edges = Vec::new();
    for edge in known.edges() {
        let at = edges.len();
        edges.resize(at + (edge.end - edge.start) as usize, 0);
        files.fill(file, edge.start, &mut edges[at..], counter)?;
    }
    Ok(known.give(&edges, shard))
}

/// Opens the files of these tensors; those of a file that is gone or changed are left out.
fn open(found: &BTreeMap<usize, Made>) -> Sources {
    // The same path may have been other files at other times.
    let mut known: Vec<(Seen, Option<usize>)> = Vec::new();
    let mut index_of = |seen: &Seen| -> Option<usize> {
        if let Some((_, index)) = known.iter().find(|(file, _)| **file == **seen) {
            return *index;
        }
        let file = Files::open(std::iter::once((seen.0.as_path(), seen.1)), Io::Pread);
        let index = file.ok().map(|_| known.iter().filter(|(_, index)| index.is_some()).count());
        known.push((seen.clone(), index));
        index
    };
    let weights = found.iter().filter_map(|(&t, made)| Some((t, index_of(&made.file)?))).collect();
    let coded = found.iter().filter_map(|(&t, made)| Some((t, made.coded.as_ref()?)));
    let deltas = coded.filter_map(|(t, coded)| Some((t, index_of(&coded.file)?))).collect();
    let opened = known.iter().filter(|(_, index)| index.is_some()).map(|(seen, _)| (seen.0.as_path(), seen.1));
    match Files::open(opened, Io::Pread) {
        Ok(files) => Sources { files, weights, deltas },
        Err(_) => Sources::none(),
    }
}

impl Sources {
    fn none() -> Self {
        let files = Files::open(std::iter::empty(), Io::Pread).expect("nothing is opened");
        Self { files, weights: BTreeMap::new(), deltas: BTreeMap::new() }
    }
}
