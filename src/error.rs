//! One error type for the whole library. Each message names the file and tensor, what was expected, what was found, and
//! what to do next; `main` prints it and takes the exit code from [`Error::exit_code`].

use crate::tensor::Bytes;
use std::path::{Path, PathBuf};

/// Shorthand for results of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// All that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum Error {
    /// A recipe that cannot be understood or asks for what cannot be.
    #[error("{place}: {problem}")]
    Recipe { place: String, problem: String },

    /// Flags that contradict each other or hold bad values.
    #[error("{0}")]
    Usage(String),

    /// A file whose content breaks its format.
    #[error("{}: {problem}", path.display())]
    Malformed { path: PathBuf, problem: String },

    /// One tensor of a file that breaks the format.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    BadTensor { path: PathBuf, tensor: String, problem: String },

    /// Models that do not fit together; `table` lists how.
    #[error("the models do not fit together:\n{table}\n{hint}")]
    Mismatch { table: String, hint: String },

    /// NaN or infinity where a number is needed.
    #[error(
        "{}: tensor `{tensor}`: element {index} is {value}; expected finite numbers. Repair the checkpoint, or pass --allow-non-finite",
        path.display()
    )]
    NonFinite { path: PathBuf, tensor: String, index: u64, value: f32 },

    /// A merged value beyond the output dtype's range.
    #[error(
        "tensor `{tensor}`: merged element {index} is {value}, which {dtype} cannot hold. Choose a wider out_dtype, smaller weights, or pass --allow-non-finite"
    )]
    Overflow { tensor: String, index: u64, value: f32, dtype: String },

    /// Integer or bool tensors that differ between models.
    #[error(
        "{}: tensor `{tensor}` ({dtype}) differs from the one in {} at element {index}; integer and bool tensors are copied, so they must be equal in all models",
        path.display(), other.display()
    )]
    CopiedDiffers { path: PathBuf, other: PathBuf, tensor: String, dtype: String, index: u64 },

    /// An input that is not there or not a regular file.
    #[error("{}: {problem}", path.display())]
    InputMissing { path: PathBuf, problem: String },

    /// An input that changed while it was read.
    #[error("{}: the file changed while it was read ({what}); nothing was published. Run again when nobody writes to it", path.display())]
    InputChanged { path: PathBuf, what: String },

    /// An output that is already there.
    #[error("{}: {problem}", path.display())]
    OutputExists { path: PathBuf, problem: String },

    /// Another process works on the same output.
    #[error("{}: another taskvec is working on this output; try again when it has ended", path.display())]
    Locked { path: PathBuf },

    /// A stage of a merge on several machines that needs what others have not done yet.
    #[error("{}: {problem}", path.display())]
    NotReady { path: PathBuf, problem: String },

    /// A disk that is too small.
    #[error("{}: the output needs {needed}, the disk has {free} free; free some space or choose another folder", path.display())]
    NoSpace { path: PathBuf, needed: Bytes, free: Bytes },

    /// A budget that is too small for the plan.
    #[error("--memory {given} is too small: this merge needs {needed} at least")]
    BudgetTooSmall { given: Bytes, needed: Bytes },

    /// A budget that is too small for the plan, but would do without the output's delta file.
    #[error(
        "--memory {given} is too small to write the output's delta file: that needs {needed} at least; pass --no-delta"
    )]
    DeltaBudgetTooSmall { given: Bytes, needed: Bytes },

    /// A plan that does not fit into the machine.
    #[error("the plan's peak is {needed} of memory, {available} is available ({limit}); pass a smaller --memory")]
    NoMemory { needed: Bytes, available: Bytes, limit: String },

    /// The operating system refused.
    #[error("{}: {action}: {source}", path.display())]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },

    /// A hash that is not the one on record.
    #[error("{}: {what}: expected hash {expected}, got {got}. {hint}", path.display())]
    HashDiffers { path: PathBuf, what: String, expected: String, got: String, hint: &'static str },

    /// The user stopped the run.
    #[error("stopped by signal {signal}; nothing was published")]
    Interrupted { signal: i32 },

    /// Jobs of a batch have failed; the others went on.
    #[error("{failed} of {jobs} jobs failed")]
    Batch { failed: usize, jobs: usize, exit_code: u8 },

    /// A run that ended early and has kept what is done.
    #[error("{problem}. What is done is kept in {}: run again with --resume to go on", path.display())]
    Unfinished { path: PathBuf, problem: Box<Error> },
}

impl Error {
    /// The documented exit code (docs/reliability.md).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Recipe { .. }
            | Self::Usage(_)
            | Self::BudgetTooSmall { .. }
            | Self::DeltaBudgetTooSmall { .. }
            | Self::NoMemory { .. } => 2,
            Self::Malformed { .. }
            | Self::BadTensor { .. }
            | Self::Mismatch { .. }
            | Self::NonFinite { .. }
            | Self::Overflow { .. }
            | Self::CopiedDiffers { .. } => 65,
            Self::InputMissing { .. } | Self::InputChanged { .. } => 66,
            Self::OutputExists { .. } => 73,
            Self::NoSpace { .. } | Self::Io { .. } => 74,
            Self::Locked { .. } | Self::NotReady { .. } => 75,
            Self::HashDiffers { .. } => 76,
            Self::Interrupted { signal } => 128 + *signal as u8,
            Self::Unfinished { problem, .. } => problem.exit_code(),
            Self::Batch { exit_code, .. } => *exit_code,
        }
    }

    /// Whether the same run can go on later: it was stopped, or the disk or the system failed, not the input.
    pub fn can_resume(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::Io { .. } | Self::NoSpace { .. })
    }

    /// Wraps an operating-system error with the path and the action that failed.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }

    /// A recipe error at `place`.
    pub fn recipe(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Recipe { place: place.into(), problem: problem.into() }
    }

    /// A format error in `path`.
    pub fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), problem: problem.into() }
    }
}
