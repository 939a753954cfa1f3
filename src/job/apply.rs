//! `taskvec apply`: base and delta file to the very files of the fine-tuned checkpoint. `taskvec verify` of a delta file.

use super::diff::hex;
use super::resume_apply::{Record, is_restored};
use super::sides::{Reader, Side};
use crate::container::{Kept, RestoredFile};
use crate::disk;
use crate::error::{Error, Result};
use crate::pass::{Extent, Progress, Run, Stop, Stream, Target};
use crate::plan::Shard;
use crate::sink::{Existing, Staging, Unfinished, find_all_files};
use crate::source::{self, Counter, DeltaFile, Files, Io, Links, PieceHash, open_chain, parse_header};
use crate::tensor::{Entry, Expected};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verify {
    /// Structure and the checksums of blocks.
    None,
    /// The hash of every restored tensor, before anything is published.
    Fast,
    /// Also the hash of every tensor of the base, before anything is written.
    Full,
}

/// How a delta file is applied; none of it changes what is written.
#[derive(Clone, Copy, Debug)]
pub struct ApplyRun<'a> {
    /// How much is checked.
    pub verify: Verify,
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
    /// Whether the output is read back from the disk and hashed before it gets its name.
    pub read_back: bool,
    /// How often what is done is noted, so that a later run can go on if this one is interrupted; `None`: never.
    pub journal: Option<Duration>,
    /// Hears how it goes.
    pub progress: &'a (dyn Progress + 'a),
    /// Can end it.
    pub stop: &'a Stop,
}

/// What was restored or checked.
#[derive(Clone, Debug)]
pub struct ApplyReport {
    /// Tensors.
    pub tensors: usize,
    /// Files written.
    pub files: usize,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Seconds in all.
    pub seconds: f64,
}

/// A base and a chain, ready to read.
struct Opened {
    side: Side,
    chain: Vec<DeltaFile>,
    paths: Vec<(PathBuf, Expected)>,
}

impl Opened {
    fn open(base: &str, delta: &Path, links: Links) -> Result<Self> {
        source::refuse_url(base, "the base of a delta file")?;
        let chain = open_chain(delta)?;
        let root = source::open(base, Path::new(""), links)?;
        let mut side = Side::chained(root, &delta.display().to_string(), delta, &chain)?;
        let mut paths = Vec::new();
        side.number_files(&mut paths);
        Ok(Self { side, chain, paths })
    }

    fn leaf(&self) -> &DeltaFile {
        self.chain.last().expect("a chain has a file")
    }

    fn base_path(&self) -> &Path {
        self.side.root.as_ref().map_or(Path::new(""), |r| &r.path)
    }

    fn extents(&self) -> Vec<Extent> {
        let extent = |t: &Entry| {
            let (bytes, traffic) = self.side.cost(t);
            Extent { elements: t.elements(), element_bytes: bytes + t.dtype.bytes(), traffic: traffic + t.bytes }
        };
        self.side.inventory.tensors.iter().map(extent).collect()
    }

    /// Fails unless every tensor of the base that is used has the hash that the delta was made for.
    fn check_base(&self, files: &Files, stream: &Stream<'_>, counter: &Counter) -> Result<()> {
        let root = self.side.root.as_ref().expect("a chain stands on a base");
        let expected: BTreeMap<&str, &str> = self
            .side
            .inventory
            .tensors
            .iter()
            .filter_map(|t| Some((t.name.as_str(), t.coded.as_ref()?.base_blake3.as_deref()?)))
            .collect();
        let used: Vec<&Entry> = root.tensors.iter().filter(|t| expected.contains_key(t.name.as_str())).collect();
        let hashes: Vec<PieceHash> = used.iter().map(|t| PieceHash::new(t.bytes)).collect();
        let extent = |t: &&Entry| Extent { elements: t.elements(), element_bytes: t.dtype.bytes(), traffic: t.bytes };
        let extents: Vec<Extent> = used.iter().map(extent).collect();
        let worker = || {
            let mut buffer = Vec::new();
            let (used, hashes) = (&used, &hashes);
            move |run: &Run| {
                let t = used[run.tensor];
                let size = t.dtype.bytes() as u64;
                let (at, end) = (run.elements.start * size, run.elements.end * size);
                let file = self.side.root_file + t.file;
                let span = files.span(file, t.offset + at, (end - at) as usize, &mut buffer, counter)?;
                hashes[run.tensor].update(at, &span);
                Ok(())
            }
        };
        stream.over("check the base", &extents, counter, worker, |_, ()| Ok(()))?;
        for (t, hash) in used.iter().zip(hashes) {
            let got = hex(hash);
            if got != expected[t.name.as_str()] {
                return Err(Error::HashDiffers {
                    path: root.files[t.file].path.clone(),
                    what: format!("tensor `{}` is not the one that {} was made for", t.name, self.chain[0].file.name),
                    expected: expected[t.name.as_str()].to_owned(),
                    got,
                    hint: "Give the base that the delta was made from.",
                });
            }
        }
        Ok(())
    }

