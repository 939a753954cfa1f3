//! What a checkpoint's headers say: its files and its tensors, in file order.

use super::Dtype;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One model as its headers describe it. Offsets and lengths are proven to lie inside the files.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The model as the user wrote it.
    pub label: String,
    /// The folder or file that it was found at.
    pub path: PathBuf,
    /// The folder of its adapter, if it has one.
    pub adapter: Option<PathBuf>,
    /// The weight files, in the order of their names; after them those of the adapter.
    pub files: Vec<FileEntry>,
    /// All tensors: file by file, by offset.
    pub tensors: Vec<Entry>,
    /// How far a value is at most from that of the model that it stands for, where a delta file is lossy.
    pub error_bound: Option<f64>,
    /// Whether its configuration says that the head is the embedding.
    pub tied: bool,
}

/// One weight file.
#[derive(Clone, Debug)]
pub struct FileEntry {
    /// Name inside the model's folder.
    pub name: String,
    /// Where it is opened.
    pub path: PathBuf,
    /// Length in bytes.
    pub bytes: u64,
    /// blake3 of the file's header, hexadecimal: names the layout without reading the tensors.
    pub header_blake3: String,
    /// What it was when its header was read; `None` if it is not written yet.
    pub identity: Option<Identity>,
}

/// What tells a file from a changed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The device that it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Its length.
    pub bytes: u64,
    /// When its content changed, in seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When anything about it changed.
    pub changed: (i64, i64),
}

/// What a file must be when it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Its length.
    pub bytes: u64,
    /// All else, where it is known.
    pub identity: Option<Identity>,
}

/// Whether a model's place is a URL: `s3://bucket/folder`, `https://host/folder`.
pub fn is_url(place: &Path) -> bool {
    let scheme = place.to_str().and_then(|p| p.split_once("://")).map_or("", |(scheme, _)| scheme);
    !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-'))
}

impl FileEntry {
    /// What it must be when it is opened again.
    pub fn expected(&self) -> Expected {
        Expected { bytes: self.bytes, identity: self.identity }
    }
}

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Index into [`Inventory::files`].
    pub file: usize,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Length in bytes: elements times the dtype's size.
    pub bytes: u64,
    /// How to make it from the base, where the model is a delta file; `file` and `offset` then mean nothing.
    pub coded: Option<Box<Coded>>,
    /// What an adapter adds to it.
    pub adapter: Option<Box<LowRank>>,
}

/// What a LoRA adapter adds to a matrix W: `scale * B A`, or `scale * (B A)` transposed.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// A: `rank` rows.
    pub a: Factor,
    /// B: `rank` columns.
    pub b: Factor,
    /// Columns of B and rows of A.
    pub rank: u64,
    /// The last dimension of W.
    pub columns: u64,
    /// What each sum of products is multiplied by.
    pub scale: f32,
    /// Whether W is stored the other way round, so that rows of W belong to columns of A.
    pub transposed: bool,
}

/// One matrix of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Index into [`Inventory::files`].
    pub file: usize,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Its element type.
    pub dtype: Dtype,
}

/// A tensor as a chain of deltas on the base.
#[derive(Clone, Debug, PartialEq)]
pub struct Coded {
    /// The steps from the base to the tensor.
    pub links: Vec<Link>,
    /// blake3 of the base's tensor that the first step is made for; `None` if it needs none.
    pub base_blake3: Option<String>,
    /// Dtype and shape of that tensor.
    pub base: Option<(Dtype, Vec<u64>)>,
    /// What is known of its task vector, where the chain has one step.
    pub statistics: Option<Statistics>,
}

/// One step of a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Where its payload lies; `None` where the step changes nothing.
    pub payload: Option<Payload>,
    /// Dtype of the step's result.
    pub dtype: Dtype,
    /// Elements of the step's result.
    pub elements: u64,
    /// Leading elements that the step before (or the base) has too.
    pub base_elements: u64,
}

/// A range of a delta file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Index into [`Inventory::files`].
    pub file: usize,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Length, padding not counted.
    pub bytes: u64,
    /// Bytes at its end that are the histogram of the task vector.
    pub histogram_bytes: u32,
    /// How its lossy blocks are coded; `None` if it has none.
    pub lossy: Option<Lossy>,
}

/// How lossy blocks are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lossy {
    /// Scheme and parameter, as in the payload's header.
    pub scheme: (u8, u32),
    /// The last dimension of the tensor; 1 where there is none.
    pub row: u64,
}

/// Sums over the task vector `tau = result - base` of one tensor, in `f32` from exactly widened values; added up in
/// `f64` in blocks, as a merge adds them (docs/numerics.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Elements whose bits differ.
    pub changed: u64,
    /// Sum of magnitudes.
    pub sum_abs: f64,
    /// Sum of squares.
    pub sum_squares: f64,
    /// Largest magnitude.
    pub max_abs: f32,
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.bytes / self.dtype.bytes() as u64
    }
}

impl LowRank {
    /// File, first byte and length of both matrices, where W has so many elements.
    pub fn ranges(&self, elements: u64) -> [(usize, u64, usize); 2] {
        let rows = elements / self.columns.max(1);
        let (a, b) = if self.transposed { (rows, self.columns) } else { (self.columns, rows) };
        let range = |f: Factor, length: u64| (f.file, f.offset, (self.rank * length) as usize * f.dtype.bytes());
        [range(self.a, a), range(self.b, b)]
    }

    /// Bytes of both matrices, where W has so many elements.
    pub fn bytes(&self, elements: u64) -> u64 {
        self.ranges(elements).iter().map(|(_, _, bytes)| *bytes as u64).sum()
    }

    /// The factor whose rows or columns belong to rows of W, and the one that belongs to columns of W.
    pub fn outer(&self) -> (Factor, Factor) {
        if self.transposed { (self.a, self.b) } else { (self.b, self.a) }
    }
}

impl Inventory {
    /// Sum of all tensors' bytes.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    /// Sum of all tensors' elements.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(Entry::elements).sum()
    }
}
