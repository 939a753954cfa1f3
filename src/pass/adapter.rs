//! What adapters add to a tile, made of their two matrices when the tile is read.

use super::job::{Tile, Work};
use crate::error::Result;
use crate::kernel::{self, PANEL_COLUMNS};
use crate::limits::{ADAPTER_PANEL_COLUMNS, ADAPTER_READ_BYTES};
use crate::plan::Plan;
use crate::source::{Counter, Files};
use crate::tensor::{Factor, LowRank};
use std::ops::Range;

const _: () = assert!(PANEL_COLUMNS == ADAPTER_PANEL_COLUMNS);

/// One compute thread's matrices.
#[derive(Debug)]
pub struct Adapters {
    /// One per source.
    sources: Vec<Adapter>,
    pieces: Pieces,
}

/// What one source adds.
#[derive(Clone, Debug, Default)]
struct Adapter {
    /// The tensor that `v` is for.
    tensor: Option<usize>,
    /// The matrix that belongs to the tensor's columns, in panels.
    v: Vec<f32>,
    /// The rows that the tile touches of the matrix that belongs to the tensor's rows.
    u: Vec<f32>,
    /// What is added to the tile.
    product: Vec<f32>,
}

/// A part of a stored matrix.
struct Part {
    factor: Factor,
    /// Columns of the whole matrix.
    stride: u64,
    rows: Range<u64>,
    columns: Range<u64>,
}

/// Buffers of a part as it is read.
#[derive(Debug, Default)]
struct Pieces {
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Adapters {
    /// For a plan of so many sources.
    pub fn new(sources: usize) -> Self {
        Self { sources: vec![Adapter::default(); sources], pieces: Pieces::default() }
    }

    /// Makes what is added to the tile. What belongs to a tensor's columns is read once for all its tiles in a row.
    pub fn load(&mut self, plan: &Plan, files: &Files, work: &Work, tile: &Tile, counter: &Counter) -> Result<()> {
        let t = &plan.tensors[work.tensor];
        for &source in &work.sources {
            let Some(adapter) = &t.places[source].adapter else { continue };
            let Adapter { tensor, v, u, product } = &mut self.sources[source];
            if *tensor != Some(work.tensor) {
                *tensor = None;
                self.pieces.read_columns(files, adapter, v, counter)?;
                *tensor = Some(work.tensor);
            }
            let rows = tile.start / adapter.columns..(tile.start + tile.elements as u64).div_ceil(adapter.columns);
            let first = (tile.start - rows.start * adapter.columns) as usize;
            self.pieces.read_rows(files, adapter, rows, t.shape[0], u, counter)?;
            product.resize(tile.elements, 0.0);
            let size = (adapter.rank as usize, adapter.columns as usize);
            kernel::low_rank(u, v, size, first, adapter.scale, product);
        }
        Ok(())
    }

    /// Adds to a decoded block of the tile that was loaded.
    pub fn add(&self, source: usize, block: &Range<usize>, values: &mut [f32]) {
        kernel::axpy(1.0, &self.sources[source].product[block.clone()], values);
    }
}

impl Pieces {
    fn read_columns(&mut self, files: &Files, a: &LowRank, v: &mut Vec<f32>, counter: &Counter) -> Result<()> {
        let (_, factor) = a.outer();
        let (rank, columns) = (a.rank as usize, a.columns as usize);
        v.resize(rank * columns.next_multiple_of(PANEL_COLUMNS), 0.0);
        let mut place = |k: usize, column: usize, x: f32| {
            v[(column / PANEL_COLUMNS * rank + k) * PANEL_COLUMNS + column % PANEL_COLUMNS] = x;
        };
        if a.transposed {
            let part = Part { factor, stride: a.rank, rows: 0..a.columns, columns: 0..a.rank };
            self.read(files, &part, counter, |column, k, x| place(k, column, x))
        } else {
            let part = Part { factor, stride: a.columns, rows: 0..a.rank, columns: 0..a.columns };
            self.read(files, &part, counter, place)
        }
    }

    /// Of the matrix that has `of` rows or columns.
    fn read_rows(
        &mut self,
        files: &Files,
        a: &LowRank,
        rows: Range<u64>,
        of: u64,
        u: &mut Vec<f32>,
        counter: &Counter,
    ) -> Result<()> {
        let (factor, _) = a.outer();
        let rank = a.rank as usize;
        u.resize((rows.end - rows.start) as usize * rank, 0.0);
        if a.transposed {
            let part = Part { factor, stride: of, rows: 0..a.rank, columns: rows };
            self.read(files, &part, counter, |k, row, x| u[row * rank + k] = x)
        } else {
            let part = Part { factor, stride: a.rank, rows, columns: 0..a.rank };
            self.read(files, &part, counter, |row, k, x| u[row * rank + k] = x)
        }
    }

    /// Shows row, column (both counted from the part's first) and value of each element of a part.
    fn read(
        &mut self,
        files: &Files,
        part: &Part,
        counter: &Counter,
        mut place: impl FnMut(usize, usize, f32),
    ) -> Result<()> {
        let Factor { file, offset, dtype } = part.factor;
        let (height, width) = (part.rows.end - part.rows.start, part.columns.end - part.columns.start);
        // Whole rows lie one after another.
        let (runs, length) = if width == part.stride { (1, height * width) } else { (height, width) };
        let step = ADAPTER_READ_BYTES / dtype.bytes();
        for run in 0..runs {
            let first = (part.rows.start + run) * part.stride + part.columns.start;
            for at in (0..length).step_by(step) {
                let count = (step as u64).min(length - at) as usize;
                let from = offset + (first + at) * dtype.bytes() as u64;
                let read = files.read(file, from, count * dtype.bytes(), &mut self.bytes, counter)?;
                self.values.resize(count, 0.0);
                dtype.decode(read, &mut self.values);
                let (mut row, mut column) = ((run + at / width) as usize, (at % width) as usize);
                for &x in &self.values {
                    place(row, column, x);
                    column += 1;
                    if column == width as usize {
                        (row, column) = (row + 1, 0);
                    }
                }
            }
        }
        Ok(())
    }
}
