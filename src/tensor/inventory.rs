//! What a checkpoint's headers say: its files and its tensors, in file order.

use super::Dtype;
use std::path::PathBuf;

/// One model as its headers describe it. Offsets and lengths are proven to lie inside the files.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The model as the user wrote it.
    pub label: String,
    /// The folder or file that it was found at.
    pub path: PathBuf,
    /// The weight files, in the order of their names.
    pub files: Vec<FileEntry>,
    /// All tensors: file by file, by offset.
    pub tensors: Vec<Entry>,
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
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.bytes / self.dtype.bytes() as u64
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
