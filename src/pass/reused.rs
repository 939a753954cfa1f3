//! Tensors that an earlier merge has computed from the same values: their bytes are read from its output.

use crate::error::Result;
use crate::kernel::Change;
use crate::source::{Counter, Files};
use std::collections::BTreeMap;

/// Where tensors are that need not be computed.
#[derive(Debug, Default)]
pub struct Reused {
    files: Option<Files>,
    tensors: BTreeMap<usize, ReusedTensor>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct ReusedTensor {
    /// Index into the files.
    pub file: usize,
    /// First byte in the file.
    pub offset: u64,
    /// How it differs from the base, where that is known.
    pub change: Option<Change>,
}

impl Reused {
    /// Tensors of the output, by their index, and the files that they are in.
    pub fn new(files: Files, tensors: BTreeMap<usize, ReusedTensor>) -> Self {
        Self { files: Some(files), tensors }
    }

    /// Fails if a file is no longer the one that was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.files.as_ref().map_or(Ok(()), Files::check_unchanged)
    }

    /// Fills `out` with the bytes of a tensor from its byte `start`. Tells at its first byte how all of it differs from the
    /// base.
    pub(super) fn fill(&self, tensor: usize, start: u64, out: &mut [u8], counter: &Counter) -> Result<Option<Change>> {
        let (files, place) = (self.files.as_ref().expect("there are files"), self.tensors[&tensor]);
        files.fill(place.file, place.offset + start, out, counter)?;
        Ok(place.change.filter(|_| start == 0))
    }
}
