//! The delta file of a result: takes coded runs in tensor order and closes the file over hashes and statistics.

use crate::codec::lossy::Loss;
use crate::container::{
    BaseTensor, Head, Histogram, Identity, Index, Metadata, RestoredFile, Tensor, Writer, WrittenPayload, put_histogram,
};
use crate::disk;
use crate::error::{Error, Result};
use crate::pass::CodedRun;
use crate::survey::BlockSum;
use crate::tensor::{Dtype, Statistics};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

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
    /// By tensor: whether any block is lossy, and what was lost.
    losses: Vec<(bool, Loss)>,
    /// Whether a tensor could not be ended, so that nothing is known of it.
    failed: bool,
    /// Payloads of other delta files that are taken when their turn comes.
    pending: BTreeMap<usize, Pending>,
}

/// A payload of another delta file.
#[derive(Debug)]
struct Pending {
    file: Arc<File>,
    /// Its first byte there.
    offset: u64,
    bytes: u64,
    hash: String,
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
    /// Whether any block is lossy; the bits of bound, sum of squared errors and of squares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss: Option<(bool, [u64; 3])>,
}

impl WrittenTensor {
    /// Bytes of its payload.
    pub fn payload_bytes(&self) -> u64 {
        self.payload.as_ref().map_or(0, |p| p.end - p.begin)
    }
}

