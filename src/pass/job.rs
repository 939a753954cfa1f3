//! What passes go through: tensors with the sources to read, cut into tiles, tiles gathered into jobs.

use super::decode::likely_range;
use super::gather::Piece;
use super::{Engine, PassRun};
use crate::limits::{BLOCK_ELEMENTS, JOB_MAX_TILES};
use crate::plan::{Place, Plan, PlannedTensor, held_elements, in_flight_bytes, tile_unit};
use crate::source::Prepared;
use std::ops::Range;
use std::path::PathBuf;

/// A tensor's share of a pass.
#[derive(Clone, Debug)]
pub struct Work {
    /// Index into the plan's tensors.
    pub tensor: usize,
    /// The sources to read, ascending.
    pub sources: Vec<Source>,
    /// The elements that are gone over, if not all, and those that share a unit of tiles with them.
    pub only: Option<Range<u64>>,
}

impl Work {
    /// Whether it has nothing to go over: its tensor is there.
    pub fn is_empty(&self) -> bool {
        self.only.as_ref().is_some_and(Range::is_empty)
    }
}

/// Index into the plan's sources.
pub type Source = usize;

/// A run of elements of one tensor.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Index into the pass's works.
    pub work: usize,
    /// First element.
    pub start: u64,
    /// Number of elements: whole blocks, but for the tensor's end.
    pub elements: usize,
}

impl Tile {
    /// Its elements in its tensor.
    pub fn piece(&self, work: &Work) -> Piece {
        Piece { tensor: work.tensor, start: self.start, elements: self.elements }
    }
}

/// What blocks a pass goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// [`BLOCK_ELEMENTS`] for every tensor: the blocks that sums are taken over.
    Sums,
    /// The method's own.
    Method,
}

impl Cut {
    /// Elements of a block of this tensor.
    pub fn block(self, t: &PlannedTensor) -> usize {
        if self == Self::Sums { BLOCK_ELEMENTS } else { t.block_elements }
    }
}

/// Tiles that travel together.
#[derive(Debug, Default)]
pub struct Job {
    pub tiles: Vec<Tile>,
    /// Input bytes.
    pub read_bytes: usize,
    /// Output bytes.
    pub write_bytes: usize,
    /// Bytes read and written, for the progress bar.
    pub traffic: u64,
    /// Bytes of the delta file, at most, and of buffers.
    aside_bytes: usize,
    ranges: usize,
}

impl Job {
    fn memory_bytes(&self) -> usize {
        in_flight_bytes(self.read_bytes + self.write_bytes + self.aside_bytes, self.ranges)
    }
}

/// The byte range of a tile in the file of a source that is no delta file: file, offset, length.
pub fn range(plan: &Plan, work: &Work, tile: &Tile, source: Source) -> (usize, u64, usize) {
    let place = &plan.tensors[work.tensor].places[source];
    let size = place.dtype.bytes();
    (place.file, place.offset + tile.start * size as u64, tile.elements * size)
}

/// Cuts `works` into jobs, each with the memory it takes. `writes` tells whether output is made.
pub fn jobs<'a>(
    plan: &'a Plan,
    works: &'a [Work],
    writes: bool,
    cut: Cut,
) -> impl Iterator<Item = (usize, Job)> + Send + 'a {
    let limit = plan.budget.job_bytes;
    let mut tiles = works
        .iter()
        .enumerate()
        .flat_map(move |(w, work)| tiles(plan, work, writes, cut).map(move |t| (w, t)))
        .peekable();
    std::iter::from_fn(move || {
        let mut job = Job::default();
        while let Some((w, range)) = tiles.peek() {
            let work = &works[*w];
            let t = &plan.tensors[work.tensor];
            let elements = (range.end - range.start) as usize;
            let sources = work.sources.iter().copied();
            let held = held_elements(t, sources.clone(), elements as u64, unit(plan, work, writes, cut)) as usize;
            let read = held * t.element_bytes(sources.clone());
            let masks = if writes { t.mask_bytes(elements) } else { 0 };
            let write = if writes { elements * t.dtype.bytes() } else { 0 };
            let delta = if writes && plan.writes_delta() { 2 * write } else { 0 };
            // Masks are made in buffers of their own.
            let aside = delta + masks;
            let full = job.read_bytes + job.write_bytes + job.aside_bytes + read + write + masks + aside > limit
                || job.ranges >= JOB_MAX_TILES;
            if full && !job.tiles.is_empty() {
                break;
            }
            job.tiles.push(Tile { work: *w, start: range.start, elements });
            job.read_bytes += read;
            job.write_bytes += write + masks;
            let share = elements as f64 / t.elements.max(1) as f64;
            let whole: u64 = work.sources.iter().map(|&s| t.source_bytes(s)).sum();
            job.traffic += (whole as f64 * share) as u64 + write as u64;
            job.aside_bytes += aside;
            job.ranges += t.ranges(sources);
            tiles.next();
        }
        (!job.tiles.is_empty()).then(|| (job.memory_bytes(), job))
    })
}

