//! The matrices of adapters as a tile needs them: widened, and added to its blocks as these are decoded.

use super::job::{Tile, Work};
use crate::error::Result;
use crate::kernel;
use crate::limits::ADAPTER_READ_BYTES;
use crate::plan::Plan;
use crate::source::{Counter, Files};
use crate::tensor::{Factor, LowRank};
use std::ops::Range;

/// One compute thread's matrices.
#[derive(Debug)]
pub struct Adapters {
    /// One per source.
    sources: Vec<Pair>,
    bytes: Vec<u8>,
    piece: Vec<f32>,
}

/// What one source adds to a tile.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    /// The tensor that `v` is for.
    tensor: Option<usize>,
    /// `rank` rows of as many columns as the tensor has.
    v: Vec<f32>,
    /// A row for each row of the tensor that the tile touches.
    u: Vec<f32>,
    /// The element of the tensor that the first row of `u` begins at.
    first: u64,
}

/// A part of a stored matrix.
struct Part {
    factor: Factor,
    /// Columns of the whole matrix.
    stride: u64,
    rows: Range<u64>,
    columns: Range<u64>,
    /// Whether the part is to be kept with its columns as rows.
    turned: bool,
}

impl Adapters {
    /// For a plan of so many sources.
    pub fn new(sources: usize) -> Self {
        Self { sources: vec![Pair::default(); sources], bytes: Vec::new(), piece: Vec::new() }
    }

    /// Reads what the tile needs. What belongs to the columns of a tensor is read once for all its tiles in a row.
    pub fn load(&mut self, plan: &Plan, files: &Files, work: &Work, tile: &Tile, counter: &Counter) -> Result<&[Pair]> {
        let t = &plan.tensors[work.tensor];
        let Self { sources, bytes, piece } = self;
        for &source in &work.sources {
            let Some(adapter) = &t.places[source].adapter else { continue };
            let pair = &mut sources[source];
            if pair.tensor != Some(work.tensor) {
                pair.tensor = None;
                widen(files, &columns_of(adapter), &mut pair.v, (bytes, piece), counter)?;
                pair.tensor = Some(work.tensor);
            }
            let last = tile.start + tile.elements as u64 - 1;
            let rows = tile.start / adapter.columns..last / adapter.columns + 1;
            pair.first = rows.start * adapter.columns;
            widen(files, &rows_of(adapter, rows, t.shape[0]), &mut pair.u, (bytes, piece), counter)?;
        }
        Ok(sources)
    }
}

impl Pair {
    /// Adds the product to a decoded block that begins at element `start` of the tensor.
    pub fn add(&self, adapter: &LowRank, start: u64, block: &mut [f32]) {
        let size = (adapter.rank as usize, adapter.columns as usize);
        kernel::add_low_rank(&self.u, &self.v, size, (start - self.first) as usize, adapter.scale, block);
    }
}

fn columns_of(adapter: &LowRank) -> Part {
    let (_, factor) = adapter.outer();
    let (rank, columns) = (adapter.rank, adapter.columns);
    if adapter.transposed {
        Part { factor, stride: rank, rows: 0..columns, columns: 0..rank, turned: true }
    } else {
        Part { factor, stride: columns, rows: 0..rank, columns: 0..columns, turned: false }
    }
}

fn rows_of(adapter: &LowRank, rows: Range<u64>, of: u64) -> Part {
    let (factor, _) = adapter.outer();
    let rank = adapter.rank;
    if adapter.transposed {
        Part { factor, stride: of, rows: 0..rank, columns: rows, turned: true }
    } else {
        Part { factor, stride: rank, rows, columns: 0..rank, turned: false }
    }
}

/// Reads a part and widens it into `out`.
fn widen(
    files: &Files,
    part: &Part,
    out: &mut Vec<f32>,
    (bytes, piece): (&mut Vec<u8>, &mut Vec<f32>),
    counter: &Counter,
) -> Result<()> {
    let Factor { file, offset, dtype } = part.factor;
    let (height, width) = (part.rows.end - part.rows.start, part.columns.end - part.columns.start);
    out.resize((height * width) as usize, 0.0);
    // Whole rows lie one after another.
    let (runs, length) = if width == part.stride { (1, height * width) } else { (height, width) };
    let step = (ADAPTER_READ_BYTES / dtype.bytes()) as u64;
    for run in 0..runs {
        let first = (part.rows.start + run) * part.stride + part.columns.start;
        for at in (0..length).step_by(step as usize) {
            let count = step.min(length - at) as usize;
            let place = offset + (first + at) * dtype.bytes() as u64;
            let read = files.read(file, place, count * dtype.bytes(), bytes, counter)?;
            let start = (run * width + at) as usize;
            if part.turned {
                piece.resize(count, 0.0);
                dtype.decode(read, piece);
                for (i, &x) in (start..).zip(&*piece) {
                    out[i % width as usize * height as usize + i / width as usize] = x;
                }
            } else {
                dtype.decode(read, &mut out[start..start + count]);
            }
        }
    }
    Ok(())
}
