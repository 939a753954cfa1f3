//! `taskvec diff`: a fine-tuned checkpoint as a delta file on its base.

use super::sides::{Reader, Side};
use crate::codec::Coding;
use crate::codec::lossy::{Loss, Place};
use crate::container::{Identity, Kept, RestoredFile};
use crate::error::{Error, Result};
use crate::limits::{DELTA_FILES_MAX_BYTES, NAME_MAX_BYTES};
use crate::pass::{Coder, Extent, PassRun, Progress, Run, Sides, Stop, Stream};
use crate::sink::{DeltaSink, DeltaTensor, Existing, Extra, Hashes, StagedFile, Unfinished, find_all_files};
use crate::source::{self, Counter, Files, Io, Links, PieceHash, common_elements, open_chain};
use crate::tensor::{Entry, Inventory};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How a delta file is made; only `coding` changes its bytes.
#[derive(Clone, Copy, Debug)]
pub struct DiffRun<'a> {
    /// How blocks are coded.
    pub coding: Coding,
    /// Compute threads.
    pub threads: usize,
    /// How files are read.
    pub io: Io,
    /// Which links inside model folders are followed.
    pub links: Links,
    /// What happens to an output that is there.
    pub existing: Existing,
    /// Hears how it goes.
    pub progress: &'a (dyn Progress + 'a),
    /// Can end it.
    pub stop: &'a Stop,
}

const NO_SHARED: &str = "--codec tall takes each value from BASE or from a shared model: name the delta file from BASE to that model with --on SHARED.tvd";
const SHARED_ON_DELTA: &str = "--codec tall needs --on to name a delta file that is made from BASE itself, not from the result of another delta file";

/// What was made.
#[derive(Clone, Debug)]
pub struct DiffReport {
    /// Tensors, and how many of them are the base's.
    pub tensors: usize,
    /// Of them, those whose every byte is the base's.
    pub equal: usize,
    /// Bytes of the model's tensors.
    pub tensor_bytes: u64,
    /// Length of the delta file.
    pub delta_bytes: u64,
    /// Names the result.
    pub result_root: String,
    /// What was lost; `None` if every byte comes back.
    pub loss: Option<Loss>,
    /// Bytes read.
    pub bytes_read: u64,
    /// Seconds in all.
    pub seconds: f64,
}

