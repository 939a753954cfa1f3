//! What one part of a merge writes: files of its own, each a run of bytes of one weight file of the output.
//!
//! Nobody else writes to them, and they get their names when they are whole and synced: safe on network file systems,
//! and however often, and however often at once, a part runs.

use crate::disk;
use crate::error::Result;
use crate::pass::Target;
use crate::plan::{Partitions, Plan};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

/// A run of bytes of a weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceRange {
    /// Index into the plan's shards.
    pub shard: usize,
    /// First byte in the file.
    pub start: u64,
    /// Length.
    pub bytes: u64,
    /// Whether it is the whole file, header included.
    pub whole: bool,
}

impl PieceRange {
    /// What a part writes, in order.
    pub fn of_part(plan: &Plan, parts: &Partitions, part: usize) -> Vec<Self> {
        let mut pieces: Vec<Self> = Vec::new();
        for (tensor, elements) in parts.tensors(plan, part) {
            let t = &plan.tensors[tensor];
            let size = t.dtype.bytes() as u64;
            let (start, bytes) = (t.offset + elements.start * size, (elements.end - elements.start) * size);
            match pieces.last_mut().filter(|p| p.shard == t.shard) {
                Some(piece) => piece.bytes = start + bytes - piece.start,
                None => pieces.push(Self { shard: t.shard, start, bytes, whole: false }),
            }
        }
        for piece in &mut pieces {
            let shard = &plan.shards[piece.shard];
            if piece.bytes == shard.tensor_bytes {
                *piece = Self { start: 0, bytes: shard.file_bytes(), whole: true, ..*piece };
            }
        }
        pieces
    }
}

/// A file that gets its name when it is whole. Dropped before, it is removed.
#[derive(Debug)]
pub struct Named {
    file: disk::File,
    path: PathBuf,
    named: bool,
}

impl Named {
    /// A file beside `path`, of a name that no other process takes.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Processes on two machines may have one number: the name is drawn.
        let drawn = RandomState::new().build_hasher().finish();
        let part = path.with_file_name(format!(".{name}.{}-{drawn:016x}.part", std::process::id()));
        Ok(Self { file: disk::File::create(&part)?, path: path.to_owned(), named: false })
    }

    /// Writes a whole file and names it.
    pub fn write(path: &Path, content: &[u8]) -> Result<()> {
        let file = Self::create(path)?;
        file.file.write_at(content, 0)?;
        file.publish()?;
        disk::sync_folder(path.parent().unwrap_or(Path::new(".")))
    }

    /// Syncs the file and gives it its name, in place of what had it.
    pub fn publish(mut self) -> Result<()> {
        self.file.sync()?;
        disk::rename(self.file.path(), &self.path)?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if !self.named {
            let _ = disk::remove_file(self.file.path());
        }
    }
}

/// The pieces of a part, open for writing.
#[derive(Debug)]
pub struct Pieces {
    files: Vec<(PieceRange, Named)>,
}

impl Pieces {
    /// Makes the files, each at its full length; `path` tells their names.
    pub fn create(plan: &Plan, ranges: &[PieceRange], path: impl Fn(usize) -> PathBuf) -> Result<Self> {
        let create = |range: &PieceRange| {
            let named = Named::create(&path(range.shard))?;
            named.file.reserve(range.bytes)?;
            if range.whole {
                named.file.write_at(&plan.shards[range.shard].header, 0)?;
            }
            Ok((*range, named))
        };
        Ok(Self { files: ranges.iter().map(create).collect::<Result<_>>()? })
    }

    /// Syncs the files and gives them their names.
    pub fn publish(self) -> Result<()> {
        self.files.into_iter().try_for_each(|(_, file)| file.publish())
    }

    fn file(&self, shard: usize) -> &(PieceRange, Named) {
        self.files.iter().find(|(p, _)| p.shard == shard).expect("a part writes into its own pieces")
    }
}

impl Target for Pieces {
    fn write(&self, shard: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (piece, named) = self.file(shard);
        named.file.write_at(bytes, offset - piece.start)
    }

    fn copy(&self, _shard: usize, _offset: u64, _from: (&File, u64), _bytes: u64) -> Result<bool> {
        Ok(false)
    }
}
