//! `taskvec commit`: the pieces of all parts become the output, which appears whole or not at all.

use super::folder::Found;
use super::record::{Merged, absorb};
use super::rounds::{Replay, Role, foreign_files, missing_parts};
use super::{PartRun, Parted, ranks_model, status};
use crate::disk;
use crate::error::{Error, Result};
use crate::job::resume::Past;
use crate::job::{Scoring, assign, delta, merge_error_bound, output, start_method, survey};
use crate::kernel::Change;
use crate::pass::{Engine, Extent, Outcome, PassRun, Run, Stream};
use crate::plan::Plan;
use crate::sink::{Existing, PieceRange, Staging, Unfinished};
use crate::source::{Counter, Files, PieceHash};
use crate::tensor::{Bytes, Expected};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Held for each byte of a piece that is read: the byte, and the one that is copied.
const READ_BYTES: usize = 2;

/// How the output is put together.
#[derive(Clone, Copy, Debug)]
pub struct CommitRun<'a> {
    /// As for parts.
    pub run: PartRun<'a>,
    /// Whether every piece is read and its hash compared with what its part noted; else only pieces that are copied are read.
    pub read_back: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The output was published now.
    Now(PathBuf),
    /// It was there.
    Before(PathBuf),
}

/// Checks what all parts wrote and publishes the output.
pub fn commit(parted: &Parted, how: &CommitRun<'_>) -> Result<Committed> {
    let (plan, folder, run) = (&parted.plan, &parted.folder, &how.run);
    let (start, out) = (Instant::now(), folder.model());
    if status::is_published(parted)? {
        clean_up(parted)?;
        return Ok(Committed::Before(out));
    }
    let merged = read_all(parted)?;
    let needed = Stream::peak_bytes(run.threads, READ_BYTES, 0);
    if needed > run.memory_bytes {
        return Err(Error::BudgetTooSmall { given: Bytes(run.memory_bytes), needed: Bytes(needed) });
    }
    output::check_disk(plan, &out, parted.links)?;
    let inputs: Vec<&Path> = plan.files.iter().map(|f| f.path.as_path()).collect();
    let staging = Staging::begin(&out, &plan.id, Existing::Refuse, Unfinished::Discard, &inputs)?;
    // Another process published it before this one had the lock.
    if status::is_published(parted)? {
        return Ok(Committed::Before(out));
    }

    let replay = Replay::new(parted, Role::Await);
    let files = parted.open_files(run)?;
    let mut engine = parted.engine(&files, run)?;
    engine.set_rounds(Some(&replay));
    let scoring = Scoring::gather(plan, &engine, &Past::default(), None)?;
    let (works, actions) = assign(plan, &scoring);
    let method = start_method(plan)?;
    let mut runs = scoring.runs.clone();
    if ranks_model(plan)? {
        survey(plan, &engine, method.as_ref(), &works, &actions, &mut runs)?;
    }
    engine.set_rounds(None);
    let written = assemble(parted, &merged, &staging, how)?;
    check_bases(parted, &merged)?;
    let (input_hashes, rest) = finish_inputs(parted, &merged, &replay, &mut engine)?;
    let outcome = join(plan, &merged, &mut runs);
    runs.extend((rest.bytes_read > 0).then_some(rest));
    files.check_unchanged()?;
    parted.spec.check_inputs()?;
    run.stop.check()?;
    let made = output::Made {
        plan,
        files: &plan.files,
        delta: None,
        links: parted.links,
        scoring: &scoring,
        actions: &actions,
        outcome,
        written,
        input_hashes: Some(input_hashes),
        merge_error_bound: merge_error_bound(plan, method.as_ref()),
        runs,
        stages: Vec::new(),
        start,
        resume_id: None,
        moved: (0, 0),
    };
    made.write(&staging)?;
    staging.publish()?;
    clean_up(parted)?;
    Ok(Committed::Now(out))
}

/// What all parts wrote down. Fails with a list if some are missing or foreign.
fn read_all(parted: &Parted) -> Result<Vec<Merged>> {
    let folder = &parted.folder;
    let (mut all, mut missing, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
    for part in 0..parted.parts.count() {
        let path = folder.merged(part);
        let ranges = PieceRange::of_part(&parted.plan, &parted.parts, part);
        let there = |r: &PieceRange| std::fs::metadata(folder.piece(part, r.shard)).is_ok_and(|m| m.len() == r.bytes);
        match folder.read::<Merged>(&path)? {
            Found::This(m) if m.part != part || m.pieces.len() != ranges.len() => {
                foreign.push(format!("{}: is of another part", path.display()));
            }
            Found::This(m) if ranges.iter().all(there) => all.push(m),
            Found::Nothing | Found::This(_) => missing.push(part),
            Found::Foreign(problem) => foreign.push(problem),
        }
    }
    if !foreign.is_empty() {
        return Err(foreign_files(&folder.parts(), &foreign));
    }
    if missing.is_empty() {
        return Ok(all);
    }
    Err(Error::NotReady { path: folder.parts(), problem: missing_parts(&missing, "part merge") })
}

/// A piece on its way into the output.
struct Piece<'a> {
    part: usize,
    range: PieceRange,
    path: PathBuf,
    noted: &'a crate::source::HashState,
}

