//! Every change to the file system that an output is made with. Errors name the path; calls that a signal interrupts are
//! made again; short writes are continued. Tests let each call fail or end the process (`fail`, feature `failpoints`).

#[cfg(feature = "failpoints")]
pub mod fail;
#[cfg(not(feature = "failpoints"))]
mod real;

#[cfg(not(feature = "failpoints"))]
use real as fail;

use crate::error::{Error, Result};
use rustix::fs::{
    Advice, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, copy_file_range, fadvise,
    fallocate, futimens, renameat_with,
};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A call that changes the file system, besides writes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "failpoints"), allow(dead_code, reason = "only faults look into it"))]
#[allow(missing_docs, reason = "named like the functions")]
pub enum Call<'a> {
    Create,
    Reserve(u64),
    SetLen(u64),
    Sync,
    SyncFolder,
    MakeFolder,
    Rename(&'a Path),
    Link(&'a Path),
    Exchange(&'a Path),
    Remove,
    RemoveFolder,
}

/// The blocks that most file systems can share between files.
const SHARED_BLOCK_BYTES: u64 = 4096;

/// How often an interrupted call is made again.
const ATTEMPTS: usize = 1000;

/// A file being written.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    file: fs::File,
}

impl File {
    /// Makes a file that does not exist yet.
    pub fn create(path: &Path) -> Result<Self> {
        let file = call(Call::Create, path, "create", || {
            fs::File::options().read(true).write(true).create_new(true).open(path)
        })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Opens a file to be written further.
    pub fn open(path: &Path) -> Result<Self> {
        let file = fs::File::options().read(true).write(true).open(path).map_err(Error::io(path, "open"))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same open file again.
    pub fn again(&self) -> Result<Self> {
        let file = self.file.try_clone().map_err(Error::io(&self.path, "open again"))?;
        Ok(Self { path: self.path.clone(), file })
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> Result<()> {
        let mut attempts = 0;
        while !bytes.is_empty() {
            let wrote = fail::write(&self.path, offset, bytes).and_then(|bytes| self.file.write_at(bytes, offset));
            match wrote {
                Ok(0) => return Err(Error::io(&self.path, "write")(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    fail::wrote(&self.path, offset, &bytes[..n]);
                    (bytes, offset) = (&bytes[n..], offset + n as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted && attempts < ATTEMPTS => attempts += 1,
                Err(e) => return Err(Error::io(&self.path, "write")(e)),
            }
        }
        Ok(())
    }

    /// Sets the length and, where the file system can, reserves the space, so that a full disk shows before the work.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        call(Call::Reserve(bytes), &self.path, "reserve space", || {
            match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.file.set_len(bytes),
                result => result.map_err(io::Error::from),
            }
        })
    }

    /// Cuts the file, or makes it longer.
    pub fn set_len(&self, bytes: u64) -> Result<()> {
        call(Call::SetLen(bytes), &self.path, "set the length", || self.file.set_len(bytes))
    }

    /// Copies `bytes` at `from.1` of a file to `offset` inside the kernel; `None` if it cannot.
    pub fn copy_at(&self, offset: u64, from: (&fs::File, u64), bytes: u64) -> Result<Option<()>> {
        let (mut source, mut target) = (from.1, offset);
        while target < offset + bytes {
            let left = usize::try_from(offset + bytes - target).unwrap_or(usize::MAX);
            match copy_file_range(from.0, Some(&mut source), &self.file, Some(&mut target), left) {
                // A file that became shorter: the identity check before publishing tells it.
                Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    return Ok(None);
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io(&self.path, "copy into")(e.into())),
            }
        }
        Ok(Some(()))
    }

    /// Takes a range from the same place of another file, inside the kernel; `None` if it cannot. Whole blocks are asked for
    /// by themselves: file systems that can, share them instead of copying.
    pub fn take_range(&self, from: &fs::File, range: Range<u64>) -> Result<Option<()>> {
        let first = range.start.next_multiple_of(SHARED_BLOCK_BYTES).min(range.end);
        let last = (range.end / SHARED_BLOCK_BYTES * SHARED_BLOCK_BYTES).max(first);
        for part in [range.start..first, first..last, last..range.end] {
            if self.copy_at(part.start, (from, part.start), part.end - part.start)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// Fills `buffer` with what stands at `offset`.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(Error::io(&self.path, "read"))
    }

    /// What tells it from a changed file: inode, length, times of the last change of content and of state.
    pub fn identity(&self) -> Result<[i64; 6]> {
        let m = self.file.metadata().map_err(Error::io(&self.path, "read the state"))?;
        Ok([m.ino().cast_signed(), m.len().cast_signed(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()])
    }

    /// Sets its time to now. Nothing depends on it but what is done again, so that no test needs it to fail.
    pub fn touch(&self) {
        let time = |nanoseconds| Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
        let _ = futimens(&self.file, &times);
    }

    /// Waits until content and length are on the disk.
    pub fn sync(&self) -> Result<()> {
        call(Call::Sync, &self.path, "sync", || self.file.sync_all())
    }

    /// The same without times.
    pub fn sync_data(&self) -> Result<()> {
        call(Call::Sync, &self.path, "sync", || self.file.sync_data())
    }
}

/// Makes a folder.
pub fn make_folder(path: &Path) -> Result<()> {
    call(Call::MakeFolder, path, "make the folder", || fs::create_dir(path))
}

/// Makes a folder and those above it that are missing, each on the disk before the next.
pub fn make_folders(path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    make_folders(parent)?;
    match make_folder(path) {
        // Another process made it meanwhile.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.and_then(|()| sync_folder(parent)),
    }
}

/// Waits until the names in a folder are on the disk.
pub fn sync_folder(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    call(Call::SyncFolder, path, "sync", || fs::File::open(path).and_then(|f| f.sync_all()))
}

/// Gives a file or folder another name; what has that name is replaced, if it is a file or an empty folder.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    call(Call::Rename(from), to, "give the output its name", || fs::rename(from, to))
}

/// The same; `false` if there is something of that name.
pub fn rename_to_free(from: &Path, to: &Path) -> Result<bool> {
    let renamed = call(Call::Rename(from), to, "give the output its name", || {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system that cannot refuse: locks and checks before this have to do.
            Err(Errno::INVAL) => fs::rename(from, to),
            result => result.map_err(io::Error::from),
        }
    });
    match renamed {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.map(|()| true),
    }
}

/// Gives a file a second name; `false` if its file system has no such thing.
pub fn link(from: &Path, to: &Path) -> Result<bool> {
    let linked = call(Call::Link(from), to, "link", || fs::hard_link(from, to));
    match linked {
        Err(Error::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
                || source.raw_os_error() == Some(Errno::XDEV.raw_os_error())
                || source.raw_os_error() == Some(Errno::MLINK.raw_os_error()) =>
        {
            Ok(false)
        }
        result => result.map(|()| true),
    }
}

/// Exchanges two names in one step.
pub fn exchange(from: &Path, to: &Path) -> Result<()> {
    call(Call::Exchange(from), to, "exchange with the new output", || {
        renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).map_err(io::Error::from)
    })
}

/// Removes a file, if it is there.
pub fn remove_file(path: &Path) -> Result<()> {
    absent_is_fine(call(Call::Remove, path, "remove", || fs::remove_file(path)))
}

/// Removes a folder and all that is in it, if it is there. Links are removed, not followed.
pub fn remove_folder(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io(path, "list the folder"))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io(path, "list the folder"))?;
        let folder = entry.file_type().is_ok_and(|t| t.is_dir());
        if folder { remove_folder(&entry.path())? } else { remove_file(&entry.path())? }
    }
    absent_is_fine(call(Call::RemoveFolder, path, "remove", || fs::remove_dir(path)))
}

