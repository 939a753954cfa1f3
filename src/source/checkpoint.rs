//! From a model reference to its inventory: a `.safetensors` file, a folder, a shard index, a Hugging Face id, or one of
//! the first three under a URL.

use super::adapter;
use super::delta::is_delta;
use super::handle::Handle;
use super::header::{header_bytes, parse_header};
use super::hub;
use super::index::{self, WeightMap, parse_index};
use super::place::{exists, is_folder, joined, open_urls, read_small};
use super::remote;
use crate::error::{Error, Result};
use crate::limits::{CONFIG_MAX_BYTES, INDEX_MAX_BYTES};
use crate::tensor::{FileEntry, Identity, Inventory, is_url};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Which symbolic links inside a model's folder are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Those that stay in the folder, or in its repository of the Hugging Face cache.
    Inside,
    /// All (`--follow-links`).
    All,
}

/// Opens the model that `reference` names, relative to `folder`, and reads its headers.
pub fn open(reference: &str, folder: &Path, links: Links) -> Result<Inventory> {
    let path = locate(reference, folder)?;
    let found = Weights::find(&path, links)?;
    let paths: Vec<PathBuf> = found.names.iter().map(|name| found.root.join(name)).collect();
    open_urls(paths.iter().map(PathBuf::as_path))?;
    let mut files = Vec::with_capacity(found.names.len());
    let mut tensors = Vec::new();
    for (name, file_path) in found.names.iter().zip(paths) {
        check_link(&found.root, &file_path, links)?;
        let (file, mut entries) = read_header(name, file_path)?;
        entries.iter_mut().for_each(|t| t.file = files.len());
        files.push(file);
        tensors.append(&mut entries);
    }
    let tied = says_tied(&found.root, links)?;
    let inventory =
        Inventory { label: reference.to_owned(), path, adapter: None, files, tensors, error_bound: None, tied };
    refuse_same_name_in_two_files(&inventory)?;
    if let Some((path, map)) = &found.index {
        compare_with_index(path, map, &inventory)?;
    }
    Ok(inventory)
}

/// Whether a configuration says `tie_word_embeddings: true`, itself or in a nested one.
fn says_tied(root: &Path, links: Links) -> Result<bool> {
    let text = read_small(root, "config.json", links, CONFIG_MAX_BYTES)?.unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let says = |part: &serde_json::Value| part["tie_word_embeddings"] == true;
    Ok(says(&config) || config.as_object().is_some_and(|parts| parts.values().any(says)))
}

/// The bytes of the file at `path`, of at most `most` bytes.
pub fn read_whole(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_known(path, most).map(|(bytes, _)| bytes)
}

/// The same, and what the file was.
pub fn read_known(path: &Path, most: u64) -> Result<(Vec<u8>, Identity)> {
    if is_url(path) {
        let missing = || Error::InputMissing { path: path.to_owned(), problem: "no such object on the server".into() };
        return remote::small(path, most)?.ok_or_else(missing);
    }
    let (file, bytes) = open_regular(path)?;
    let identity = Identity::of(&file, path)?;
    if bytes > most {
        return Err(Error::malformed(path, format!("{bytes} bytes long; expected at most {most}")));
    }
    Ok((read_range(&file, path, 0, bytes)?, identity))
}

/// Opens the expert that `reference` names: a model, or `MODEL+ADAPTER`.
pub fn open_expert(reference: &str, folder: &Path, links: Links) -> Result<Inventory> {
    match split_adapter(reference, folder)? {
        None => open(reference, folder, links),
        Some((model, _)) if is_delta(Path::new(model)) => Err(Error::recipe(
            reference,
            "an adapter on a delta file is not supported; `taskvec apply` the delta first",
        )),
        Some((model, adapter)) => {
            let model = open(model, folder, links)?;
            adapter::put_on(model, reference, &locate(adapter, folder)?, links)
        }
    }
}