/// Makes the weight files in the staging folder. Returns their hashes.
fn assemble(parted: &Parted, merged: &[Merged], staging: &Staging, how: &CommitRun<'_>) -> Result<Vec<PieceHash>> {
    let plan = &parted.plan;
    let pieces: Vec<Piece<'_>> = merged.iter().flat_map(|m| pieces_of(parted, m)).collect();
    let mut targets: Vec<Option<disk::File>> = Vec::with_capacity(plan.shards.len());
    for (number, shard) in plan.shards.iter().enumerate() {
        let path = staging.folder().join(&shard.name);
        let whole = pieces.iter().find(|p| p.range.shard == number && p.range.whole);
        // A second name for the piece, where there can be one: nobody writes to a piece that has its name.
        if let Some(piece) = whole
            && disk::link(&piece.path, &path)?
        {
            targets.push(None);
            continue;
        }
        let file = disk::File::create(&path)?;
        file.reserve(shard.file_bytes())?;
        file.write_at(&shard.header, 0)?;
        targets.push(Some(file));
    }
    read_pieces(parted, &pieces, &targets, staging, how)?;
    targets.iter().flatten().try_for_each(disk::File::sync)?;

    let written: Vec<PieceHash> = plan.shards.iter().map(|s| PieceHash::new(s.file_bytes())).collect();
    for piece in &pieces {
        absorb(written.get(piece.range.shard), piece.noted, &parted.folder.merged(piece.part))?;
    }
    plan.shards.iter().zip(&written).for_each(|(shard, hash)| hash.update(0, &shard.header));
    match written.iter().position(|hash| hash.root().is_none()) {
        None => Ok(written),
        Some(shard) => {
            let problem = format!("the parts did not write all of {}", plan.shards[shard].name);
            Err(Error::malformed(&parted.folder.parts(), problem))
        }
    }
}

fn pieces_of<'a>(parted: &Parted, merged: &'a Merged) -> Vec<Piece<'a>> {
    let ranges = PieceRange::of_part(&parted.plan, &parted.parts, merged.part);
    let piece = |(range, noted): (PieceRange, &'a crate::source::HashState)| {
        let path = parted.folder.piece(merged.part, range.shard);
        Piece { part: merged.part, range, path, noted }
    };
    ranges.into_iter().zip(&merged.pieces).map(piece).collect()
}

/// Reads the pieces that must be read, compares their hashes, and copies those that have no file of their own.
fn read_pieces(
    parted: &Parted,
    pieces: &[Piece<'_>],
    targets: &[Option<disk::File>],
    staging: &Staging,
    how: &CommitRun<'_>,
) -> Result<()> {
    let (plan, run) = (&parted.plan, &how.run);
    let read: Vec<&Piece<'_>> = pieces.iter().filter(|p| how.read_back || targets[p.range.shard].is_some()).collect();
    // What is checked of a linked piece is the file that will be published.
    let path = |p: &Piece<'_>| match &targets[p.range.shard] {
        None => staging.folder().join(&plan.shards[p.range.shard].name),
        Some(_) => p.path.clone(),
    };
    let paths: Vec<PathBuf> = read.iter().map(|p| path(p)).collect();
    let expected = |p: &&Piece<'_>| Expected { bytes: p.range.bytes, identity: None };
    let files = Files::open(paths.iter().map(PathBuf::as_path).zip(read.iter().map(expected)), run.io)?;
    let hashes: Vec<PieceHash> = read.iter().map(|p| PieceHash::new(plan.shards[p.range.shard].file_bytes())).collect();
    let extent = |p: &&Piece<'_>| Extent { elements: p.range.bytes, element_bytes: READ_BYTES, traffic: p.range.bytes };
    let extents: Vec<Extent> = read.iter().map(extent).collect();
    let counter = Counter::default();
    let worker = || {
        let (mut buffer, files, hashes, counter, read) = (Vec::new(), &files, &hashes, &counter, &read);
        move |run: &Run| {
            let (piece, at) = (read[run.tensor], run.elements.start);
            let bytes = (run.elements.end - at) as usize;
            let span = files.span(run.tensor, at, bytes, &mut buffer, counter)?;
            hashes[run.tensor].update(piece.range.start + at, &span);
            Ok(targets[piece.range.shard].is_some().then(|| span.to_vec()))
        }
    };
    let write = |run: &Run, bytes: Option<Vec<u8>>| match (&targets[read[run.tensor].range.shard], bytes) {
        (Some(file), Some(bytes)) => file.write_at(&bytes, read[run.tensor].range.start + run.elements.start),
        _ => Ok(()),
    };
    Stream::new(run.threads, run.progress, run.stop)?.over("commit", &extents, &counter, worker, write)?;
    files.check_unchanged()?;
    for (piece, hash) in read.iter().zip(&hashes) {
        if hash.state() != *piece.noted {
            return Err(damaged(parted, piece, &hash.state()));
        }
    }
    Ok(())
}

