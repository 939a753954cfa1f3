//! The delta file of a result: takes coded runs in tensor order and closes the file over hashes and statistics.

use crate::codec::lossy::Loss;
use crate::container::{
    BaseTensor, Head, Histogram, Identity, Index, Metadata, RestoredFile, Tensor, Writer, WrittenPayload, put_histogram,
};
use crate::disk;
use crate::error::Result;
use crate::pass::CodedRun;
use crate::survey::BlockSum;
use crate::tensor::{Dtype, Statistics};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// A tensor of the result, before it is coded.
#[derive(Clone, Debug)]
pub struct DeltaTensor {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Dtype and shape of the tensor of this name in the base.
    pub base: Option<(Dtype, Vec<u64>)>,
    /// Leading elements that both have.
    pub base_elements: u64,
}

/// A delta file being written.
#[derive(Debug)]
pub struct DeltaSink {
    writer: Writer,
    tensors: Vec<DeltaTensor>,
    current: Option<usize>,
    gathered: Gathered,
    /// By tensor.
    payloads: Vec<Option<Payload>>,
    statistics: Vec<Option<Statistics>>,
    /// Whether any block is lossy, and what was lost.
    lossy: bool,
    loss: Loss,
}

/// A payload's hash and its place, counted from the end of the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Payload {
    hash: String,
    begin: u64,
    end: u64,
}

/// A tensor of which everything has been written, as a journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenTensor {
    tensor: usize,
    payload: Option<Payload>,
    /// Changed elements; the bits of sum, sum of squares and largest magnitude.
    statistics: Option<[u64; 4]>,
}

/// The statistics of the tensor under way; `None` once a run has none.
#[derive(Debug, Default)]
struct Gathered(Option<Sums>);

#[derive(Debug, Default)]
struct Sums {
    changed: u64,
    max_abs: f32,
    abs: BlockSum,
    squares: BlockSum,
    histogram: BTreeMap<u16, u64>,
}

/// The hashes of a tensor's two sides.
#[derive(Clone, Debug)]
pub struct Hashes {
    /// blake3 of the result.
    pub result: String,
    /// blake3 of the base's tensor of this name.
    pub base: Option<String>,
}

/// What goes into a delta file besides tensors.
#[derive(Debug, Default)]
pub struct Extra {
    /// Tensors that only the base has.
    pub base_only: Vec<Identity>,
    /// The files that the result is restored to.
    pub files: Vec<RestoredFile>,
    /// What is kept of them, one after another.
    pub content: Vec<u8>,
}

impl DeltaSink {
    /// Makes the file.
    pub fn create(path: &Path, tensors: Vec<DeltaTensor>) -> Result<Self> {
        let writer = Writer::create(path, tensors.iter().map(|t| t.name.as_str()))?;
        Ok(Self::new(writer, tensors))
    }

    /// Goes on with the file at `path`, in which these tensors are written. Fails if one of them is damaged.
    pub fn resume(path: &Path, tensors: Vec<DeltaTensor>, written: &[WrittenTensor]) -> Result<Self> {
        let payload = |w: &WrittenTensor| {
            let Payload { hash, begin, end } = w.payload.clone()?;
            Some(WrittenPayload { tensor: tensors[w.tensor].name.clone(), hash, begin, end })
        };
        let payloads: Vec<WrittenPayload> = written.iter().filter_map(payload).collect();
        let writer = Writer::resume(path, tensors.iter().map(|t| t.name.as_str()), &payloads)?;
        let mut sink = Self::new(writer, tensors);
        for w in written {
            sink.payloads[w.tensor].clone_from(&w.payload);
            sink.statistics[w.tensor] = w.statistics.map(|[changed, abs, squares, max]| Statistics {
                changed,
                sum_abs: f64::from_bits(abs),
                sum_squares: f64::from_bits(squares),
                max_abs: f32::from_bits(max as u32),
            });
        }
        Ok(sink)
    }

    fn new(writer: Writer, tensors: Vec<DeltaTensor>) -> Self {
        let (payloads, statistics) = (vec![None; tensors.len()], vec![None; tensors.len()]);
        Self {
            writer,
            tensors,
            current: None,
            gathered: Gathered::default(),
            payloads,
            statistics,
            lossy: false,
            loss: Loss::default(),
        }
    }

    /// Ends the tensor under way if it lies before `tensor`: no run of it comes any more.
    pub fn end_before(&mut self, tensor: usize) -> Result<()> {
        if self.current.is_some_and(|t| t < tensor) { self.end_tensor() } else { Ok(()) }
    }

    /// What is known of tensors that have ended.
    pub fn written(&self, tensors: Range<usize>) -> Vec<WrittenTensor> {
        let bits =
            |s: &Statistics| [s.changed, s.sum_abs.to_bits(), s.sum_squares.to_bits(), u64::from(s.max_abs.to_bits())];
        let of = |tensor: usize| WrittenTensor {
            tensor,
            payload: self.payloads[tensor].clone(),
            statistics: self.statistics[tensor].as_ref().map(bits),
        };
        tensors.map(of).collect()
    }

