//! `taskvec store`: many delta files in one folder, each payload kept once.
//!
//! ```text
//! DIR/manifest.json            names, each with its result
//! DIR/deltas/RESULT-BASE.json  one delta file without its payloads, named by the roots of its result and its base
//! DIR/payloads/ab/HASH         one tensor's payload, or the files that a delta file keeps, named by blake3
//! ```
//!
//! Files are written whole, synced and renamed, payloads first and the manifest last: what is interrupted leaves at most
//! files that nothing names, which `gc` removes.

use crate::container::{Index, Metadata, Writer};
use crate::disk;
use crate::error::{Error, Result};
use crate::limits::DELTA_INDEX_MAX_BYTES;
use crate::sink::{Existing, Locked, StagedFile, Unfinished, write_whole};
use crate::source::{DeltaFile, read_whole};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// The names in a store.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    experts: BTreeMap<String, Expert>,
}

/// An entry of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expert {
    /// Names its result.
    pub result_root: String,
    /// Names its base.
    pub base_root: String,
    /// Bytes of the result's tensors.
    pub tensor_bytes: u64,
    /// Bytes of the delta file.
    pub delta_bytes: u64,
}

/// A delta file without its payloads.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    base_root: String,
    result_root: String,
    error_bound: Option<String>,
    /// blake3 of the whole delta file.
    blake3: String,
    /// The payload that holds what the delta file keeps of files.
    files: String,
    index: Index,
}

/// What was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct Added {
    /// Payloads written, and those that were there.
    pub new: usize,
    /// Payloads that another delta had brought.
    pub shared: usize,
    /// Bytes written.
    pub bytes: u64,
}

/// A folder of deltas, locked.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    manifest: Manifest,
    _lock: Locked,
}

impl Store {
    /// Opens the store in `folder`; makes it if `create` is set.
    pub fn open(folder: &Path, create: bool) -> Result<Self> {
        let path = folder.join("manifest.json");
        if create {
            disk::make_folders(folder)?;
            let own = |e: &fs::DirEntry| e.file_name() == ".lock" || e.file_name() == ".manifest.json.part";
            let mut entries = fs::read_dir(folder).map_err(Error::io(folder, "list the folder"))?.flatten();
            let foreign = entries.any(|e| !own(&e));
            if foreign && !path.exists() && !folder.join("payloads").exists() {
                let problem = "holds other files and is no store; choose an empty or a new folder".into();
                return Err(Error::OutputExists { path: folder.to_owned(), problem });
            }
        } else if !path.exists() {
            let problem = "no such file; `taskvec store add` makes a store".into();
            return Err(Error::InputMissing { path, problem });
        }
        let lock = Locked::take(&folder.join(".lock"), folder)?;
        let manifest = if path.exists() { read_json(&path)? } else { Manifest::default() };
        check_manifest(&path, &manifest)?;
        Ok(Self { folder: folder.to_owned(), manifest, _lock: lock })
    }

    /// The entries by name.
    pub fn list(&self) -> &BTreeMap<String, Expert> {
        &self.manifest.experts
    }

    /// Bytes of all payloads.
    pub fn payload_bytes(&self) -> Result<u64> {
        let mut sum = 0;
        for path in files_below(&self.folder.join("payloads"))? {
            sum += fs::metadata(&path).map_err(Error::io(&path, "read the length"))?.len();
        }
        Ok(sum)
    }

    /// Takes in the delta file at `path` under `name`. To resume is to hash payloads that are there again, and to leave
    /// the same delta under that name as it is.
    pub fn add(&mut self, path: &Path, name: &str, unfinished: Unfinished) -> Result<Added> {
        check_name(name)?;
        if let Some(there) = self.manifest.experts.get(name) {
            if unfinished == Unfinished::Resume && self.is_kept(there, path)? {
                return Ok(Added::default());
            }
            let problem =
                format!("holds `{name}` already (result {}); choose another --name", &there.result_root[..16]);
            return Err(Error::OutputExists { path: self.folder.clone(), problem });
        }
        let delta = DeltaFile::open(path)?;
        let mut added = Added::default();
        for t in &delta.index.tensors {
            let (Some((_, offset, bytes)), Some(hash)) = (delta.payload(t), &t.payload) else { continue };
            self.keep(hash, unfinished, &mut added, |out| delta.copy(offset, bytes, out))?;
        }
        let files = delta.files()?;
        let files_hash = blake3::hash(&files).to_hex().to_string();
        self.keep(&files_hash, unfinished, &mut added, |out| out(&files))?;
        let expert = Expert {
            result_root: delta.metadata.result_root.clone(),
            base_root: delta.metadata.base_root.clone(),
            tensor_bytes: delta.index.tensors.iter().map(tensor_bytes).sum(),
            delta_bytes: delta.file.bytes,
        };
        let kept = Kept {
            base_root: expert.base_root.clone(),
            result_root: expert.result_root.clone(),
            error_bound: delta.metadata.error_bound.clone(),
            blake3: hash_file(path)?,
            files: files_hash,
            index: delta.index,
        };
        write_whole(&self.kept_path(&expert), &json(&kept)?)?;
        self.manifest.experts.insert(name.to_owned(), expert);
        self.write_manifest()?;
        Ok(added)
    }