/// Writes the delta from `base` (or from what the delta file `on` makes of it) to `model`.
pub fn diff(base: &str, on: Option<&Path>, model: &str, out: &Path, run: &DiffRun<'_>) -> Result<DiffReport> {
    let start = Instant::now();
    let masks = has_masks(run.coding);
    let here = Path::new("");
    let root = source::open(base, here, run.links)?;
    let mut base = match on {
        None if masks => return Err(Error::Usage(NO_SHARED.into())),
        None => Side::plain(root),
        Some(on) => {
            let chain = open_chain(on)?;
            if masks && chain.len() > 1 {
                return Err(Error::Usage(SHARED_ON_DELTA.into()));
            }
            Side::chained(root, &on.display().to_string(), on, &chain)?
        }
    };
    let model = source::open(model, here, run.links)?;
    refuse_long_names(&model)?;
    let mut paths = Vec::new();
    base.number_files(&mut paths);
    let model_file = paths.len();
    paths.extend(model.files.iter().map(|f| (f.path.clone(), f.expected())));
    let inputs: Vec<&Path> = paths.iter().map(|(p, _)| p.as_path()).collect();
    let staged = StagedFile::begin(out, run.existing, Unfinished::Discard, &inputs)?;
    let files = Files::open(paths.iter().map(|(p, b)| (p.as_path(), *b)), run.io)?;
    let stream = Stream::new(run.threads, run.progress, run.stop)?;

    let kept = kept_files(&model, &base, run.links)?;
    let sink = DeltaSink::create(staged.part(), tensors(&base, &model))?;
    let pairs = Pairs { base: &base, model: &model, model_file, files: &files };
    let (sink, mut hashes, first) = pairs.code(&stream, sink, run.coding)?;
    let (base_only, second) = pairs.hash_rest(&stream, &mut hashes)?;
    files.check_unchanged()?;
    run.stop.check()?;
    let equal = hashes.iter().filter(|h| h.base.as_ref() == Some(&h.result)).count();
    let extra = Extra { base_only, files: kept.0, content: kept.1 };
    let loss = sink.loss();
    let (result_root, delta_bytes) = sink.finish(&hashes, extra)?;
    staged.publish()?;
    Ok(DiffReport {
        tensors: model.tensors.len(),
        equal,
        tensor_bytes: model.tensor_bytes(),
        delta_bytes,
        result_root,
        loss,
        bytes_read: first.bytes_read + second.bytes_read,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Whether values are chosen between the base's and a shared model's.
fn has_masks(coding: Coding) -> bool {
    matches!(coding, Coding::Lossy(scheme) if scheme.has_shared())
}

fn refuse_long_names(model: &Inventory) -> Result<()> {
    match model.tensors.iter().find(|t| t.name.len() + 3 > NAME_MAX_BYTES) {
        None => Ok(()),
        Some(t) => Err(Error::BadTensor {
            path: model.path.clone(),
            tensor: t.name.clone(),
            problem: format!("its name is {} bytes long; a delta file takes {}", t.name.len(), NAME_MAX_BYTES - 3),
        }),
    }
}

fn tensors(base: &Side, model: &Inventory) -> Vec<DeltaTensor> {
    let tensor = |t: &Entry| {
        let b = base.find(&t.name);
        DeltaTensor {
            name: t.name.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
            base: b.map(|b| (b.dtype, b.shape.clone())),
            base_elements: b.map_or(0, |b| comparable(b, t)),
        }
    };
    model.tensors.iter().map(tensor).collect()
}

/// Leading elements of `t` that its base has too, in a dtype that converts.
fn comparable(base: &Entry, t: &Entry) -> u64 {
    let converts = base.dtype == t.dtype || (base.dtype.is_float() && t.dtype.is_float());
    if converts { common_elements(&base.shape, &t.shape) } else { 0 }
}

struct Pairs<'a> {
    base: &'a Side,
    model: &'a Inventory,
    model_file: usize,
    files: &'a Files,
}

impl Pairs<'_> {
    /// The main pass: every tensor of the model against the base's. The base's hash is missing where it is longer.
    fn code(
        &self,
        stream: &Stream<'_>,
        mut sink: DeltaSink,
        coding: Coding,
    ) -> Result<(DeltaSink, Vec<Hashes>, PassRun)> {
        let counter = Counter::default();
        let model = &self.model.tensors;
        let masks = has_masks(coding);
        // The result, its blocks, and where they are lossy what they decode to.
        let held = if matches!(coding, Coding::Lossy(_)) { 3 } else { 2 };
        let result_hashes: Vec<PieceHash> = model.iter().map(|t| PieceHash::new(t.bytes)).collect();
        let base_hashes: Vec<Option<PieceHash>> =
            model.iter().map(|t| self.covered(t).map(|b| PieceHash::new(b.bytes))).collect();
        let worker = || {
            let mut coder = Coder::new(coding);
            let (mut result, mut base, mut root) = (Vec::new(), Reader::new(&counter), Vec::new());
            let (counter, result_hashes, base_hashes) = (&counter, &result_hashes, &base_hashes);
            move |run: &Run| {
                let t = &model[run.tensor];
                let size = t.dtype.bytes() as u64;
                let (at, bytes) = (run.elements.start * size, (run.elements.end - run.elements.start) * size);
                let file = self.model_file + t.file;
                let span = self.files.span(file, t.offset + at, bytes as usize, &mut result, counter)?;
                let b = self.base.find(&t.name).filter(|b| comparable(b, t) > 0);
                let bytes = b.map(|b| self.base.read(self.files, b, run, &mut base)).transpose()?;
                if let (Some(hash), Some(b), Some(bytes)) = (&base_hashes[run.tensor], b, &bytes) {
                    hash.update(run.elements.start.min(b.elements()) * b.dtype.bytes() as u64, bytes);
                }
                let same_shape = b.is_some_and(|b| b.shape == t.shape);
                let common = |b: &Entry, bytes: &[u8]| {
                    let elements = comparable(b, t).min(run.elements.end).saturating_sub(run.elements.start);
                    (elements as usize * b.dtype.bytes()).min(bytes.len())
                };
                let side = b.zip(bytes.as_ref()).map(|(b, bytes)| (b.dtype, &bytes[..common(b, bytes)]));
                let root = match b.filter(|_| masks && same_shape) {
                    Some(b) => self.base.read_root(self.files, b, run, &mut root, counter)?,
                    None => None,
                };
                let coded = coder.code(Sides {
                    tensor: run.tensor,
                    dtype: t.dtype,
                    result: &span,
                    base: side,
                    root: root.as_ref().map(|(dtype, span)| (*dtype, &**span)),
                    same_shape,
                    place: Place { row: t.shape.last().map_or(1, |d| *d), first: run.elements.start },
                });
                result_hashes[run.tensor].update(at, coder.restored().unwrap_or(&span));
                Ok(coded)
            }
        };
        let cost = |t: &Entry| {
            let (bytes, traffic) = self.base.find(&t.name).map_or((0, 0), |b| self.base.cost(b));
            Extent { elements: t.elements(), element_bytes: bytes + held * t.dtype.bytes(), traffic: traffic + t.bytes }
        };
        let extents: Vec<Extent> = model.iter().map(cost).collect();
        let pass = stream.over("diff", &extents, &counter, worker, |_, coded| sink.take_run(&coded))?;
        let hashes = result_hashes.into_iter().zip(base_hashes);
        let hashes = hashes.map(|(r, b)| Hashes { result: hex(r), base: b.map(hex) }).collect();
        Ok((sink, hashes, pass))
    }

    /// The base's tensor, if the main pass reads all of it.
    fn covered(&self, t: &Entry) -> Option<&Entry> {
        self.base.find(&t.name).filter(|b| comparable(b, t) > 0 && b.elements() <= t.elements())
    }

    /// Hashes what the main pass has not read of the base, and returns the tensors that only the base has.
    fn hash_rest(&self, stream: &Stream<'_>, hashes: &mut [Hashes]) -> Result<(Vec<Identity>, PassRun)> {
        let counter = Counter::default();
        let places: BTreeMap<&str, usize> =
            self.model.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        let place = |b: &Entry| places.get(b.name.as_str()).copied();
        let missing = |b: &&Entry| place(b).is_none_or(|i| hashes[i].base.is_none());
        let rest: Vec<&Entry> = self.base.inventory.tensors.iter().filter(missing).collect();
        let sums: Vec<PieceHash> = rest.iter().map(|b| PieceHash::new(b.bytes)).collect();
        let cost = |b: &&Entry| {
            let (element_bytes, traffic) = self.base.cost(b);
            Extent { elements: b.elements(), element_bytes, traffic }
        };
        let extents: Vec<Extent> = rest.iter().map(cost).collect();
        let worker = || {
            let mut reader = Reader::new(&counter);
            let (rest, sums) = (&rest, &sums);
            move |run: &Run| {
                let b = rest[run.tensor];
                let bytes = self.base.read(self.files, b, run, &mut reader)?;
                sums[run.tensor].update(run.elements.start * b.dtype.bytes() as u64, &bytes);
                Ok(())
            }
        };
        let pass = stream.over("hash the rest", &extents, &counter, worker, |_, ()| Ok(()))?;
        let mut base_only = Vec::new();
        for (b, sum) in rest.into_iter().zip(sums) {
            let blake3 = hex(sum);
            match place(b) {
                Some(i) => hashes[i].base = Some(blake3),
                None => {
                    base_only.push(Identity { name: b.name.clone(), dtype: b.dtype, shape: b.shape.clone(), blake3 });
                }
            }
        }
        Ok((base_only, pass))
    }
}

pub fn hex(hash: PieceHash) -> String {
    hash.finish().to_hex().to_string()
}

/// The headers of the model's weight files and its side files, with what is kept of them.
fn kept_files(model: &Inventory, base: &Side, links: Links) -> Result<(Vec<RestoredFile>, Vec<u8>)> {
    let (mut list, mut content) = (Vec::new(), Vec::new());
    for f in &model.files {
        let header = source::header_of(&f.path)?;
        content.extend_from_slice(&header);
        let kept_bytes = header.len() as u64;
        list.push(RestoredFile { name: f.name.clone(), kept: Kept::Header, kept_bytes, bytes: f.bytes, blake3: None });
    }
    let base_folder = base.root.as_ref().unwrap_or(&base.inventory).path.clone();
    for f in find_all_files(&model.path, links)? {
        let bytes = std::fs::read(&f.path).map_err(Error::io(&f.path, "read"))?;
        let kept = if same_in(&base_folder, &f.name, &bytes) { Kept::Nothing } else { Kept::Content };
        let blake3 = Some(blake3::hash(&bytes).to_hex().to_string());
        let length = bytes.len() as u64;
        let kept_bytes = if kept == Kept::Content { length } else { 0 };
        content.extend_from_slice(&bytes[..kept_bytes as usize]);
        list.push(RestoredFile { name: f.name, kept, kept_bytes, bytes: length, blake3 });
        if content.len() as u64 > DELTA_FILES_MAX_BYTES {
            let problem =
                format!("its side files take more than the {DELTA_FILES_MAX_BYTES} bytes that a delta file keeps");
            return Err(Error::malformed(&model.path, problem));
        }
    }
    Ok((list, content))
}

/// Whether `folder` has this very file.
pub fn same_in(folder: &Path, name: &str, bytes: &[u8]) -> bool {
    let path: PathBuf = folder.join(name);
    std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == bytes.len() as u64)
        && std::fs::read(&path).is_ok_and(|b| b == bytes)
}
