//! Rows of embeddings in the order of the output's tokens, gathered tile by tile from the models' own order.

use super::{Engine, PassRun, Source};
use crate::error::Result;
use crate::limits::{BLOCK_ELEMENTS, PADDING_PIECE_ELEMENTS};
use crate::plan::{Place, PlannedTensor, Rows};
use crate::source::Counter;
use crate::tensor::Dtype;
use crate::vocabulary::{From, Run};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

/// Ranges of one tile that the reader's thread announces; what is left comes when it is read.
const PREPARED_RANGES: usize = 64;

/// Ranges of at least this many bytes are mapped.
const MAP_BYTES: usize = 256 << 10;

/// Rows of padding, by tensor and source.
pub type Padding = BTreeMap<(usize, Source), Vec<f32>>;

/// A run of elements of one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub tensor: usize,
    pub start: u64,
    pub elements: usize,
}

impl Engine<'_> {
    /// Makes the elements of `piece` as `source` has them in the output's order, as F32.
    pub(super) fn gather(
        &self,
        piece: Piece,
        source: Source,
        raw: &mut Vec<u8>,
        counter: &Counter,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let t = &self.plan.tensors[piece.tensor];
        let rows = rows(&t.places[source]);
        let size = Dtype::F32.bytes();
        out.resize(piece.elements * size, 0);
        for run in runs(rows, piece) {
            let part = part(run, rows.width, piece);
            let target = &mut out[(part.start - piece.start) as usize * size..(part.end - piece.start) as usize * size];
            let inside = part.start - run.start * rows.width;
            match &run.from {
                From::Zero => target.fill(0),
                From::Source(from, row) => {
                    self.widen_from(t, *from, row * rows.width + inside, raw, counter, target)?;
                }
                From::Mean(of) => self.average(t, of, (inside, rows.width), raw, counter, target)?,
                From::Padding => {
                    let row = &self.padding[&(piece.tensor, source)];
                    let first = inside % rows.width;
                    let values = row.iter().cycle().skip(first as usize);
                    target.chunks_exact_mut(size).zip(values).for_each(|(t, v)| t.copy_from_slice(&v.to_le_bytes()));
                }
            }
        }
        Ok(())
    }

    /// The elements of a source's tensor from `first` on, widened.
    fn widen_from(
        &self,
        t: &PlannedTensor,
        source: Source,
        first: u64,
        raw: &mut Vec<u8>,
        counter: &Counter,
        target: &mut [u8],
    ) -> Result<()> {
        let place = &t.places[source];
        let dtype = place.stored();
        let bytes = target.len() / Dtype::F32.bytes() * dtype.bytes();
        let offset = place.offset + first * dtype.bytes() as u64;
        if bytes < MAP_BYTES {
            widen(dtype, self.files.read(place.file, offset, bytes, raw, counter)?, target);
        } else {
            widen(dtype, &self.files.span(place.file, offset, bytes, raw, counter)?, target);
        }
        Ok(())
    }

    /// The mean of a row of each of these sources, from element `inside` of the row on.
    fn average(
        &self,
        t: &PlannedTensor,
        of: &[(Source, u64)],
        (inside, width): (u64, u64),
        raw: &mut Vec<u8>,
        counter: &Counter,
        target: &mut [u8],
    ) -> Result<()> {
        let size = Dtype::F32.bytes();
        let (mut sum, mut values) = (vec![0.0; BLOCK_ELEMENTS], vec![0.0; BLOCK_ELEMENTS]);
        let mut more = vec![0; BLOCK_ELEMENTS * size];
        for (i, target) in target.chunks_mut(BLOCK_ELEMENTS * size).enumerate() {
            let count = target.len() / size;
            let first = inside + (i * BLOCK_ELEMENTS) as u64;
            sum[..count].fill(0.0);
            for (source, row) in of {
                let bytes = &mut more[..target.len()];
                self.widen_from(t, *source, row * width + first, raw, counter, bytes)?;
                Dtype::F32.decode(bytes, &mut values[..count]);
                sum.iter_mut().zip(&values[..count]).for_each(|(s, v)| *s += v);
            }
            sum[..count].iter_mut().for_each(|s| *s /= of.len() as f32);
            Dtype::F32.encode(&sum[..count], target);
        }
        Ok(())
    }

    /// The ranges that a tile's rows are read from, as far as they are worth announcing: file, offset, length.
    pub(super) fn gathered_ranges(&self, piece: Piece, source: Source) -> Vec<(usize, u64, usize)> {
        let t = &self.plan.tensors[piece.tensor];
        let rows = rows(&t.places[source]);
        let range = |run: &Run| {
            let From::Source(from, row) = run.from else { return None };
            let part = part(run, rows.width, piece);
            let (place, first) = (&t.places[from], row * rows.width + part.start - run.start * rows.width);
            let size = place.stored().bytes() as u64;
            Some((place.file, place.offset + first * size, ((part.end - part.start) * size) as usize))
        };
        runs(rows, piece).iter().filter_map(range).take(PREPARED_RANGES).collect()
    }

    /// Finds the rows of padding: the mean of all rows of each model, in the output's order.
    pub fn average_rows(&mut self) -> Result<Option<PassRun>> {
        let start = Instant::now();
        let counter = Counter::default();
        let mut padding = Padding::new();
        for (tensor, t) in self.plan.tensors.iter().enumerate() {
            for (source, place) in t.places.iter().enumerate() {
                if let Some(rows) = place.rows.as_ref().filter(|r| r.map.tokens() < r.map.rows()) {
                    padding.insert((tensor, source), self.average_row(tensor, source, rows, &counter)?);
                }
            }
        }
        self.padding = padding;
        let (name, bytes_read) = ("average of embeddings".to_owned(), counter.get());
        let run = PassRun { name, bytes_read, seconds: start.elapsed().as_secs_f64() };
        Ok((!self.padding.is_empty()).then_some(run))
    }

    /// Sums are taken in `f64`, row by row.
    fn average_row(&self, tensor: usize, source: Source, rows: &Rows, counter: &Counter) -> Result<Vec<f32>> {
        let width = rows.width as usize;
        let tokens = rows.map.tokens();
        let step = (PADDING_PIECE_ELEMENTS / width.max(1)).max(1) as u64;
        let (mut raw, mut bytes, mut values) = (Vec::new(), Vec::new(), vec![0.0; width]);
        let mut sums = vec![0.0_f64; width];
        for first in (0..tokens).step_by(step as usize) {
            self.stop.check()?;
            let count = step.min(tokens - first);
            let piece = Piece { tensor, start: first * rows.width, elements: (count * rows.width) as usize };
            self.gather(piece, source, &mut raw, counter, &mut bytes)?;
            for row in bytes.chunks_exact((width * Dtype::F32.bytes()).max(1)) {
                Dtype::F32.decode(row, &mut values);
                sums.iter_mut().zip(&values).for_each(|(sum, v)| *sum += f64::from(*v));
            }
        }
        Ok(sums.iter().map(|sum| (sum / tokens as f64) as f32).collect())
    }
}

fn rows(place: &Place) -> &Rows {
    place.rows.as_ref().expect("only rows that are in another order are gathered")
}

fn runs(rows: &Rows, piece: Piece) -> &[Run] {
    if piece.elements == 0 {
        return &[];
    }
    let last = piece.start + piece.elements as u64 - 1;
    rows.map.covering(piece.start / rows.width, last / rows.width)
}

/// The elements of `piece` that lie in `run`.
fn part(run: &Run, width: u64, piece: Piece) -> Range<u64> {
    let end = piece.start + piece.elements as u64;
    (run.start * width).max(piece.start)..((run.start + run.count) * width).min(end)
}

fn widen(dtype: Dtype, bytes: &[u8], target: &mut [u8]) {
    let mut values = [0.0; BLOCK_ELEMENTS];
    let pieces = bytes.chunks(BLOCK_ELEMENTS * dtype.bytes());
    for (bytes, target) in pieces.zip(target.chunks_mut(BLOCK_ELEMENTS * Dtype::F32.bytes())) {
        let values = &mut values[..bytes.len() / dtype.bytes()];
        dtype.decode(bytes, values);
        Dtype::F32.encode(values, target);
    }
}
