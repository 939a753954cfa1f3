//! What the merges of a batch know from each other, and with a cache what those of earlier runs did: sums of pass 1, hashes of
//! inputs, and where tensors lie in outputs.
//!
//! A merged tensor depends on the method, its settings and its values in the sources that are read, not on eta: merges that
//! differ in eta alone take it from the first output that has it. Inputs are told by their files and places in them; with a
//! cache by their content, so that a file that was written again is known in all tensors that are as they were.

use super::keys::{Key, Keys, is_stored};
use super::resume::Past;
use super::{Scoring, assign, cache};
use crate::error::Result;
use crate::kernel::Change;
use crate::limits::MEMO_ENTRIES_MAX;
use crate::method::Method;
use crate::pass::{Action, Content, Contents, Engine, PassRun, Work};
use crate::plan::Plan;
use crate::sink::WrittenTensor;
use crate::source::{self, Files, Io, Links, RangeHash};
use crate::tensor::{Expected, Identity};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Kept in memory while a batch runs: a few numbers for each tensor and file.
#[derive(Debug, Default)]
pub struct Memo {
    known: Mutex<Known>,
    /// Where it is kept between runs.
    path: Option<PathBuf>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// By what was summed: one sum per task.
    pub sums: BTreeMap<Key, Vec<f64>>,
    pub hashes: BTreeMap<Identity, blake3::Hash>,
    /// What tensors hold, by file, first byte and length.
    pub contents: BTreeMap<(Identity, u64, u64), Content>,
    pub made: BTreeMap<Key, Made>,
}

/// A file, as it was when it was seen.
pub(super) type Seen = Arc<(PathBuf, Expected)>;

/// A tensor in an output.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub file: Seen,
    pub offset: u64,
    /// How it differs from the base, where that is known.
    pub change: Option<Change>,
    /// What the hash of the file knows of it.
    pub range: Option<RangeHash>,
    /// Its hash, where there is a delta file.
    pub hash: Option<blake3::Hash>,
    pub coded: Option<Coded>,
}

/// A tensor in an output's delta file.
#[derive(Clone, Debug)]
pub(super) struct Coded {
    pub file: Seen,
    /// What places in it count from.
    pub header_bytes: u64,
    pub written: WrittenTensor,
    /// The hash of the base's tensor that it is coded against.
    pub base: blake3::Hash,
}

/// A tensor of an output under way.
#[derive(Debug)]
pub(super) struct Computed {
    pub tensor: usize,
    pub key: Key,
    /// Whether it was taken from another output.
    pub reused: bool,
    pub change: Option<Change>,
    pub range: Option<RangeHash>,
    pub hash: Option<blake3::Hash>,
    /// Of its delta: what payloads count from, what is written, and the hash of the base's tensor.
    pub coded: Option<(u64, WrittenTensor, blake3::Hash)>,
}

