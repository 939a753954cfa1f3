//! An input that is open for reading in ranges: a file, or an object under a URL.

use super::checkpoint::{open_regular, read_range};
use super::remote::{self, Object};
use crate::error::{Error, Result};
use crate::tensor::{Identity, is_url};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// What ranges are read from.
#[derive(Debug)]
pub enum Handle {
    /// A file of this machine.
    File(File),
    /// An object, read over the network.
    Object(Object),
}

impl Handle {
    /// Opens what is at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        if is_url(path) {
            return Object::open(path).map(Self::Object);
        }
        open_regular(path).map(|(file, _)| Self::File(file))
    }

    /// The same; under a URL, as it was when it was opened last, so that a change since then is noticed.
    pub fn opened(path: &Path) -> Result<Self> {
        if is_url(path) { remote::opened(path).map(Self::Object) } else { Self::open(path) }
    }

    /// What tells it from a changed one.
    pub fn identity(&self, path: &Path) -> Result<Identity> {
        match self {
            Self::File(file) => Identity::of(file, path),
            Self::Object(object) => Ok(object.identity()),
        }
    }

    /// Gives back what it holds in memory for the reading of headers.
    pub fn forget_front(&self) {
        if let Self::Object(object) = self {
            object.forget_front();
        }
    }

    /// The bytes of a range.
    pub fn range(&self, path: &Path, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        match self {
            Self::File(file) => read_range(file, path, offset, bytes),
            Self::Object(object) => {
                let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
                object.fill(offset, &mut buffer).map(|()| buffer)
            }
        }
    }

    /// Fills `out` with what stands at `offset`.
    pub fn fill(&self, path: &Path, offset: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(out, offset).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::InputChanged { path: path.to_owned(), what: "it became shorter".into() }
                }
                _ => Error::io(path, "read")(e),
            }),
            Self::Object(object) => object.fill(offset, out),
        }
    }
}

/// Fails if any of these, each with its path and what it was, is no longer what was opened.
pub fn check_unchanged<'a>(all: impl Iterator<Item = (&'a Handle, &'a Path, &'a Identity)>) -> Result<()> {
    let mut objects = Vec::new();
    for (handle, path, opened_as) in all {
        match handle {
            Handle::Object(object) => objects.push(object),
            Handle::File(file) => check_file(file, path, opened_as)?,
        }
    }
    remote::check_unchanged(&objects)
}

fn check_file(file: &File, path: &Path, opened_as: &Identity) -> Result<()> {
    let now = Identity::of(file, path)?;
    let at_path = std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let what = if now.bytes != opened_as.bytes {
        format!("{} bytes before, {} now", opened_as.bytes, now.bytes)
    } else if now != *opened_as {
        "its times differ".to_owned()
    } else if at_path != Some((now.device, now.inode)) {
        "another file took its name".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::InputChanged { path: path.to_owned(), what })
}

impl Identity {
    /// Of an open file.
    pub(super) fn of(file: &File, path: &Path) -> Result<Self> {
        let m = file.metadata().map_err(Error::io(path, "read the state"))?;
        Ok(Self {
            device: m.dev(),
            inode: m.ino(),
            bytes: m.len(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    }
}
