//! The output's weight files: sized before the first write, filled at positions, synced while the merge goes on.

use crate::error::{Error, Result};
use crate::limits::WRITEBACK_BYTES;
use crate::pass::Target;
use crate::plan::Shard;
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Open weight files in a staging folder.
#[derive(Debug)]
pub struct Shards {
    files: Vec<(PathBuf, File)>,
    can_copy: AtomicBool,
    unsynced: AtomicU64,
    sync: Option<Syncer>,
}

/// A thread that starts write-back early, so that the final sync finds little to do.
#[derive(Debug)]
struct Syncer {
    request: crossbeam_channel::Sender<File>,
    thread: std::thread::JoinHandle<()>,
}

impl Shards {
    /// Creates the files at their full lengths and writes their headers.
    pub fn create(folder: &Path, plan: &[Shard]) -> Result<Self> {
        let files = plan.iter().map(|shard| create(&folder.join(&shard.name), shard)).collect::<Result<_>>()?;
        Ok(Self {
            files,
            can_copy: AtomicBool::new(shares_blocks(folder)),
            unsynced: AtomicU64::new(0),
            sync: Syncer::start(),
        })
    }

    /// Adds a file at `path`, behind all others.
    pub fn add(&mut self, path: &Path, shard: &Shard) -> Result<()> {
        self.files.push(create(path, shard)?);
        Ok(())
    }

    /// Syncs every file.
    pub fn finish(mut self) -> Result<()> {
        if let Some(sync) = self.sync.take() {
            drop(sync.request);
            let _ = sync.thread.join();
        }
        self.files.iter().try_for_each(|(path, file)| file.sync_all().map_err(Error::io(path, "sync")))
    }

    fn written(&self, shard: usize, bytes: u64) {
        let before = self.unsynced.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes < WRITEBACK_BYTES {
            return;
        }
        if let (Some(sync), Ok(file)) = (&self.sync, self.files[shard].1.try_clone())
            && sync.request.try_send(file).is_ok()
        {
            self.unsynced.store(0, Ordering::Relaxed);
        }
    }
}

fn create(path: &Path, shard: &Shard) -> Result<(PathBuf, File)> {
    let file = File::options().read(true).write(true).create_new(true).open(path).map_err(Error::io(path, "create"))?;
    reserve(&file, path, shard.file_bytes())?;
    file.write_all_at(&shard.header, 0).map_err(Error::io(path, "write"))?;
    Ok((path.to_owned(), file))
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

/// Sets the length and, where the file system can, reserves the space, so that a full disk shows before the merge.
fn reserve(file: &File, path: &Path, bytes: u64) -> Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            file.set_len(bytes).map_err(Error::io(path, "set the length"))
        }
        result => result.map_err(|e| Error::io(path, "reserve space")(e.into())),
    }
}

impl Target for Shards {
    fn write(&self, shard: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let (path, file) = &self.files[shard];
        file.write_all_at(bytes, offset).map_err(Error::io(path, "write"))?;
        self.written(shard, bytes.len() as u64);
        Ok(())
    }

    fn copy(&self, shard: usize, offset: u64, from: (&File, u64), bytes: u64) -> Result<bool> {
        if !self.can_copy.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let (path, file) = &self.files[shard];
        let (mut source, mut target) = (from.1, offset);
        while target < offset + bytes {
            let left = usize::try_from(offset + bytes - target).unwrap_or(usize::MAX);
            match copy_file_range(from.0, Some(&mut source), file, Some(&mut target), left) {
                // A file that became shorter: the identity check before publishing tells it.
                Ok(0) => return Ok(false),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    self.can_copy.store(false, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(e) => return Err(Error::io(path, "copy into")(e.into())),
            }
        }
        self.written(shard, bytes);
        Ok(true)
    }
}

impl Syncer {
    fn start() -> Option<Self> {
        let (request, requests) = crossbeam_channel::bounded::<File>(1);
        // Errors come again at the final sync, which decides.
        let work = move || requests.iter().for_each(|file| drop(file.sync_data()));
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
