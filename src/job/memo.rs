//! What the merges of a batch know from each other: sums of pass 1, hashes of input files, and merged tensors.
//!
//! A merged tensor depends on the method, its settings and its values in the sources that are read, not on eta: merges that
//! differ in eta alone take it from the first output that has it.

use super::resume::Past;
use super::{Scoring, cache, delta};
use crate::error::Result;
use crate::kernel::Change;
use crate::limits::MEMO_ENTRIES_MAX;
use crate::method::Method;
use crate::pass::{Action, Copied, Engine, Reused, ReusedTensor, Work};
use crate::plan::{Place, Plan};
use crate::source::{self, Files, Io, Links};
use crate::survey::Score;
use crate::tensor::Expected;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What tells a file from a changed one.
type Identity = [i64; 6];

/// blake3 of all that a value depends on.
type Key = [u8; 32];

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
    pub merged: BTreeMap<Key, Merged>,
}

/// A merged tensor in an output.
#[derive(Clone, Debug)]
pub(super) struct Merged {
    pub file: Arc<(PathBuf, Expected)>,
    pub offset: u64,
    pub change: Option<Change>,
}

/// A tensor that a merge computes, or takes from another that has.
#[derive(Debug)]
pub(super) struct Computed {
    pub tensor: usize,
    /// How it differs from the base; known when it is made.
    pub change: Option<Change>,
    key: Key,
    reused: bool,
}

