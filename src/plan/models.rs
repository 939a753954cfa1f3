//! What is opened (models, files) and what is merged (sources).

use super::assemble::Models;
use crate::recipe::Recipe;
use crate::tensor::{Expected, Inventory};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One of the distinct models.
#[derive(Clone, Debug)]
pub struct PlannedModel {
    /// As the recipe names it.
    pub label: String,
    /// Where it was found.
    pub path: PathBuf,
    /// Its files, as indices into [`Plan::files`](super::Plan::files).
    pub files: Range<usize>,
    /// The folder of its adapter, if it has one.
    pub adapter: Option<PathBuf>,
    /// How far a value is at most from that of the model that it stands for, where it is a lossy delta file.
    pub error_bound: Option<f64>,
    /// The names of the models that it is made from, where it is the result of a stage.
    pub made_from: Option<Vec<String>>,
    /// Index into [`Plan::fused`](super::Plan::fused), where it is the result of a fused stage: it has no files then.
    pub fused: Option<usize>,
}

impl PlannedModel {
    /// The name that a model card gives it; of a stage's result the names of what it is made from.
    pub fn origins(&self) -> Vec<String> {
        self.made_from.clone().unwrap_or_else(|| vec![self.display_name()])
    }

    /// A hub id as it is; of a path only the last part. A model and its adapter are named alike.
    pub fn display_name(&self) -> String {
        let from_hub = self.path.iter().any(|part| part.to_string_lossy().starts_with("models--"));
        if self.made_from.is_some() {
            return self.label.clone();
        }
        self.label.split('+').map(|part| part_name(part, from_hub)).collect::<Vec<_>>().join("+")
    }
}

fn part_name(label: &str, from_hub: bool) -> String {
    if from_hub && !label.starts_with(['/', '.']) {
        return label.to_owned();
    }
    let path = Path::new(label);
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    match name(path).as_deref() {
        Some("model.safetensors" | "model.safetensors.index.json") => path.parent().and_then(name),
        other => other.map(str::to_owned),
    }
    .unwrap_or_else(|| "model".to_owned())
}

/// One place in the merge: the base, or an expert.
#[derive(Clone, Debug)]
pub struct Source {
    /// As the recipe names it; several models by commas.
    pub label: String,
    /// Indices into [`Plan::models`](super::Plan::models): where its tensors come from.
    pub models: Vec<usize>,
    /// The largest of its models' error bounds.
    pub error_bound: Option<f64>,
}

impl Source {
    /// The names of its models, which are some of `models`.
    pub fn display_name(&self, models: &[PlannedModel]) -> String {
        self.models.iter().map(|&m| models[m].display_name()).collect::<Vec<_>>().join(", ")
    }
}

/// A weight file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// Its name in the model's folder.
    pub name: String,
    /// Where it is opened.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// What it must be when it is opened again.
    pub expected: Expected,
}

/// The base and the experts, each with all models that its tensors come from.
pub(super) fn sources(recipe: &Recipe, models: &Models<'_>) -> Vec<Source> {
    let mut sources: Vec<Vec<usize>> = Vec::new();
    for slice in recipe.slices() {
        for (source, (reference, _)) in slice.origins().enumerate() {
            sources.resize_with(sources.len().max(source + 1), Vec::new);
            let model = models.index(reference);
            if !sources[source].contains(&model) {
                sources[source].push(model);
            }
        }
    }
    let source = |of: Vec<usize>| {
        let inventories = || of.iter().map(|&m| &models.inventories[m]);
        let label = inventories().map(|i| i.label.as_str()).collect::<Vec<_>>().join(", ");
        let error_bound = inventories().filter_map(|i| i.error_bound).reduce(f64::max);
        Source { label, models: of, error_bound }
    };
    sources.into_iter().map(source).collect()
}

/// The models and their files, in one list.
pub(super) fn flatten(inventories: Vec<Inventory>) -> (Vec<PlannedModel>, Vec<PlannedFile>) {
    let (mut models, mut files) = (Vec::new(), Vec::new());
    for Inventory { label, path, adapter, files: own, error_bound, .. } in inventories {
        let first = files.len();
        files.extend(own.into_iter().map(|f| PlannedFile {
            expected: f.expected(),
            name: f.name,
            path: f.path,
            bytes: f.bytes,
        }));
        let files = first..files.len();
        models.push(PlannedModel { label, path, files, adapter, error_bound, made_from: None, fused: None });
    }
    (models, files)
}