/// Model and adapter, where `reference` names both. A path that holds a `+` itself goes first.
pub fn split_adapter<'a>(reference: &'a str, folder: &Path) -> Result<Option<(&'a str, &'a str)>> {
    let Some(at_first) = reference.split_once('+') else { return Ok(None) };
    let mut splits = reference.match_indices('+').map(|(at, _)| (&reference[..at], &reference[at + 1..]));
    if reference.split('+').any(|part| is_url(Path::new(part))) {
        return Ok(Some(at_first));
    }
    let of_path = splits.rfind(|(model, _)| !model.is_empty() && folder.join(model).exists());
    if folder.join(reference).exists() {
        let Some((model, adapter)) = of_path.filter(|(_, a)| folder.join(a).join(adapter::CONFIG).exists()) else {
            return Ok(None);
        };
        let problem = format!(
            "is a path, and also `{model}` with the adapter `{adapter}`; rename one, or name the weight file \
             (`{reference}/{SINGLE}` or `{model}/{SINGLE}+{adapter}`)"
        );
        return Err(Error::recipe(reference, problem));
    }
    let (model, adapter) = of_path.unwrap_or(at_first);
    if model.is_empty() || adapter.is_empty() {
        return Err(Error::recipe(reference, "expected MODEL+ADAPTER"));
    }
    Ok(Some((model, adapter)))
}

fn locate(reference: &str, folder: &Path) -> Result<PathBuf> {
    let path = joined(folder, reference);
    if is_url(&path) {
        return remote::check(&path).map(|()| path);
    }
    if path.exists() {
        return Ok(path);
    }
    if hub::looks_like_id(reference) {
        return hub::resolve(reference, hub::cache_folder().as_deref());
    }
    let problem = if reference.contains('+') {
        "no such file or folder. A model with one adapter (`MODEL+ADAPTER`) can stand under `models` only; \
         `taskvec merge --method passthrough --model MODEL+ADAPTER OUT` makes a checkpoint of it"
    } else {
        "no such file or folder"
    };
    Err(Error::InputMissing { path, problem: problem.into() })
}

/// Where a model's weights lie.
struct Weights {
    root: PathBuf,
    names: Vec<String>,
    index: Option<(PathBuf, WeightMap)>,
}

impl Weights {
    fn find(path: &Path, links: Links) -> Result<Self> {
        if is_folder(path) {
            return Self::in_folder(path, links);
        }
        let root = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.ends_with(".safetensors") {
            return Ok(Self { root, names: vec![name.to_owned()], index: None });
        }
        if name.ends_with(".index.json") {
            return Self::from_index(root, path, links);
        }
        let problem = match path.extension().and_then(|e| e.to_str()) {
            Some("bin" | "pt" | "pth" | "ckpt") => {
                "is a pickle, which can run code when opened; convert it to safetensors first"
            }
            _ => "is not a model: expected a folder, a .safetensors file or an .index.json",
        };
        Err(Error::InputMissing { path: path.to_owned(), problem: problem.into() })
    }

    fn in_folder(root: &Path, links: Links) -> Result<Self> {
        if exists(&root.join(INDEX))? {
            return Self::from_index(root.to_owned(), &root.join(INDEX), links);
        }
        if exists(&root.join(SINGLE))? {
            return Ok(Self { root: root.to_owned(), names: vec![SINGLE.to_owned()], index: None });
        }
        if is_url(root) {
            let problem = format!("neither {INDEX} nor {SINGLE} is there; name the weight file itself");
            return Err(Error::InputMissing { path: root.to_owned(), problem });
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(root).map_err(Error::io(root, "list the folder"))? {
            let name = entry.map_err(Error::io(root, "list the folder"))?.file_name();
            names.extend(name.to_str().filter(|n| n.ends_with(".safetensors")).map(str::to_owned));
        }
        names.sort();
        match names.len() {
            0 => Err(Error::InputMissing {
                path: root.to_owned(),
                problem: "no .safetensors file in this folder; pickles (.bin, .pt) must be converted first".into(),
            }),
            1 => Ok(Self { root: root.to_owned(), names, index: None }),
            _ => Err(Error::malformed(
                root,
                format!("{} .safetensors files and no {INDEX}; name the file or the index to use", names.len()),
            )),
        }
    }

    fn from_index(root: PathBuf, path: &Path, links: Links) -> Result<Self> {
        check_link(&root, path, links)?;
        let json = read_whole(path, INDEX_MAX_BYTES)?;
        let map = parse_index(path, &json)?;
        let names = index::shards(&map).into_iter().map(str::to_owned).collect();
        Ok(Self { root, names, index: Some((path.to_owned(), map)) })
    }
}

/// Fails if `file`, found under `root`, is a link that leaves it.
pub fn check_link(root: &Path, file: &Path, links: Links) -> Result<()> {
    if is_url(file) {
        return Ok(());
    }
    let Ok(real) = std::fs::canonicalize(file) else {
        return Err(Error::InputMissing { path: file.to_owned(), problem: "no such file".into() });
    };
    let root = std::fs::canonicalize(root).map_err(Error::io(root, "resolve the folder"))?;
    let repository =
        root.ancestors().find(|a| a.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("models--")));
    if links == Links::All || real.starts_with(&root) || repository.is_some_and(|r| real.starts_with(r)) {
        return Ok(());
    }
    let problem =
        format!("a link that leaves the model's folder, to {}; pass --follow-links to allow it", real.display());
    Err(Error::InputMissing { path: file.to_owned(), problem })
}

