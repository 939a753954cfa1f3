//! `taskvec part survey`: one part's share of a round.

use super::folder::Found;
use super::record::{Gathered, Ready};
use super::rounds::{Replay, Role, go_through};
use super::{PartDone, PartRun, Parted, owned};
use crate::error::{Error, Result};

/// Gathers what a part has to gather in `round` (`None`: the first that is not reduced).
pub fn survey_part(parted: &Parted, part: usize, round: Option<usize>, run: &PartRun<'_>) -> Result<PartDone> {
    parted.check_part(part)?;
    let round = round.unwrap_or_else(|| parted.folder.reduced_rounds() + 1);
    if is_done(parted, part, round)? {
        return Ok(PartDone::Before);
    }
    let replay = Replay::new(parted, Role::Gather { part, round });
    let files = parted.open_files(run)?;
    let mut engine = parted.engine(&files, run)?;
    engine.set_hashes(owned::hashes(parted, part, &Vec::new()));
    engine.set_rounds(Some(&replay));
    match (go_through(parted, &mut engine), replay.gathered()) {
        (Err(Error::NotReady { .. }), Some(run)) => Ok(PartDone::Now { bytes_read: run.bytes_read, bytes_written: 0 }),
        (Ok(()), _) => Ok(PartDone::Before),
        (Err(error), _) => Err(error),
    }
}

/// Whether the part is there, or no longer needed.
fn is_done(parted: &Parted, part: usize, round: usize) -> Result<bool> {
    let folder = &parted.folder;
    if let Found::This(Ready { .. }) = folder.read(&folder.ready())? {
        return Ok(true);
    }
    if folder.reduced(round).exists() {
        return Ok(true);
    }
    let found = folder.read::<Gathered>(&folder.survey(round, part))?;
    Ok(matches!(found, Found::This(g) if (g.round, g.part) == (round, Some(part))))
}