    /// Decodes every tensor from the `first` on, hands its runs to `write`, and compares hashes unless `verify` is none.
    /// `reached` hears how many leading tensors are whole.
    fn decode(
        &self,
        files: &Files,
        stream: &Stream<'_>,
        counter: &Counter,
        (verify, first): (Verify, usize),
        write: impl Fn(usize, u64, &[u8]) -> Result<()> + Sync,
        mut reached: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let tensors = &self.side.inventory.tensors[first..];
        let hashes: Vec<PieceHash> = tensors.iter().map(|t| PieceHash::new(t.bytes)).collect();
        let worker = || {
            let mut reader = Reader::new(counter);
            let (hashes, write) = (&hashes, &write);
            move |run: &Run| {
                let t = &tensors[run.tensor];
                let bytes = self.side.read(files, t, run, &mut reader)?;
                let at = run.elements.start * t.dtype.bytes() as u64;
                if verify != Verify::None {
                    hashes[run.tensor].update(at, &bytes);
                }
                write(first + run.tensor, at, &bytes)
            }
        };
        let whole = |run: &Run, ()| {
            let end = run.elements.end == tensors[run.tensor].elements();
            reached(first + run.tensor + usize::from(end))
        };
        stream.over("apply", &self.extents()[first..], counter, worker, whole)?;
        if verify == Verify::None {
            return Ok(());
        }
        let leaf = self.leaf();
        for (t, hash) in leaf.index.tensors[first..].iter().zip(hashes) {
            let got = hex(hash);
            if got != t.blake3 {
                return Err(Error::HashDiffers {
                    path: leaf.file.path.clone(),
                    what: format!("tensor `{}` restored from this base", t.name),
                    expected: t.blake3.clone(),
                    got,
                    hint: "Give the base that the delta was made from.",
                });
            }
        }
        Ok(())
    }

