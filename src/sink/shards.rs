//! The output's weight files: sized before the first write, filled at positions, synced while the merge goes on.

use crate::disk;
use crate::error::Result;
use crate::limits::WRITEBACK_BYTES;
use crate::pass::Target;
use crate::plan::Shard;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Open weight files in a staging folder.
#[derive(Debug)]
pub struct Shards {
    files: Vec<disk::File>,
    can_copy: AtomicBool,
    unsynced: AtomicU64,
    sync: Option<Syncer>,
}

/// A thread that starts write-back early, so that the final sync finds little to do.
#[derive(Debug)]
struct Syncer {
    request: crossbeam_channel::Sender<disk::File>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Shards {
    /// Creates the files at their full lengths and writes their headers.
    pub fn create(folder: &Path, plan: &[Shard]) -> Result<Self> {
        let files = plan.iter().map(|shard| create(&folder.join(&shard.name), shard)).collect::<Result<_>>()?;
        Ok(Self::new(folder, files))
    }

    /// Opens the files that an earlier run created.
    pub fn resume(folder: &Path, plan: &[Shard]) -> Result<Self> {
        let files = plan.iter().map(|s| disk::File::open(&folder.join(&s.name))).collect::<Result<_>>()?;
        Ok(Self::new(folder, files))
    }

    fn new(folder: &Path, files: Vec<disk::File>) -> Self {
        let can_copy = AtomicBool::new(shares_blocks(folder));
        Self { files, can_copy, unsynced: AtomicU64::new(0), sync: Syncer::start() }
    }

    /// Fills `buffer` with what stands at `offset` of a file.
    pub fn read(&self, shard: usize, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.files[shard].read_at(buffer, offset)
    }

    /// All files, to be synced.
    pub fn all_again(&self) -> Result<Vec<disk::File>> {
        self.again(0..self.files.len())
    }

    /// What tells each file from a changed one.
    pub fn identities(&self) -> Result<Vec<[i64; 6]>> {
        self.files.iter().map(disk::File::identity).collect()
    }

    /// Files that have these numbers, to be synced.
    pub fn again(&self, shards: impl Iterator<Item = usize>) -> Result<Vec<disk::File>> {
        shards.map(|shard| self.files[shard].again()).collect()
    }

    /// Adds a file at `path`, behind all others.
    pub fn add(&mut self, path: &Path, shard: &Shard) -> Result<()> {
        self.files.push(create(path, shard)?);
        Ok(())
    }

    /// Takes a range from the same place of another file, inside the kernel; `false` if it cannot.
    pub fn take(&self, shard: usize, from: &File, range: Range<u64>) -> Result<bool> {
        let bytes = range.end - range.start;
        let taken = self.files[shard].take_range(from, range)?.is_some();
        self.written(shard, if taken { bytes } else { 0 });
        Ok(taken)
    }

    /// Syncs every file.
    pub fn finish(mut self) -> Result<()> {
        if let Some(sync) = self.sync.take() {
            drop(sync.request);
            // The kernel tells an error once: one that was met early would not come again below.
            sync.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        self.files.iter().try_for_each(disk::File::sync)
    }

    fn written(&self, shard: usize, bytes: u64) {
        let before = self.unsynced.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes < WRITEBACK_BYTES {
            return;
        }
        // Opened anew: each open file hears of a failed write-back once, and who notes what is synced must hear of it.
        if let (Some(sync), Ok(file)) = (&self.sync, disk::File::open(self.files[shard].path()))
            && sync.request.try_send(file).is_ok()
        {
            self.unsynced.store(0, Ordering::Relaxed);
        }
    }
}

fn create(path: &Path, shard: &Shard) -> Result<disk::File> {
    disk::remove_file(path)?;
    let file = disk::File::create(path)?;
    file.reserve(shard.file_bytes())?;
    file.write_at(&shard.header, 0)?;
    Ok(file)
}

/// Whether the folder's file system can copy without moving bytes: by sharing blocks, or on its server. Elsewhere (ext4,
/// tmpfs) a copy in the kernel moves the same bytes as a write does, and was measured to be slower.
fn shares_blocks(folder: &Path) -> bool {
    const BTRFS: i64 = 0x9123_683e;
    const XFS: i64 = 0x5846_5342;
    const BCACHEFS: i64 = 0xca45_1a4e;
    const ZFS: i64 = 0x2fc1_2fc1;
    const NFS: i64 = 0x6969;
    const SMB2: i64 = 0xfe53_4d42;
    let kind = rustix::fs::statfs(folder).map(|s| s.f_type & 0xffff_ffff);
    kind.is_ok_and(|kind| [BTRFS, XFS, BCACHEFS, ZFS, NFS, SMB2].contains(&kind))
}

impl Target for Shards {
    fn write(&self, shard: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.files[shard].write_at(bytes, offset)?;
        self.written(shard, bytes.len() as u64);
        Ok(())
    }

    fn copy(&self, shard: usize, offset: u64, from: (&File, u64), bytes: u64) -> Result<bool> {
        if !self.can_copy.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let copied = self.files[shard].copy_at(offset, from, bytes)?;
        if copied.is_none() {
            self.can_copy.store(false, Ordering::Relaxed);
            return Ok(false);
        }
        self.written(shard, bytes);
        Ok(true)
    }
}

impl Syncer {
    fn start() -> Option<Self> {
        let (request, requests) = crossbeam_channel::bounded::<disk::File>(1);
        let work = move || requests.iter().try_for_each(|file| file.sync_data());
        let thread = std::thread::Builder::new().name("sync".into()).spawn(work).ok()?;
        Some(Self { request, thread })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_in_the_kernel_gives_the_same_bytes_as_a_write() {
        let root = tempfile::tempdir().unwrap();
        let source: Vec<u8> = (0..300_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        std::fs::write(root.path().join("source"), &source).unwrap();
        let file = File::open(root.path().join("source")).unwrap();
        let plan = Shard { name: "out".into(), header: vec![7; 16], tensor_bytes: 200_000 };
        let shards = Shards::create(root.path(), &[plan]).unwrap();
        shards.can_copy.store(true, Ordering::Relaxed);
        if shards.copy(0, 16, (&file, 1001), 200_000).unwrap() {
            shards.finish().unwrap();
            let out = std::fs::read(root.path().join("out")).unwrap();
            assert_eq!((&out[..16], &out[16..]), (&[7; 16][..], &source[1001..201_001]));
        }
    }
}