    /// Writes the delta file called `name` to `out`, the very bytes that were added.
    pub fn get(&self, name: &str, out: &Path, existing: Existing) -> Result<u64> {
        let expert = self.expert(name)?;
        let kept: Kept = read_json(&self.kept_path(expert))?;
        let staged = StagedFile::begin(out, existing, Unfinished::Discard, &[&self.folder])?;
        let mut writer = Writer::create(staged.part(), kept.index.tensors.iter().map(|t| t.name.as_str()))?;
        for t in &kept.index.tensors {
            let Some(hash) = &t.payload else { continue };
            let path = self.payload_path(hash)?;
            writer.copy(&t.name, &path)?;
        }
        let files_path = self.payload_path(&kept.files)?;
        let files = fs::read(&files_path).map_err(Error::io(&files_path, "read"))?;
        let Kept { base_root, result_root, error_bound, .. } = kept;
        let bytes = writer.finish(&Metadata { base_root, result_root, error_bound }, &kept.index, &files)?;
        let got = hash_file(staged.part())?;
        if got != kept.blake3 {
            return Err(Error::HashDiffers {
                path: self.folder.clone(),
                what: format!("`{name}` put together again"),
                expected: kept.blake3,
                got,
                hint: "A payload is damaged; add the delta file again under another name.",
            });
        }
        staged.publish()?;
        Ok(bytes)
    }

    /// Forgets the entries called `drop`, then removes every file that nothing names. Returns files and bytes removed.
    pub fn gc(&mut self, drop: &[String]) -> Result<(usize, u64)> {
        for name in drop {
            self.expert(name)?;
        }
        drop.iter().for_each(|name| {
            self.manifest.experts.remove(name);
        });
        self.write_manifest()?;
        let mut used = BTreeSet::new();
        for expert in self.manifest.experts.values() {
            let path = self.kept_path(expert);
            let kept: Kept = read_json(&path)?;
            used.insert(path);
            let payloads = kept.index.tensors.iter().filter_map(|t| t.payload.as_ref()).chain([&kept.files]);
            for hash in payloads {
                used.insert(self.payload_path(hash)?);
            }
        }
        let (mut files, mut bytes) = (0, 0);
        for folder in ["payloads", "deltas"] {
            for path in files_below(&self.folder.join(folder))? {
                if !used.contains(&path) {
                    bytes += fs::metadata(&path).map_or(0, |m| m.len());
                    disk::remove_file(&path)?;
                    files += 1;
                }
            }
        }
        Ok((files, bytes))
    }

    /// Whether an entry is the delta file at `path`.
    fn is_kept(&self, expert: &Expert, path: &Path) -> Result<bool> {
        let kept: Kept = read_json(&self.kept_path(expert))?;
        Ok(kept.blake3 == hash_file(path)?)
    }

    fn expert(&self, name: &str) -> Result<&Expert> {
        self.manifest.experts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.manifest.experts.keys().map(String::as_str).collect();
            let problem = format!("holds no `{name}`; it holds: {}", names.join(", "));
            Error::InputMissing { path: self.folder.clone(), problem }
        })
    }

    /// Writes a payload unless it is there.
    fn keep(
        &self,
        hash: &str,
        unfinished: Unfinished,
        added: &mut Added,
        write: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let path = self.payload_path(hash)?;
        if path.exists() && (unfinished == Unfinished::Discard || hash_file(&path)? == hash) {
            added.shared += 1;
            return Ok(());
        }
        added.bytes += crate::sink::stream_whole(&path, write)?;
        added.new += 1;
        Ok(())
    }

    fn write_manifest(&self) -> Result<()> {
        write_whole(&self.folder.join("manifest.json"), &json(&self.manifest)?)
    }

    fn kept_path(&self, expert: &Expert) -> PathBuf {
        let base: String = expert.base_root.chars().take(16).collect();
        self.folder.join("deltas").join(format!("{}-{base}.json", expert.result_root))
    }

    fn payload_path(&self, hash: &str) -> Result<PathBuf> {
        if !is_hash(hash) {
            return Err(Error::malformed(&self.folder, format!("{hash:?} is not a blake3 hash")));
        }
        Ok(self.folder.join("payloads").join(&hash[..2]).join(hash))
    }
}

/// A person may edit the manifest: names and roots become paths, so they must be what they say.
fn check_manifest(path: &Path, manifest: &Manifest) -> Result<()> {
    for (name, expert) in &manifest.experts {
        if check_name(name).is_err() || !is_hash(&expert.result_root) || !is_hash(&expert.base_root) {
            return Err(Error::malformed(
                path,
                format!("the entry {name:?} has a bad name, or a root that is no blake3 hash"),
            ));
        }
    }
    Ok(())
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn tensor_bytes(t: &crate::container::Tensor) -> u64 {
    t.shape.iter().product::<u64>() * t.dtype.bytes() as u64
}

fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.is_empty() && name.len() <= 128 && name.chars().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    Err(Error::Usage(format!("--name {name:?}: expected up to 128 letters, digits, `-`, `_` and `.`")))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::Usage(format!("store: {e}")))?;
    text.push(b'\n');
    Ok(text)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = read_whole(path, 2 * DELTA_INDEX_MAX_BYTES)?;
    serde_json::from_slice(&text).map_err(|e| Error::malformed(path, format!("does not parse: {e}")))
}

fn hash_file(path: &Path) -> Result<String> {
    let file = fs::File::open(path).map_err(Error::io(path, "open"))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::io::BufReader::with_capacity(COPY_BYTES, file)).map_err(Error::io(path, "read"))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(found) };
    for entry in entries {
        let path = entry.map_err(Error::io(folder, "list the folder"))?.path();
        if path.is_dir() {
            found.append(&mut files_below(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