    /// Writes out what is gathered, and returns the file to be synced.
    pub fn write_out(&mut self) -> Result<disk::File> {
        self.writer.write_out()
    }

    /// Takes the next run of blocks. Runs come in order of tensors and of their places in them; waves, which are runs of the
    /// plan's tensors, may follow each other.
    pub fn take_run(&mut self, run: &CodedRun) -> Result<()> {
        if self.current != Some(run.tensor) {
            assert!(self.current.is_none_or(|t| t < run.tensor), "runs come in tensor order");
            self.end_tensor()?;
            let t = &self.tensors[run.tensor];
            self.writer.begin(Head {
                scheme: None,
                dtype: t.dtype,
                base: t.base.as_ref().map(|(d, _)| *d),
                elements: t.shape.iter().product(),
                base_elements: t.base_elements,
                histogram_bytes: 0,
                histogram_checksum: 0,
            });
            self.current = Some(run.tensor);
            self.gathered = Gathered(Some(Sums::default()));
        }
        let mut at = 0;
        for &(kind, bytes, checksum) in &run.blocks {
            self.writer.block(kind, &run.bytes[at..at + bytes], checksum)?;
            at += bytes;
        }
        if let Some(scheme) = run.scheme {
            self.writer.lossy(scheme);
            self.lossy = true;
        }
        self.loss = self.loss.join(run.loss);
        self.gathered.add(run);
        Ok(())
    }

    /// What was lost; `None` if all blocks are exact.
    pub fn loss(&self) -> Option<Loss> {
        self.lossy.then_some(self.loss)
    }

    /// Says that every byte of a tensor is the base's, so that no run of it comes.
    pub fn equal(&mut self, tensor: usize) {
        let t = &self.tensors[tensor];
        let same = |(dtype, shape): &(Dtype, Vec<u64>)| *dtype == t.dtype && *shape == t.shape && dtype.is_float();
        if t.base.as_ref().is_some_and(same) {
            self.statistics[tensor] = Some(Statistics::default());
        }
    }

    /// Writes index, files and header, and syncs. `hashes` has one entry for each tensor. Returns the root of the result and
    /// the file's length.
    pub fn finish(mut self, hashes: &[Hashes], extra: Extra) -> Result<(String, u64)> {
        self.end_tensor()?;
        let error_bound = self.loss().map(|l| f64::from(l.bound).to_string());
        let mut index =
            Index { metadata: BTreeMap::new(), tensors: Vec::new(), base_only: extra.base_only, files: extra.files };
        let made = self.tensors.into_iter().zip(hashes).zip(self.payloads.into_iter().zip(self.statistics));
        for ((t, hashes), (payload, statistics)) in made {
            let base = t.base.zip(hashes.base.clone());
            index.tensors.push(Tensor {
                name: t.name,
                dtype: t.dtype,
                shape: t.shape,
                blake3: hashes.result.clone(),
                base: base.map(|((dtype, shape), blake3)| BaseTensor { dtype, shape, blake3 }),
                payload: payload.map(|p| p.hash),
                statistics,
            });
        }
        let metadata = Metadata { base_root: index.base_root(), result_root: index.result_root(), error_bound };
        index.metadata = metadata.fields();
        let bytes = self.writer.finish(&metadata, &index, &extra.content)?;
        Ok((metadata.result_root, bytes))
    }

    fn end_tensor(&mut self) -> Result<()> {
        if let Some(tensor) = self.current.take() {
            let (statistics, histogram) = std::mem::take(&mut self.gathered).finish().unzip();
            let histogram = put_histogram(&histogram.unwrap_or_default());
            let hash = self.writer.end(&self.tensors[tensor].name, &histogram)?;
            let payload = |(hash, (begin, end))| Payload { hash, begin, end };
            self.payloads[tensor] = hash.zip(self.writer.last_payload()).map(payload);
            self.statistics[tensor] = statistics;
        }
        Ok(())
    }
}

impl Gathered {
    fn add(&mut self, run: &CodedRun) {
        let Some(found) = &run.statistics else {
            self.0 = None;
            return;
        };
        let Some(sums) = &mut self.0 else { return };
        sums.changed += found.change.elements;
        sums.max_abs = sums.max_abs.max(found.change.max_abs);
        for [abs, squares] in &found.sums {
            sums.abs.add(*abs);
            sums.squares.add(*squares);
        }
        for &(bin, count) in &found.histogram {
            *sums.histogram.entry(bin).or_default() += count;
        }
    }

    fn finish(self) -> Option<(Statistics, Histogram)> {
        let sums = self.0?;
        let statistics = Statistics {
            changed: sums.changed,
            sum_abs: sums.abs.get(),
            sum_squares: sums.squares.get(),
            max_abs: sums.max_abs,
        };
        Some((statistics, sums.histogram.into_iter().collect()))
    }
}
