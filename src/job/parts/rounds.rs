//! Rounds: passes over the whole model, each gathered by the parts and then reduced. What follows from reduced rounds is
//! found by going through the merge's own steps again, with what was gathered in place of reading.

use super::folder::{Found, RunFolder, write_sealed};
use super::record::{Gathered, Head, InputStates, Ready, absorb, states};
use super::{PartRun, Parted, ranks_model};
use crate::error::{Error, Result};
use crate::job::resume::Past;
use crate::job::{Scoring, assign, start_method, survey};
use crate::limits::CHUNK_BLOCKS;
use crate::pass::{Cut, Engine, PassRun, Rounds, Work};
use crate::plan::Partitions;
use crate::source::PieceHash;
use crate::survey::{Gathering, Share, Statistic};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Names that a message lists, at most.
const LISTED: usize = 10;

const NOT_OF_ROUND: &str = "is not of this round; remove it and reduce again";

/// What is done at the first round that is not reduced.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Nothing: it is not ready.
    Await,
    /// This part's share of this round is gathered.
    Gather { part: usize, round: usize },
    /// What all parts gathered is joined.
    Reduce,
}

/// The rounds of a run, as one process sees them.
pub struct Replay<'a> {
    parted: &'a Parted,
    role: Role,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Rounds that are reduced.
    round: usize,
    /// Of them those that this process has reduced.
    reduced: usize,
    /// What this process has gathered.
    gathered: Option<PassRun>,
    /// What surveys know of the hashes of inputs.
    inputs: InputStates,
}

/// What `reduce` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduced {
    /// Rounds that are reduced, in all.
    pub rounds: usize,
    /// Whether there is another round to gather, and not the merge.
    pub more: bool,
}