impl Memo {
    /// What the cache at `path` holds; it is written anew after each merge.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { known: Mutex::new(cache::load(path)?), path: Some(path.to_owned()) })
    }

    /// Tells what is known of the inputs of a plan.
    pub(super) fn recall(&self, plan: &Plan, engine: &mut Engine<'_>, past: &mut Past) {
        self.recall_hashes(engine);
        let known = self.lock();
        let identities = engine.files().identities();
        let sums = (0..plan.tensors.len())
            .filter_map(|t| Some((t, known.sums.get(&sums_key(plan, &identities, t)?)?.clone())));
        past.sums.extend(sums);
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

    /// Has tensors that an earlier merge computed taken from its output, as far as that is as it was.
    pub(super) fn reuse(
        &self,
        plan: &Plan,
        engine: &mut Engine<'_>,
        method: &dyn Method,
        works: &mut [Work],
        actions: &mut [Action],
    ) -> Vec<Computed> {
        let mut computed = computed(plan, &engine.files().identities(), method, works, actions);
        let known = self.lock();
        let found: Vec<(usize, &Merged)> =
            computed.iter().filter_map(|c| Some((c.tensor, known.merged.get(&c.key)?))).collect();
        let reused = open(&found);
        let base = plan.base().filter(|_| delta::wants_hashes(plan));
        for tensor in reused.tensors() {
            works[tensor].sources = base.into_iter().collect();
            actions[tensor].copied = Copied::Reused;
        }
        computed.iter_mut().for_each(|c| c.reused = actions[c.tensor].copied == Copied::Reused);
        engine.reuse(reused);
        computed
    }

    /// Takes in what a merge found out about its inputs.
    pub(super) fn learn(&self, plan: &Plan, files: &Files, scoring: &Scoring, hashes: Option<&[blake3::Hash]>) {
        self.learn_hashes(files, hashes);
        let mut known = self.lock();
        let identities = files.identities();
        let keyed = scoring.sums.iter().filter_map(|(&t, sums)| Some((sums_key(plan, &identities, t)?, sums.clone())));
        known.sums.extend(keyed);
        known.forget_beyond(MEMO_ENTRIES_MAX);
    }

    /// Takes in the hashes of inputs.
    pub(super) fn learn_hashes(&self, files: &Files, hashes: Option<&[blake3::Hash]>) {
        let hashes = hashes.unwrap_or_default().iter().copied();
        self.lock().hashes.extend(files.identities().into_iter().zip(hashes));
    }

    /// Notes where the merged tensors of an output are, now that it has its name.
    pub(super) fn published(&self, plan: &Plan, out: &Path, computed: Vec<Computed>) {
        let whole = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
        // An output that cannot be read back is none to take anything from.
        let Ok(made) = source::open(&whole.to_string_lossy(), Path::new(""), Links::Inside) else { return };
        let files: Vec<_> = made.files.iter().map(|f| Arc::new((f.path.clone(), f.expected()))).collect();
        let places: BTreeMap<&str, _> = made.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut known = self.lock();
        // What stood there before is gone.
        let gone = |m: &Merged| files.iter().any(|f| f.0 == m.file.0 && **f != *m.file);
        known.merged.retain(|_, m| !gone(m));
        for Computed { tensor, change, key, reused } in computed {
            let Some(t) = places.get(plan.tensors[tensor].name.as_str()) else { continue };
            let file = &files[t.file];
            // What was taken from another output is there still, unless this one took its place.
            if !reused || !known.merged.contains_key(&key) {
                known.merged.insert(key, Merged { file: file.clone(), offset: t.offset, change });
            }
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
        if self.merged.len() > entries {
            self.merged.clear();
        }
        if self.hashes.len() > entries {
            self.hashes.clear();
        }
    }
}

/// Opens the files of these tensors; those of a file that is gone or changed are left out.
fn open(found: &[(usize, &Merged)]) -> Reused {
    // The same path may have been other files at other times.
    let mut files: Vec<(&(PathBuf, Expected), Option<usize>)> = Vec::new();
    let mut opened: Vec<(&Path, Expected)> = Vec::new();
    let mut tensors = BTreeMap::new();
    for (tensor, merged) in found {
        let known = files.iter().find(|(file, _)| **file == *merged.file).map(|(_, index)| *index);
        let file = known.unwrap_or_else(|| {
            let (path, expected) = (&*merged.file.0, merged.file.1);
            let index = Files::open(std::iter::once((path, expected)), Io::Pread).ok().map(|_| opened.len());
            opened.extend(index.map(|_| (path, expected)));
            files.push((&merged.file, index));
            index
        });
        if let Some(file) = file {
            tensors.insert(*tensor, ReusedTensor { file, offset: merged.offset, change: merged.change });
        }
    }
    Files::open(opened.into_iter(), Io::Pread).map_or_else(|_| Reused::default(), |files| Reused::new(files, tensors))
}

/// Whether a tensor is simply stored there, so that a file and an offset say all.
fn is_stored(place: &Place) -> bool {
    place.coded.is_none() && place.adapter.is_none() && place.rows.is_none() && place.computed.is_none()
}

/// What stands at a place.
fn content(identities: &[Identity], place: &Place) -> serde_json::Value {
    serde_json::json!([identities[place.file], place.offset, place.dtype.header_name()])
}

/// What the sums of a tensor depend on; `None` where it is not simply stored in a file of each source.
fn sums_key(plan: &Plan, identities: &[Identity], tensor: usize) -> Option<Key> {
    let score = plan.recipe.lwptv.as_ref()?.score;
    let t = &plan.tensors[tensor];
    let sources = if score == Score::Saliency { plan.experts() } else { 0..plan.sources.len() };
    let places = &t.places[sources];
    let contents: Vec<_> = places.iter().map(|p| content(identities, p)).collect();
    let all =
        serde_json::json!(["sums", score == Score::Saliency, plan.options.allow_non_finite, t.elements, contents]);
    (t.layer.is_some() && places.iter().all(is_stored)).then(|| key(&all))
}

/// The tensors that this merge computes from values that are simply stored, each by itself.
fn computed(
    plan: &Plan,
    identities: &[Identity],
    method: &dyn Method,
    works: &[Work],
    actions: &[Action],
) -> Vec<Computed> {
    let of_model = plan.surveys > 0 && method.tensor_bytes(1).is_none();
    if of_model || plan.prunes_elements() || plan.masks.is_some() {
        return Vec::new();
    }
    let merged = works.iter().filter(|w| actions[w.tensor].copied == Copied::No);
    let computed = |w: &Work| {
        let key = merged_key(plan, identities, w)?;
        Some(Computed { tensor: w.tensor, change: None, key, reused: false })
    };
    merged.filter_map(computed).collect()
}

/// What a merged tensor depends on.
fn merged_key(plan: &Plan, identities: &[Identity], work: &Work) -> Option<Key> {
    let t = &plan.tensors[work.tensor];
    if !work.sources.iter().all(|&s| is_stored(&t.places[s])) {
        return None;
    }
    let contents: Vec<_> = work.sources.iter().map(|&s| (s, content(identities, &t.places[s]))).collect();
    let model = (plan.elements(), plan.tensors.len(), plan.sources.len(), plan.recipe.base_expert());
    Some(key(&serde_json::json!([
        "merged",
        plan.recipe.method.name,
        format!("{:?}", plan.settings[t.settings].values()),
        plan.settings[t.settings].depth().to_bits(),
        format!("{:?}", plan.form()),
        model,
        t.name,
        t.shape,
        t.dtype.header_name(),
        t.block_elements,
        plan.options.seed,
        plan.options.allow_non_finite,
        contents,
    ])))
}

fn key(all: &serde_json::Value) -> Key {
    *blake3::hash(all.to_string().as_bytes()).as_bytes()
}
