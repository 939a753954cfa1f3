//! What merges know from each other, in a file between runs. It only spares work: it may be removed at any time.

use super::keys::Key;
use super::memo::{Coded, Known, Made, Seen};
use super::sealed::{seal, unseal};
use crate::container;
use crate::error::{Error, Result};
use crate::kernel::Change;
use crate::limits::CACHE_MAX_BYTES;
use crate::pass::Content;
use crate::plan::SEMANTICS;
use crate::sink::{WrittenTensor, write_whole};
use crate::source::RangeHash;
use crate::tensor::{Expected, Identity};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Of the file itself; of merges and of delta files, whose bytes are taken from earlier outputs.
const VERSION: (u32, u32, u32) = (2, SEMANTICS, container::FORMAT);

#[derive(Serialize, Deserialize)]
struct Stored {
    version: (u32, u32, u32),
    /// The bits of sums, by what was summed.
    sums: Vec<(Hex, Vec<u64>)>,
    /// Hashes of files.
    hashes: Vec<(Identity, Hex)>,
    /// By file: first byte, length and hashes of tensors.
    contents: Vec<(Identity, Vec<StoredContent>)>,
    /// Files that hold what was made.
    files: Vec<(PathBuf, Expected)>,
    made: Vec<StoredTensor>,
}

type StoredContent = (u64, u64, Hex, Hex);

/// 32 bytes, hexadecimal.
#[derive(Serialize, Deserialize)]
struct Hex(String);

#[derive(Serialize, Deserialize)]
struct StoredTensor {
    key: Hex,
    /// Index into `files`.
    file: usize,
    offset: u64,
    /// Elements that differ from the base, and the bits of the largest difference.
    change: Option<(u64, u32)>,
    range: Option<RangeHash>,
    hash: Option<Hex>,
    /// Its delta: index into `files`, what places in it count from, what is written there, and the base's hash.
    coded: Option<(usize, u64, WrittenTensor, Hex)>,
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

/// Writes the file, whole or not at all; without what was made, if it would be too long.
pub fn save(path: &Path, known: &Known) -> Result<()> {
    let mut stored = stored(known);
    let mut text = seal(&stored)?.0;
    if text.len() as u64 > CACHE_MAX_BYTES {
        (stored.files, stored.made) = (Vec::new(), Vec::new());
        text = seal(&stored)?.0;
    }
    write_whole(path, text.as_bytes())
}

fn restored(text: &[u8]) -> Option<Known> {
    // A number that is damaged would be a number still.
    let (content, _) = unseal(std::str::from_utf8(text).ok()?)?;
    let stored: Stored = serde_json::from_str(&content).ok()?;
    if stored.version != VERSION {
        return None;
    }
    let floats = |bits: Vec<u64>| bits.into_iter().map(f64::from_bits).collect();
    let sums = stored.sums.into_iter().map(|(k, bits)| Some((k.key()?, floats(bits)))).collect::<Option<_>>()?;
    let hashes = stored.hashes.into_iter().map(|(file, hash)| Some((file, hash.hash()?))).collect::<Option<_>>()?;
    let mut contents = BTreeMap::new();
    for (file, tensors) in stored.contents {
        for (offset, bytes, whole, head) in tensors {
            contents.insert((file, offset, bytes), Content { whole: whole.hash()?, head: head.hash()? });
        }
    }
    let files: Vec<Seen> = stored.files.into_iter().map(Arc::new).collect();
    let made = stored.made.into_iter().map(|t| t.made(&files)).collect::<Option<_>>()?;
    Some(Known { sums, hashes, contents, made })
}

fn stored(known: &Known) -> Stored {
    let bits = |sums: &[f64]| sums.iter().map(|s| s.to_bits()).collect();
    let mut contents: Vec<(Identity, Vec<StoredContent>)> = Vec::new();
    for (&(file, offset, bytes), content) in &known.contents {
        let tensor = (offset, bytes, Hex::of(content.whole), Hex::of(content.head));
        match contents.last_mut() {
            Some((last, tensors)) if *last == file => tensors.push(tensor),
            _ => contents.push((file, vec![tensor])),
        }
    }
    let mut files = Vec::new();
    let made = known.made.iter().map(|(key, made)| StoredTensor::of(*key, made, &mut files)).collect();
    Stored {
        version: VERSION,
        sums: known.sums.iter().map(|(key, sums)| (Hex::of((*key).into()), bits(sums))).collect(),
        hashes: known.hashes.iter().map(|(file, hash)| (*file, Hex::of(*hash))).collect(),
        contents,
        files,
        made,
    }
}

impl StoredTensor {
    fn of(key: Key, made: &Made, files: &mut Vec<(PathBuf, Expected)>) -> Self {
        let mut index = |seen: &Seen| {
            files.iter().position(|f| *f == **seen).unwrap_or_else(|| {
                files.push((**seen).clone());
                files.len() - 1
            })
        };
        let coded = made.coded.as_ref();
        Self {
            key: Hex::of(key.into()),
            file: index(&made.file),
            offset: made.offset,
            change: made.change.map(|c| (c.elements, c.max_abs.to_bits())),
            range: made.range.clone(),
            hash: made.hash.map(Hex::of),
            coded: coded.map(|c| (index(&c.file), c.header_bytes, c.written.clone(), Hex::of(c.base))),
        }
    }

    fn made(self, files: &[Seen]) -> Option<(Key, Made)> {
        let coded = match self.coded {
            None => None,
            Some((file, header_bytes, written, base)) => {
                Some(Coded { file: files.get(file)?.clone(), header_bytes, written, base: base.hash()? })
            }
        };
        let made = Made {
            file: files.get(self.file)?.clone(),
            offset: self.offset,
            change: self.change.map(|(elements, bits)| Change { elements, max_abs: f32::from_bits(bits) }),
            range: self.range,
            hash: self.hash.and_then(|h| h.hash()),
            coded,
        };
        Some((self.key.key()?, made))
    }
}

impl Hex {
    fn of(hash: blake3::Hash) -> Self {
        Self(hash.to_hex().to_string())
    }

    fn hash(&self) -> Option<blake3::Hash> {
        blake3::Hash::from_hex(&self.0).ok()
    }

    fn key(&self) -> Option<Key> {
        Some(*self.hash()?.as_bytes())
    }
}
