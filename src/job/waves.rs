//! The merge pass, wave by wave: what the method asks for of a wave's tensors, then their bytes.

use super::noted::NotedMerge;
use super::resume::Record;
use super::{Output, survey};
use crate::error::Result;
use crate::kernel::Change;
use crate::method::Method;
use crate::pass::{Action, Engine, Follower as _, How, Merge, Outcome, PassRun, TensorHashes, Work};
use crate::plan::Plan;
use crate::source::PieceHash;
use std::collections::BTreeMap;

/// What all waves have in common.
pub struct Waves<'a, 'e> {
    pub plan: &'a Plan,
    pub engine: &'a Engine<'e>,
    pub method: &'a dyn Method,
    /// By tensor: what is read, and what is done.
    pub assigned: (&'a [Work], &'a [Action]),
    /// The sources to hash while they are read.
    pub hash: &'a [bool],
    pub tensor_hashes: Option<&'a TensorHashes>,
    pub ranges: Option<&'a [PieceHash]>,
    /// What is known of tensors that no pass makes.
    pub moved: &'a BTreeMap<usize, Option<Change>>,
}

impl Waves<'_, '_> {
    /// Makes all tensors from `from` on, and notes them.
    pub fn merge(
        &self,
        from: usize,
        target: &mut Output,
        mut record: Option<&mut Record>,
        (outcome, runs): (&mut Outcome, &mut Vec<PassRun>),
    ) -> Result<()> {
        let (works, actions) = self.assigned;
        // Waves are runs of the plan's tensors, in order: so the delta's runs of blocks come in tensor order.
        for wave in &self.plan.waves.runs {
            let first = wave.start.max(from);
            if first >= wave.end {
                continue;
            }
            // What is found over the whole model takes the whole model.
            let by_tensor = self.method.tensor_bytes(1).is_some();
            let surveyed = &works[if by_tensor { first } else { wave.start }..wave.end];
            let works = &works[first..wave.end];
            let done = survey(self.plan, self.engine, self.method, surveyed, actions, runs)?;
            let merge = Merge {
                works,
                how: How { actions, method: self.method, done: &done },
                hash: self.hash,
                written: &target.written,
                tensor_hashes: self.tensor_hashes,
                ranges: self.ranges,
            };
            let mut noted = NotedMerge {
                record: record.as_deref_mut(),
                engine: self.engine,
                shards: &target.shards,
                delta: target.delta.as_mut(),
                hashes: self.tensor_hashes,
                written: &target.written,
                moved: self.moved,
                first,
            };
            let merged = self.engine.merge(&merge, &target.shards, &mut noted);
            let merged = merged.and_then(|m| noted.reached(works.len(), &m.changes).map(|()| m));
            outcome.join(merged.inspect_err(|error| noted.stop(error))?);
        }
        let (shards, delta, written) = (&target.shards, target.delta.as_mut(), &target.written[..]);
        let (engine, hashes, moved) = (self.engine, self.tensor_hashes, self.moved);
        NotedMerge { record, engine, shards, delta, hashes, written, moved, first: 0 }.finish()?;
        target.delta.as_mut().map_or(Ok(()), |delta| delta.end_before(self.plan.tensors.len()))
    }
}