/// Elements that a tile of this work is made of.
fn unit(plan: &Plan, work: &Work, writes: bool, cut: Cut) -> usize {
    let t = &plan.tensors[work.tensor];
    let coded = t.is_coded(work.sources.iter().copied());
    tile_unit(cut.block(t), t.elements, (coded, writes && plan.writes_delta()))
}

fn tiles(plan: &Plan, work: &Work, writes: bool, cut: Cut) -> impl Iterator<Item = Range<u64>> + Send + use<> {
    let t = &plan.tensors[work.tensor];
    let delta = writes && plan.writes_delta();
    let written = if writes { t.written_bytes(delta) } else { 0 };
    let unit = unit(plan, work, writes, cut);
    let step = plan.tile_elements(t.element_bytes(work.sources.iter().copied()) + written, unit) as u64;
    let elements = t.elements;
    let only = work.only.clone().unwrap_or(0..elements);
    let first = only.start / unit as u64 * unit as u64;
    let end = only.end.next_multiple_of(unit as u64).min(elements);
    (0..end.saturating_sub(first).div_ceil(step)).map(move |i| first + i * step..(first + (i + 1) * step).min(end))
}

impl Engine<'_> {
    /// Brings a job's ranges into memory; runs on the reader's thread. What comes over the network stays there as long as
    /// the returned values.
    pub(super) fn prepare(&self, works: &[Work], job: &Job) -> Vec<Prepared<'_>> {
        let mut ranges: Vec<_> = job.tiles.iter().flat_map(|tile| self.ranges(&works[tile.work], tile)).collect();
        ranges.retain(|&(file, offset, bytes)| {
            self.held.as_ref().is_none_or(|h| !h.has(file, offset..offset + bytes as u64))
        });
        ranges.sort_unstable();
        // Small tensors lie side by side: one call for all of them.
        let touch = |a: &(usize, u64, usize), b: &(usize, u64, usize)| a.0 == b.0 && a.1 + a.2 as u64 == b.1;
        let runs = ranges.chunk_by(touch);
        let bytes = |run: &[(usize, u64, usize)]| -> usize { run.iter().map(|(.., bytes)| bytes).sum() };
        runs.filter_map(|run| self.files.prepare(run[0].0, run[0].1, bytes(run))).collect()
    }

    /// The file of a source's tensor; the name of a stage that makes it.
    pub(super) fn path(&self, place: &Place) -> PathBuf {
        match place.computed {
            None => self.files.path(place.file).to_owned(),
            Some(computed) => format!("stage {}", self.plan.fused[computed.stage].name).into(),
        }
    }

    /// What is read for a tile: file, offset, length.
    pub(super) fn ranges(&self, work: &Work, tile: &Tile) -> Vec<(usize, u64, usize)> {
        let t = &self.plan.tensors[work.tensor];
        let mut all = Vec::with_capacity(work.sources.len());
        for source in work.sources.iter().copied().chain(self.decode_base(work)) {
            let place = &t.places[source];
            if let Some(computed) = place.computed {
                all.extend(self.stages[computed.stage].ranges(computed.tensor, tile));
                continue;
            }
            match &place.coded {
                None if place.rows.is_some() => all.extend(self.gathered_ranges(tile.piece(work), source)),
                None => all.push(range(self.plan, work, tile, source)),
                Some(coded) => {
                    let elements = tile.start..tile.start + tile.elements as u64;
                    all.extend(likely_range(coded, place.first_file, elements));
                }
            }
            let adapter = place.adapter.as_deref().filter(|_| tile.start == 0);
            all.extend(adapter.into_iter().flat_map(|a| a.ranges(t.elements)));
        }
        all
    }

    /// Announces a pass, runs it and measures it. `body` returns the bytes it read.
    pub(super) fn measured(
        &self,
        name: &str,
        works: &[Work],
        writes: bool,
        body: impl FnOnce() -> crate::error::Result<u64>,
    ) -> crate::error::Result<PassRun> {
        let bytes: u64 = works.iter().map(|w| self.work_bytes(w, writes)).sum();
        tracing::info!("{name}: {bytes} bytes to read and write");
        self.progress.begin(name, bytes);
        let start = std::time::Instant::now();
        let result = body();
        self.progress.end();
        Ok(PassRun { name: name.to_owned(), bytes_read: result?, seconds: start.elapsed().as_secs_f64() })
    }

    /// The base, where the work does not read it but must decode a delta file.
    pub(super) fn decode_base(&self, work: &Work) -> Option<Source> {
        let t = &self.plan.tensors[work.tensor];
        self.plan.base().filter(|b| !work.sources.contains(b) && t.is_coded(work.sources.iter().copied()))
    }

    fn work_bytes(&self, work: &Work, writes: bool) -> u64 {
        let t = &self.plan.tensors[work.tensor];
        let base = self.decode_base(work).map(|s| t.source_bytes(s));
        let read: u64 = work.sources.iter().map(|&s| t.source_bytes(s)).chain(base).sum();
        let bytes = read + if writes { t.bytes() } else { 0 };
        let part = |only: &Range<u64>| (only.end - only.start) as f64 / t.elements.max(1) as f64;
        work.only.as_ref().map_or(bytes, |only| (bytes as f64 * part(only)) as u64)
    }
}
