//! Read-only maps of file ranges: the only unsafe code of the crate.
//!
//! A range is mapped when it is wanted and unmapped when it is dropped, so that a process's resident set holds what is
//! under way and nothing else. (One map for the whole file with `MADV_DONTNEED` behind the reader was tried first: the
//! calls succeeded, but hundreds of mebibytes stayed mapped on Linux 6.18, and why was not found.)

#![allow(unsafe_code, reason = "a file map cannot be made without it; its use says who keeps the promise")]

use crate::error::{Error, Result};
use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::path::Path;

/// Maps `bytes` at `offset`, which must lie inside the file, with all pages present.
pub fn map(file: &File, path: &Path, offset: u64, bytes: usize) -> Result<Mmap> {
    let mut options = MmapOptions::new();
    options.offset(offset).len(bytes).populate();
    // SAFETY: the map is read-only and the file's length was checked. Another process writing to or shrinking the file is
    // outside our promise (README, "Files must not change during a merge"); bytes are copied out of the map once, never
    // checked and then read again, and the file's identity is compared before anything is published.
    unsafe { options.map(file) }.map_err(Error::io(path, "map into memory"))
}
