//! The output's tokens and their rows. What is expected comes from mergekit 0.1.5 (`fixtures/make_tokenizer.py`).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod refusals;
mod rows;

use common::{Model, Tensor, merge, options, tree};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use taskvec::job;
use taskvec::plan::Plan;
use taskvec::recipe::Recipe;
use taskvec::source::{Io, Links};
use tempfile::TempDir;

const FIXTURES: &str = "fixtures/tokenizer";
const EMBEDDINGS: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];
const MODELS: &str = "models:\n- {model: ./a, parameters: {weight: 0.5}}\n- {model: ./b, parameters: {weight: 0.25}}\n";

fn recipe(tail: &str) -> String {
    format!("merge_method: task_arithmetic\nbase_model: ./base\n{MODELS}{tail}\n")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    assert_eq!(t.dtype, "F32");
    t.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The rows of an embedding.
fn rows(model: &Model, name: &str) -> Vec<Vec<f32>> {
    let t = model.tensors.iter().find(|t| t.name == name).unwrap();
    let width = usize::try_from(t.shape[1]).unwrap();
    values(t).chunks(width).map(<[f32]>::to_vec).collect()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs().max(1.0))
}

/// Ids by token.
fn ids(tokenizer: &Path) -> BTreeMap<String, usize> {
    let file = json(tokenizer);
    let words = file["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (t.clone(), id.clone()));
    let added = file["added_tokens"].as_array().unwrap();
    let added = added.iter().map(|t| (t["content"].as_str().unwrap().to_owned(), t["id"].clone()));
    words.chain(added).map(|(t, id)| (t, usize::try_from(id.as_u64().unwrap()).unwrap())).collect()
}

/// The added tokens of a file, without their ids.
fn added(tokens: &Value) -> BTreeSet<String> {
    let without_id = |t: &Value| {
        let mut t = t.as_object().unwrap().clone();
        t.remove("id");
        Value::Object(t.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()).to_string()
    };
    tokens.as_array().unwrap().iter().map(without_id).collect()
}

/// A folder with copies of the fixtures' models, to be changed.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["base", "a", "b"] {
            for (path, content) in tree(&Path::new(FIXTURES).join(name)) {
                let to = folder.path().join(name).join(path);
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::write(to, content).unwrap();
            }
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn plan(&self, text: &str) -> taskvec::Result<Plan> {
        job::plan(Recipe::parse(text)?, self.0.path(), Links::Inside, options())
    }

    fn merge(&self, text: &str, out: &str) -> Model {
        merge(Recipe::parse(text).unwrap(), self.0.path(), &self.path(out), options(), Io::Mmap).unwrap();
        Model::read(&self.path(out).join("model.safetensors"))
    }

    #[track_caller]
    fn refused(&self, text: &str, code: u8, parts: &[&str]) {
        let error = self.plan(text).map(|p| p.to_string()).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.exit_code(), code, "{message}");
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }

    fn edit_tokenizer(&self, model: &str, edit: impl Fn(&mut Value)) {
        let path = self.path(model).join("tokenizer.json");
        let mut file = json(&path);
        edit(&mut file);
        fs::write(path, file.to_string()).unwrap();
    }

    /// Gives embeddings rows of so many elements, so that tiles end inside of rows.
    fn widen_embeddings(&self, width: usize) {
        for (seed, model) in ["base", "a", "b"].into_iter().enumerate() {
            self.edit_weights(model, |t| {
                if EMBEDDINGS.contains(&t.name.as_str()) {
                    t.shape[1] = width as u64;
                    let count = usize::try_from(t.shape[0]).unwrap() * width;
                    let value = |i: usize| (i % 997) as f32 + seed as f32 * 1000.0;
                    t.bytes = (0..count).flat_map(|i| value(i).to_le_bytes()).collect();
                }
            });
        }
    }

    fn edit_weights(&self, model: &str, edit: impl Fn(&mut Tensor)) {
        let path = self.path(model).join("model.safetensors");
        let mut weights = Model::read(&path);
        weights.tensors.iter_mut().for_each(edit);
        weights.write(&path);
    }
}

/// Rows that are not the same from run to run in mergekit: those that dare draws for, and those whose variances tie.
fn decided_otherwise(case: &str, token: Option<&str>) -> bool {
    let untouched = ["w5", "w6", "zz", "<|pad|>"];
    match case {
        "document_3" => !token.is_some_and(|t| untouched.contains(&t)),
        "document_11" => token.is_none(),
        _ => false,
    }
}
