//! The pass that makes the output: kept layers are decoded and merged, everything else is the base's bytes.

use super::encode::{CodedRun, Coder, Sides};
use super::job::{Cut, Job, Tile, jobs, range};
use super::output::{HashedPart, Output, Part};
use super::pipeline::Pipeline;
use super::scratch::{Order, Reader, Scratch, Spans, blocks};
use super::{Engine, PassRun, Source, Work};
use crate::codec::lossy::Place;
use crate::codec::{Codec, Coding};
use crate::error::{Error, Result};
use crate::kernel::{self, Change};
use crate::limits::BLOCK_ELEMENTS;
use crate::method::{self, Method};
use crate::plan::{PlannedTensor, Taken};
use crate::source::{Counter, PieceHash};
use crate::survey::Survey;
use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;

const MERGE: &str = "merge";

/// Copies of at least this many bytes are left to the kernel; smaller ones ride in the job's buffer.
const KERNEL_COPY_BYTES: usize = 256 << 10;

/// What is done to a tensor, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// What.
    pub copied: Copied,
    /// Why.
    pub reason: Reason,
}

/// Where an output tensor's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// They are computed by the method.
    No,
    /// They are the bytes of the reference.
    Bytes,
    /// They are the values of the reference in the output's dtype.
    Cast,
    /// They are those that an earlier merge has computed.
    Reused,
}

/// Why a tensor is treated as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no LwPTV stage.
    NoPruning,
    /// The mask keeps its layer.
    Kept,
    /// Its elements are kept or pruned one by one.
    Elements,
    /// The mask prunes its layer.
    Pruned,
    /// It holds integers or bools.
    NotFloat,
    /// The recipe excludes it.
    Excluded,
    /// The recipe copies it from a model.
    CopiedFrom,
}

/// Takes the output. Writes come from one thread, in job order.
pub trait Target: Sync {
    /// Writes `bytes` at `offset` of a shard.
    fn write(&self, shard: usize, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Copies `bytes` at `from.1` of a file to `offset` of a shard inside the kernel; `false` if it cannot.
    fn copy(&self, shard: usize, offset: u64, from: (&File, u64), bytes: u64) -> Result<bool>;
}

/// What the pass found out about the output's tensors.
#[derive(Debug)]
pub struct Outcome {
    /// How each tensor differs from the base; `None` where there is no base to compare with.
    pub changes: Vec<Option<Change>>,
    /// What the pass cost.
    pub run: PassRun,
    /// Bytes written.
    pub bytes_written: u64,
}

impl Outcome {
    /// Nothing yet, of so many tensors.
    pub fn new(tensors: usize) -> Self {
        let run = PassRun { name: MERGE.into(), bytes_read: 0, seconds: 0.0 };
        Self { changes: vec![None; tensors], run, bytes_written: 0 }
    }

    /// Adds what was found out about other tensors.
    pub fn join(&mut self, more: Self) {
        self.changes.iter_mut().zip(more.changes).for_each(|(all, more)| *all = all.or(more));
        self.run.join(&more.run);
        self.bytes_written += more.bytes_written;
    }
}

/// How values are merged.
#[derive(Clone, Copy)]
pub struct How<'a> {
    /// What to do, by tensor.
    pub actions: &'a [Action],
    /// The method, ready to merge.
    pub method: &'a dyn Method,
    /// What the method's surveys found.
    pub done: &'a [Survey],
}

/// What a merge pass is given besides the plan.
pub struct Merge<'a> {
    /// Tensors in order; over all merges of a job each comes once.
    pub works: &'a [Work],
    /// What is done.
    pub how: How<'a>,
    /// The sources to hash while they are read.
    pub hash: &'a [bool],
    /// One per shard: the hashes of what is written.
    pub written: &'a [PieceHash],
    /// The hashes of tensors, by tensor, if they are wanted.
    pub tensor_hashes: Option<&'a TensorHashes>,
    /// By tensor: what the hash of its shard knows of its range, if that is wanted.
    pub ranges: Option<&'a [PieceHash]>,
}

/// The hashes of both sides of every tensor.
#[derive(Debug)]
pub struct TensorHashes {
    /// The base's tensors.
    pub base: Vec<PieceHash>,
    /// The output's tensors; those that are the base's are not given.
    pub result: Vec<PieceHash>,
}

/// Takes what a merge makes besides its bytes, in job order.
pub trait Follower {
    /// Takes the next run of blocks of the output's delta, in tensor order.
    fn take(&mut self, run: &CodedRun) -> Result<()>;

    /// Hears that the first `works` of the pass are written; `changes` are by tensor.
    fn reached(&mut self, works: usize, changes: &[Option<Change>]) -> Result<()>;
}

