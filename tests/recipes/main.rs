//! What a recipe means: mergekit's dialect, its flag form, its models in every layout, and what the output then holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod flags;
mod models;
mod output;
mod parameters;

use assert_cmd::Command;
use common::{Model, options};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use taskvec::job;
use taskvec::plan::Plan;
use taskvec::recipe::Recipe;
use taskvec::source::Links;

const TASK_ARITHMETIC: &str = "merge_method: task_arithmetic\n\
    base_model: ./base\n\
    models:\n\
    - {model: ./a, parameters: {weight: 0.5}}\n\
    - {model: ./c, parameters: {weight: 0.5}}\n";

/// A folder with the models `base`, `a` and `c`.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for (name, shift) in [("base", 0.0), ("a", 1.0), ("c", 2.0)] {
            model(shift).write(&bench.path(name).join("model.safetensors"));
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    /// Merges this recipe into `out`, from a working folder that is not the recipe's.
    #[track_caller]
    fn merge(&self, recipe: &str, out: &str, flags: &[&str]) -> Output {
        self.write("recipe.yml", recipe);
        let (recipe, out) = (self.path("recipe.yml"), self.path(out));
        let run = self.command().arg("merge").args([&recipe, &out]).args(flags).output().unwrap();
        expect_success(run)
    }

    fn command(&self) -> Command {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        command.env("HF_HUB_CACHE", self.path("hub")).timeout(std::time::Duration::from_secs(20));
        command
    }

    #[track_caller]
    fn weights(&self, recipe: &str, out: &str) -> Model {
        self.merge(recipe, out, &[]);
        Model::read(&self.path(out).join("model.safetensors"))
    }

    fn plan(&self, recipe: &str) -> taskvec::Result<Plan> {
        job::plan(Recipe::parse(recipe)?, self.0.path(), Links::Inside, options())
    }
}

fn model(shift: f32) -> Model {
    let names = ["embed.weight", "layers.0.mlp.weight", "layers.1.mlp.weight", "layers.2.mlp.weight", "head.weight"];
    let values = |i: usize| [1.0 + i as f32, 2.0 + shift * (1 + i) as f32, -3.0 - shift * shift];
    names.iter().enumerate().fold(Model::default(), |m, (i, name)| m.f32(name, &values(i)))
}

#[track_caller]
fn expect_success(run: Output) -> Output {
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    run
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The weights of task_arithmetic for these entries of `models` and `parameters`.
fn weights(models: &str, parameters: &str, tensor: &str, depth: f64) -> Vec<f64> {
    let text =
        format!("merge_method: task_arithmetic\nbase_model: b\nmodels: {models}\nparameters: {{{parameters}}}\n");
    Recipe::parse(&text).unwrap().settings(tensor, depth).unwrap().get("weight").to_vec()
}

#[track_caller]
fn refused(recipe: &str, words: &[&str]) {
    let error = Recipe::parse(recipe).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.exit_code(), 2, "{message}");
    words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in: {message}"));
}