impl<'a> Replay<'a> {
    pub fn new(parted: &'a Parted, role: Role) -> Self {
        Self { parted, role, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self) -> &RunFolder {
        &self.parted.folder
    }

    /// Rounds that were reduced, and of them those that this process has reduced.
    pub fn rounds(&self) -> (usize, usize) {
        let state = self.state();
        (state.round, state.reduced)
    }

    /// What this process has gathered.
    pub fn gathered(&self) -> Option<PassRun> {
        self.state().gathered.clone()
    }

    /// What surveys know of the hashes of inputs.
    pub fn inputs(&self) -> InputStates {
        self.state().inputs.clone()
    }

    fn not_ready(&self, round: usize, problem: &str) -> Error {
        Error::NotReady { path: self.folder().parts(), problem: format!("round {round}: {problem}") }
    }

    /// What all parts gathered in a round, if it is reduced.
    fn known(&self, path: &Path, round: usize) -> Result<Option<Gathered>> {
        match self.folder().read::<Gathered>(path)? {
            Found::Nothing => Ok(None),
            Found::This(g) if (g.round, g.part) == (round, None) => Ok(Some(g)),
            Found::This(_) => Err(Error::malformed(path, NOT_OF_ROUND)),
            Found::Foreign(problem) => Err(foreign_files(path, &[problem])),
        }
    }

    /// Gathers a part's share of a pass and writes it down.
    fn gather(
        &self,
        engine: &Engine<'_>,
        (part, round): (usize, usize),
        works: &[Work],
        statistic: &mut dyn Statistic,
        (cut, hash): (Cut, &[bool]),
    ) -> Result<()> {
        let mine = cut_works(self.parted, works, part);
        let mut gathering = Gathering::new(statistic);
        let run = if mine.is_empty() {
            PassRun { name: gathering.name().to_owned(), bytes_read: 0, seconds: 0.0 }
        } else {
            engine.survey_once(&mine, &mut gathering, cut, hash)?
        };
        engine.files().check_unchanged()?;
        self.parted.spec.check_inputs()?;
        let (head, share) = (Head::of(self.folder()), gathering.finish());
        let inputs = states(engine.hashes().unwrap_or_default());
        let gathered = Gathered { head, round, part: Some(part), pass: run.clone(), share, inputs };
        write_sealed(&self.folder().survey(round, part), &gathered)?;
        self.state().gathered = Some(run);
        Ok(())
    }

    /// Joins what all parts gathered, in their order, and writes it down.
    fn reduce(&self, round: usize, works: &[Work], statistic: &mut dyn Statistic, cut: Cut) -> Result<Gathered> {
        let (parted, folder) = (self.parted, self.folder());
        let width = statistic.width();
        let (mut sums, mut run) = (BTreeMap::<usize, Vec<f64>>::new(), PassRun::default());
        let hashes: Vec<PieceHash> = parted.plan.files.iter().map(|f| PieceHash::new(f.bytes)).collect();
        for (part, path) in self.complete(round)? {
            let Found::This(Gathered { share, pass, inputs, .. }) = folder.read::<Gathered>(&path)? else {
                return Err(self.not_ready(round, &format!("part {part} went away while it was read; reduce again")));
            };
            if !is_of(&share, parted, &cut_works(parted, works, part), (cut, width))
                || !statistic.add_counts(&share.counts)
            {
                return Err(Error::malformed(&path, "is not what this part gathers; remove it and run the part again"));
            }
            for (tensor, bits) in &share.sums {
                let total = sums.entry(*tensor).or_insert_with(|| vec![0.0; width]);
                let chunks = Share::floats(bits);
                chunks.chunks_exact(width).for_each(|c| total.iter_mut().zip(c).for_each(|(t, c)| *t += c));
            }
            for (file, state) in &inputs {
                absorb(hashes.get(*file), state, &path)?;
            }
            run.join(&pass);
            run.name = pass.name;
        }
        sums.iter().for_each(|(&tensor, total)| statistic.fold_chunks(tensor, total));
        let bits = |total: Vec<f64>| total.into_iter().map(f64::to_bits).collect();
        let sums = sums.into_iter().map(|(tensor, total)| (tensor, bits(total))).collect();
        let share = Share { counts: statistic.counts(), sums };
        let all = Gathered { head: Head::of(folder), round, part: None, pass: run, share, inputs: states(&hashes) };
        write_sealed(&folder.reduced(round), &all)?;
        Ok(all)
    }

    /// The files of all parts of a round. Fails with a list if some are missing or foreign.
    fn complete(&self, round: usize) -> Result<Vec<(usize, PathBuf)>> {
        let folder = self.folder();
        let (mut paths, mut missing, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
        for part in 0..self.parted.parts.count() {
            let path = folder.survey(round, part);
            match folder.read::<Gathered>(&path)? {
                Found::Nothing => missing.push(part),
                Found::Foreign(problem) => foreign.push(problem),
                Found::This(g) if (g.round, g.part) != (round, Some(part)) => {
                    foreign.push(format!("{}: is of another part or round", path.display()));
                }
                Found::This(_) => paths.push((part, path)),
            }
        }
        if !foreign.is_empty() {
            return Err(foreign_files(&folder.parts(), &foreign));
        }
        if missing.is_empty() {
            return Ok(paths);
        }
        Err(self.not_ready(round, &missing_parts(&missing, &format!("part survey --round {round}"))))
    }
}

impl Rounds for Replay<'_> {
    fn pass(
        &self,
        engine: &Engine<'_>,
        works: &[Work],
        statistic: &mut dyn Statistic,
        cut: Cut,
        hash: &[bool],
    ) -> Result<PassRun> {
        let round = self.state().round + 1;
        let path = self.folder().reduced(round);
        let found = match (self.known(&path, round)?, self.role) {
            (Some(known), _) if known.share.give(statistic) => known,
            (Some(_), _) => return Err(Error::malformed(&path, NOT_OF_ROUND)),
            (None, Role::Reduce) => {
                let all = self.reduce(round, works, statistic, cut)?;
                self.state().reduced += 1;
                all
            }
            (None, Role::Gather { part, round: wanted }) if wanted == round => {
                self.gather(engine, (part, round), works, statistic, (cut, hash))?;
                return Err(self.not_ready(round, "waits for the other parts"));
            }
            (None, Role::Gather { .. } | Role::Await) => {
                let problem = "is not reduced yet; run `taskvec part survey` for every part, then `taskvec reduce`";
                return Err(self.not_ready(round, problem));
            }
        };
        let mut state = self.state();
        state.round = round;
        state.inputs.extend(found.inputs);
        Ok(found.pass)
    }
}

/// Joins the first round that all parts have gathered and that is not reduced; with `wanted`, fails unless that round is
/// reduced then, or there is no such round.
pub fn reduce(parted: &Parted, wanted: Option<usize>, run: &PartRun<'_>) -> Result<Reduced> {
    let folder = &parted.folder;
    if let Found::This(Ready { rounds, .. }) = folder.read(&folder.ready())? {
        return Ok(Reduced { rounds, more: false });
    }
    if let Some(rounds) = wanted.filter(|&round| folder.reduced(round + 1).exists()) {
        return Ok(Reduced { rounds, more: true });
    }
    let replay = Replay::new(parted, Role::Reduce);
    let files = parted.open_files(run)?;
    let mut engine = parted.engine(&files, run)?;
    engine.set_rounds(Some(&replay));
    let found = go_through(parted, &mut engine);
    let (rounds, reduced) = replay.rounds();
    match found {
        Ok(()) => {
            let ready = Ready { head: Head::of(&parted.folder), rounds };
            write_sealed(&folder.ready(), &ready)?;
            Ok(Reduced { rounds, more: false })
        }
        // The next round has not been gathered: it could not even begin before this one was reduced.
        Err(Error::NotReady { .. }) if wanted.map_or(reduced > 0, |wanted| rounds >= wanted) => {
            Ok(Reduced { rounds, more: true })
        }
        Err(error) => Err(error),
    }
}

/// Goes through all steps before the merge.
pub fn go_through(parted: &Parted, engine: &mut Engine<'_>) -> Result<()> {
    let plan = &parted.plan;
    let scoring = Scoring::gather(plan, engine, &Past::default(), None)?;
    if ranks_model(plan)? {
        engine.set_elements(scoring.elements.clone());
        let (works, actions) = assign(plan, &scoring);
        survey(plan, engine, start_method(plan)?.as_ref(), &works, &actions, &mut Vec::new())?;
    }
    Ok(())
}

/// The share that a part has of works.
pub fn cut_works(parted: &Parted, works: &[Work], part: usize) -> Vec<Work> {
    let (plan, parts): (_, &Partitions) = (&parted.plan, &parted.parts);
    let cut = |work: &Work| {
        let elements = parts.elements(plan, part, work.tensor);
        let whole = elements == (0..plan.tensors[work.tensor].elements);
        let only = (!whole).then(|| elements.clone());
        (!elements.is_empty()).then(|| Work { only, ..work.clone() })
    };
    works.iter().filter_map(cut).collect()
}

/// Whether a share has the sums of exactly these works.
fn is_of(share: &Share, parted: &Parted, works: &[Work], (cut, width): (Cut, usize)) -> bool {
    let chunks = |work: &Work| {
        let t = &parted.plan.tensors[work.tensor];
        let elements = work.only.as_ref().map_or(t.elements, |only| only.end - only.start);
        width * elements.div_ceil((cut.block(t) * CHUNK_BLOCKS) as u64) as usize
    };
    if width == 0 {
        return share.sums.is_empty();
    }
    let expected: BTreeMap<usize, usize> = works.iter().map(|w| (w.tensor, chunks(w))).collect();
    expected.into_iter().eq(share.sums.iter().map(|(&tensor, bits)| (tensor, bits.len())))
}

/// There are files of other runs.
pub fn foreign_files(path: &Path, foreign: &[String]) -> Error {
    let shown = foreign.len().min(LISTED);
    let mut list = foreign[..shown].join("\n");
    if foreign.len() > shown {
        list.push_str(&format!("\nand {} more", foreign.len() - shown));
    }
    Error::malformed(path, format!("files that are not of this run:\n{list}\nremove them and run these parts again"))
}

/// Which parts are missing, and what to do.
pub fn missing_parts(missing: &[usize], command: &str) -> String {
    let names: Vec<String> = missing.iter().take(LISTED).map(usize::to_string).collect();
    let more = missing.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let (names, first) = (names.join(", "), missing[0]);
    format!("parts are missing: {names}{more}. Run `taskvec {command} --part {first}`, and so on, and try again")
}
