//! `taskvec diff`: a fine-tuned checkpoint as a delta file on its base.

use super::resume_diff::{Record, SideHashes, says_the_same};
use super::sides::{Reader, Side};
use crate::codec::Coding;
use crate::codec::lossy::{Loss, Place};
use crate::container::{Identity, Kept, RestoredFile};
use crate::error::{Error, Result};
use crate::limits::{DELTA_FILES_MAX_BYTES, NAME_MAX_BYTES};
use crate::pass::{CodedRun, Coder, Extent, PassRun, Progress, Run, Sides, Stop, Stream};
use crate::sink::{
    DeltaSink, DeltaTensor, Existing, Extra, Hashes, StagedFile, Unfinished, delta_index, find_all_files,
};
use crate::source::{
    self, Counter, DeltaFile, Files, Io, Links, PieceHash, common_elements, open_chain, read_small, refuse_url,
};
use crate::tensor::{Entry, Inventory, is_url};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    /// What happens to what an interrupted run has left.
    pub unfinished: Unfinished,
    /// How often what is done is noted, so that a later run can go on if this one is interrupted; `None`: never.
    pub journal: Option<Duration>,
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
    /// Whether the delta file was there already, whole.
    pub was_whole: bool,
}

/// Writes the delta from `base` (or from what the delta file `on` makes of it) to `model`.
pub fn diff(base: &str, on: Option<&Path>, model: &str, out: &Path, run: &DiffRun<'_>) -> Result<DiffReport> {
    let start = Instant::now();
    let masks = has_masks(run.coding);
    let here = Path::new("");
    [base, model].into_iter().try_for_each(|m| refuse_url(m, "a model that a delta file is made of"))?;
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
    let mut model = Side::plain(model);
    let mut paths = Vec::new();
    base.number_files(&mut paths);
    model.number_files(&mut paths);
    let inputs: Vec<&Path> = paths.iter().map(|(p, _)| p.as_path()).collect();
    let files = Files::open(paths.iter().map(|(p, b)| (p.as_path(), *b)), run.io)?;
    let stream = Stream::new(run.threads, run.progress, run.stop)?;
    let pairs = Pairs { base: &base, model: &model, files: &files, stream: &stream, run };
    if run.unfinished == Unfinished::Resume
        && let Some(report) = pairs.whole(out, start)?
    {
        return Ok(report);
    }
    let staged = StagedFile::begin(out, run.existing, run.unfinished, &inputs)?;
    let mut hashes = pairs.hashes();
    let (mut record, sink) =
        Record::open(&staged, run, (&files, model.first_file), tensors(&base, &model.inventory), &mut hashes)?;
    let made = pairs.make((sink, hashes), &mut record, start);
    match made.and_then(|report| record.finish().map(|()| report)) {
        Ok(report) => staged.publish().map(|()| report),
        Err(problem) if problem.can_resume() && record.has_lines() => {
            record.end(&problem);
            let path = staged.part().to_owned();
            staged.keep();
            Err(Error::Unfinished { path, problem: Box::new(problem) })
        }
        Err(problem) => Err(problem),
    }
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
    model: &'a Side,
    files: &'a Files,
    stream: &'a Stream<'a>,
    run: &'a DiffRun<'a>,
}

