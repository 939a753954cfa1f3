//! What a diff notes in its journal, and how a later one takes it up: payloads are whole if they have the hashes that the
//! journal tells.

use super::diff::{DiffRun, hex};
use super::resume::{known, restored};
use crate::container::Index;
use crate::disk;
use crate::error::{Error, Result};
use crate::sink::{DeltaSink, DeltaTensor, Hashes, Journal, StagedFile, Told, WrittenTensor};
use crate::source::{Counter, DeltaFile, Files, PieceHash};
use crate::tensor::Dtype;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a line of the journal says: what came since the line before.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Line {
    /// So many leading tensors are written.
    tensors: usize,
    /// Their payloads.
    delta: Vec<WrittenTensor>,
    /// The hashes of the result's side, and of the base's where the main pass reads all of it.
    hashes: Vec<(Option<String>, Option<String>)>,
}

/// The hashes of both sides of every tensor of the result.
pub struct SideHashes {
    pub result: Vec<PieceHash>,
    /// `None` where the main pass does not read all of the base's tensor.
    pub base: Vec<Option<PieceHash>>,
}

impl SideHashes {
    /// The hashes, once every byte was read.
    pub fn finish(self) -> Vec<Hashes> {
        let both = self.result.into_iter().zip(self.base);
        both.map(|(result, base)| Hashes { result: hex(result), base: base.map(hex) }).collect()
    }
}

/// Notes what is done.
pub struct Record {
    journal: Option<Journal>,
    /// Leading tensors that are written, and of which the journal knows.
    pub done: usize,
    noted: usize,
    /// Bytes of payloads that were hashed again.
    pub rehashed: u64,
}

impl Record {
    /// Begins a journal and the delta file, or takes up what is there.
    pub fn open(
        staged: &StagedFile,
        run: &DiffRun<'_>,
        (files, model_file): (&Files, usize),
        tensors: Vec<DeltaTensor>,
        hashes: &mut SideHashes,
    ) -> Result<(Self, DeltaSink)> {
        let Some(every) = run.journal else {
            let sink = DeltaSink::create(staged.part(), tensors)?;
            return Ok((Self { journal: None, done: 0, noted: 0, rehashed: 0 }, sink));
        };
        let first = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "diff": format!("{:?}", run.coding),
            "inputs": files.states(),
            "model": model_file,
        });
        let (journal, left) = Journal::open(staged.journal(), &first, every, run.unfinished, || staged.clear())?;
        let lines = left.map(|left| left.lines).unwrap_or_default();
        let lines: Vec<Line> = lines.into_iter().map_while(|line| serde_json::from_value(line).ok()).collect();
        let mut record = Self { journal: Some(journal), done: 0, noted: 0, rehashed: 0 };
        if let Some(sink) = record.take_up(staged.part(), &lines, &tensors, hashes) {
            return Ok((record, sink));
        }
        disk::remove_file(staged.part())?;
        Ok((record, DeltaSink::create(staged.part(), tensors)?))
    }

    /// Goes on with what these lines tell of, if it is there as it was written.
    fn take_up(
        &mut self,
        part: &Path,
        lines: &[Line],
        tensors: &[DeltaTensor],
        hashes: &mut SideHashes,
    ) -> Option<DeltaSink> {
        let (mut written, mut kept) = (Vec::new(), Vec::new());
        for line in lines {
            // A run that had to begin anew tells of the first tensors again.
            let first = line.tensors.checked_sub(line.delta.len()).filter(|first| *first <= written.len())?;
            written.truncate(first);
            kept.truncate(first);
            written.extend(line.delta.iter().cloned());
            kept.extend(&line.hashes);
        }
        if written.is_empty() || written.len() > tensors.len() || kept.len() != written.len() {
            return None;
        }
        let bytes = |shape: &[u64], dtype: Dtype| shape.iter().product::<u64>() * dtype.bytes() as u64;
        let hash = |(t, (result, base)): (usize, &(Option<String>, Option<String>))| {
            let t = &tensors[t];
            let base = t.base.as_ref().and_then(|(dtype, shape)| restored(bytes(shape, *dtype), base.as_ref()));
            Some((restored(bytes(&t.shape, t.dtype), result.as_ref())?, base))
        };
        let kept: Vec<_> = kept.into_iter().enumerate().map(hash).collect::<Option<_>>()?;
        self.rehashed = written.iter().map(WrittenTensor::payload_bytes).sum();
        let sink = DeltaSink::resume(part, tensors.to_vec(), &written, Told::Unproven);
        let sink = sink.inspect_err(|error| tracing::warn!("{error}; the delta file is made again")).ok()?;
        for (t, (result, base)) in kept.into_iter().enumerate() {
            (hashes.result[t], hashes.base[t]) = (result, base);
        }
        (self.done, self.noted) = (written.len(), written.len());
        Some(sink)
    }

    /// Whether there is anything to go on with.
    pub fn has_lines(&self) -> bool {
        self.journal.is_some() && self.noted > 0
    }

    /// Hears that so many leading tensors are written, and notes it if it is time.
    pub fn reached(&mut self, tensors: usize, sink: &mut DeltaSink, hashes: &SideHashes) -> Result<()> {
        self.done = tensors;
        if self.done == self.noted || !self.journal.as_ref().is_some_and(Journal::is_due) {
            return Ok(());
        }
        let line = self.line(sink, hashes)?;
        let Some(journal) = &mut self.journal else { return Ok(()) };
        journal.add(line, || Ok(vec![sink.write_out()?]))
    }

    /// Notes, before the run ends early, what is on the disk by then.
    pub fn stop(&mut self, sink: &mut DeltaSink, hashes: &SideHashes) -> Result<()> {
        let line = self.line(sink, hashes)?;
        let Some(journal) = &mut self.journal else { return Ok(()) };
        journal.add_last(line, vec![sink.write_out()?])
    }

    fn line(&mut self, sink: &mut DeltaSink, hashes: &SideHashes) -> Result<serde_json::Value> {
        let tensors = self.noted..self.done;
        sink.end_before(self.done)?;
        let delta = sink.written(tensors.clone());
        sink.write_out()?;
        let of = |t: usize| (known(&hashes.result[t]), hashes.base[t].as_ref().and_then(known));
        let line = Line { tensors: self.done, delta, hashes: tensors.map(of).collect() };
        self.noted = self.done;
        serde_json::to_value(&line).map_err(|e| Error::Usage(format!("journal: {e}")))
    }

    /// The run ends early with this error, after which not every disk can be believed.
    pub fn end(&mut self, error: &Error) {
        self.journal.iter_mut().for_each(|journal| journal.end_with(error));
    }

    /// Removes the journal: the file is whole.
    pub fn finish(&mut self) -> Result<()> {
        self.journal.as_mut().map_or(Ok(()), Journal::remove)
    }
}

/// Whether `there` is whole and says what `index`, made of the same inputs, says of tensors and files.
pub fn says_the_same(there: &DeltaFile, index: &Index, content: &[u8]) -> bool {
    let roots = (&there.metadata.base_root, &there.metadata.result_root);
    roots == (&index.base_root(), &index.result_root())
        && there.metadata.error_bound.is_none()
        && there.index.files == index.files
        && there.files().is_ok_and(|kept| kept == content)
        && there.check_payloads(&Counter::default()).is_ok()
}
