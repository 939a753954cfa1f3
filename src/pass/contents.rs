//! What input tensors hold, each hashed by itself while it is read: the same values are known again in another file.

use super::Engine;
use super::PassRun;
use super::pipeline::Pipeline;
use crate::error::Result;
use crate::limits::HEAD_BYTES;
use crate::source::{Counter, PieceHash};
use blake3::Hash;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

/// The tensors that are hashed, by file and first byte.
#[derive(Debug, Default)]
pub struct Contents(BTreeMap<(usize, u64), Tensor>);

/// The hash of a tensor's bytes, and of the first few of them, which tell most changed tensors from what they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Of all bytes.
    pub whole: Hash,
    /// Of the first [`HEAD_BYTES`].
    pub head: Hash,
}

#[derive(Debug)]
struct Tensor {
    whole: PieceHash,
    head: PieceHash,
}

impl Contents {
    /// For tensors at these places: file, first byte, length.
    pub fn new(places: impl Iterator<Item = (usize, u64, u64)>) -> Self {
        let tensor = |bytes: u64| Tensor { whole: PieceHash::new(bytes), head: PieceHash::new(bytes.min(HEAD_BYTES)) };
        Self(places.filter(|p| p.2 > 0).map(|(file, offset, bytes)| ((file, offset), tensor(bytes))).collect())
    }

    /// Takes over what is known of a tensor.
    pub fn know(&mut self, file: usize, offset: u64, content: Content) {
        if let Some(t) = self.0.get_mut(&(file, offset)) {
            t.whole = PieceHash::known(t.whole.bytes(), content.whole);
            t.head = PieceHash::known(t.head.bytes(), content.head);
        }
    }

    /// What the tensor of `bytes` there holds, if every byte was read.
    pub fn get(&self, file: usize, offset: u64, bytes: u64) -> Option<Content> {
        if bytes == 0 {
            let none = blake3::hash(&[]);
            return Some(Content { whole: none, head: none });
        }
        let t = self.0.get(&(file, offset)).filter(|t| t.whole.bytes() == bytes)?;
        Some(Content { whole: t.whole.root()?, head: t.head.root()? })
    }

    /// All that is known, by file, first byte and length.
    pub fn known(&self) -> impl Iterator<Item = ((usize, u64, u64), Content)> {
        self.0.iter().filter_map(|(&(file, offset), t)| {
            let bytes = t.whole.bytes();
            Some(((file, offset, bytes), self.get(file, offset, bytes)?))
        })
    }

    /// Takes bytes of a file.
    pub(super) fn update(&self, file: usize, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        for (&(_, first), t) in self.0.range((file, 0)..(file, end)).rev() {
            if first + t.whole.bytes() <= offset {
                return;
            }
            t.update(first, offset, bytes);
        }
    }
}

impl Tensor {
    /// Takes bytes from `offset` of the file on, as far as they are the tensor's, which begins at `first`.
    fn update(&self, first: u64, offset: u64, bytes: &[u8]) {
        for hash in [&self.whole, &self.head] {
            let start = offset.max(first);
            let end = (offset + bytes.len() as u64).min(first + hash.bytes());
            if start < end {
                hash.update(start - first, &bytes[(start - offset) as usize..(end - offset) as usize]);
            }
        }
    }
}

impl Engine<'_> {
    /// Reads the tensors of which nothing is known as far as it takes to tell whether they are among those that begin like one
    /// of `heads`; these are read whole.
    pub fn look_for(&self, heads: &BTreeSet<[u8; 32]>) -> Result<PassRun> {
        let start = Instant::now();
        let counter = Counter::default();
        let unknown: Vec<(usize, Range<u64>)> =
            self.contents.iter().flat_map(|c| c.0.iter()).filter_map(unread).collect();
        let bytes: u64 = unknown.iter().map(|(_, range)| range.end - range.start).sum();
        let (piece, name) = (self.plan.budget.job_bytes as u64, "look for changes");
        self.progress.begin(name, bytes);
        let jobs = unknown.iter().map(|job| (piece.min(job.1.end - job.1.start) as usize, job));
        let read = |(file, range): &&(usize, Range<u64>)| {
            self.files.prepare(*file, range.start, HEAD_BYTES.min(range.end - range.start) as usize)
        };
        let worker = |_| {
            let (mut buffer, counter) = (Vec::new(), &counter);
            move |(file, range): &&(usize, Range<u64>)| {
                let head = range.start..range.end.min(range.start + HEAD_BYTES);
                self.take_in(*file, head.clone(), &mut buffer, counter)?;
                let known = self.contents.as_ref().and_then(|c| c.0.get(&(*file, range.start))?.head.root());
                if known.is_some_and(|head| heads.contains(head.as_bytes())) {
                    self.take_in(*file, head.end..range.end, &mut buffer, counter)?;
                }
                Ok(())
            }
        };
        let write = |(_, range): &(usize, Range<u64>), ()| {
            self.progress.advance(range.end - range.start);
            Ok(())
        };
        let pipeline = Pipeline { pool: &self.pool, window: &self.window, stop: self.stop };
        let result = pipeline.run(jobs, read, worker, write);
        self.progress.end();
        result?;
        Ok(PassRun { name: name.into(), bytes_read: counter.get(), seconds: start.elapsed().as_secs_f64() })
    }

    /// Reads a range of an input and hashes it.
    pub(super) fn take_in(
        &self,
        file: usize,
        range: Range<u64>,
        buffer: &mut Vec<u8>,
        counter: &Counter,
    ) -> Result<()> {
        let piece = self.plan.budget.job_bytes as u64;
        let mut at = range.start;
        while at < range.end {
            self.stop.check()?;
            let bytes = piece.min(range.end - at) as usize;
            let _under_way = self.files.prepare(file, at, bytes);
            let span = self.files.span(file, at, bytes, buffer, counter)?;
            self.hash_input(file, at, &span);
            at += bytes as u64;
        }
        Ok(())
    }

    /// Hashes bytes of an input, as part of its file and of the tensors that they belong to, as far as either is wanted.
    pub(super) fn hash_input(&self, file: usize, offset: u64, bytes: &[u8]) {
        if let Some(hashes) = &self.hashes {
            hashes[file].update(offset, bytes);
        }
        if let Some(contents) = &self.contents {
            contents.update(file, offset, bytes);
        }
    }
}

/// The file and range of a tensor of which no byte was read.
fn unread((&(file, offset), t): (&(usize, u64), &Tensor)) -> Option<(usize, Range<u64>)> {
    let bytes = t.whole.bytes();
    let nothing = t.whole.missing().first() == Some(&(0..bytes));
    nothing.then_some((file, offset..offset + bytes))
}
