//! The folder of a run: names, and small files that carry their own hash.

use super::record::Head;
use crate::error::{Error, Result};
use crate::job::sealed::{seal, unseal};
use crate::limits::PART_RECORD_MAX_BYTES;
use crate::sink::Named;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A folder with the files of one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    root: PathBuf,
    /// blake3 of `plan.json`: what every file of the run names.
    pub id: String,
}

/// What is found at a path.
#[derive(Debug)]
pub enum Found<T> {
    /// Nothing.
    Nothing,
    /// A file of another run.
    Foreign(String),
    /// What was looked for.
    This(T),
}

impl RunFolder {
    pub fn new(root: &Path, id: String) -> Self {
        Self { root: root.to_owned(), id }
    }

    pub fn plan(root: &Path) -> PathBuf {
        root.join("plan.json")
    }

    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    pub fn parts(&self) -> PathBuf {
        self.root.join("parts")
    }

    pub fn survey(&self, round: usize, part: usize) -> PathBuf {
        self.parts().join(format!("survey-{round}-{part:05}.json"))
    }

    pub fn reduced(&self, round: usize) -> PathBuf {
        self.root.join(format!("reduced-{round}.json"))
    }

    /// Told when all rounds are reduced.
    pub fn ready(&self) -> PathBuf {
        self.root.join("ready.json")
    }

    pub fn merged(&self, part: usize) -> PathBuf {
        self.parts().join(format!("merge-{part:05}.json"))
    }

    pub fn piece(&self, part: usize, shard: usize) -> PathBuf {
        self.parts().join(format!("merge-{part:05}-{shard:05}.piece"))
    }

    /// Reads a file of this run.
    pub fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Found<T>> {
        let Some(text) = read_text(path)? else { return Ok(Found::Nothing) };
        let content = match content_of(path, &text) {
            Ok((content, _)) => content,
            Err(error) => return Ok(Found::Foreign(error.to_string())),
        };
        let head: Head = parse(path, &content)?;
        if head.run != self.id {
            let (got, expected) = (short(&head.run), short(&self.id));
            let problem = format!("{}: is of another plan (run {got}, this is {expected})", path.display());
            return Ok(Found::Foreign(problem));
        }
        if head.version != env!("CARGO_PKG_VERSION") {
            let (got, expected) = (head.version, env!("CARGO_PKG_VERSION"));
            return Ok(Found::Foreign(format!("{}: was written by taskvec {got}, this is {expected}", path.display())));
        }
        Ok(Found::This(parse(path, &content)?))
    }

    /// How many rounds are reduced, by their files' names.
    pub fn reduced_rounds(&self) -> usize {
        let mut round = 0;
        while self.reduced(round + 1).exists() {
            round += 1;
        }
        round
    }
}

/// The first letters of a hash.
pub fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// Writes JSON that ends with its own hash, whole or not at all.
pub fn write_sealed<T: Serialize>(path: &Path, content: &T) -> Result<()> {
    Named::write(path, seal(content)?.0.as_bytes())
}

/// Reads JSON that ends with its own hash: the content and the hash. `None` if there is no such file.
pub fn read_sealed<T: DeserializeOwned>(path: &Path) -> Result<Option<(T, String)>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let (content, hash) = content_of(path, &text)?;
    Ok(Some((parse(path, &content)?, hash)))
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, "read the state")(e)),
        Ok(meta) if !meta.is_file() => return Err(Error::malformed(path, "is not a regular file")),
        Ok(meta) if meta.len() > PART_RECORD_MAX_BYTES => return Err(Error::malformed(path, "is too long")),
        Ok(_) => {}
    }
    match std::fs::read(path) {
        // Another process removed it meanwhile.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, "read")(e)),
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| Error::malformed(path, "is not UTF-8 text")),
    }
}

fn content_of(path: &Path, text: &str) -> Result<(String, String)> {
    let damaged = || Error::malformed(path, "is damaged, or no file of a run: its hash is not the one at its end");
    unseal(text).ok_or_else(damaged)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::malformed(path, format!("is no file of a run: {e}")))
}
