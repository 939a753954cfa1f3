//! The two sides of a delta file: a base, perhaps with a chain of deltas on it, and a model.

use crate::error::{Error, Result};
use crate::pass::{Decoder, Run, Wanted};
use crate::source::{self, Counter, DeltaFile, Files, Span};
use crate::tensor::{Dtype, Entry, Expected, Inventory};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model that can be read tensor by tensor: a checkpoint, or a chain of deltas on one.
#[derive(Debug)]
pub struct Side {
    /// Its tensors.
    pub inventory: Inventory,
    /// The checkpoint under the chain; `None` if the model is a checkpoint itself.
    pub root: Option<Inventory>,
    /// Number of its first file, and of the root's.
    pub first_file: usize,
    pub root_file: usize,
    by_name: BTreeMap<String, usize>,
    root_by_name: BTreeMap<String, usize>,
}

impl Side {
    /// A checkpoint.
    pub fn plain(inventory: Inventory) -> Self {
        let by_name = names(&inventory);
        Self { inventory, root: None, first_file: 0, root_file: 0, by_name, root_by_name: BTreeMap::new() }
    }

    /// What `chain` makes of `root`, whose headers must fit.
    pub fn chained(root: Inventory, label: &str, path: &Path, chain: &[DeltaFile]) -> Result<Self> {
        let inventory = source::chained(label, path, chain);
        check_headers(&root, &inventory)?;
        let root_by_name = names(&root);
        let by_name = names(&inventory);
        Ok(Self { inventory, root: Some(root), first_file: 0, root_file: 0, by_name, root_by_name })
    }

    /// Appends its files to `paths` and notes their numbers.
    pub fn number_files(&mut self, paths: &mut Vec<(PathBuf, Expected)>) {
        let mut add = |inventory: &Inventory| {
            let first = paths.len();
            paths.extend(inventory.files.iter().map(|f| (f.path.clone(), f.expected())));
            first
        };
        self.root_file = self.root.as_ref().map_or(0, &mut add);
        self.first_file = add(&self.inventory);
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|&i| &self.inventory.tensors[i])
    }

    /// The root's tensor that `t` is made from.
    pub fn root_of(&self, t: &Entry) -> Option<&Entry> {
        t.coded.as_ref().filter(|c| c.base.is_some())?;
        self.root_by_name.get(&t.name).and_then(|&i| self.root.as_ref().map(|r| &r.tensors[i]))
    }

    /// Bytes that one element takes while it is read and decoded, and the traffic of the whole tensor.
    pub fn cost(&self, t: &Entry) -> (usize, u64) {
        let Some(coded) = &t.coded else { return (t.dtype.bytes(), t.bytes) };
        let root = self.root_of(t);
        let widest = coded.links.iter().map(|l| l.dtype.bytes()).max().unwrap_or(1);
        let payloads: u64 = coded.links.iter().filter_map(|l| l.payload).map(|p| p.bytes).sum();
        (root.map_or(0, |r| r.dtype.bytes()) + 3 * widest, root.map_or(0, |r| r.bytes) + payloads)
    }

    /// The bytes of `run`'s elements of `t`, as far as it has them.
    pub fn read<'a>(&self, files: &'a Files, t: &Entry, run: &Run, reader: &'a mut Reader) -> Result<Bytes<'a>> {
        let Reader { buffer, decoded, decoder, counter } = reader;
        let (Some(coded), root) = (&t.coded, self.root_of(t)) else {
            return read_stored(files, self.first_file, t, run, buffer, counter).map(Bytes::Span);
        };
        let span = root.map(|r| read_stored(files, self.root_file, r, run, buffer, counter)).transpose()?;
        let base = root.zip(span.as_ref()).map(|(r, span)| (r.dtype, &**span));
        let wanted = Wanted { tensor: &t.name, coded, first_file: self.first_file, base };
        let decoder = decoder.get_or_insert_with(|| Box::new(Decoder::new()));
        decoder.decode(files, wanted, run.elements.clone(), counter, None, decoded)?;
        Ok(Bytes::Slice(decoded))
    }
}

impl Side {
    /// The root's elements of `run` of `t`, where it has the same shape.
    pub fn read_root<'a>(
        &self,
        files: &'a Files,
        t: &Entry,
        run: &Run,
        buffer: &'a mut Vec<u8>,
        counter: &Counter,
    ) -> Result<Option<(Dtype, Span<'a>)>> {
        let Some(root) = self.root_of(t).filter(|r| r.shape == t.shape) else { return Ok(None) };
        Ok(Some((root.dtype, read_stored(files, self.root_file, root, run, buffer, counter)?)))
    }
}

/// Fails if a tensor of `root` is not the one that `model`, a chain of deltas, is made for, as far as headers tell.
pub fn check_headers(root: &Inventory, model: &Inventory) -> Result<()> {
    let by_name = names(root);
    for t in &model.tensors {
        let Some((dtype, shape)) = t.coded.as_ref().and_then(|c| c.base.as_ref()) else { continue };
        let found = by_name.get(&t.name).map(|&i| &root.tensors[i]);
        if !found.is_some_and(|e| e.dtype == *dtype && e.shape == *shape) {
            let got = found.map_or("no such tensor".to_owned(), |e| format!("{} {:?}", e.dtype, e.shape));
            let label = &root.label;
            return Err(Error::BadTensor {
                path: model.path.clone(),
                tensor: t.name.clone(),
                problem: format!(
                    "made for a base with {dtype} {shape:?}, `{label}` has {got}; give the base it was made from"
                ),
            });
        }
    }
    Ok(())
}

/// Bytes of a run.
pub enum Bytes<'a> {
    Span(Span<'a>),
    Slice(&'a [u8]),
}

impl std::ops::Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Span(span) => span,
            Self::Slice(bytes) => bytes,
        }
    }
}

/// One compute thread's means of reading a side.
pub struct Reader<'c> {
    buffer: Vec<u8>,
    decoded: Vec<u8>,
    decoder: Option<Box<Decoder>>,
    counter: &'c Counter,
}

impl<'c> Reader<'c> {
    pub fn new(counter: &'c Counter) -> Self {
        Self { buffer: Vec::new(), decoded: Vec::new(), decoder: None, counter }
    }
}

fn read_stored<'a>(
    files: &'a Files,
    first_file: usize,
    t: &Entry,
    run: &Run,
    buffer: &'a mut Vec<u8>,
    counter: &Counter,
) -> Result<Span<'a>> {
    let size = t.dtype.bytes() as u64;
    let start = run.elements.start.min(t.elements());
    let end = run.elements.end.min(t.elements());
    let (offset, bytes) = (t.offset + start * size, (end - start) * size);
    files.span(first_file + t.file, offset, bytes as usize, buffer, counter)
}

fn names(inventory: &Inventory) -> BTreeMap<String, usize> {
    inventory.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect()
}
