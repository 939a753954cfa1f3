//! What several tests share: small models, written and read without the code under test.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod bench;
pub mod folder;
pub mod parts;
#[cfg(feature = "remote")]
pub mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use taskvec::codec::{Codec, Coding};
use taskvec::job::{self, ApplyRun, DiffRun, Run, Verify};
use taskvec::pass::{Silent, Stop};
use taskvec::plan::Options;
use taskvec::recipe::Recipe;
use taskvec::report::Report;
use taskvec::sink::{Existing, Unfinished};
use taskvec::source::{Io, Links};

/// A safetensors file in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub tensors: Vec<Tensor>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

impl Model {
    /// Reads a file, tensors by offset.
    pub fn read(path: &Path) -> Self {
        let file = fs::read(path).unwrap();
        let header_bytes = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
        let header: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&file[8..8 + header_bytes]).unwrap();
        let data = &file[8 + header_bytes..];
        let mut tensors: Vec<(usize, Tensor)> = Vec::new();
        for (name, t) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let at = |i: usize| usize::try_from(t["data_offsets"][i].as_u64().unwrap()).unwrap();
            let shape = t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            let dtype = t["dtype"].as_str().unwrap().to_owned();
            tensors.push((at(0), Tensor { name, dtype, shape, bytes: data[at(0)..at(1)].to_vec() }));
        }
        tensors.sort_by_key(|(offset, _)| *offset);
        Self { tensors: tensors.into_iter().map(|(_, t)| t).collect() }
    }

    /// Adds an F32 tensor of one dimension.
    pub fn f32(mut self, name: &str, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.push(Tensor { name: name.into(), dtype: "F32".into(), shape: vec![values.len() as u64], bytes });
        self
    }

    /// Adds a tensor.
    pub fn tensor(mut self, name: &str, dtype: &str, shape: &[u64], bytes: Vec<u8>) -> Self {
        self.tensors.push(Tensor { name: name.into(), dtype: dtype.into(), shape: shape.to_vec(), bytes });
        self
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
        let mut offset = 0;
        for t in &self.tensors {
            let end = offset + t.bytes.len();
            header.insert(
                t.name.clone(),
                serde_json::json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [offset, end]}),
            );
            offset = end;
        }
        let json = serde_json::to_vec(&header).unwrap();
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend(json);
        self.tensors.iter().for_each(|t| file.extend(&t.bytes));
        file
    }

    /// Writes the file, and the folders above it.
    pub fn write(&self, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, self.to_bytes()).unwrap();
    }
}

/// Plain settings for tests: two threads, no progress.
pub fn options() -> Options {
    Options { threads: 2, ..Options::default() }
}

/// Merges the recipe at `path` into `out`.
pub fn merge_recipe(path: &Path, out: &Path) -> taskvec::Result<Report> {
    let recipe = Recipe::parse(&fs::read_to_string(path).unwrap())?;
    merge(recipe, path.parent().unwrap(), out, options(), Io::Mmap)
}

/// Merges with these choices.
pub fn merge(recipe: Recipe, folder: &Path, out: &Path, options: Options, io: Io) -> taskvec::Result<Report> {
    let plan = job::plan(recipe, folder, Links::Inside, options)?;
    let stop = Stop::default();
    let run = Run {
        io,
        links: Links::Inside,
        delta: None,
        masks: None,
        hash_inputs: true,
        existing: Existing::Refuse,
        unfinished: Unfinished::Discard,
        read_back: false,
        journal: None,
        progress: &Silent,
        stop: &stop,
    };
    job::merge(&plan, out, &run)
}

static NEVER: LazyLock<Stop> = LazyLock::new(Stop::default);

/// Plain settings for tests.
pub fn diff_run(codec: Codec) -> DiffRun<'static> {
    let (io, links, existing) = (Io::Mmap, Links::Inside, Existing::Refuse);
    DiffRun {
        coding: Coding::Exact(codec),
        threads: 2,
        io,
        links,
        existing,
        unfinished: Unfinished::Discard,
        journal: None,
        progress: &Silent,
        stop: &NEVER,
    }
}

/// Plain settings for tests.
pub fn apply_run() -> ApplyRun<'static> {
    let (io, links, existing) = (Io::Mmap, Links::Inside, Existing::Refuse);
    let unfinished = Unfinished::Discard;
    ApplyRun {
        verify: Verify::Full,
        threads: 2,
        io,
        links,
        existing,
        unfinished,
        read_back: false,
        journal: None,
        progress: &Silent,
        stop: &NEVER,
    }
}

/// Everything below `folder`, by path inside it: the content of files, empty for folders.
pub fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(inside).unwrap() {
            let path = entry.unwrap().path();
            let content = if path.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            found.insert(path.strip_prefix(folder).unwrap().to_owned(), content);
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

/// Fails unless two folders hold the same files, and names the first that differs.
#[track_caller]
pub fn assert_same_files(a: &Path, b: &Path) {
    let (a, b) = (tree(a), tree(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    a.iter().for_each(|(name, content)| assert!(*content == b[name], "{} differs", name.display()));
}

/// A small source of numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}
