//! `taskvec status`: how far a run is, from the names of its files alone.

use super::Parted;
use super::folder::{Found, RunFolder, short};
use super::record::Ready;
use super::spec::Spec;
use crate::error::{Error, Result};
use crate::limits::INDEX_MAX_BYTES;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How far a run is.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its id.
    pub run: String,
    /// Number of parts.
    pub parts: usize,
    /// Passes over the whole model before the merge, at most.
    pub rounds: usize,
    /// Rounds that are reduced.
    pub reduced: usize,
    /// Parts that have gathered the round that comes next.
    pub surveyed: usize,
    /// Parts that are merged.
    pub merged: usize,
    /// Parts that have not done what comes next.
    pub missing: Vec<usize>,
    /// What comes next.
    pub next: Next,
    /// The round, if `next` is `survey` or `reduce`.
    pub round: Option<usize>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Next {
    /// `part survey`, of some parts.
    Survey,
    /// `reduce`.
    Reduce,
    /// `part merge`, of some parts.
    Merge,
    /// `commit`.
    Commit,
    /// The output is there.
    Nothing,
}

/// How far the run of the plan at `path` is. Reads no model.
pub fn status(path: &Path) -> Result<Status> {
    let (spec, folder) = Spec::read(path)?;
    let parts = spec.borders.len().saturating_sub(1);
    let published = read_report(&folder)?.is_some_and(|id| id == spec.plan_id);
    let ready = match folder.read::<Ready>(&folder.ready())? {
        Found::This(ready) => Some(ready.rounds),
        _ => (spec.rounds == 0).then_some(0),
    };
    let reduced = ready.unwrap_or_else(|| folder.reduced_rounds());
    let round = reduced + 1;
    let [surveyed, merged] =
        [format!("survey-{round}-"), "merge-".to_owned()].map(|start| Done::list(&folder, &start, parts));
    let (surveyed, merged) = (surveyed?, merged?);
    let next = match ready {
        _ if published => Next::Nothing,
        None if surveyed.count < parts => Next::Survey,
        None => Next::Reduce,
        Some(_) if merged.count < parts => Next::Merge,
        Some(_) => Next::Commit,
    };
    let missing = match next {
        Next::Survey => surveyed.missing,
        Next::Merge => merged.missing,
        _ => Vec::new(),
    };
    Ok(Status {
        run: short(&folder.id),
        parts,
        rounds: spec.rounds,
        reduced,
        surveyed: surveyed.count,
        merged: merged.count,
        missing,
        next,
        round: matches!(next, Next::Survey | Next::Reduce).then_some(round),
    })
}

/// Which parts have written their file.
struct Done {
    count: usize,
    missing: Vec<usize>,
}

impl Done {
    /// Those whose file's name begins so.
    fn list(folder: &RunFolder, start: &str, parts: usize) -> Result<Self> {
        let path = folder.parts();
        let mut done = vec![false; parts];
        for entry in std::fs::read_dir(&path).map_err(Error::io(&path, "list the folder"))? {
            let name = entry.map_err(Error::io(&path, "list the folder"))?.file_name();
            let part = name.to_str().and_then(|n| n.strip_prefix(start)?.strip_suffix(".json")?.parse::<usize>().ok());
            if let Some(slot) = part.and_then(|p| done.get_mut(p)) {
                *slot = true;
            }
        }
        let missing = (0..parts).filter(|&p| !done[p]).collect();
        Ok(Self { count: done.iter().filter(|d| **d).count(), missing })
    }
}

/// Whether the output is there, made from this plan.
pub fn is_published(parted: &Parted) -> Result<bool> {
    Ok(read_report(&parted.folder)?.is_some_and(|id| id == parted.plan.id))
}

/// The plan's id in the output's report, if there is one.
fn read_report(folder: &RunFolder) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Made {
        plan_id: String,
    }
    let path = folder.model().join("taskvec.json");
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() && meta.len() <= INDEX_MAX_BYTES => {}
        _ => return Ok(None),
    }
    let text = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
    Ok(serde_json::from_slice::<Made>(&text).ok().map(|made| made.plan_id))
}
