//! No faults: what ships.

use std::io::Result;
use std::path::Path;

/// A call that changes the file system, besides writes.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "only tests look into it")]
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

#[inline(always)]
#[allow(clippy::unnecessary_wraps, reason = "its twin can fail")]
pub fn gate(_call: Call<'_>, _path: &Path) -> Result<()> {
    Ok(())
}

#[inline(always)]
pub fn done(_call: Call<'_>, _path: &Path) {}

#[inline(always)]
#[allow(clippy::unnecessary_wraps, reason = "its twin can fail")]
pub fn write<'a>(_path: &Path, _offset: u64, bytes: &'a [u8]) -> Result<&'a [u8]> {
    Ok(bytes)
}

#[inline(always)]
pub fn wrote(_path: &Path, _offset: u64, _bytes: &[u8]) {}