/// A piece that is not what its part wrote: it and the part's record are removed, so that the part can run again.
fn damaged(parted: &Parted, piece: &Piece<'_>, got: &crate::source::HashState) -> Error {
    let short = |state: &crate::source::HashState| {
        let text = serde_json::to_string(state).unwrap_or_default();
        super::folder::short(blake3::hash(text.as_bytes()).to_hex().as_str())
    };
    let removed = disk::remove_file(&parted.folder.merged(piece.part)).and_then(|()| disk::remove_file(&piece.path));
    Error::HashDiffers {
        path: piece.path.clone(),
        what: format!("is not what part {} wrote", piece.part),
        expected: short(piece.noted),
        got: short(got),
        hint: match removed {
            Ok(()) => "It was removed: run `taskvec part merge` for this part again, then commit.",
            Err(_) => "Remove it, run `taskvec part merge` for this part again, then commit.",
        },
    }
}

/// Fails if an input is a delta file that was made for another base.
fn check_bases(parted: &Parted, merged: &[Merged]) -> Result<()> {
    let plan = &parted.plan;
    if !delta::wants_hashes(plan) {
        return Ok(());
    }
    let hashes = delta::tensor_hashes(plan);
    for m in merged {
        let path = parted.folder.merged(m.part);
        m.bases.iter().try_for_each(|(tensor, state)| absorb(hashes.base.get(*tensor), state, &path))?;
    }
    delta::check_bases(plan, &hashes.base)
}

/// The hashes of all inputs: what surveys and merges know, and the rest, which is read.
fn finish_inputs(
    parted: &Parted,
    merged: &[Merged],
    replay: &Replay<'_>,
    engine: &mut Engine<'_>,
) -> Result<(Vec<blake3::Hash>, PassRun)> {
    let hashes: Vec<PieceHash> = parted.plan.files.iter().map(|f| PieceHash::new(f.bytes)).collect();
    for (file, state) in &replay.inputs() {
        absorb(hashes.get(*file), state, &parted.folder.reduced(1))?;
    }
    for m in merged {
        let path = parted.folder.merged(m.part);
        m.inputs.iter().try_for_each(|(file, state)| absorb(hashes.get(*file), state, &path))?;
    }
    engine.set_hashes(hashes);
    let (hashes, run) = engine.finish_hashes()?;
    Ok((hashes.unwrap_or_default(), run))
}

/// What the merge found out, of all parts; what it cost is added to `runs`.
fn join(plan: &Plan, merged: &[Merged], runs: &mut Vec<PassRun>) -> Outcome {
    let mut outcome = Outcome::new(plan.tensors.len());
    for m in merged {
        outcome.bytes_written += m.bytes_written;
        for &(tensor, elements, bits) in &m.changes {
            if let Some(change) = outcome.changes.get_mut(tensor) {
                let more = Change { elements, max_abs: f32::from_bits(bits) };
                *change = Some(change.unwrap_or_default().join(more));
            }
        }
        for run in &m.passes {
            match runs.iter_mut().find(|r| r.name == run.name) {
                Some(same) => same.join(run),
                None => runs.push(run.clone()),
            }
        }
    }
    outcome
}

/// Removes the pieces, and what killed parts left: the output has them.
fn clean_up(parted: &Parted) -> Result<()> {
    let folder = parted.folder.parts();
    for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder, "list the folder"))? {
        let path = entry.map_err(Error::io(&folder, "list the folder"))?.path();
        if path.extension().is_some_and(|x| x == "piece" || x == "part") {
            disk::remove_file(&path)?;
        }
    }
    Ok(())
}
