//! The engine: the only threads and channels. It reads, computes and writes side by side, in jobs of a few mebibytes,
//! under a byte budget, and knows no method: a pass either feeds a statistic or merges.

mod adapter;
mod bytes;
mod contents;
mod decode;
mod elements;
mod encode;
mod gather;
mod held;
mod job;
mod lossy;
mod merge;
mod output;
mod pipeline;
mod progress;
mod reused;
mod rounds;
mod runs;
mod scratch;
mod stage;
mod stream;
mod survey;
mod window;

pub use contents::{Content, Contents};
pub use decode::{Decoder, Wanted};
pub use elements::Elements;
pub use encode::{CodedRun, Coder, RunStatistics, Sides};
pub use job::{Cut, Source, Work};
pub use merge::{Action, Copied, Follower, How, Merge, Outcome, Reason, Target, TensorHashes};
pub use progress::{Progress, Silent, Stop};
pub use reused::{Reused, ReusedTensor};
pub use rounds::Rounds;
pub use stage::Stage;
pub use stream::{Extent, Run, Stream};

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::source::{Counter, Files, HashState, PieceHash};
use held::Held;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use window::Window;

/// Pieces that are asked for ahead of their hashing.
const PREPARED_PIECES: usize = 4;

/// What a pass cost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PassRun {
    /// Its name.
    pub name: String,
    /// Bytes of tensors read from the inputs.
    pub bytes_read: u64,
    /// Seconds from first to last byte.
    pub seconds: f64,
}

impl PassRun {
    /// The same pass over more tensors.
    pub fn join(&mut self, more: &Self) {
        self.bytes_read += more.bytes_read;
        self.seconds += more.seconds;
    }
}

/// Runs the passes of one plan.
pub struct Engine<'a> {
    plan: &'a Plan,
    files: &'a Files,
    pool: Arc<rayon::ThreadPool>,
    window: Window,
    progress: &'a dyn Progress,
    stop: &'a Stop,
    /// One per file, if inputs are hashed.
    hashes: Option<Arc<Vec<PieceHash>>>,
    /// The tensors of the inputs that are hashed by themselves.
    contents: Option<Contents>,
    /// What a later pass need not read again.
    held: Option<Held>,
    /// Which elements are kept, if they are pruned one by one.
    elements: Option<Elements>,
    /// What fills embeddings up behind their last token.
    padding: gather::Padding,
    /// The plan's fused stages.
    stages: Vec<Stage<'a>>,
    /// Who shares the passes over the whole model, if this machine does not make them alone.
    rounds: Option<&'a dyn Rounds>,
    /// What an earlier merge has computed.
    reused: Reused,
}

impl<'a> Engine<'a> {
    /// Starts the compute threads.
    pub fn new(
        plan: &'a Plan,
        files: &'a Files,
        hash_inputs: bool,
        progress: &'a dyn Progress,
        stop: &'a Stop,
    ) -> Result<Self> {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(plan.options.threads);
        let pool = builder
            .thread_name(|i| format!("compute-{i}"))
            .build()
            .map_err(|e| Error::Usage(format!("cannot start {} threads: {e}", plan.options.threads)))?;
        let pool = Arc::new(pool);
        let hashes = hash_inputs.then(|| Arc::new(plan.files.iter().map(|f| PieceHash::new(f.bytes)).collect()));
        let window = Window::new(plan.budget.window_bytes);
        let (padding, stages) = (gather::Padding::new(), Vec::new());
        let (reused, rounds, contents, held, elements) = (Reused::default(), None, None, None, None);
        Ok(Self {
            plan,
            files,
            pool,
            window,
            progress,
            stop,
            hashes,
            contents,
            held,
            elements,
            padding,
            stages,
            rounds,
            reused,
        })
    }

    /// The same files and threads for a stage that is fused into the plan.
    #[must_use]
    pub fn of_stage(&self, plan: &'a Plan) -> Self {
        Self {
            plan,
            files: self.files,
            pool: self.pool.clone(),
            window: Window::new(plan.budget.window_bytes),
            progress: self.progress,
            stop: self.stop,
            hashes: self.hashes.clone(),
            contents: None,
            held: None,
            elements: None,
            padding: gather::Padding::new(),
            stages: Vec::new(),
            rounds: None,
            reused: Reused::default(),
        }
    }

    /// The plan's fused stages, in order.
    pub fn set_stages(&mut self, stages: Vec<Stage<'a>>) {
        self.stages = stages;
    }

    /// Takes these tensors from where they are, where the merge says so.
    pub fn reuse(&mut self, reused: Reused) {
        self.reused = reused;
    }

