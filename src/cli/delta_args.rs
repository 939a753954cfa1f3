//! Arguments of the commands about delta files.

use super::args::{IoKind, PublishArgs};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use taskvec::codec::Coding;
use taskvec::codec::lossy::Scheme;

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The base: a folder, a .safetensors file, a shard index or a Hugging Face id.
    pub base: String,
    /// The fine-tuned model.
    pub model: String,
    /// The delta file to write.
    #[arg(short, long, value_name = "X.tvd")]
    pub output: PathBuf,
    /// Take what this delta file makes of BASE in place of BASE itself.
    #[arg(long, value_name = "DELTA")]
    pub on: Option<PathBuf>,
    /// How blocks are coded. Exactly: auto (the smallest of those worth a trial), s2 (the difference, grouped by the
    /// base's exponents), s1 (byte planes of the difference: faster, larger), raw (not coded). With loss, and its bound
    /// declared: tvq8, tvq4, tvq3, tvq2 (-g128: a scale for each 128 elements, not each row), sign1, ternary-DENSITY,
    /// tall-LAMBDA (with --on). See docs/delta.md.
    #[arg(long, default_value = "auto", value_parser = coding)]
    pub codec: Coding,
    #[command(flatten)]
    pub files: FileArgs,
    /// Replace the output once the new one is whole.
    #[arg(long)]
    pub overwrite: bool,
    /// Go on where a run that was interrupted has stopped. A delta file that is whole is left as it is.
    #[arg(long)]
    pub resume: bool,
    /// Seconds between two notes of what is done, at least (for tests).
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, hide = true)]
    pub journal_every: f64,
}

fn coding(name: &str) -> Result<Coding, String> {
    let names = Scheme::NAMES.join(", ");
    let problem = || {
        format!(
            "expected auto, s1, s2 or raw (exact), or {names} (lossy; also ternary-0.1 with the share of elements kept, tall-0.3 with lambda)"
        )
    };
    Coding::from_name(name).ok_or_else(problem)
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The base that the delta was made from.
    pub base: String,
    /// The delta file.
    pub delta: PathBuf,
    /// The folder to write the model to.
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// How much is checked.
    #[arg(long, value_enum, default_value_t = VerifyKind::Full)]
    pub verify: VerifyKind,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub publish: PublishArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VerifyKind {
    /// Structure and the checksums of blocks.
    None,
    /// Also the hash of every restored tensor.
    Fast,
    /// Also, first, the hash of every tensor of the base.
    Full,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// A delta file, or the folder of a merged model.
    pub path: PathBuf,
    /// The base of the delta file: also restore every tensor and compare its hash.
    #[arg(long, value_name = "BASE")]
    pub against: Option<String>,
    /// Also make a share of a merged model again from its inputs, and compare the bytes.
    #[arg(long, conflicts_with = "against")]
    pub deep: bool,
    /// The share of its elements, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, requires = "deep")]
    pub share: f64,
    /// Which elements: another number, others.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "deep")]
    pub seed: u64,
    /// The folder that relative paths of the recipe start from [default: as in the report].
    #[arg(long, value_name = "DIR", requires = "deep")]
    pub recipe_folder: Option<PathBuf>,
    #[command(flatten)]
    pub files: FileArgs,
}

#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    pub command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Take in a delta file.
    Add {
        /// The store's folder; made if it does not exist.
        dir: PathBuf,
        /// The delta file; it may be deleted afterwards.
        delta: PathBuf,
        /// What to call it [default: the file's name without .tvd].
        #[arg(long)]
        name: Option<String>,
        /// Go on where an interrupted run has stopped: payloads that are there are hashed again. A delta that is in the
        /// store by this name is left as it is.
        #[arg(long)]
        resume: bool,
    },
    /// List what is there.
    List {
        /// The store's folder.
        dir: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write a delta file out again, the very bytes that were added.
    Get {
        /// The store's folder.
        dir: PathBuf,
        /// Its name there.
        name: String,
        /// The delta file to write.
        #[arg(short, long, value_name = "X.tvd")]
        output: PathBuf,
        /// Replace the output once the new one is whole.
        #[arg(long)]
        overwrite: bool,
    },
    /// Remove payloads that no delta uses.
    Gc {
        /// The store's folder.
        dir: PathBuf,
        /// Forget this delta first; may be given many times.
        #[arg(long = "drop", value_name = "NAME")]
        drop: Vec<String>,
    },
}

/// How files are read, where there is no recipe.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// Compute threads [default: all cores].
    #[arg(short = 'j', long, value_name = "N")]
    pub num_threads: Option<usize>,
    /// How inputs are read: mmap, or pread for network file systems.
    #[arg(long, value_enum, default_value_t = IoKind::Mmap)]
    pub io: IoKind,
    /// Follow links that leave a model's folder.
    #[arg(long)]
    pub follow_links: bool,
}