impl Memo {
    /// What the cache at `path` holds; it is written anew after each merge.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { known: Mutex::new(cache::load(path)?), path: Some(path.to_owned()) })
    }

    /// Tells what is known of the inputs of a plan. Reads those of which nothing is known as far as they may be known under
    /// another name.
    pub(super) fn recall(&self, plan: &Plan, engine: &mut Engine<'_>, past: &mut Past) -> Result<Option<PassRun>> {
        self.recall_hashes(engine);
        let run = match self.recall_contents(plan, engine) {
            Some(heads) if !heads.is_empty() => Some(engine.look_for(&heads)?).filter(|run| run.bytes_read > 0),
            _ => None,
        };
        let known = self.lock();
        let keys = Keys::new(plan, engine);
        let sums = (0..plan.tensors.len()).filter_map(|t| Some((t, known.sums.get(&keys.sums(t)?)?.clone())));
        past.sums.extend(sums);
        Ok(run)
    }

    /// Tells what is known of the hashes of inputs.
    pub(super) fn recall_hashes(&self, engine: &mut Engine<'_>) {
        let known = self.lock();
        for (file, identity) in engine.files().identities().iter().enumerate() {
            if let Some(hash) = known.hashes.get(identity) {
                engine.know_hash(file, *hash);
            }
        }
    }

    /// Has the tensors of the inputs hashed, if there is a cache that can hold so many, and tells of those that are known.
    /// Returns how known tensors begin.
    fn recall_contents(&self, plan: &Plan, engine: &mut Engine<'_>) -> Option<BTreeSet<[u8; 32]>> {
        let few = plan.tensors.len() * plan.sources.len() <= MEMO_ENTRIES_MAX;
        self.path.as_ref().filter(|_| few)?;
        let places = plan.tensors.iter().flat_map(|t| t.places.iter().map(|p| (p, t.elements)));
        let stored = places.filter(|(place, _)| is_stored(place));
        let mut contents =
            Contents::new(stored.map(|(p, elements)| (p.file, p.offset, elements * p.dtype.bytes() as u64)));
        let known = self.lock();
        for (file, identity) in engine.files().identities().into_iter().enumerate() {
            let of_file = known.contents.range((identity, 0, 0)..=(identity, u64::MAX, u64::MAX));
            of_file.for_each(|(&(_, offset, _), content)| contents.know(file, offset, *content));
        }
        engine.set_contents(contents);
        Some(known.contents.values().map(|c| *c.head.as_bytes()).collect())
    }

    /// The tensors of this merge that an earlier one has made, and where.
    pub(super) fn find(
        &self,
        keys: &Keys<'_>,
        method: &dyn Method,
        works: &[Work],
        actions: &[Action],
    ) -> BTreeMap<usize, Made> {
        let known = self.lock();
        let made = keys.made(method, works, actions);
        made.into_iter().filter_map(|(tensor, key)| Some((tensor, known.made.get(&key)?.clone()))).collect()
    }

    /// Takes in what a merge found out about its inputs. Returns the keys of what it made.
    pub(super) fn learn(
        &self,
        plan: &Plan,
        engine: &Engine<'_>,
        scoring: &Scoring,
        method: &dyn Method,
        hashes: Option<&[blake3::Hash]>,
    ) -> Vec<(usize, Key)> {
        self.learn_hashes(engine.files(), hashes);
        let identities = engine.files().identities();
        let keys = Keys::new(plan, engine);
        let mut known = self.lock();
        known.sums.extend(scoring.sums.iter().filter_map(|(&t, sums)| Some((keys.sums(t)?, sums.clone()))));
        let contents = engine.contents().into_iter().flat_map(Contents::known);
        known
            .contents
            .extend(contents.map(|((file, offset, bytes), content)| ((identities[file], offset, bytes), content)));
        known.forget_beyond(MEMO_ENTRIES_MAX);
        let (works, actions) = assign(plan, scoring);
        keys.made(method, &works, &actions)
    }

    /// Takes in the hashes of inputs.
    pub(super) fn learn_hashes(&self, files: &Files, hashes: Option<&[blake3::Hash]>) {
        let hashes = hashes.unwrap_or_default().iter().copied();
        self.lock().hashes.extend(files.identities().into_iter().zip(hashes));
    }

    /// Notes where the tensors of an output and of its delta file are, now that they have their names.
    pub(super) fn published(&self, plan: &Plan, out: &Path, delta: &Path, computed: Vec<Computed>) {
        let whole = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
        // An output that cannot be read back is none to take anything from.
        let Ok(made) = source::open(&whole.to_string_lossy(), Path::new(""), Links::Inside) else { return };
        let files: Vec<_> = made.files.iter().map(|f| Arc::new((f.path.clone(), f.expected()))).collect();
        let places: BTreeMap<&str, _> = made.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let delta = seen(delta);
        let mut known = self.lock();
        // What stood there before is gone.
        let gone = |old: &Seen| files.iter().chain(&delta).any(|f| f.0 == old.0 && **f != **old);
        known.made.retain(|_, m| !gone(&m.file));
        for m in known.made.values_mut() {
            m.coded.take_if(|c| gone(&c.file));
        }
        for Computed { tensor, key, reused, change, range, hash, coded } in computed {
            let Some(t) = places.get(plan.tensors[tensor].name.as_str()) else { continue };
            // What was taken from another output is there still, unless this one took its place.
            if reused && known.made.contains_key(&key) {
                continue;
            }
            let coded = coded.zip(delta.clone());
            let coded = coded.map(|((header_bytes, written, base), file)| Coded { file, header_bytes, written, base });
            known.made.insert(key, Made { file: files[t.file].clone(), offset: t.offset, change, range, hash, coded });
        }
        known.forget_beyond(MEMO_ENTRIES_MAX);
        // The output is whole: a cache that cannot be written spares nothing next time, no more.
        if let Some(path) = &self.path
            && let Err(problem) = cache::save(path, &known)
        {
            tracing::warn!("{problem}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Forgets everything that has grown beyond its limit: it is found out again.
    fn forget_beyond(&mut self, entries: usize) {
        if self.sums.values().map(Vec::len).sum::<usize>() > entries {
            self.sums.clear();
        }
        if self.contents.len() > entries {
            self.contents.clear();
        }
        if self.made.len() > entries {
            self.made.clear();
        }
        if self.hashes.len() > entries {
            self.hashes.clear();
        }
    }
}

/// The file at `path`, as it is now.
fn seen(path: &Path) -> Option<Seen> {
    let path = std::path::absolute(path).ok()?;
    let expected = Expected { bytes: std::fs::metadata(&path).ok()?.len(), identity: None };
    let files = Files::open(std::iter::once((path.as_path(), expected)), Io::Pread).ok()?;
    let identity = files.identities().first().copied();
    Some(Arc::new((path, Expected { identity, ..expected })))
}
