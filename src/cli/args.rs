//! The arguments of all commands.

use super::batch::BatchArgs;
use super::compare::CompareArgs;
use super::delta_args::{ApplyArgs, DiffArgs, StoreArgs, VerifyArgs};
use super::part::{CommitArgs, PartArgs, ReduceArgs, StatusArgs};
use super::report::{ExplainArgs, ReportArgs};
use super::submit::SubmitArgs;
use super::sweep::SweepArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Merge fine-tuned checkpoints of one base model, out of core, with layer-wise pruning of task vectors (LwPTV).
#[derive(Debug, Parser)]
#[command(name = "taskvec", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Merge models into OUT.
    Merge(MergeArgs),
    /// Say what a merge would do: tensors, layers, passes, bytes, peak memory, disk. Reads headers only.
    Plan(PlanArgs),
    /// Do one part of a merge that several machines share (`plan --partitions`).
    Part(PartArgs),
    /// Join what the parts have gathered in a round.
    Reduce(ReduceArgs),
    /// Check what all parts have written, and publish the output.
    Commit(CommitArgs),
    /// Tell how far a merge on several machines is, and what comes next.
    Status(StatusArgs),
    /// Print what hands a merge to a scheduler: Slurm, Kubernetes.
    Submit(SubmitArgs),
    /// Run many merges from one file: jobs, overrides and matrices.
    Batch(BatchArgs),
    /// Merge one recipe with many etas and lambdas, and measure the results.
    Sweep(SweepArgs),
    /// Run pass 1 only: scores, thresholds and masks of every layer and task.
    Saliency(SaliencyArgs),
    /// Write the delta file from a base to a fine-tuned model.
    Diff(DiffArgs),
    /// Restore the fine-tuned model behind a delta file, byte for byte.
    Apply(ApplyArgs),
    /// Check hashes and structure of a delta file or a merged model.
    Verify(VerifyArgs),
    /// Keep many delta files in one folder, each payload once.
    Store(StoreArgs),
    /// Show what a checkpoint, a delta file or a merged model holds.
    Inspect(InspectArgs),
    /// Say how models differ from a base, and their task vectors from each other.
    Compare(CompareArgs),
    /// Draw what a merge did: one HTML file that works offline.
    Report(ReportArgs),
    /// Tell in a few lines what a merge did.
    Explain(ExplainArgs),
    /// List merge methods, or explain one.
    Methods(MethodsArgs),
    /// Merge the embedded model family with and without LwPTV and measure the results.
    Demo(DemoArgs),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages.
    Man {
        /// The folder for them; made if it does not exist.
        dir: PathBuf,
    },
}

/// Arguments of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// How progress is shown.
    #[arg(long, global = true, value_enum, default_value_t = ProgressKind::Auto)]
    pub progress: ProgressKind,
    /// Print errors and results only.
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Log more (twice: still more).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressKind {
    /// Bars on a terminal, plain lines elsewhere.
    Auto,
    /// A line every few seconds.
    Plain,
    /// A JSON object a line, on stderr.
    Json,
    /// Nothing.
    None,
}

