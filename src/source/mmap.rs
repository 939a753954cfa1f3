//! Read-only file maps: the only unsafe code of the crate.

#![allow(unsafe_code, reason = "a file map cannot be made without it; each use says who keeps the promise")]

use crate::error::{Error, Result};
use crate::limits::MAP_SLOP_BYTES;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::fs::File;
use std::path::Path;

/// A whole file, mapped read-only.
#[derive(Debug)]
pub struct Map(Mmap);

impl Map {
    pub fn new(file: &File, path: &Path) -> Result<Self> {
        // SAFETY: the map is read-only and its length was checked. Another process writing to or shrinking the file is
        // outside our promise (README, "Files must not change during a merge"); bytes are copied out of the map once,
        // never checked and then read again, and the file's identity is compared before anything is published.
        let map = unsafe { Mmap::map(file) }.map_err(Error::io(path, "map into memory"))?;
        // Read-ahead comes from `prepare`; the kernel's own guess would map pages nobody asked for.
        let _ = map.advise(Advice::Random);
        Ok(Self(map))
    }

    pub fn bytes(&self, offset: u64, bytes: usize) -> &[u8] {
        let start = usize::try_from(offset).expect("maps are smaller than the address space");
        &self.0[start..start + bytes]
    }

    /// Reads the range into the page cache and maps it; without effect where the kernel cannot.
    pub fn prepare(&self, offset: u64, bytes: usize) {
        let start = offset as usize;
        if self.0.advise_range(Advice::PopulateRead, start, bytes).is_err() {
            let _ = self.0.advise_range(Advice::WillNeed, start, bytes);
        }
    }

    /// Gives the range's pages back: they no longer count as this process's memory. Pages that the kernel mapped around
    /// the range go too; a neighbour that still needs them gets them back from the page cache.
    pub fn release(&self, offset: u64, bytes: usize) {
        let start = offset as usize / MAP_SLOP_BYTES * MAP_SLOP_BYTES;
        let end = (offset as usize + bytes).next_multiple_of(MAP_SLOP_BYTES).min(self.0.len());
        // SAFETY: the map is shared and read-only, so dropped pages come back from the file with the same content.
        let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
    }
}
