//! What parts write for others: small files, each whole or absent.

use super::folder::RunFolder;
use crate::error::{Error, Result};
use crate::pass::PassRun;
use crate::source::{HashState, PieceHash};
use crate::survey::Share;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What every file of a run begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Hash of the run's `plan.json`.
    pub run: String,
    /// Version of the tool.
    pub version: String,
}

impl Head {
    pub fn of(folder: &RunFolder) -> Self {
        Self { run: folder.id.clone(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// By input file: what has been read and hashed.
pub type InputStates = Vec<(usize, HashState)>;

/// `survey-R-PART.json` and `reduced-R.json`: what a part, or all, gathered in a round.
#[derive(Debug, Serialize, Deserialize)]
pub struct Gathered {
    #[serde(flatten)]
    pub head: Head,
    pub round: usize,
    /// `None`: of all parts.
    pub part: Option<usize>,
    pub pass: PassRun,
    pub share: Share,
    pub inputs: InputStates,
}

/// `ready.json`: all rounds are reduced.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    #[serde(flatten)]
    pub head: Head,
    pub rounds: usize,
}

/// `merge-PART.json`: what a part has written.
#[derive(Debug, Serialize, Deserialize)]
pub struct Merged {
    #[serde(flatten)]
    pub head: Head,
    pub part: usize,
    pub passes: Vec<PassRun>,
    pub bytes_written: u64,
    /// Tensors that are compared with the base: changed elements, and the bits of the largest change.
    pub changes: Vec<(usize, u64, u32)>,
    /// Of each piece what is known of its file's hash, in the order of [`PieceRange::of_part`](crate::sink::PieceRange::of_part).
    pub pieces: Vec<HashState>,
    /// Where inputs are delta files: what is known of the hash of each tensor of the base.
    pub bases: Vec<(usize, HashState)>,
    pub inputs: InputStates,
}

/// What is known of the hashes of files that part of was given.
pub fn states(hashes: &[PieceHash]) -> InputStates {
    let states = hashes.iter().map(PieceHash::state).enumerate();
    states.filter(|(_, state)| !state.covered.is_empty()).collect()
}

/// Joins what parts know of the hash of a file; `path` tells where it is from.
pub fn absorb(hash: Option<&PieceHash>, state: &HashState, path: &Path) -> Result<()> {
    if hash.is_some_and(|h| h.absorb(state)) {
        return Ok(());
    }
    Err(Error::malformed(path, "tells hashes of bytes that are not its part's; remove it and run the part again"))
}
