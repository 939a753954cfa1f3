//! In the place of `remote`, where the feature is off: every URL is refused.

#![allow(clippy::unnecessary_wraps, reason = "the functions are those of `remote`")]

use super::place::without_secrets;
use crate::error::{Error, Result};
use crate::tensor::Identity;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// There are none.
#[derive(Clone, Debug)]
pub enum Object {}

/// There are none.
#[derive(Debug)]
pub enum Pending {}

/// There are none.
#[derive(Debug)]
pub enum Fetched {}

impl Object {
    pub fn open(path: &Path) -> Result<Self> {
        Err(refused(path))
    }

    pub fn identity(&self) -> Identity {
        match *self {}
    }

    pub fn forget_front(&self) {
        match *self {}
    }

    pub fn fill(&self, _: u64, _: &mut [u8]) -> Result<()> {
        match *self {}
    }

    pub fn start(&self, _: u64, _: usize) -> Pending {
        match *self {}
    }
}

impl Pending {
    pub fn bytes(&self) -> usize {
        match *self {}
    }

    pub fn wait(&self, _: Range<usize>) -> Result<Fetched> {
        match *self {}
    }
}

impl Deref for Fetched {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match *self {}
    }
}

pub fn check(path: &Path) -> Result<()> {
    Err(refused(path))
}

pub fn open_all(_: &[PathBuf]) -> Result<()> {
    Ok(())
}

pub fn opened(path: &Path) -> Result<Object> {
    Err(refused(path))
}

pub fn small(path: &Path, _: u64) -> Result<Option<(Vec<u8>, Identity)>> {
    Err(refused(path))
}

pub fn sizes(paths: &[PathBuf]) -> Result<Vec<Option<u64>>> {
    Err(paths.first().map_or_else(|| refused(Path::new("")), |p| refused(p)))
}

/// There is none.
pub fn tag(_: &Path) -> Option<String> {
    None
}

pub fn check_unchanged(_: &[&Object]) -> Result<()> {
    Ok(())
}

fn refused(path: &Path) -> Error {
    Error::Usage(format!(
        "{}: this taskvec was built without `remote`, so it reads files only; build it with `cargo install --path . \
         --features remote`, or fetch the model first",
        without_secrets(path)
    ))
}