    /// What is not computed again.
    pub fn reused(&self) -> &Reused {
        &self.reused
    }

    /// Prunes elements from all that is read from now on.
    pub fn set_elements(&mut self, elements: Option<Elements>) {
        self.elements = elements;
    }

    /// The hashes of the inputs so far, by file, if they are hashed.
    pub fn hashes(&self) -> Option<&[PieceHash]> {
        self.hashes.as_ref().map(|h| h.as_slice())
    }

    /// Takes over what an earlier run knows of the hash of an input; `false` if that cannot be. Before fused stages are set.
    pub fn restore_hash(&mut self, file: usize, state: &HashState) -> bool {
        let hashes = self.hashes.as_mut().and_then(Arc::get_mut);
        let Some(slot) = hashes.and_then(|h| h.get_mut(file)) else { return false };
        PieceHash::restore(self.plan.files[file].bytes, state).map(|hash| *slot = hash).is_some()
    }

    /// Hashes these tensors by themselves while they are read.
    pub fn set_contents(&mut self, contents: Contents) {
        self.contents = Some(contents);
    }

    /// What is known of tensors that are hashed by themselves.
    pub fn contents(&self) -> Option<&Contents> {
        self.contents.as_ref()
    }

    /// Holds what is read from now on, as far as the plan has memory left.
    pub fn hold(&mut self) {
        self.held = Some(Held::new(self.plan.budget.held_bytes));
    }

    /// Holds no more of what is read.
    pub fn hold_no_more(&self) {
        self.held.iter().for_each(Held::close);
    }

    /// Shares the passes over the whole model with other machines from now on.
    pub fn set_rounds(&mut self, rounds: Option<&'a dyn Rounds>) {
        self.rounds = rounds;
    }

    /// Whether passes are shared with other machines.
    pub fn is_shared(&self) -> bool {
        self.rounds.is_some()
    }

    /// Hashes the inputs into these, one per file.
    pub fn set_hashes(&mut self, hashes: Vec<PieceHash>) {
        self.hashes = Some(Arc::new(hashes));
    }

    /// Takes over the hash of an input. Before fused stages are set.
    pub fn know_hash(&mut self, file: usize, hash: blake3::Hash) {
        let hashes = self.hashes.as_mut().and_then(Arc::get_mut);
        if let Some(slot) = hashes.and_then(|h| h.get_mut(file)) {
            *slot = PieceHash::known(self.plan.files[file].bytes, hash);
        }
    }

    /// The inputs.
    pub fn files(&self) -> &Files {
        self.files
    }

    /// Ends input hashing: reads what no pass has read (headers, copied tensors) and returns one hash per file.
    pub fn finish_hashes(&mut self) -> Result<(Option<Vec<blake3::Hash>>, PassRun)> {
        // Fused stages hold the hashes too.
        self.stages.clear();
        let run = self.hash_rest()?;
        let Some(hashes) = self.hashes.take() else { return Ok((None, run)) };
        let hashes = Arc::into_inner(hashes).expect("no fused stage reads any more");
        Ok((Some(hashes.into_iter().map(PieceHash::finish).collect()), run))
    }

    /// Reads what no pass has read and hashes it, if inputs are hashed.
    pub fn hash_rest(&self) -> Result<PassRun> {
        let start = Instant::now();
        let counter = Counter::default();
        let mut buffer = Vec::new();
        let hashes = self.hashes().unwrap_or_default();
        let piece = self.plan.budget.job_bytes as u64;
        let gaps =
            hashes.iter().enumerate().flat_map(|(file, hash)| hash.missing().into_iter().map(move |g| (file, g)));
        let cut = gaps.flat_map(|(file, gap)| {
            let starts = (gap.start..gap.end).step_by(piece as usize);
            starts.map(move |at| (file, at, piece.min(gap.end - at) as usize))
        });
        let pieces: Vec<_> = cut.collect();
        let mut ahead = pieces.iter().map(|&(file, at, bytes)| self.files.prepare(file, at, bytes));
        let mut under_way: VecDeque<_> = ahead.by_ref().take(PREPARED_PIECES).collect();
        for &(file, at, bytes) in &pieces {
            self.stop.check()?;
            let span = self.files.span(file, at, bytes, &mut buffer, &counter)?;
            self.hash_input(file, at, &span);
            under_way.pop_front();
            under_way.extend(ahead.next());
        }
        let name = if self.hashes.is_some() { "hash the rest" } else { "hash" };
        Ok(PassRun { name: name.into(), bytes_read: counter.get(), seconds: start.elapsed().as_secs_f64() })
    }
}