impl Engine<'_> {
    /// Makes the output, and its delta if the plan writes one.
    pub fn merge(&self, merge: &Merge<'_>, target: &dyn Target, follower: &mut dyn Follower) -> Result<Outcome> {
        let codes = self.plan.writes_delta();
        let any = merge.how.method.is_elementwise() && self.plan.masks.is_none();
        let order = if any { Order::Any } else { Order::Natural };
        let counter = Counter::default();
        let (free, reuse) = crossbeam_channel::unbounded::<Vec<u8>>();
        let mut changes = vec![None; self.plan.tensors.len()];
        let mut bytes_written = 0;
        let worker = |_| {
            let mut scratch = Scratch::new(self.plan.expert_count());
            let mut reader = Reader::new(self);
            let mut permuted = Vec::new();
            let mut masks = vec![Vec::new(); self.plan.expert_count()];
            let mut coder = codes.then(|| Coder::new(Coding::Exact(Codec::Auto)));
            let (counter, reuse) = (&counter, reuse.clone());
            move |job: &Job| {
                let mut bytes = reuse.try_recv().unwrap_or_default();
                if bytes.len() < job.write_bytes {
                    bytes = vec![0; job.write_bytes];
                }
                let mut output = Output { bytes, ..Output::default() };
                let runs = self.map_runs(merge.works, job, counter)?;
                for tile in &job.tiles {
                    let work = &merge.works[tile.work];
                    let spans = Spans::read(self, work, (tile, &runs), &mut reader, counter, merge.hash, order)?;
                    let made = self.make_tile(merge, tile, &spans, (&mut scratch, &mut masks), &mut output, counter);
                    if made.is_err() && spans.is_permuted() {
                        // The error tells a place in another order: find it again in the tensor's own.
                        let none = vec![false; merge.hash.len()];
                        let mut reader = Reader::new(self);
                        let spans =
                            Spans::read(self, work, (tile, &runs), &mut reader, counter, &none, Order::Natural)?;
                        output.used -= tile.elements * self.plan.tensors[work.tensor].dtype.bytes();
                        self.make_tile(merge, tile, &spans, (&mut scratch, &mut masks), &mut output, counter)?;
                    }
                    made?;
                    self.restore_tile(merge, tile, &spans, &mut permuted, &mut output);
                    self.describe_tile(merge, tile, &spans, coder.as_mut(), &mut output);
                    self.put_masks(&self.plan.tensors[work.tensor], tile, &masks, &mut output);
                }
                output.hash(merge.written, merge.ranges.is_some());
                Ok(output)
            }
        };
        let write = |job: Job, output: Output| {
            bytes_written += self.write_out(&output, target)?;
            for HashedPart { shard, tensor, pieces } in output.hashed {
                if let Some((ranges, tensor)) = merge.ranges.zip(tensor) {
                    ranges[tensor].give(pieces.clone());
                }
                merge.written[shard].give(pieces);
            }
            output.coded.iter().try_for_each(|run| follower.take(run))?;
            for (tensor, change) in output.changes {
                let sum: &mut Option<Change> = &mut changes[tensor];
                *sum = Some(sum.unwrap_or_default().join(change));
            }
            let _ = free.send(output.bytes);
            self.progress.advance(job.traffic);
            follower.reached(self.finished(merge.works, &job), &changes)
        };
        let pipeline = Pipeline { pool: &self.pool, window: &self.window, stop: self.stop };
        let run = self.measured(MERGE, merge.works, true, || {
            pipeline.run(
                jobs(self.plan, merge.works, true, Cut::Method),
                |job| self.prepare(merge.works, job),
                worker,
                write,
            )?;
            Ok(counter.get())
        })?;
        Ok(Outcome { changes, run, bytes_written })
    }

    /// How many works are whole at the end of a job.
    fn finished(&self, works: &[Work], job: &Job) -> usize {
        let Some(last) = job.tiles.last() else { return 0 };
        let elements = self.plan.tensors[works[last.work].tensor].elements;
        last.work + usize::from(last.start + last.elements as u64 == elements)
    }

    fn make_tile(
        &self,
        merge: &Merge<'_>,
        tile: &Tile,
        spans: &Spans<'_>,
        (scratch, masks): (&mut Scratch, &mut [Vec<u8>]),
        output: &mut Output,
        counter: &Counter,
    ) -> Result<()> {
        masks.iter_mut().for_each(Vec::clear);
        let work = &merge.works[tile.work];
        if merge.how.actions[work.tensor].copied == Copied::Bytes {
            return self.copy_tile(merge, work, tile, spans, output);
        }
        let t = &self.plan.tensors[work.tensor];
        let size = t.dtype.bytes();
        let bytes = output.grow_by(t, work.tensor, tile);
        if merge.how.actions[work.tensor].copied == Copied::Reused {
            let change = self.reused.fill(work.tensor, tile.start * size as u64, bytes, counter)?;
            output.changes.extend(change.map(|change| (work.tensor, change)));
            return Ok(());
        }
        let masks = Some(masks).filter(|_| t.masks.is_some());
        let change = self.make_values(merge.how, tile, spans, (scratch, masks), bytes)?;
        output.changes.extend(change.map(|change| (work.tensor, change)));
        Ok(())
    }

    /// Makes the bytes of a tile that is not copied, and its masks if they are wanted. Tells how the bytes differ from the
    /// base where it is read.
    pub(super) fn make_values(
        &self,
        how: How<'_>,
        tile: &Tile,
        spans: &Spans<'_>,
        (scratch, mut masks): (&mut Scratch, Option<&mut [Vec<u8>]>),
        bytes: &mut [u8],
    ) -> Result<Option<Change>> {
        let work = spans.work();
        let t = &self.plan.tensors[work.tensor];
        if how.actions[work.tensor].copied == Copied::Cast {
            let cast = |block: &Range<usize>, out: &mut Vec<f32>| spans.decode(self.plan.reference(), block, out);
            return self.compute_tile(t, tile, bytes, cast, |_| {}).map(|()| None);
        }
        let settings = &self.plan.settings[t.settings];
        let form = self.plan.form();
        let with_base = self.plan.base().is_some_and(|b| work.sources.contains(&b));
        let scratch = RefCell::new(scratch);
        let mut change = Change::default();
        let merge_block = |block: &Range<usize>, out: &mut Vec<f32>| {
            let scratch = &mut **scratch.borrow_mut();
            spans.load(block, form, with_base, scratch)?;
            out.resize(block.len(), 0.0);
            let tile = method::Tile { place: spans.at(block), base: &scratch.base, experts: &mut scratch.experts };
            if let Some(masks) = &mut masks {
                how.method.mask(settings, &tile, masks);
            }
            how.method.merge(settings, how.done, tile, out);
            if self.elements.is_some() {
                scratch.kept.restore(&scratch.base, out);
            }
            Ok(())
        };
        self.compute_tile(t, tile, bytes, merge_block, |stored| {
            if with_base {
                change = change.join(kernel::change(&scratch.borrow().base, stored));
            }
        })?;
        Ok(with_base.then_some(change))
    }

    /// Puts the masks of a tile, if it has any, into the output: their file comes behind the shards. A pruned layer's stay zero.
    fn put_masks(&self, t: &PlannedTensor, tile: &Tile, masks: &[Vec<u8>], output: &mut Output) {
        let Some(place) = t.masks else { return };
        let row = t.elements.div_ceil(8);
        for (expert, mask) in (0..).zip(masks).filter(|(_, mask)| !mask.is_empty()) {
            let offset = place.offset + expert * row + tile.start / 8;
            output.grow(self.plan.shards.len(), offset, mask.len()).copy_from_slice(mask);
        }
    }

    /// Brings what was computed into the order of the tensor's elements.
    fn restore_tile(
        &self,
        merge: &Merge<'_>,
        tile: &Tile,
        spans: &Spans<'_>,
        permuted: &mut Vec<u8>,
        output: &mut Output,
    ) {
        let tensor = merge.works[tile.work].tensor;
        if spans.is_permuted() && merge.how.actions[tensor].copied != Copied::Bytes {
            let size = self.plan.tensors[tensor].dtype.bytes();
            let bytes = tile.elements * size;
            spans.restore(size, &mut output.bytes[output.used - bytes..output.used], permuted);
        }
    }

    /// Hashes the tile as part of its tensor, and codes it against the base, as far as either is wanted.
    fn describe_tile(
        &self,
        merge: &Merge<'_>,
        tile: &Tile,
        spans: &Spans<'_>,
        coder: Option<&mut Coder>,
        output: &mut Output,
    ) {
        let work = &merge.works[tile.work];
        let t = &self.plan.tensors[work.tensor];
        let Some(source) = self.plan.base() else { return };
        let base = t.places[source].dtype;
        if let Some(hashes) = merge.tensor_hashes {
            hashes.base[work.tensor].update(tile.start * base.bytes() as u64, spans.natural_base(source));
        }
        if merge.how.actions[work.tensor].copied == Copied::Bytes {
            return;
        }
        let bytes = tile.elements * t.dtype.bytes();
        let result = &output.bytes[output.used - bytes..output.used];
        if let Some(hashes) = merge.tensor_hashes {
            hashes.result[work.tensor].update(tile.start * t.dtype.bytes() as u64, result);
        }
        if let Some(coder) = coder {
            let base = Some((base, spans.natural_base(source)));
            let place = Place { row: 1, first: tile.start };
            let sides =
                Sides { tensor: work.tensor, dtype: t.dtype, result, base, root: None, same_shape: true, place };
            output.coded.push(coder.code(sides));
        }
    }

    /// Encodes what `make` computes for each block of the tile, and shows each block's values as stored.
    fn compute_tile(
        &self,
        t: &PlannedTensor,
        tile: &Tile,
        bytes: &mut [u8],
        mut make: impl FnMut(&Range<usize>, &mut Vec<f32>) -> Result<()>,
        mut show: impl FnMut(&[f32]),
    ) -> Result<()> {
        let size = t.dtype.bytes();
        let limit = t.dtype.largest_finite();
        let mut out = Vec::with_capacity(BLOCK_ELEMENTS);
        for block in blocks(tile.elements, t.block_elements) {
            make(&block, &mut out)?;
            let bytes = &mut bytes[block.start * size..block.end * size];
            if !t.dtype.store(&mut out, bytes, limit) && !self.plan.options.allow_non_finite {
                // The values are gone: they are made again to tell which one it was.
                make(&block, &mut out)?;
                let at = kernel::first_beyond(&out, limit).unwrap_or_default();
                let index = tile.start + (block.start + at) as u64;
                let dtype = t.dtype.to_string();
                return Err(Error::Overflow { tensor: t.name.clone(), index, value: out[at], dtype });
            }
            show(&out);
        }
        Ok(())
    }

    fn copy_tile(
        &self,
        merge: &Merge<'_>,
        work: &Work,
        tile: &Tile,
        spans: &Spans<'_>,
        output: &mut Output,
    ) -> Result<()> {
        let t = &self.plan.tensors[work.tensor];
        let reference = self.plan.reference();
        let bytes = self.copied_bytes(work, tile, spans)?;
        let offset = t.offset + tile.start * t.dtype.bytes() as u64;
        let (file, from, _) = range(self.plan, work, tile, reference);
        let copies = t.places[reference].computed.is_none() && self.files.file(file).is_some();
        if bytes.len() < KERNEL_COPY_BYTES || !copies {
            output.grow_by(t, work.tensor, tile).copy_from_slice(bytes);
        } else {
            let pieces = merge.written[t.shard].hash(offset, bytes);
            output.hashed.push(HashedPart { shard: t.shard, tensor: Some(work.tensor), pieces });
            output.parts.push(Part { shard: t.shard, offset, bytes: bytes.len(), copy: Some((file, from)) });
        }
        if self.plan.has_base && t.taken != Some(Taken::CopiedFrom) {
            output.changes.push((work.tensor, Change::default()));
        }
        Ok(())
    }

    /// The reference's bytes of a tile, which all sources that are read must have.
    pub(super) fn copied_bytes<'s>(&self, work: &Work, tile: &Tile, spans: &'s Spans<'_>) -> Result<&'s [u8]> {
        let t = &self.plan.tensors[work.tensor];
        let reference = self.plan.reference();
        let bytes = spans.bytes(reference);
        for &other in work.sources.iter().filter(|&&s| s != reference) {
            self.expect_equal(t, tile, (reference, bytes), (other, spans.bytes(other)))?;
        }
        Ok(bytes)
    }

    fn expect_equal(&self, t: &PlannedTensor, tile: &Tile, a: (Source, &[u8]), b: (Source, &[u8])) -> Result<()> {
        let Some(at) = a.1.iter().zip(b.1).position(|(a, b)| a != b) else { return Ok(()) };
        let path = |source: Source| self.path(&t.places[source]);
        Err(Error::CopiedDiffers {
            path: path(b.0),
            other: path(a.0),
            tensor: t.name.clone(),
            dtype: t.dtype.to_string(),
            index: tile.start + (at / t.dtype.bytes()) as u64,
        })
    }

    fn write_out(&self, output: &Output, target: &dyn Target) -> Result<u64> {
        let (mut at, mut written) = (0, 0);
        for part in &output.parts {
            written += part.bytes as u64;
            let Some((file, offset)) = part.copy else {
                target.write(part.shard, part.offset, &output.bytes[at..at + part.bytes])?;
                at += part.bytes;
                continue;
            };
            let copied = match self.files.file(file) {
                Some(open) => target.copy(part.shard, part.offset, (open, offset), part.bytes as u64)?,
                None => false,
            };
            if !copied {
                let mut buffer = Vec::new();
                let span = self.files.span(file, offset, part.bytes, &mut buffer, &Counter::default())?;
                target.write(part.shard, part.offset, &span)?;
            }
        }
        Ok(written)
    }
}
