//! The weight files of all models of a merge, open for reading in ranges.

use super::ahead::{Ahead, Prepared};
use super::handle::{Handle, check_unchanged};
use super::mmap;
use super::remote::Fetched;
use crate::error::{Error, Result};
use crate::limits::MAP_MIN_BYTES;
use crate::tensor::{Expected, Identity};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the bytes of files are read. What is under a URL is read over the network whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// From maps of ranges, each given back after use.
    #[default]
    Mmap,
    /// With positioned reads into buffers: for network file systems, where a map can fail while it is used.
    Pread,
}

/// Bytes read, counted by whoever asks for them.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `bytes`.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Open files, addressed by their index.
#[derive(Debug)]
pub struct Files {
    files: Vec<OpenFile>,
    io: Io,
    ahead: Ahead,
}

#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    handle: Handle,
    opened_as: Identity,
}

impl Files {
    /// Opens `paths`, each of which must still be the file whose header was read.
    pub fn open<'a>(paths: impl Iterator<Item = (&'a Path, Expected)>, io: Io) -> Result<Self> {
        raise_open_file_limit();
        let files = paths.map(|(path, expected)| OpenFile::open(path, expected)).collect::<Result<_>>()?;
        Ok(Self { files, io, ahead: Ahead::default() })
    }

    /// Starts bringing a range into memory, so that [`Files::span`] does not wait for the disk or the network. What comes
    /// over the network stays in memory as long as the returned value.
    pub fn prepare(&self, file: usize, offset: u64, bytes: usize) -> Option<Prepared<'_>> {
        let length = std::num::NonZeroU64::new(bytes as u64)?;
        match &self.files[file].handle {
            Handle::File(open) => {
                let _ = rustix::fs::fadvise(open, offset, Some(length), rustix::fs::Advice::WillNeed);
                None
            }
            Handle::Object(object) => Some(self.ahead.start(object, file, offset, bytes)),
        }
    }

    /// The bytes of a range, counted in `counter`. `buffer` is used where files are not mapped, and for small ranges.
    pub fn span<'a>(
        &'a self,
        file: usize,
        offset: u64,
        bytes: usize,
        buffer: &'a mut Vec<u8>,
        counter: &Counter,
    ) -> Result<Span<'a>> {
        counter.add(bytes as u64);
        let f = &self.files[file];
        match &f.handle {
            Handle::File(open) if self.io == Io::Mmap && bytes >= MAP_MIN_BYTES => {
                return mmap::map(open, &f.path, offset, bytes).map(Span::Mapped);
            }
            Handle::File(_) => {}
            Handle::Object(_) => {
                if let Some(fetched) = self.ahead.bytes(file, offset, bytes) {
                    return fetched.map(Span::Fetched);
                }
            }
        }
        f.read(offset, bytes, buffer)?;
        Ok(Span::Read(buffer))
    }

    /// A map of a range, counted in `counter`; `None` where files are not mapped.
    pub fn map(&self, file: usize, offset: u64, bytes: usize, counter: &Counter) -> Result<Option<Mapped>> {
        let f = &self.files[file];
        let Handle::File(open) = &f.handle else { return Ok(None) };
        if self.io != Io::Mmap {
            return Ok(None);
        }
        counter.add(bytes as u64);
        mmap::map(open, &f.path, offset, bytes).map(Some)
    }

    /// The bytes of a range, read into `buffer` however files are read: for ranges so small that a map would cost more.
    pub fn read<'a>(
        &self,
        file: usize,
        offset: u64,
        bytes: usize,
        buffer: &'a mut Vec<u8>,
        counter: &Counter,
    ) -> Result<&'a [u8]> {
        buffer.resize(bytes, 0);
        self.fill(file, offset, buffer, counter)?;
        Ok(buffer)
    }

    /// Fills `out` with what stands at `offset`, counted in `counter`.
    pub fn fill(&self, file: usize, offset: u64, out: &mut [u8], counter: &Counter) -> Result<()> {
        counter.add(out.len() as u64);
        let f = &self.files[file];
        if matches!(f.handle, Handle::Object(_))
            && let Some(fetched) = self.ahead.bytes(file, offset, out.len())
        {
            return fetched.map(|bytes| out.copy_from_slice(&bytes));
        }
        f.handle.fill(&f.path, offset, out)
    }

    /// What tells each file from a changed one, and from all others.
    pub fn identities(&self) -> Vec<Identity> {
        self.files.iter().map(|f| f.opened_as).collect()
    }

    /// What tells each file from a changed one: inode, length, times of the last change of content and of state. Without the
    /// device, whose number may be another after a restart of the machine.
    pub fn states(&self) -> Vec<[i64; 6]> {
        let of = |i: &Identity| {
            let ((a, b), (c, d)) = (i.modified, i.changed);
            [i.inode.cast_signed(), i.bytes.cast_signed(), a, b, c, d]
        };
        self.files.iter().map(|f| of(&f.opened_as)).collect()
    }

    /// The file itself, for copies inside the kernel; `None` if it is not one of this machine.
    pub fn file(&self, file: usize) -> Option<&File> {
        match &self.files[file].handle {
            Handle::File(open) => Some(open),
            Handle::Object(_) => None,
        }
    }

    /// The path it was opened by.
    pub fn path(&self, file: usize) -> &Path {
        &self.files[file].path
    }

    /// Fails if any file is no longer the one that was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        check_unchanged(self.files.iter().map(|f| (&f.handle, f.path.as_path(), &f.opened_as)))
    }
}

impl OpenFile {
    fn read(&self, offset: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.resize(bytes, 0);
        self.handle.fill(&self.path, offset, buffer)
    }

    fn open(path: &Path, expected: Expected) -> Result<Self> {
        let handle = Handle::opened(path)?;
        let opened_as = handle.identity(path)?;
        let what = if opened_as.bytes != expected.bytes {
            format!("{} bytes when its header was read, {} now", expected.bytes, opened_as.bytes)
        } else if expected.identity.is_some_and(|i| i != opened_as) {
            "since its header was read".to_owned()
        } else {
            return Ok(Self { path: path.to_owned(), handle, opened_as });
        };
        Err(Error::InputChanged { path: path.to_owned(), what })
    }
}

/// A large sharded merge has more files than the usual soft limit of 1024; the hard limit is far above.
fn raise_open_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// A map of a range of a file.
pub type Mapped = Mmap;

/// Bytes of a file. Mapped pages are given back when it is dropped.
#[derive(Debug)]
pub enum Span<'a> {
    /// A map of the range.
    Mapped(Mmap),
    /// A buffer that the range was read into.
    Read(&'a [u8]),
    /// What came over the network.
    Fetched(Fetched),
}

impl Deref for Span<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
            Self::Fetched(bytes) => bytes,
        }
    }
}