#[derive(Debug, Args)]
pub struct PublishArgs {
    /// Replace OUT once the new output is whole.
    #[arg(long)]
    pub overwrite: bool,
    /// Go on where a run that was interrupted has stopped. An output that is whole is left as it is.
    #[arg(long)]
    pub resume: bool,
    /// Read the output back from the disk and compare hashes before it gets its name; with --cache, also what is taken from
    /// earlier outputs.
    #[arg(long)]
    pub paranoid: bool,
    /// Seconds between two notes of what is done, at least (for tests).
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, hide = true)]
    pub journal_every: f64,
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is one flag")]
pub struct MergeArgs {
    /// RECIPE.yml OUT; or OUT alone with --method and --model.
    #[arg(value_name = "RECIPE.yml OUT", num_args = 1..=2, required = true)]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Where to write the delta file of the output [default: OUT/merged.tvd].
    #[arg(long, value_name = "PATH", conflicts_with = "no_delta")]
    pub delta: Option<PathBuf>,
    /// Write which elements count as which expert's, of consensus_ta and tall_mask, to this safetensors file.
    #[arg(long, value_name = "PATH")]
    pub masks: Option<PathBuf>,
    /// Write no delta file.
    #[arg(long)]
    pub no_delta: bool,
    /// Do not hash the inputs while they are read.
    #[arg(long)]
    pub no_input_hashes: bool,
    #[command(flatten)]
    pub publish: PublishArgs,
    /// Keep in this file what is known of tensors of inputs and outputs, so that the next merge reads and makes only what depends
    /// on tensors that have changed.
    #[arg(long, value_name = "FILE")]
    pub cache: Option<PathBuf>,
    /// Copy no tokenizer files, unless the recipe settles the tokens.
    #[arg(long)]
    pub no_copy_tokenizer: bool,
    /// Write no model card.
    #[arg(long)]
    pub no_write_model_card: bool,
    /// Print the plan and stop.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub old: OldFlags,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The recipe; or --method and --model.
    #[arg(value_name = "RECIPE.yml")]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Print the weights of this merge as a file of coefficients, to be edited or learnt.
    #[arg(long)]
    pub coefficients: bool,
    /// Plan a merge that writes no delta file.
    #[arg(long)]
    pub no_delta: bool,
    /// Write the plan of a merge on several machines into this folder, where its parts and the output will lie.
    #[arg(long, value_name = "RUN", requires = "partitions", conflicts_with = "coefficients")]
    pub out: Option<PathBuf>,
    /// Cut the merge into so many parts.
    #[arg(long, value_name = "P", requires = "out")]
    pub partitions: Option<usize>,
}

#[derive(Debug, Args)]
pub struct SaliencyArgs {
    /// The recipe; or --method and --model.
    #[arg(value_name = "RECIPE.yml")]
    pub path: Option<PathBuf>,
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Also draw the scores and masks into this SVG file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// What to merge, where no recipe says it; and what overrides the recipe.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// Merge method, in place of a recipe.
    #[arg(long, value_name = "NAME", requires = "model")]
    pub method: Option<String>,
    /// Base model, in place of a recipe.
    #[arg(long, value_name = "MODEL", requires = "method")]
    pub base: Option<String>,
    /// A model to merge, with its weight; may be given many times.
    #[arg(long, value_name = "MODEL[=WEIGHT]", requires = "method")]
    pub model: Vec<String>,
    /// A parameter of the method; may be given many times.
    #[arg(long = "set", value_name = "NAME=VALUE", requires = "method")]
    pub set: Vec<String>,
    /// Dtype of the output (float32, float16, bfloat16), in place of a recipe.
    #[arg(long, value_name = "DTYPE", requires = "method")]
    pub dtype: Option<String>,
    /// Fraction of layers that LwPTV prunes per task, 0 to 1; overrides the recipe.
    #[arg(long, value_name = "RATIO", allow_negative_numbers = true)]
    pub eta: Option<f64>,
    /// Ignore the recipe's lwptv block.
    #[arg(long, conflicts_with = "eta")]
    pub no_lwptv: bool,
    /// Follow links that leave a model's folder.
    #[arg(long)]
    pub follow_links: bool,
}

/// How the inputs of several merges are read.
#[derive(Debug, Args)]
pub struct InputArgs {
    /// Do not hash the inputs while they are read.
    #[arg(long)]
    pub no_input_hashes: bool,
    /// Follow links that leave a model's folder.
    #[arg(long)]
    pub follow_links: bool,
}

