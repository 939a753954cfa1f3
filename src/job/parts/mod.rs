//! One merge on several machines: stages that anybody may start, in any order within a stage, again, or twice at once.
//!
//! All that machines tell each other are files in the folder of the run. A part gathers sums and counts over its share of a
//! pass (`survey`); when all have, `reduce` joins them; what follows from them is found anew by whoever needs it, by the
//! code of a merge on one machine. `merge` then makes each part's bytes, `commit` the output.

mod commit;
mod folder;
mod merge;
mod owned;
mod record;
mod rounds;
mod spec;
mod status;
mod survey;

pub use commit::{CommitRun, Committed, commit};
pub use merge::merge_part;
pub use rounds::{Reduced, reduce};
pub use spec::{Asked, write as write_plan};
pub use status::{Next, Status, status};
pub use survey::survey_part;

use super::plan_stages;
use crate::error::{Error, Result};
use crate::pass::{Engine, Progress, Stop};
use crate::plan::{Options, Partitions, Plan};
use crate::recipe::Stages;
use crate::source::{Files, Io, Links};
use folder::RunFolder;
use spec::Spec;
use std::path::Path;

/// How a stage runs; none of it changes the output's bytes.
#[derive(Clone, Copy, Debug)]
pub struct PartRun<'a> {
    /// How files are read.
    pub io: Io,
    /// Peak memory.
    pub memory_bytes: u64,
    /// Compute threads.
    pub threads: usize,
    /// Hears how it goes.
    pub progress: &'a (dyn Progress + 'a),
    /// Can end it.
    pub stop: &'a Stop,
}

/// A merge that is cut into parts, as `plan.json` in its folder tells.
#[derive(Debug)]
pub struct Parted {
    /// The plan of the whole merge.
    pub plan: Plan,
    /// Its parts.
    pub parts: Partitions,
    /// Passes over the whole model before the merge, at most.
    pub rounds: usize,
    /// Which links inside model folders are followed.
    links: Links,
    folder: RunFolder,
    spec: Spec,
}

/// What came of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartDone {
    /// It was done now: so many bytes were read and written.
    Now {
        /// Bytes read of the inputs.
        bytes_read: u64,
        /// Bytes written to the output.
        bytes_written: u64,
    },
    /// There was nothing left to do.
    Before,
}

impl Parted {
    /// Reads `plan.json` at `path` and makes the plan again. Fails if an input is not the one that was planned.
    pub fn open(path: &Path, memory_bytes: u64, threads: usize) -> Result<Self> {
        let (spec, folder) = Spec::read(path)?;
        spec.check_inputs()?;
        let options = Options { memory_bytes, threads, ..spec.options() };
        let plan = spec.plan(options)?;
        let kept = exchanged_bytes(&plan)? as u64;
        let plan = if plan.peak_bytes() + kept > memory_bytes {
            spec.plan(Options { memory_bytes: memory_bytes.saturating_sub(kept), ..options })?
        } else {
            plan
        };
        let whole = !ranks_model(&plan)?;
        let borders = spec.borders.clone();
        let parts = Partitions::new(&plan, borders, whole)
            .ok_or_else(|| Error::malformed(path, "its parts are not parts of this merge; plan again"))?;
        let rounds = most_rounds(&plan)?;
        Ok(Self { plan, parts, rounds, links: spec.links(), folder, spec })
    }

    /// Fails if there is no such part.
    fn check_part(&self, part: usize) -> Result<()> {
        let count = self.parts.count();
        if part < count {
            return Ok(());
        }
        Err(Error::Usage(format!("--part {part}: the plan has {count} parts, 0 to {}", count - 1)))
    }

    fn open_files(&self, run: &PartRun<'_>) -> Result<Files> {
        super::check_memory(&self.plan)?;
        super::open_files(&self.plan, run.io)
    }

    fn engine<'a>(&'a self, files: &'a Files, run: &PartRun<'a>) -> Result<Engine<'a>> {
        let mut engine = Engine::new(&self.plan, files, false, run.progress, run.stop)?;
        engine.average_rows()?;
        Ok(engine)
    }
}

/// Whether the method's statistics, if any, are about the whole model; else each part gathers its own tensors'.
fn ranks_model(plan: &Plan) -> Result<bool> {
    Ok(super::start_method(plan)?.tensor_bytes(1).is_none())
}

/// Passes over the whole model before the merge, at most.
fn most_rounds(plan: &Plan) -> Result<usize> {
    let surveys = if ranks_model(plan)? { plan.surveys } else { 0 };
    Ok((plan.scored_reads() + surveys) as usize)
}

/// Bytes that what machines exchange takes in memory: counts as pairs and as text, and sums.
fn exchanged_bytes(plan: &Plan) -> Result<usize> {
    let tables = super::start_method(plan)?.resident_bytes(0).max(plan.ranking_bytes());
    let sums = plan.tensors.len() * plan.expert_count() * 96;
    Ok(3 * tables + if most_rounds(plan)? > 0 { sums } else { 0 })
}

/// The plan of a recipe that can be cut into parts.
fn plan_whole(stages: Stages, folder: &Path, links: Links, options: Options) -> Result<Plan> {
    if !stages.before.is_empty() {
        let problem = "several machines merge recipes of one stage; merge the stages one after another";
        return Err(Error::recipe("recipe", problem));
    }
    Ok(plan_stages(stages, folder, links, Options { delta: false, masks: false, ..options }, Path::new("OUT"))?.last)
}
