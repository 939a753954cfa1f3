//! The demo: merges the embedded model family, with and without LwPTV, and measures every result.

mod embedded;
mod lanes;
mod npz;
mod vit;
mod zoo;

pub use zoo::{Scores, Zoo};

use crate::error::{Error, Result};
use crate::job::{self, Run};
use crate::plan::Options;
use crate::recipe::Recipe;
use crate::source::{self, Counter, Files, Io, Links};
use std::collections::BTreeMap;
use std::path::Path;

/// A row of the demo: a way to merge, and what came of it.
#[derive(Debug)]
pub struct Row {
    /// As the zoo's `expected.json` names it, for instance `ta+lwptv eta=0.7`.
    pub name: String,
    /// Layers kept, of all; without LwPTV all.
    pub layers: Option<(usize, usize)>,
    /// The accuracies.
    pub scores: Scores,
}

impl Row {
    /// The zoo's own summary of the same setting (`id`, `ood`, averages, `h_score`).
    pub fn expected(&self) -> Option<serde_json::Value> {
        let all: serde_json::Value = serde_json::from_slice(embedded::EXPECTED).ok()?;
        all["results"].get(&self.name).cloned()
    }
}

const METHODS: [(&str, &str); 3] = [
    ("wa", "merge_method: linear\nparameters: {weight: 1}\n"),
    ("ta", "merge_method: task_arithmetic\nparameters: {weight: 1, lambda: 0.3}\n"),
    ("ties", "merge_method: ties\nparameters: {scope: model, density: 0.2, lambda: 0.3, merge: disjoint_sum}\n"),
];

/// Writes the family into `folder`, merges it there in every setting (`all`: every one of `expected.json`), and hands
/// over each row as it is done. The models stay in `folder`.
pub fn run(folder: &Path, all: bool, run: &Run<'_>, mut done: impl FnMut(Row) -> Result<()>) -> Result<()> {
    write_family(folder)?;
    let zoo = Zoo::parse(embedded::CONFIG, embedded::TASKS, embedded::HEADS, embedded::TESTSETS)
        .map_err(|problem| Error::malformed(Path::new("embedded zoo"), problem))?;
    done(Row { name: "pretrained".into(), layers: None, scores: zoo.evaluate(&load(&folder.join("base"))?) })?;
    let mut experts = BTreeMap::new();
    for e in embedded::EXPERTS {
        experts.insert(e.task.to_owned(), load(&folder.join("experts").join(e.task))?);
    }
    done(Row { name: "individual".into(), layers: None, scores: zoo.individual(&experts) })?;
    let etas: Vec<f64> = if all { (0..10).map(|i| f64::from(i) / 10.0).collect() } else { vec![0.7] };
    for (name, head) in METHODS {
        for eta in std::iter::once(None).chain(etas.iter().copied().map(Some)) {
            run.stop.check()?;
            let name = eta.map_or_else(|| name.to_owned(), |eta| format!("{name}+lwptv eta={eta:?}"));
            let out = folder.join("merged").join(name.replace(' ', "_"));
            let report = job::merge(&plan(head, eta, folder)?, &out, run)?;
            let kept = report.layers.iter().filter(|l| l.kept).count();
            let layers = eta.map(|_| (kept, report.layers.len()));
            done(Row { name, layers, scores: zoo.evaluate(&load(&out)?) })?;
        }
    }
    Ok(())
}

fn plan(head: &str, eta: Option<f64>, folder: &Path) -> Result<crate::plan::Plan> {
    let mut text = format!("{head}base_model: ./base\nmodels:\n");
    for e in embedded::EXPERTS {
        text += &format!("- model: ./experts/{}\n", e.task);
    }
    if let Some(eta) = eta {
        text += &format!("lwptv: {{eta: {eta}}}\n");
    }
    let recipe = folder.join("recipe.yml");
    std::fs::write(&recipe, &text).map_err(Error::io(&recipe, "write"))?;
    job::plan(Recipe::parse(&text)?, folder, Links::Inside, Options::default())
}

fn write_family(folder: &Path) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(Error::io(parent, "make the folder"))?;
        std::fs::write(&path, bytes).map_err(Error::io(&path, "write"))
    };
    let models = embedded::models().map_err(Error::io(Path::new("embedded zoo"), "unpack"))?;
    write("base/model.safetensors", &models[0])?;
    write("base/config.json", embedded::CONFIG)?;
    for (e, model) in embedded::EXPERTS.iter().zip(&models[1..]) {
        write(&format!("experts/{}/model.safetensors", e.task), model)?;
        write(&format!("experts/{}/config.json", e.task), e.config)?;
    }
    write("tasks.json", embedded::TASKS)?;
    write("heads.npz", embedded::HEADS)?;
    write("testsets.npz", embedded::TESTSETS)?;
    write("evaluate.py", embedded::EVALUATE)
}

/// A whole model as `f32`: this one fits into memory.
fn load(path: &Path) -> Result<BTreeMap<String, Vec<f32>>> {
    let inventory = source::open(&path.to_string_lossy(), Path::new(""), Links::Inside)?;
    let files = Files::open(inventory.files.iter().map(|f| (f.path.as_path(), f.expected())), Io::Mmap)?;
    let (mut buffer, counter) = (Vec::new(), Counter::default());
    let mut parameters = BTreeMap::new();
    for t in &inventory.tensors {
        let mut values = vec![0.0; t.elements() as usize];
        let span = files.span(t.file, t.offset, t.bytes as usize, &mut buffer, &counter)?;
        t.dtype.decode(&span, &mut values);
        parameters.insert(t.name.clone(), values);
    }
    Ok(parameters)
}