pub fn read_header(name: &str, path: PathBuf) -> Result<(FileEntry, Vec<crate::tensor::Entry>)> {
    let opened = Handle::opened(&path)?;
    let identity = opened.identity(&path)?;
    let bytes = identity.bytes;
    let first = opened.range(&path, 0, 8.min(bytes))?;
    let first =
        first.try_into().map_err(|_| Error::malformed(&path, format!("{bytes} bytes long; not a safetensors file")))?;
    let length = header_bytes(&path, first, bytes)?;
    let json = opened.range(&path, 8, length)?;
    opened.forget_front();
    let header = parse_header(&path, &json, bytes)?;
    let header_blake3 = blake3::hash(&json).to_hex().to_string();
    let identity = Some(identity);
    Ok((FileEntry { name: name.to_owned(), path, bytes, header_blake3, identity }, header.tensors))
}

/// The header of the safetensors file at `path`, with its length field.
pub fn header_of(path: &Path) -> Result<Vec<u8>> {
    let opened = Handle::open(path)?;
    let bytes = opened.identity(path)?.bytes;
    let first = opened.range(path, 0, 8.min(bytes))?;
    let first = first.try_into().map_err(|_| Error::malformed(path, "not a safetensors file"))?;
    opened.range(path, 0, 8 + header_bytes(path, first, bytes)?)
}

/// Opens a regular file; anything else (a fifo would hang) is refused before it is opened.
pub fn open_regular(path: &Path) -> Result<(File, u64)> {
    let missing = |problem: &str| Error::InputMissing { path: path.to_owned(), problem: problem.to_owned() };
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing("no such file")),
        Err(e) => return Err(missing(&format!("cannot be opened: {e}"))),
    };
    if !meta.is_file() {
        return Err(missing("is not a regular file"));
    }
    let file = File::open(path).map_err(|e| missing(&format!("cannot be opened: {e}")))?;
    let meta = file.metadata().map_err(Error::io(path, "read the length"))?;
    Ok((file, meta.len()))
}

pub fn read_range(file: &File, path: &Path, offset: u64, bytes: u64) -> Result<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut buffer, offset).map_err(Error::io(path, "read"))?;
    Ok(buffer)
}

fn refuse_same_name_in_two_files(inventory: &Inventory) -> Result<()> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for t in &inventory.tensors {
        if let Some(other) = seen.insert(&t.name, t.file) {
            return Err(Error::BadTensor {
                path: inventory.files[t.file].path.clone(),
                tensor: t.name.clone(),
                problem: format!("also in {}; expected in one shard only", inventory.files[other].name),
            });
        }
    }
    Ok(())
}

fn compare_with_index(path: &Path, map: &WeightMap, inventory: &Inventory) -> Result<()> {
    let bad = |tensor: &str, problem: String| {
        Err(Error::BadTensor { path: path.to_owned(), tensor: tensor.to_owned(), problem })
    };
    let mut held: BTreeMap<&str, &str> = BTreeMap::new();
    for t in &inventory.tensors {
        held.insert(&t.name, &inventory.files[t.file].name);
    }
    for (tensor, shard) in map {
        match held.get(tensor.as_str()) {
            Some(file) if file == shard => {}
            Some(file) => return bad(tensor, format!("the index places it in {shard}, it is in {file}")),
            None => return bad(tensor, format!("the index places it in {shard}, which does not hold it")),
        }
    }
    match held.iter().find(|(tensor, _)| !map.contains_key(**tensor)) {
        Some((tensor, file)) => bad(tensor, format!("it is in {file} but not in the index")),
        None => Ok(()),
    }
}
