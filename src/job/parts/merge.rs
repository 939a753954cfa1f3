//! `taskvec part merge`: one part's bytes of the output.

use super::folder::{Found, write_sealed};
use super::record::{Head, Merged, states};
use super::rounds::{Replay, Role, cut_works};
use super::{PartDone, PartRun, Parted, owned, ranks_model};
use crate::error::Result;
use crate::job::deep::Unheard;
use crate::job::resume::Past;
use crate::job::{Scoring, assign, delta, start_method, survey};
use crate::method::Method;
use crate::pass::{Action, Engine, How, Merge, Outcome, PassRun, TensorHashes, Work};
use crate::plan::Plan;
use crate::sink::{PieceRange, Pieces};
use crate::source::PieceHash;
use crate::survey::Survey;

/// Merges a part and writes its pieces. All rounds must be reduced.
pub fn merge_part(parted: &Parted, part: usize, run: &PartRun<'_>) -> Result<PartDone> {
    parted.check_part(part)?;
    let (plan, folder) = (&parted.plan, &parted.folder);
    if super::status::is_published(parted)? || is_done(parted, part)? {
        return Ok(PartDone::Before);
    }
    let replay = Replay::new(parted, Role::Await);
    let files = parted.open_files(run)?;
    let mut engine = parted.engine(&files, run)?;
    engine.set_rounds(Some(&replay));
    let scoring = Scoring::gather(plan, &engine, &Past::default(), None)?;
    engine.set_elements(scoring.elements.clone());
    let (works, actions) = assign(plan, &scoring);
    let method = start_method(plan)?;
    let mut known = Vec::new();
    let whole = ranks_model(plan)?;
    if whole {
        known = survey(plan, &engine, method.as_ref(), &works, &actions, &mut Vec::new())?;
    }
    engine.set_rounds(None);
    engine.set_hashes(owned::hashes(parted, part, &replay.inputs()));

    let ranges = PieceRange::of_part(plan, &parted.parts, part);
    let pieces = Pieces::create(plan, &ranges, |shard| folder.piece(part, shard))?;
    let written: Vec<PieceHash> = plan.shards.iter().map(|s| PieceHash::new(s.file_bytes())).collect();
    for range in ranges.iter().filter(|r| r.whole) {
        written[range.shard].update(0, &plan.shards[range.shard].header);
    }
    let hash: Vec<bool> = scoring.hashed.iter().map(|h| !h).collect();
    let tensor_hashes = delta::wants_hashes(plan).then(|| delta::tensor_hashes(plan));
    let task = Task {
        plan,
        engine: &engine,
        works: cut_works(parted, &works, part),
        actions: &actions,
        method: method.as_ref(),
        known: whole.then_some(&known),
        hash: &hash,
        written: &written,
        tensor_hashes: tensor_hashes.as_ref(),
    };
    let (outcome, mut runs) = task.run(&pieces)?;
    let rest = engine.hash_rest()?;
    runs.push(outcome.run.clone());
    runs.extend((rest.bytes_read > 0).then_some(rest));
    files.check_unchanged()?;
    parted.spec.check_inputs()?;
    run.stop.check()?;

    pieces.publish()?;
    let bytes_read = runs.iter().map(|r| r.bytes_read).sum();
    let done = PartDone::Now { bytes_read, bytes_written: outcome.bytes_written };
    let change = |(t, c): (usize, Option<crate::kernel::Change>)| c.map(|c| (t, c.elements, c.max_abs.to_bits()));
    let merged = Merged {
        head: Head::of(folder),
        part,
        passes: runs,
        bytes_written: outcome.bytes_written,
        changes: outcome.changes.into_iter().enumerate().filter_map(change).collect(),
        pieces: ranges.iter().map(|r| written[r.shard].state()).collect(),
        bases: tensor_hashes.map(|h| states(&h.base)).unwrap_or_default(),
        inputs: states(engine.hashes().unwrap_or_default()),
    };
    write_sealed(&folder.merged(part), &merged)?;
    Ok(done)
}

/// Whether the part is there, with all its pieces at their lengths.
fn is_done(parted: &Parted, part: usize) -> Result<bool> {
    let folder = &parted.folder;
    let Found::This(merged) = folder.read::<Merged>(&folder.merged(part))? else { return Ok(false) };
    let there = |r: &PieceRange| std::fs::metadata(folder.piece(part, r.shard)).is_ok_and(|m| m.len() == r.bytes);
    Ok(merged.part == part && PieceRange::of_part(&parted.plan, &parted.parts, part).iter().all(there))
}

/// A part's merge, with all that it needs.
struct Task<'a, 'e> {
    plan: &'a Plan,
    engine: &'a Engine<'e>,
    works: Vec<Work>,
    actions: &'a [Action],
    method: &'a dyn Method,
    /// What statistics over the whole model found; `None` where each tensor has its own.
    known: Option<&'a Vec<Survey>>,
    hash: &'a [bool],
    written: &'a [PieceHash],
    tensor_hashes: Option<&'a TensorHashes>,
}

impl Task<'_, '_> {
    /// Goes over the part's tensors, wave by wave.
    fn run(&self, pieces: &Pieces) -> Result<(Outcome, Vec<PassRun>)> {
        let mut outcome = Outcome::new(self.plan.tensors.len());
        let mut runs = Vec::new();
        for wave in &self.plan.waves.runs {
            let first = self.works.partition_point(|w| w.tensor < wave.start);
            let end = self.works.partition_point(|w| w.tensor < wave.end);
            let works = &self.works[first..end];
            if works.is_empty() {
                continue;
            }
            let own = match self.known {
                Some(_) => Vec::new(),
                None => survey(self.plan, self.engine, self.method, works, self.actions, &mut runs)?,
            };
            let done = self.known.unwrap_or(&own);
            let merge = Merge {
                works,
                how: How { actions: self.actions, method: self.method, done },
                hash: self.hash,
                written: self.written,
                tensor_hashes: self.tensor_hashes,
                ranges: None,
            };
            outcome.join(self.engine.merge(&merge, pieces, &mut Unheard)?);
        }
        Ok((outcome, runs))
    }
}