    /// Fills the staging folder, or what an earlier run has not filled. Returns bytes hashed again, and bytes written.
    fn restore(
        &self,
        (files, stream, counter): (&Files, &Stream<'_>, &Counter),
        restored: &Restored,
        staging: &Staging,
        record: &mut Record,
        run: &ApplyRun<'_>,
    ) -> Result<(u64, u64)> {
        if run.verify == Verify::Full && !record.done.base {
            self.check_base(files, stream, counter)?;
            record.done.base = true;
            record.note(None)?;
        }
        let mut hashed_again = 0;
        let shards = record.open_shards(staging, restored, self.leaf(), &mut hashed_again)?;
        let first = record.done.tensors;
        let write = |tensor: usize, at: u64, bytes: &[u8]| {
            let (shard, offset) = restored.places[tensor];
            shards.write(shard, offset + at, bytes)
        };
        let reached = |tensors: usize| {
            record.done.tensors = tensors;
            record.note(Some(&shards))
        };
        let decoded = self.decode(files, stream, counter, (run.verify, first), write, reached);
        if let Err(error) = decoded {
            if error.can_resume() {
                // The error is what is told; without the line less is kept.
                let _ = record.stop(&shards);
            }
            return Err(error);
        }
        shards.finish()?;
        restored.side_files.iter().try_for_each(|(name, content)| staging.write(name, content))?;
        if run.read_back {
            restored.read_back(staging.folder(), self.leaf())?;
        }
        files.check_unchanged()?;
        run.stop.check()?;
        let tensors = &self.side.inventory.tensors[first..];
        Ok((hashed_again, tensors.iter().map(|t| t.bytes).sum()))
    }
}

/// Restores the checkpoint behind `delta` into the folder `out`, which appears when it is complete, or not at all.
pub fn apply(base: &str, delta: &Path, out: &Path, run: &ApplyRun<'_>) -> Result<ApplyReport> {
    let start = Instant::now();
    let opened = Opened::open(base, delta, run.links)?;
    let files = Files::open(opened.paths.iter().map(|(p, b)| (p.as_path(), *b)), run.io)?;
    let stream = Stream::new(run.threads, run.progress, run.stop)?;
    let counter = Counter::default();
    let restored = Restored::plan(opened.leaf(), opened.base_path())?;
    if run.unfinished == Unfinished::Resume && is_restored(out, &restored, opened.leaf())? {
        return Ok(restored.report(0, 0, start));
    }
    let inputs: Vec<&Path> = opened.paths.iter().map(|(p, _)| p.as_path()).collect();
    let staging = Staging::begin(out, &opened.leaf().metadata.result_root, run.existing, run.unfinished, &inputs)?;
    let mut record = Record::open(opened.leaf(), &files, &staging, run)?;
    let made = opened.restore((&files, &stream, &counter), &restored, &staging, &mut record, run);
    match made.and_then(|made| record.finish().map(|()| made)) {
        Ok((read, written)) => {
            staging.publish()?;
            Ok(restored.report(counter.get() + read, written, start))
        }
        Err(problem) if problem.can_resume() && record.has_lines() => {
            record.end(&problem);
            let path = staging.folder().to_owned();
            staging.keep();
            Err(Error::Unfinished { path, problem: Box::new(problem) })
        }
        Err(problem) => Err(problem),
    }
}

/// Checks a delta file: structure and checksums, and with a base the hash of every tensor that it restores.
pub fn check_delta(delta: &Path, base: Option<&str>, run: &ApplyRun<'_>) -> Result<ApplyReport> {
    let start = Instant::now();
    let counter = Counter::default();
    let checked = DeltaFile::open(delta)?;
    checked.check_payloads(&counter)?;
    Restored::places(&checked)?;
    let kept = checked.files()?;
    let whole = |(f, _): &(&RestoredFile, &[u8])| f.kept == Kept::Content;
    split(&checked, &kept)?.into_iter().filter(whole).try_for_each(|(f, content)| check_file(&checked, f, content))?;
    let tensors = checked.index.tensors.len();
    if let Some(base) = base {
        let opened = Opened::open(base, delta, run.links)?;
        let files = Files::open(opened.paths.iter().map(|(p, b)| (p.as_path(), *b)), run.io)?;
        let stream = Stream::new(run.threads, run.progress, run.stop)?;
        opened.check_base(&files, &stream, &counter)?;
        Restored::plan(opened.leaf(), opened.base_path())?;
        opened.decode(&files, &stream, &counter, (Verify::Full, 0), |_, _, _| Ok(()), |_| Ok(()))?;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(ApplyReport { tensors, files: 0, bytes_read: counter.get(), bytes_written: 0, seconds })
}

/// For each tensor its weight file and its offset in there.
type Places = Vec<(usize, u64)>;

/// The files to be written.
pub struct Restored {
    pub shards: Vec<Shard>,
    /// For each tensor of the index its shard and offset.
    pub places: Places,
    pub side_files: Vec<(String, Vec<u8>)>,
}

impl Restored {
    /// Reads back from the disk what was written.
    fn read_back(&self, folder: &Path, delta: &DeltaFile) -> Result<()> {
        self.shards.iter().try_for_each(|shard| disk::forget_cached(&folder.join(&shard.name)))?;
        if is_restored(folder, self, delta)? {
            return Ok(());
        }
        Err(Error::HashDiffers {
            path: folder.to_owned(),
            what: "the disk gives back other bytes than were written".into(),
            expected: delta.metadata.result_root.clone(),
            got: "another".into(),
            hint: "Nothing was published. Check disk and memory.",
        })
    }

    fn report(&self, bytes_read: u64, bytes_written: u64, start: Instant) -> ApplyReport {
        ApplyReport {
            tensors: self.places.len(),
            files: self.shards.len() + self.side_files.len(),
            bytes_read,
            bytes_written,
            seconds: start.elapsed().as_secs_f64(),
        }
    }

    fn plan(delta: &DeltaFile, base: &Path) -> Result<Self> {
        let (shards, places) = Self::places(delta)?;
        let kept = delta.files()?;
        let mut side_files = Vec::new();
        for (f, content) in split(delta, &kept)? {
            let content = match f.kept {
                Kept::Header => continue,
                Kept::Content => content.to_vec(),
                Kept::Nothing => from_base(base, f)?,
            };
            check_file(delta, f, &content)?;
            side_files.push((f.name.clone(), content));
        }
        Ok(Self { shards, places, side_files })
    }

    /// The weight files, and where each tensor lies in them.
    fn places(delta: &DeltaFile) -> Result<(Vec<Shard>, Places)> {
        let path = &delta.file.path;
        let bad = |problem: String| Error::malformed(path, problem);
        let kept = delta.files()?;
        let mut shards = Vec::new();
        let mut found: BTreeMap<String, (usize, Entry)> = BTreeMap::new();
        for (f, header) in split(delta, &kept)? {
            check_name(path, &f.name)?;
            if f.kept != Kept::Header {
                continue;
            }
            let json = header.get(8..).filter(|j| header[..8] == (j.len() as u64).to_le_bytes());
            let json = json.ok_or_else(|| bad(format!("the header kept of {} is damaged", f.name)))?;
            let data = f.bytes.checked_sub(header.len() as u64);
            let data = data.ok_or_else(|| bad(format!("{} is shorter than its header", f.name)))?;
            for t in parse_header(path, json, f.bytes)?.tensors {
                found.insert(t.name.clone(), (shards.len(), t));
            }
            shards.push(Shard { name: f.name.clone(), header: header.to_vec(), tensor_bytes: data });
        }
        let mut places = Vec::with_capacity(delta.index.tensors.len());
        for t in &delta.index.tensors {
            match found.remove(&t.name) {
                Some((shard, e)) if e.dtype == t.dtype && e.shape == t.shape => places.push((shard, e.offset)),
                _ => return Err(bad(format!("tensor `{}` is not in the headers that it keeps", t.name))),
            }
        }
        match found.keys().next() {
            Some(name) => Err(bad(format!("tensor `{name}` of the headers that it keeps is not in its index"))),
            None => Ok((shards, places)),
        }
    }
}

/// The list of files with what is kept of each.
fn split<'a>(delta: &'a DeltaFile, kept: &'a [u8]) -> Result<Vec<(&'a RestoredFile, &'a [u8])>> {
    let mut rest = kept;
    let mut list = Vec::new();
    for f in &delta.index.files {
        let part = usize::try_from(f.kept_bytes).ok().and_then(|n| rest.split_at_checked(n));
        let Some((part, after)) = part else {
            return Err(Error::malformed(&delta.file.path, format!("what it keeps of {} is cut short", f.name)));
        };
        rest = after;
        list.push((f, part));
    }
    if rest.is_empty() {
        Ok(list)
    } else {
        Err(Error::malformed(&delta.file.path, "keeps more than its list of files"))
    }
}

/// A name out of a delta file becomes a path below the output, and nowhere else.
fn check_name(path: &Path, name: &str) -> Result<()> {
    let plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    let clean = !name.is_empty() && !name.contains(['\\', '\0']) && !name.chars().any(char::is_control);
    if plain && clean && !name.ends_with('/') {
        return Ok(());
    }
    Err(Error::malformed(path, format!("lists a file called {name:?}; expected a plain relative name")))
}

fn from_base(base: &Path, f: &RestoredFile) -> Result<Vec<u8>> {
    let missing = |what: &str| Error::InputMissing {
        path: base.join(&f.name),
        problem: format!(
            "{what}; the delta restores this file from the base's folder, so give the base as that folder"
        ),
    };
    let found = if base.is_dir() { find_all_files(base, Links::All)? } else { Vec::new() };
    let file = found.into_iter().find(|s| s.name == f.name).ok_or_else(|| missing("no such file"))?;
    std::fs::read(&file.path).map_err(|e| missing(&e.to_string()))
}

fn check_file(delta: &DeltaFile, f: &RestoredFile, content: &[u8]) -> Result<()> {
    let got = blake3::hash(content).to_hex().to_string();
    if f.blake3.as_ref() == Some(&got) && content.len() as u64 == f.bytes {
        return Ok(());
    }
    Err(Error::HashDiffers {
        path: delta.file.path.clone(),
        what: format!("the file {} that it restores", f.name),
        expected: f.blake3.clone().unwrap_or_default(),
        got,
        hint: "Give the base that the delta was made from, or fetch the delta again.",
    })
}
