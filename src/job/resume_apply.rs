//! What an apply notes in its journal, and how a later one takes it up: tensors are whole if they have the hashes that the
//! delta file tells.

use super::apply::{ApplyRun, Restored};
use crate::error::{Error, Result};
use crate::plan::Shard;
use crate::sink::{Journal, Shards, Staging};
use crate::source::{DeltaFile, Files};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes read at a time when parts are hashed again.
const REHASH_BYTES: u64 = 4 << 20;

/// What a line of the journal says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The base has the hashes that the delta was made for.
    pub base: bool,
    /// So many leading tensors are written.
    pub tensors: usize,
}

/// Notes what is done.
pub struct Record {
    journal: Option<Journal>,
    noted: Done,
    pub done: Done,
}

impl Record {
    /// Begins a journal, or takes up what is there.
    pub fn open(delta: &DeltaFile, files: &Files, staging: &Staging, run: &ApplyRun<'_>) -> Result<Self> {
        let first = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "apply": delta.metadata.result_root,
            "inputs": files.states(),
        });
        let Some(every) = run.journal else {
            return Ok(Self { journal: None, noted: Done::default(), done: Done::default() });
        };
        let (journal, left) = Journal::open(&staging.journal(), &first, every, run.unfinished, || staging.clear())?;
        let lines = left.map(|left| left.lines).unwrap_or_default();
        let done: Done = lines.into_iter().rev().find_map(|line| serde_json::from_value(line).ok()).unwrap_or_default();
        Ok(Self { journal: Some(journal), noted: done, done })
    }

    /// Whether there is anything to go on with.
    pub fn has_lines(&self) -> bool {
        self.journal.is_some() && (self.noted.base || self.noted.tensors > 0)
    }

    /// Opens the weight files, those of an earlier run as far as they are whole. Adds the bytes that it reads to `read`.
    pub fn open_shards(
        &mut self,
        staging: &Staging,
        restored: &Restored,
        delta: &DeltaFile,
        read: &mut u64,
    ) -> Result<Shards> {
        if self.done.tensors > 0
            && let Ok(shards) = Shards::resume(staging.folder(), &restored.shards)
        {
            self.done.tensors = self.whole(&shards, restored, delta, read);
            if self.done.tensors > 0 {
                return Ok(shards);
            }
        }
        (self.done.tensors, self.noted.tensors) = (0, 0);
        Shards::create(staging.folder(), &restored.shards)
    }

    /// How many leading tensors of those that the journal tells are as they should be.
    fn whole(&self, shards: &Shards, restored: &Restored, delta: &DeltaFile, read: &mut u64) -> usize {
        let tensors = delta.index.tensors.iter().zip(&restored.places).take(self.done.tensors);
        let is_whole = |(t, &(shard, offset)): (&crate::container::Tensor, &(usize, u64))| {
            let bytes = t.shape.iter().product::<u64>() * t.dtype.bytes() as u64;
            *read += bytes;
            hash_range(offset, bytes, |at, buffer| shards.read(shard, at, buffer)).is_ok_and(|got| got == t.blake3)
        };
        tensors.map(is_whole).take_while(|whole| *whole).count()
    }

    /// Notes what is done, if it is time.
    pub fn note(&mut self, shards: Option<&Shards>) -> Result<()> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        if self.noted == self.done || !journal.is_due() {
            return Ok(());
        }
        self.noted = self.done;
        journal.add(value(self.done), || shards.map_or(Ok(Vec::new()), Shards::all_again))
    }

    /// Notes, before the run ends early, what is on the disk by then.
    pub fn stop(&mut self, shards: &Shards) -> Result<()> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        self.noted = self.done;
        journal.add_last(value(self.done), shards.all_again()?)
    }

    /// The run ends early with this error, after which not every disk can be believed.
    pub fn end(&mut self, error: &Error) {
        self.journal.iter_mut().for_each(|journal| journal.end_with(error));
    }

    /// Removes the journal: everything is whole.
    pub fn finish(&mut self) -> Result<()> {
        self.journal.as_mut().map_or(Ok(()), Journal::remove)
    }
}

fn value(done: Done) -> serde_json::Value {
    serde_json::json!({ "base": done.base, "tensors": done.tensors })
}

/// Whether `out` holds the very files that are to be restored.
pub fn is_restored(out: &Path, restored: &Restored, delta: &DeltaFile) -> Result<bool> {
    let open = |shard: &Shard| {
        let path = out.join(&shard.name);
        File::open(&path).ok().filter(|f| f.metadata().is_ok_and(|m| m.len() == shard.file_bytes()))
    };
    let Some(files) = restored.shards.iter().map(open).collect::<Option<Vec<File>>>() else { return Ok(false) };
    for (file, shard) in files.iter().zip(&restored.shards) {
        let mut header = vec![0; shard.header.len()];
        file.read_exact_at(&mut header, 0).map_err(Error::io(out, "read"))?;
        if header != shard.header {
            return Ok(false);
        }
    }
    for (t, &(shard, offset)) in delta.index.tensors.iter().zip(&restored.places) {
        let bytes = t.shape.iter().product::<u64>() * t.dtype.bytes() as u64;
        let read = |at, buffer: &mut [u8]| files[shard].read_exact_at(buffer, at).map_err(Error::io(out, "read"));
        if hash_range(offset, bytes, read)? != t.blake3 {
            return Ok(false);
        }
    }
    let same = |(name, content): &(String, Vec<u8>)| std::fs::read(out.join(name)).is_ok_and(|c| c == *content);
    Ok(restored.side_files.iter().all(same))
}

fn hash_range(offset: u64, bytes: u64, read: impl Fn(u64, &mut [u8]) -> Result<()>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = Vec::new();
    let mut at = offset;
    while at < offset + bytes {
        buffer.resize(REHASH_BYTES.min(offset + bytes - at) as usize, 0);
        read(at, &mut buffer)?;
        hasher.update(&buffer);
        at += buffer.len() as u64;
    }
    Ok(hasher.finalize().to_hex().to_string())
}