#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Peak memory, mapped pages included: 512MiB, 2GB [default: 1GiB, or 3/4 of what machine, cgroup and ulimit allow].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Compute threads [default: all cores].
    #[arg(short = 'j', long, value_name = "N")]
    pub num_threads: Option<usize>,
    /// Tensor bytes of an output file, at most: 5B (billion), 200MB, 4.5GiB.
    #[arg(long, value_name = "SIZE", default_value = "5B")]
    pub out_shard_size: String,
    /// Seed of random choices.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub random_seed: u64,
    /// Let NaN and infinities pass.
    #[arg(long)]
    pub allow_non_finite: bool,
    /// How inputs are read: mmap, or pread for network file systems.
    #[arg(long, value_enum, default_value_t = IoKind::Mmap)]
    pub io: IoKind,
    /// Elements of a tile, at most (for tests: the output does not depend on it).
    #[arg(long, value_name = "N", hide = true)]
    pub tile_elements: Option<usize>,
    /// Whether stages are fused that can be (for tests: the output does not depend on it).
    #[arg(long, value_name = "BOOL", hide = true)]
    pub fuse: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IoKind {
    Mmap,
    Pread,
}

/// Flags of mergekit that have no meaning here, accepted so that old scripts run.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is one flag of another program")]
pub struct OldFlags {
    #[arg(long, hide = true)]
    pub lazy_unpickle: bool,
    #[arg(long, hide = true)]
    pub cuda: bool,
    #[arg(long, hide = true)]
    pub low_cpu_memory: bool,
    #[arg(long, hide = true)]
    pub clone_tensors: bool,
    #[arg(long, hide = true)]
    pub trust_remote_code: bool,
    #[arg(long, hide = true)]
    pub copy_tokenizer: bool,
    #[arg(long, hide = true)]
    pub write_model_card: bool,
    #[arg(long, hide = true)]
    pub allow_crimes: bool,
    #[arg(long, hide = true)]
    pub async_write: bool,
    #[arg(long, hide = true)]
    pub read_to_gpu: bool,
    #[arg(long, hide = true)]
    pub multi_gpu: bool,
    #[arg(long, hide = true)]
    pub gpu_rich: bool,
    #[arg(long, hide = true, value_name = "N")]
    pub write_threads: Option<String>,
    #[arg(long, hide = true, value_name = "DEVICE")]
    pub device: Option<String>,
    #[arg(long, hide = true, value_name = "PATH")]
    pub transformers_cache: Option<String>,
    #[arg(long, hide = true, value_name = "PATH")]
    pub lora_merge_cache: Option<String>,
    #[arg(long, hide = true, value_name = "DTYPE")]
    pub lora_merge_dtype: Option<String>,
}

impl OldFlags {
    /// The names of those that were given.
    pub fn given(&self) -> Vec<&'static str> {
        [
            (self.lazy_unpickle, "--lazy-unpickle"),
            (self.cuda, "--cuda"),
            (self.low_cpu_memory, "--low-cpu-memory"),
            (self.clone_tensors, "--clone-tensors"),
            (self.trust_remote_code, "--trust-remote-code"),
            (self.copy_tokenizer, "--copy-tokenizer"),
            (self.write_model_card, "--write-model-card"),
            (self.allow_crimes, "--allow-crimes"),
            (self.async_write, "--async-write"),
            (self.read_to_gpu, "--read-to-gpu"),
            (self.multi_gpu, "--multi-gpu"),
            (self.gpu_rich, "--gpu-rich"),
            (self.write_threads.is_some(), "--write-threads"),
            (self.device.is_some(), "--device"),
            (self.transformers_cache.is_some(), "--transformers-cache"),
            (self.lora_merge_cache.is_some(), "--lora-merge-cache"),
            (self.lora_merge_dtype.is_some(), "--lora-merge-dtype"),
        ]
        .into_iter()
        .filter_map(|(given, name)| given.then_some(name))
        .collect()
    }
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A folder, a .safetensors file, a shard index, a delta file or a Hugging Face id; with the feature `remote` a URL.
    pub path: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Follow links that leave the model's folder.
    #[arg(long)]
    pub follow_links: bool,
}

#[derive(Debug, Args)]
pub struct MethodsArgs {
    /// The method to explain.
    pub name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Print docs/methods.md.
    #[arg(long, conflicts_with_all = ["name", "json"])]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the models are written and kept [default: a temporary folder, removed at the end].
    pub out: Option<PathBuf>,
    /// Run every setting of the family's expected.json instead of eight.
    #[arg(long)]
    pub all: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