/// What a journal tells of the file of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is to be hashed.
    Unproven,
    /// Nobody has written to it since.
    Untouched,
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
    pub fn resume(path: &Path, tensors: Vec<DeltaTensor>, written: &[WrittenTensor], told: Told) -> Result<Self> {
        let payload = |w: &WrittenTensor| {
            let Payload { hash, begin, end } = w.payload.clone()?;
            Some(WrittenPayload { tensor: tensors[w.tensor].name.clone(), hash, begin, end })
        };
        let payloads: Vec<WrittenPayload> = written.iter().filter_map(payload).collect();
        let writer = Writer::resume(path, tensors.iter().map(|t| t.name.as_str()), &payloads)?;
        if told == Told::Unproven {
            payloads.iter().try_for_each(|payload| writer.check(payload))?;
        }
        let mut sink = Self::new(writer, tensors);
        written.iter().for_each(|w| sink.restore(w.tensor, w));
        Ok(sink)
    }

    fn new(writer: Writer, tensors: Vec<DeltaTensor>) -> Self {
        let count = tensors.len();
        Self {
            writer,
            tensors,
            current: None,
            gathered: Gathered::default(),
            payloads: vec![None; count],
            statistics: vec![None; count],
            losses: vec![(false, Loss::default()); count],
            failed: false,
            pending: BTreeMap::new(),
        }
    }

    /// Has a tensor's payload taken from another delta file, in which it is as `written` says; no run of it comes.
    pub fn take_from(&mut self, tensor: usize, (file, header_bytes): (Arc<File>, u64), written: &WrittenTensor) {
        self.restore(tensor, written);
        if let Some(Payload { hash, begin, end }) = self.payloads[tensor].take() {
            let pending = Pending { file, offset: header_bytes + begin, bytes: end - begin, hash };
            self.pending.insert(tensor, pending);
        }
    }

    /// Where payloads begin.
    pub fn header_bytes(&self) -> u64 {
        self.writer.header_bytes()
    }

    /// Takes the payloads of tensors before `tensor`.
    fn take_before(&mut self, tensor: usize) -> Result<()> {
        while let Some(entry) = self.pending.first_entry().filter(|e| *e.key() < tensor) {
            let (tensor, Pending { file, offset, bytes, hash }) = entry.remove_entry();
            let taken = self.writer.take(&self.tensors[tensor].name, (&file, offset), bytes);
            self.failed = taken.is_err();
            taken?;
            let place = self.writer.last_payload();
            self.payloads[tensor] = place.map(|(begin, end)| Payload { hash, begin, end });
        }
        Ok(())
    }

    /// What is known of a tensor from another time.
    fn restore(&mut self, tensor: usize, w: &WrittenTensor) {
        self.payloads[tensor].clone_from(&w.payload);
        self.statistics[tensor] = w.statistics.map(|[changed, abs, squares, max]| Statistics {
            changed,
            sum_abs: f64::from_bits(abs),
            sum_squares: f64::from_bits(squares),
            max_abs: f32::from_bits(max as u32),
        });
        if let Some((lossy, [bound, errors, squares])) = w.loss {
            let (bound, error_squares) = (f32::from_bits(bound as u32), f64::from_bits(errors));
            self.losses[tensor] = (lossy, Loss { bound, error_squares, tau_squares: f64::from_bits(squares) });
        }
    }

    /// Ends the tensor under way if it lies before `tensor`: no run of it comes any more. Fails if one could not be ended.
    pub fn end_before(&mut self, tensor: usize) -> Result<()> {
        if self.failed {
            let earlier = std::io::Error::other("an earlier write has failed");
            return Err(Error::io(self.writer.path(), "write")(earlier));
        }
        if self.current.is_some_and(|t| t < tensor) {
            self.end_tensor()?;
        }
        if self.current.is_none() { self.take_before(tensor) } else { Ok(()) }
    }

    /// What is known of tensors that have ended.
    pub fn written(&self, tensors: Range<usize>) -> Vec<WrittenTensor> {
        let bits =
            |s: &Statistics| [s.changed, s.sum_abs.to_bits(), s.sum_squares.to_bits(), u64::from(s.max_abs.to_bits())];
        let of = |tensor: usize| WrittenTensor {
            tensor,
            payload: self.payloads[tensor].clone(),
            statistics: self.statistics[tensor].as_ref().map(bits),
            loss: Some(self.losses[tensor]).filter(|known| *known != Default::default()).map(|(lossy, l)| {
                (lossy, [u64::from(l.bound.to_bits()), l.error_squares.to_bits(), l.tau_squares.to_bits()])
            }),
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
            self.take_before(run.tensor)?;
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
        }
        let (lossy, loss) = &mut self.losses[run.tensor];
        (*lossy, *loss) = (*lossy || run.scheme.is_some(), loss.join(run.loss));
        self.gathered.add(run);
        Ok(())
    }

    /// What was lost; `None` if all blocks are exact.
    pub fn loss(&self) -> Option<Loss> {
        let (lossy, loss) = self.losses.iter().fold((false, Loss::default()), |a, b| (a.0 || b.0, a.1.join(b.1)));
        lossy.then_some(loss)
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
        self.end_before(usize::MAX)?;
        let error_bound = self.loss().map(|l| f64::from(l.bound).to_string());
        let mut index = index(self.tensors, hashes, extra.base_only, extra.files);
        for (t, (payload, statistics)) in index.tensors.iter_mut().zip(self.payloads.into_iter().zip(self.statistics)) {
            (t.payload, t.statistics) = (payload.map(|p| p.hash), statistics);
        }
        let metadata = Metadata { base_root: index.base_root(), result_root: index.result_root(), error_bound };
        index.metadata = metadata.fields();
        let bytes = self.writer.finish(&metadata, &index, &extra.content)?;
        Ok((metadata.result_root, bytes))
    }

    fn end_tensor(&mut self) -> Result<()> {
        let Some(tensor) = self.current.take() else { return Ok(()) };
        let (statistics, histogram) = std::mem::take(&mut self.gathered).finish().unzip();
        let histogram = put_histogram(&histogram.unwrap_or_default());
        let ended = self.writer.end(&self.tensors[tensor].name, &histogram);
        self.failed = ended.is_err();
        let payload = |(hash, (begin, end))| Payload { hash, begin, end };
        self.payloads[tensor] = ended?.zip(self.writer.last_payload()).map(payload);
        self.statistics[tensor] = statistics;
        Ok(())
    }
}

/// What a delta file says of tensors and files, without what is known of payloads.
pub fn index(
    tensors: Vec<DeltaTensor>,
    hashes: &[Hashes],
    base_only: Vec<Identity>,
    files: Vec<RestoredFile>,
) -> Index {
    let tensor = |(t, hashes): (DeltaTensor, &Hashes)| {
        let base = t.base.zip(hashes.base.clone());
        Tensor {
            name: t.name,
            dtype: t.dtype,
            shape: t.shape,
            blake3: hashes.result.clone(),
            base: base.map(|((dtype, shape), blake3)| BaseTensor { dtype, shape, blake3 }),
            payload: None,
            statistics: None,
        }
    };
    let tensors = tensors.into_iter().zip(hashes).map(tensor).collect();
    Index { metadata: BTreeMap::new(), tensors, base_only, files }
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