impl Pairs<'_> {
    /// Hashes that know nothing yet.
    fn hashes(&self) -> SideHashes {
        let model = &self.model.inventory.tensors;
        SideHashes {
            result: model.iter().map(|t| PieceHash::new(t.bytes)).collect(),
            base: model.iter().map(|t| self.covered(t).map(|b| PieceHash::new(b.bytes))).collect(),
        }
    }

    /// Makes the delta file, or what an earlier run has not made of it.
    fn make(
        &self,
        (mut sink, hashes): (DeltaSink, SideHashes),
        record: &mut Record,
        start: Instant,
    ) -> Result<DiffReport> {
        let kept = kept_files(&self.model.inventory, self.base, self.run.links)?;
        let coded = self.code(&mut sink, &hashes, record);
        if coded.as_ref().is_err_and(Error::can_resume) {
            // The error is what is told; without the line less is kept.
            let _ = record.stop(&mut sink, &hashes);
        }
        let first = coded?;
        let (mut hashes, loss) = (hashes.finish(), sink.loss());
        let (base_only, second) = self.hash_rest(&mut hashes)?;
        self.files.check_unchanged()?;
        self.run.stop.check()?;
        let equal = hashes.iter().filter(|h| h.base.as_ref() == Some(&h.result)).count();
        let extra = Extra { base_only, files: kept.0, content: kept.1 };
        let (result_root, delta_bytes) = sink.finish(&hashes, extra)?;
        let bytes_read = record.rehashed + first.bytes_read + second.bytes_read;
        Ok(DiffReport { loss, ..self.report((equal, delta_bytes, result_root), bytes_read, start) })
    }

    fn report(
        &self,
        (equal, delta_bytes, result_root): (usize, u64, String),
        bytes_read: u64,
        start: Instant,
    ) -> DiffReport {
        let model = &self.model.inventory;
        DiffReport {
            tensors: model.tensors.len(),
            equal,
            tensor_bytes: model.tensor_bytes(),
            delta_bytes,
            result_root,
            loss: None,
            bytes_read,
            seconds: start.elapsed().as_secs_f64(),
            was_whole: false,
        }
    }

    /// What there is to tell of `out`, if it is an exact delta file from this base to this model already.
    fn whole(&self, out: &Path, start: Instant) -> Result<Option<DiffReport>> {
        let Ok(there) = DeltaFile::open(out) else { return Ok(None) };
        if !matches!(self.run.coding, Coding::Exact(_)) {
            return Ok(None);
        }
        let tensors: Vec<&Entry> = self.model.inventory.tensors.iter().collect();
        let (result, first) = self.hash(self.model, &tensors, "hash the model")?;
        let mut hashes: Vec<Hashes> = result.into_iter().map(|result| Hashes { result, base: None }).collect();
        let (base_only, second) = self.hash_rest(&mut hashes)?;
        self.files.check_unchanged()?;
        let (files, content) = kept_files(&self.model.inventory, self.base, self.run.links)?;
        let index = delta_index(self::tensors(self.base, &self.model.inventory), &hashes, base_only, files);
        let equal = hashes.iter().filter(|h| h.base.as_ref() == Some(&h.result)).count();
        let made = (equal, there.file.bytes, there.metadata.result_root.clone());
        let report = self.report(made, first.bytes_read + second.bytes_read, start);
        Ok(says_the_same(&there, &index, &content).then_some(DiffReport { was_whole: true, ..report }))
    }

    /// The main pass: every tensor of the model that is not done yet against the base's.
    fn code(&self, sink: &mut DeltaSink, hashes: &SideHashes, record: &mut Record) -> Result<PassRun> {
        let counter = Counter::default();
        let (first, coding) = (record.done, self.run.coding);
        let model = &self.model.inventory.tensors[first..];
        let masks = has_masks(coding);
        // The result, its blocks, and where they are lossy what they decode to.
        let held = if matches!(coding, Coding::Lossy(_)) { 3 } else { 2 };
        let worker = || {
            let mut coder = Coder::new(coding);
            let (mut result, mut base, mut root) = (Vec::new(), Reader::new(&counter), Vec::new());
            let counter = &counter;
            move |run: &Run| {
                let (t, number) = (&model[run.tensor], first + run.tensor);
                let size = t.dtype.bytes() as u64;
                let (at, bytes) = (run.elements.start * size, (run.elements.end - run.elements.start) * size);
                let file = self.model.first_file + t.file;
                let span = self.files.span(file, t.offset + at, bytes as usize, &mut result, counter)?;
                let b = self.base.find(&t.name).filter(|b| comparable(b, t) > 0);
                let bytes = b.map(|b| self.base.read(self.files, b, run, &mut base)).transpose()?;
                if let (Some(hash), Some(b), Some(bytes)) = (&hashes.base[number], b, &bytes) {
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
                    tensor: number,
                    dtype: t.dtype,
                    result: &span,
                    base: side,
                    root: root.as_ref().map(|(dtype, span)| (*dtype, &**span)),
                    same_shape,
                    place: Place { row: t.shape.last().map_or(1, |d| *d), first: run.elements.start },
                });
                hashes.result[number].update(at, coder.restored().unwrap_or(&span));
                Ok(coded)
            }
        };
        let cost = |t: &Entry| {
            let (bytes, traffic) = self.base.find(&t.name).map_or((0, 0), |b| self.base.cost(b));
            Extent { elements: t.elements(), element_bytes: bytes + held * t.dtype.bytes(), traffic: traffic + t.bytes }
        };
        let extents: Vec<Extent> = model.iter().map(cost).collect();
        let write = |run: &Run, coded: CodedRun| {
            sink.take_run(&coded)?;
            let whole = run.elements.end == model[run.tensor].elements();
            record.reached(first + run.tensor + usize::from(whole), sink, hashes)
        };
        self.stream.over("diff", &extents, &counter, worker, write)
    }

    /// The base's tensor, if the main pass reads all of it.
    fn covered(&self, t: &Entry) -> Option<&Entry> {
        self.base.find(&t.name).filter(|b| comparable(b, t) > 0 && b.elements() <= t.elements())
    }

    /// Hashes what the main pass has not read of the base, and returns the tensors that only the base has.
    fn hash_rest(&self, hashes: &mut [Hashes]) -> Result<(Vec<Identity>, PassRun)> {
        let model = self.model.inventory.tensors.iter().enumerate();
        let places: BTreeMap<&str, usize> = model.map(|(i, t)| (t.name.as_str(), i)).collect();
        let place = |b: &Entry| places.get(b.name.as_str()).copied();
        let missing = |b: &&Entry| place(b).is_none_or(|i| hashes[i].base.is_none());
        let rest: Vec<&Entry> = self.base.inventory.tensors.iter().filter(missing).collect();
        let (sums, pass) = self.hash(self.base, &rest, "hash the rest")?;
        let mut base_only = Vec::new();
        for (b, blake3) in rest.into_iter().zip(sums) {
            match place(b) {
                Some(i) => hashes[i].base = Some(blake3),
                None => {
                    base_only.push(Identity { name: b.name.clone(), dtype: b.dtype, shape: b.shape.clone(), blake3 });
                }
            }
        }
        Ok((base_only, pass))
    }

    /// The hashes of tensors of one side.
    fn hash(&self, side: &Side, tensors: &[&Entry], pass: &str) -> Result<(Vec<String>, PassRun)> {
        let counter = Counter::default();
        let sums: Vec<PieceHash> = tensors.iter().map(|t| PieceHash::new(t.bytes)).collect();
        let cost = |t: &&Entry| {
            let (element_bytes, traffic) = side.cost(t);
            Extent { elements: t.elements(), element_bytes, traffic }
        };
        let extents: Vec<Extent> = tensors.iter().map(cost).collect();
        let worker = || {
            let mut reader = Reader::new(&counter);
            let sums = &sums;
            move |run: &Run| {
                let t = tensors[run.tensor];
                let bytes = side.read(self.files, t, run, &mut reader)?;
                sums[run.tensor].update(run.elements.start * t.dtype.bytes() as u64, &bytes);
                Ok(())
            }
        };
        let pass = self.stream.over(pass, &extents, &counter, worker, |_, ()| Ok(()))?;
        Ok((sums.into_iter().map(hex).collect(), pass))
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
        let bytes = f.read()?;
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
    if is_url(&path) {
        let there = read_small(folder, name, Links::All, bytes.len() as u64);
        return there.is_ok_and(|there| there.is_some_and(|there| there == bytes));
    }
    std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == bytes.len() as u64)
        && std::fs::read(&path).is_ok_and(|b| b == bytes)
}
