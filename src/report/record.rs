//! A `taskvec.json` that was read back. Anyone may have written it: lengths are checked here, texts are escaped where
//! they are shown.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// Scores and masks that a page can show, at most.
const CELLS_MAX: usize = 400_000;

/// No pass takes longer: 30 years.
const SECONDS_MAX: f64 = 1e9;

/// What a merge did.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    schema_version: u32,
    pub(super) version: String,
    pub(super) plan_id: String,
    /// blake3 of the recipe's text.
    pub recipe_blake3: String,
    /// The models, base first.
    pub inputs: Vec<Input>,
    pub(super) settings: Value,
    pub(super) layers: Vec<Layer>,
    pub(super) thresholds: Vec<Option<f64>>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) outputs: Vec<File>,
    pub(super) merge_error_bound: Option<f64>,
    #[serde(default)]
    pub(super) stages: Vec<Stage>,
    pub(super) run: Cost,
}

/// A model that was read.
#[derive(Clone, Debug, Deserialize)]
pub struct Input {
    /// `base`, `expert` or `copied`.
    pub role: String,
    /// Where it was.
    pub path: String,
    /// Where its adapter was.
    pub adapter: Option<String>,
    /// Its files.
    pub files: Vec<File>,
    pub(super) error_bound: Option<f64>,
}

/// A file that was read or written.
#[derive(Clone, Debug, Deserialize)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    pub(super) blake3: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Layer {
    pub name: String,
    pub elements: u64,
    pub scores: Vec<Option<f64>>,
    pub kept_by: Vec<bool>,
    pub kept: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub dtype: String,
    pub action: Done,
    pub elements_changed: Option<u64>,
    pub max_abs_delta: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Done {
    Merged,
    Pruned,
    Copied,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Stage {
    pub name: String,
    pub report: Box<Record>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Cost {
    pub passes: Vec<Pass>,
    pub bytes_written: u64,
    pub peak_rss_bytes: u64,
    pub seconds: f64,
    pub threads: u64,
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Pass {
    pub name: String,
    pub bytes_read: u64,
    pub seconds: f64,
}

impl Done {
    pub fn word(self) -> &'static str {
        match self {
            Self::Merged => "merged",
            Self::Pruned => "pruned",
            Self::Copied => "copied",
        }
    }
}

impl Tensor {
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n: u64, d| n.saturating_mul(*d))
    }
}

impl Record {
    /// Reads and checks the text of a report; else says what is wrong.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let version: Value = serde_json::from_slice(json).map_err(|e| format!("is not a report of taskvec: {e}"))?;
        match version["schema_version"].as_u64() {
            Some(1) => {}
            Some(v) => return Err(format!("has schema version {v}, this taskvec reads version 1")),
            None => return Err("is not a report of taskvec: it has no schema_version".into()),
        }
        let mut record: Self =
            serde_json::from_value(version).map_err(|e| format!("is not a report of taskvec: {e}"))?;
        record.check()?;
        let run = &mut record.run;
        let seconds = run.passes.iter_mut().map(|p| &mut p.seconds).chain([&mut run.seconds]);
        seconds.for_each(|s| *s = s.clamp(0.0, SECONDS_MAX));
        Ok(record)
    }

    fn check(&self) -> Result<(), String> {
        let k = self.layers.first().map_or(0, |l| l.scores.len());
        if let Some(l) = self.layers.iter().find(|l| l.scores.len() != k || l.kept_by.len() != k) {
            let got = (l.scores.len(), l.kept_by.len());
            return Err(format!("layer {:?} has {} scores and {} masks, expected {k} of each", l.name, got.0, got.1));
        }
        if !self.layers.is_empty() && self.thresholds.len() != k {
            return Err(format!("has {} thresholds, expected {k}", self.thresholds.len()));
        }
        if self.layers.len() * k.max(1) > CELLS_MAX || self.tensors.len() > CELLS_MAX {
            return Err(format!("has more than {CELLS_MAX} scores or tensors, which is more than a page can show"));
        }
        if let Some(stage) = self.stages.iter().find(|s| s.report.schema_version != 1) {
            return Err(format!(
                "stage {:?} has schema version {}, expected 1",
                stage.name, stage.report.schema_version
            ));
        }
        self.stages.iter().try_for_each(|s| s.report.check())
    }

    /// The base's model, if there is one and the recipe does not put it together from several.
    pub fn base(&self) -> Option<&Input> {
        let mut bases = self.inputs.iter().filter(|i| i.role == "base");
        bases.next().filter(|_| bases.next().is_none())
    }

    /// The models of the tasks, in order.
    pub fn experts(&self) -> Vec<&Input> {
        self.inputs.iter().filter(|i| i.role == "expert").collect()
    }

    /// The tasks' names: of the models, where each task is one.
    pub(super) fn tasks(&self) -> Vec<String> {
        let count = self.layers.first().map_or(0, |l| l.scores.len());
        let names: Vec<String> = self.experts().iter().map(|i| i.name()).collect();
        if count == names.len() || count == 0 {
            return super::short_names(&names);
        }
        (1..=count).map(|k| format!("task {k}")).collect()
    }

    pub(super) fn method(&self) -> &str {
        self.settings["merge_method"].as_str().unwrap_or("an unknown method")
    }

    pub(super) fn eta(&self) -> Option<f64> {
        self.settings["lwptv"]["eta"].as_f64()
    }

    pub(super) fn count(&self, done: Done) -> usize {
        self.tensors.iter().filter(|t| t.action == done).count()
    }

    /// Elements of all tensors, and of them those that differ from the base; `None` if a merged tensor does not say.
    pub(super) fn changed(&self) -> (u64, Option<u64>) {
        let all = self.tensors.iter().fold(0, |n: u64, t| n.saturating_add(t.elements()));
        let unknown = |t: &&Tensor| t.action == Done::Merged && t.elements_changed.is_none();
        let known = self.tensors.iter().find(unknown).is_none();
        let changed = self.tensors.iter().filter_map(|t| t.elements_changed).fold(0, u64::saturating_add);
        (all, known.then_some(changed))
    }

    /// Total length of the files of `names` that end so.
    pub(super) fn output_bytes(&self, ends: &str) -> u64 {
        self.outputs.iter().filter(|f| f.name.ends_with(ends)).fold(0, |n, f| n.saturating_add(f.bytes))
    }

    /// Whether a file was read without being hashed.
    pub(super) fn unhashed(&self) -> bool {
        self.inputs.iter().flat_map(|i| &i.files).any(|f| f.blake3.is_none())
    }

    /// By task, the layers that no other task keeps.
    pub(super) fn kept_alone(&self) -> Vec<usize> {
        let mut alone = vec![0; self.thresholds.len()];
        for l in &self.layers {
            let by: BTreeSet<usize> = (0..l.kept_by.len()).filter(|&k| l.kept_by[k]).collect();
            if let (1, Some(&k)) = (by.len(), by.first()) {
                alone[k] += 1;
            }
        }
        alone
    }
}

impl Input {
    /// As `compare` and recipes name it.
    pub fn name(&self) -> String {
        self.adapter.as_ref().map_or_else(|| self.path.clone(), |a| format!("{}+{a}", self.path))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |n, f| n.saturating_add(f.bytes))
    }
}
