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
        let mut files = Vec::with_capacity(plan.len());
        for shard in plan {
            let path = folder.join(&shard.name);
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .map_err(Error::io(&path, "create"))?;
            reserve(&file, &path, shard.file_bytes())?;
            file.write_all_at(&shard.header, 0).map_err(Error::io(&path, "write"))?;
            files.push((path, file));
        }
        Ok(Self { files, can_copy: AtomicBool::new(true), unsynced: AtomicU64::new(0), sync: Syncer::start() })
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
