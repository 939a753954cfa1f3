//! What merges know from each other, in a file between runs. It only spares work: it may be removed at any time.

use super::memo::{Known, Merged};
use super::sealed::{seal, unseal};
use crate::error::{Error, Result};
use crate::kernel::Change;
use crate::limits::CACHE_MAX_BYTES;
use crate::sink::write_whole;
use crate::tensor::{Expected, Identity};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Another version may compute other bytes.
const VERSION: &str = concat!("taskvec cache 1, ", env!("CARGO_PKG_VERSION"));

#[derive(Serialize, Deserialize)]
struct Stored {
    version: String,
    /// The bits of sums, by what was summed.
    sums: Vec<(String, Vec<u64>)>,
    /// Hashes of files, by what tells a file from a changed one.
    hashes: Vec<([i64; 6], String)>,
    /// Files that hold merged tensors.
    files: Vec<StoredFile>,
    merged: Vec<StoredTensor>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct StoredFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct StoredTensor {
    key: String,
    /// Index into `files`.
    file: usize,
    offset: u64,
    /// Elements that differ from the base, and the bits of the largest difference.
    change: Option<(u64, u32)>,
}

/// What the file at `path` knows: nothing, if it is not there, damaged, or of another version.
pub fn load(path: &Path) -> Result<Known> {
    let known = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Known::default()),
        Err(e) => return Err(Error::io(path, "read")(e)),
        Ok(meta) if !meta.is_file() => {
            return Err(Error::Usage(format!("--cache {}: is not a file", path.display())));
        }
        Ok(meta) if meta.len() > CACHE_MAX_BYTES => None,
        Ok(_) => std::fs::read(path).ok().and_then(|text| restored(&text)),
    };
    if known.is_none() {
        tracing::warn!("{}: is no cache of this version; it begins anew", path.display());
    }
    Ok(known.unwrap_or_default())
}

/// Writes the file, whole or not at all.
pub fn save(path: &Path, known: &Known) -> Result<()> {
    write_whole(path, seal(&stored(known))?.0.as_bytes())
}

fn restored(text: &[u8]) -> Option<Known> {
    // A number that is damaged would be a number still.
    let (content, _) = unseal(std::str::from_utf8(text).ok()?)?;
    let stored: Stored = serde_json::from_str(&content).ok()?;
    if stored.version != VERSION {
        return None;
    }
    let key = |hex: &str| blake3::Hash::from_hex(hex).ok().map(|h| *h.as_bytes());
    let floats = |bits: Vec<u64>| bits.into_iter().map(f64::from_bits).collect();
    let sums = stored.sums.into_iter().map(|(k, bits)| Some((key(&k)?, floats(bits)))).collect::<Option<_>>()?;
    let hash = |(identity, hex): ([i64; 6], String)| Some((identity, blake3::Hash::from_hex(&hex).ok()?));
    let hashes = stored.hashes.into_iter().map(hash).collect::<Option<_>>()?;
    let files: Vec<_> = stored.files.into_iter().map(|f| Arc::new(f.file())).collect();
    let tensor = |t: StoredTensor| {
        let change = t.change.map(|(elements, bits)| Change { elements, max_abs: f32::from_bits(bits) });
        Some((key(&t.key)?, Merged { file: files.get(t.file)?.clone(), offset: t.offset, change }))
    };
    let merged = stored.merged.into_iter().map(tensor).collect::<Option<_>>()?;
    Some(Known { sums, hashes, merged })
}

fn stored(known: &Known) -> Stored {
    let hex = |key: &[u8; 32]| blake3::Hash::from_bytes(*key).to_hex().to_string();
    let bits = |sums: &[f64]| sums.iter().map(|s| s.to_bits()).collect();
    let mut files: Vec<StoredFile> = Vec::new();
    let mut merged = Vec::new();
    for (key, m) in &known.merged {
        let Some(file) = StoredFile::of(&m.file) else { continue };
        let index = files.iter().position(|f| *f == file).unwrap_or_else(|| {
            files.push(file);
            files.len() - 1
        });
        let change = m.change.map(|c| (c.elements, c.max_abs.to_bits()));
        merged.push(StoredTensor { key: hex(key), file: index, offset: m.offset, change });
    }
    Stored {
        version: VERSION.to_owned(),
        sums: known.sums.iter().map(|(key, sums)| (hex(key), bits(sums))).collect(),
        hashes: known.hashes.iter().map(|(identity, hash)| (*identity, hash.to_hex().to_string())).collect(),
        files,
        merged,
    }
}

impl StoredFile {
    fn of((path, expected): &(PathBuf, Expected)) -> Option<Self> {
        let Identity { device, inode, bytes, modified, changed } = expected.identity?;
        Some(Self { path: path.clone(), device, inode, bytes, modified, changed })
    }

    fn file(self) -> (PathBuf, Expected) {
        let Self { path, device, inode, bytes, modified, changed } = self;
        (path, Expected { bytes, identity: Some(Identity { device, inode, bytes, modified, changed }) })
    }
}
