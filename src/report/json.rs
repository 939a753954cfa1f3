//! `taskvec.json`: what was done to each tensor, from what, to what.
//!
//! Two runs of the same merge differ in the fields under `run` only.

use crate::pass::PassRun;
use serde::Serialize;

/// The report; `schema_version` 1.
#[derive(Debug, Serialize)]
pub struct Report {
    /// 1.
    pub schema_version: u32,
    /// `taskvec`.
    pub tool: &'static str,
    /// The tool's version.
    pub version: &'static str,
    /// blake3 of everything that decides the output's bytes, input headers included.
    pub plan_id: String,
    /// blake3 of the recipe's text.
    pub recipe_blake3: String,
    /// The models, base first.
    pub inputs: Vec<InputReport>,
    /// The effective settings, overrides included.
    pub settings: serde_json::Value,
    /// The layers with their scores; empty without LwPTV.
    pub layers: Vec<LayerReport>,
    /// Per task the score above which a layer is kept; `null` where eta keeps all or none.
    pub thresholds: Vec<Option<f64>>,
    /// Every output tensor, in file order.
    pub tensors: Vec<TensorReport>,
    /// Every file of the output but this one.
    pub outputs: Vec<OutputFile>,
    /// How far a value is at most from that of the merge of the exact models, before rounding and for the same mask;
    /// `null` if no input is lossy, or if the method says nothing.
    pub merge_error_bound: Option<f64>,
    /// The merges whose results were merged here, in order; absent where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<StageReport>,
    /// What the run cost; without that of `stages`.
    pub run: RunReport,
}

/// A merge whose result a later one took.
#[derive(Debug, Serialize)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// Whether its result was made as it was read: then it has no outputs.
    pub fused: bool,
    /// What was done.
    pub report: Report,
}

/// A model that was read.
#[derive(Debug, Serialize)]
pub struct InputReport {
    /// `base`, `expert`, `copied`, or `stage`: read by a fused stage.
    pub role: &'static str,
    /// Where it was found.
    pub path: String,
    /// Where its adapter was found; `null` if it has none.
    pub adapter: Option<String>,
    /// Its weight files, those of its adapter last.
    pub files: Vec<InputFile>,
    /// How far a value is at most from that of the model that a lossy delta file stands for; `null` if exact.
    pub error_bound: Option<f64>,
}

/// A file that was read.
#[derive(Debug, Serialize)]
pub struct InputFile {
    /// Name in the model's folder.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// Hash; `null` with `--no-input-hashes`.
    pub blake3: Option<String>,
}

/// A layer's scores.
#[derive(Debug, Serialize)]
pub struct LayerReport {
    /// Its name.
    pub name: String,
    /// Its tensors.
    pub tensors: Vec<String>,
    /// Elements.
    pub elements: u64,
    /// Per task.
    pub scores: Vec<f64>,
    /// Per task: its own mask.
    pub kept_by: Vec<bool>,
    /// The shared mask.
    pub kept: bool,
}

/// What was done to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TensorAction {
    /// Computed.
    Merged,
    /// The base's, because the mask prunes its layer.
    Pruned,
    /// Taken over.
    Copied,
}

/// An output tensor.
#[derive(Debug, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its dtype in the output.
    pub dtype: String,
    /// What was done.
    pub action: TensorAction,
    /// Why.
    pub reason: &'static str,
    /// Elements that differ from the base as stored; `null` where the base was not read.
    pub elements_changed: Option<u64>,
    /// The largest difference from the base.
    pub max_abs_delta: Option<f32>,
}

/// A file that was written.
#[derive(Debug, Serialize)]
pub struct OutputFile {
    /// Name in the output.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// Hash.
    pub blake3: String,
}

/// What the run cost.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// The passes.
    pub passes: Vec<PassRun>,
    /// Bytes written to weight files.
    pub bytes_written: u64,
    /// Bytes of tensors that were taken from outputs of earlier merges, which had made the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_reused: Option<u64>,
    /// Bytes of these, and of their deltas, that went from file to file inside the kernel: no pass read them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_moved: Option<u64>,
    /// The largest resident set, mapped pages included.
    pub peak_rss_bytes: u64,
    /// From start to before publishing.
    pub seconds: f64,
    /// Compute threads.
    pub threads: usize,
    /// The budget.
    pub memory_bytes: u64,
    /// blake3 of what this very run was made of: the plan, and the identities of the input files on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume_id: Option<String>,
}
