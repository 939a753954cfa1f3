//! A pass over tensors without a plan: what delta files are made and undone with.

use super::pipeline::Pipeline;
use super::window::Window;
use super::{PassRun, Progress, Stop};
use crate::codec::BLOCK;
use crate::error::{Error, Result};
use crate::limits::{FIXED_BYTES, MAP_SLOP_BYTES, QUEUE_JOBS_PER_THREAD, STREAM_JOB_BYTES};
use crate::source::Counter;
use std::ops::Range;
use std::time::Instant;

/// The threads and the memory of passes over tensors.
#[derive(Debug)]
pub struct Stream<'a> {
    pool: rayon::ThreadPool,
    progress: &'a dyn Progress,
    stop: &'a Stop,
}

/// A tensor's size in a pass.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Elements.
    pub elements: u64,
    /// Bytes that are held for one element, read, decoded and written, at most.
    pub element_bytes: usize,
    /// Bytes read and written in all, for the progress bar.
    pub traffic: u64,
}

/// Whole blocks of a tensor.
#[derive(Clone, Debug)]
pub struct Run {
    /// Index of the tensor.
    pub tensor: usize,
    /// Elements; begins at a block's border.
    pub elements: Range<u64>,
}

impl<'a> Stream<'a> {
    /// Starts the compute threads.
    pub fn new(threads: usize, progress: &'a dyn Progress, stop: &'a Stop) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("compute-{i}"))
            .build()
            .map_err(|e| Error::Usage(format!("cannot start {threads} threads: {e}")))?;
        Ok(Self { pool, progress, stop })
    }

    /// Peak memory of a pass over such tensors, `worker_bytes` for each compute thread included.
    pub fn peak_bytes(threads: usize, largest_element: usize, worker_bytes: usize) -> u64 {
        let jobs = jobs_under_way(threads) * (STREAM_JOB_BYTES.max(BLOCK * largest_element) + 8 * MAP_SLOP_BYTES);
        (FIXED_BYTES + jobs + threads * worker_bytes) as u64
    }

    /// Shows every run of every tensor to the closures that `worker` makes, one for each compute thread, and their
    /// results to `write`, in order.
    pub fn over<R: Send, W: FnMut(&Run) -> Result<R>>(
        &self,
        name: &str,
        extents: &[Extent],
        counter: &Counter,
        worker: impl Fn() -> W + Sync,
        mut write: impl FnMut(&Run, R) -> Result<()>,
    ) -> Result<PassRun> {
        let total: u64 = extents.iter().map(|e| e.traffic).sum();
        self.progress.begin(name, total);
        let start = Instant::now();
        let largest = extents.iter().map(|e| e.element_bytes).max().unwrap_or(1);
        let threads = self.pool.current_num_threads();
        let window =
            Window::new(jobs_under_way(threads) * (STREAM_JOB_BYTES.max(BLOCK * largest) + 8 * MAP_SLOP_BYTES));
        let pipeline = Pipeline { pool: &self.pool, window: &window, stop: self.stop };
        let result = pipeline.run(
            jobs(extents),
            |_| {},
            |_| {
                let mut one = worker();
                move |runs: &Vec<Run>| runs.iter().map(&mut one).collect::<Result<Vec<R>>>()
            },
            |runs, results: Vec<R>| {
                for (run, result) in runs.iter().zip(results) {
                    write(run, result)?;
                    self.progress.advance(share(&extents[run.tensor], run));
                }
                Ok(())
            },
        );
        self.progress.end();
        result?;
        Ok(PassRun { name: name.to_owned(), bytes_read: counter.get(), seconds: start.elapsed().as_secs_f64() })
    }
}

fn share(extent: &Extent, run: &Run) -> u64 {
    let part = (run.elements.end - run.elements.start) as f64 / extent.elements.max(1) as f64;
    (extent.traffic as f64 * part) as u64
}

fn jobs_under_way(threads: usize) -> usize {
    threads * (1 + 2 * QUEUE_JOBS_PER_THREAD) + 2
}

fn jobs(extents: &[Extent]) -> impl Iterator<Item = (usize, Vec<Run>)> + Send {
    let mut runs = extents.iter().enumerate().flat_map(|(tensor, e)| runs(tensor, e)).peekable();
    std::iter::from_fn(move || {
        let (mut job, mut bytes) = (Vec::new(), 0);
        while let Some((_, size)) = runs.peek() {
            if !job.is_empty() && bytes + size > STREAM_JOB_BYTES {
                break;
            }
            bytes += size + 2 * MAP_SLOP_BYTES;
            job.extend(runs.next().map(|(run, _)| run));
        }
        (!job.is_empty()).then_some((bytes, job))
    })
}

fn runs(tensor: usize, e: &Extent) -> impl Iterator<Item = (Run, usize)> + use<> {
    let (elements, size) = (e.elements, e.element_bytes.max(1));
    let step = (STREAM_JOB_BYTES / size / BLOCK).max(1) as u64 * BLOCK as u64;
    (0..elements.div_ceil(step)).map(move |i| {
        let range = i * step..((i + 1) * step).min(elements);
        let bytes = (range.end - range.start) as usize * size;
        (Run { tensor, elements: range }, bytes)
    })
}