/// When a file of this identity changed last, in content or state, since 1970.
pub fn changed(identity: &[i64; 6]) -> Duration {
    let [.., seconds, nanoseconds] = *identity;
    Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0))
}

/// What tells this start of the machine from others; empty if nothing does.
pub fn boot_id() -> String {
    let known = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    fail::boot_id().unwrap_or_else(known).trim().to_owned()
}

/// Makes the kernel forget what it holds of a file that is on the disk, so that the next read comes from there.
pub fn forget_cached(path: &Path) -> Result<()> {
    let file = fs::File::open(path).map_err(Error::io(path, "open"))?;
    fadvise(&file, 0, None, Advice::DontNeed).map_err(|e| Error::io(path, "read back")(e.into()))
}

fn absent_is_fine(removed: Result<()>) -> Result<()> {
    match removed {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes a call, again if a signal interrupts it.
fn call<T>(kind: Call<'_>, path: &Path, action: &'static str, make: impl Fn() -> io::Result<T>) -> Result<T> {
    let mut attempts = 0;
    loop {
        match fail::gate(kind, path).and_then(|()| make()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted && attempts < ATTEMPTS => attempts += 1,
            result => {
                if result.is_ok() {
                    fail::done(kind, path);
                }
                return result.map_err(Error::io(path, action));
            }
        }
    }
}
