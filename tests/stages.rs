//! Recipes of several documents: each merge may take the results of those before.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::{Model, tree};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for (name, value) in [("base", 0.0), ("a", 2.0), ("b", 4.0), ("c", 16.0)] {
            let model = Model::default().f32("layers.0.w", &[value, 1.0]).f32("layers.1.w", &[value + 1.0, -1.0]);
            model.write(&bench.path(name).join("model.safetensors"));
            fs::write(bench.path(name).join("config.json"), r#"{"num_hidden_layers": 2}"#).unwrap();
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Exit code, stdout and stderr.
    fn run(&self, command: &str, recipe: &str, more: &[&str]) -> (Option<i32>, String, String) {
        fs::write(self.path("recipe.yml"), recipe).unwrap();
        let mut run = Command::cargo_bin("taskvec").unwrap();
        run.current_dir(self.0.path()).args([command, "recipe.yml"]).args(more);
        let run = run.timeout(std::time::Duration::from_secs(20)).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (run.status.code(), text(&run.stdout), text(&run.stderr))
    }

    #[track_caller]
    fn merged(&self, recipe: &str, out: &str) -> Model {
        let (code, _, errors) = self.run("merge", recipe, &[out]);
        assert_eq!(code, Some(0), "{errors}");
        Model::read(&self.path(out).join("model.safetensors"))
    }

    #[track_caller]
    fn refused(&self, recipe: &str, more: &[&str], code: i32, words: &[&str]) {
        fs::write(self.path("recipe.yml"), recipe).unwrap();
        let before = tree(self.0.path());
        let (got, _, errors) = self.run("merge", recipe, more);
        assert_eq!(got, Some(code), "{errors}");
        words.iter().for_each(|w| assert!(errors.contains(w), "`{w}` is not in: {errors}"));
        assert!(tree(self.0.path()) == before, "nothing is left behind");
    }
}

/// The mean of a and b, and half of it plus half of c.
const TWO: &str = "name: pair\nmerge_method: linear\nmodels:\n- {model: ./a, parameters: {weight: 1}}\n\
                   - {model: ./b, parameters: {weight: 1}}\n---\nmerge_method: linear\nmodels:\n\
                   - {model: pair, parameters: {weight: 1}}\n- {model: ./c, parameters: {weight: 1}}\n";

#[test]
fn a_later_stage_merges_the_result_of_an_earlier_one_and_nothing_else_stays() {
    let bench = Bench::new();
    let out = bench.merged(TWO, "out");
    let first = |i: usize| f32::from_le_bytes(out.tensors[i].bytes[..4].try_into().unwrap());
    assert_eq!([first(0), first(1)], [9.5, 10.5]);
    let mut left: Vec<String> =
        fs::read_dir(bench.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["a", "b", "base", "c", "out", "recipe.yml"]);
    assert_eq!(fs::read_to_string(bench.path("out/mergekit_config.yml")).unwrap(), TWO);
}

#[test]
fn stages_give_the_bytes_of_merges_that_are_run_one_by_one() {
    let bench = Bench::new();
    let staged = bench.merged(TWO, "out");
    let (first, second) = TWO.split_once("---\n").unwrap();
    bench.merged(first, "pair");
    assert_eq!(bench.merged(second, "alone"), staged);
}

#[test]
fn the_report_and_the_card_tell_what_stages_were_made_from() {
    let bench = Bench::new();
    bench.merged(TWO, "out");
    let report: Value = serde_json::from_slice(&fs::read(bench.path("out/taskvec.json")).unwrap()).unwrap();
    assert_eq!(report["inputs"][0]["path"], "stage pair");
    assert_eq!(report["stages"][0]["name"], "pair");
    let stage = &report["stages"][0]["report"];
    assert_eq!(stage["inputs"][1]["path"], "./b");
    assert_eq!(stage["outputs"][0]["blake3"], report["inputs"][0]["files"][0]["blake3"]);
    let card = fs::read_to_string(bench.path("out/README.md")).unwrap();
    assert!(card.starts_with("---\nbase_model:\n- \"a\"\n- \"b\"\n- \"c\"\nlibrary_name"), "{card}");
}

#[test]
fn a_stage_may_be_the_base_and_may_be_sliced() {
    let bench = Bench::new();
    let recipe = "name: twice\nmerge_method: passthrough\nslices:\n- sources: [{model: ./a, layer_range: [0, 2]}]\n\
                  - sources: [{model: ./b, layer_range: [0, 1]}]\n---\nname: sum\nmerge_method: task_arithmetic\n\
                  base_model: ./base\nparameters: {weight: 1}\nmodels: [{model: ./a}, {model: ./b}]\n---\n\
                  merge_method: task_arithmetic\nbase_model: twice\nslices:\n- sources:\n  \
                  - {model: twice, layer_range: [1, 3]}\n  - {model: sum, layer_range: [0, 2], parameters: {weight: 0.5}}\n";
    let (code, out, _) = bench.run("plan", recipe, &[]);
    assert_eq!(code, Some(0));
    let at: Vec<_> = ["stage     twice", "stage     sum", "base      twice"].map(|t| out.find(t).unwrap()).to_vec();
    assert!(at.is_sorted(), "{out}");
    assert!(out.contains("no delta file is written: the base is the result of a stage"), "{out}");
    let merged = bench.merged(recipe, "out");
    let first = |i: usize| f32::from_le_bytes(merged.tensors[i].bytes[..4].try_into().unwrap());
    // 3 + (6 - 3) / 2 and 4 + (7 - 4) / 2
    assert_eq!([first(0), first(1)], [4.5, 5.5]);
    let config: Value = serde_json::from_slice(&fs::read(bench.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(config["num_hidden_layers"], 2);
}

#[test]
fn a_result_as_base_gives_no_delta_and_its_tied_head_may_be_stood_in_for() {
    let bench = Bench::new();
    for (name, head) in [("a", None), ("b", Some(20.0)), ("c", None)] {
        let model = Model::default().f32("wte.weight", &[2.0]);
        let model = head.map_or(model.clone(), |h| model.f32("lm_head.weight", &[h]));
        model.write(&bench.path(name).join("model.safetensors"));
        let config = serde_json::json!({"tie_word_embeddings": head.is_none()});
        fs::write(bench.path(name).join("config.json"), config.to_string()).unwrap();
    }
    let recipe = "name: pair\nmerge_method: linear\nparameters: {weight: 1}\nmodels: [{model: ./a}, {model: ./c}]\n---\n\
                  merge_method: task_arithmetic\nbase_model: pair\nparameters: {weight: 0.5}\nmodels: [{model: MODEL}]\n";
    let out = bench.merged(&recipe.replace("MODEL", "./b"), "out");
    assert_eq!(out, Model::default().f32("wte.weight", &[2.0]).f32("lm_head.weight", &[11.0]));
    bench.merged(&recipe.replace("MODEL", "./a"), "plain");
    assert!(!bench.path("plain/merged.tvd").exists());
}

#[test]
fn stages_that_cannot_be_are_refused_before_anything_is_read() {
    let bench = Bench::new();
    let without_name = TWO.replace("name: pair\n", "");
    bench.refused(&without_name, &["out"], 2, &["document 1", "`name` is missing"]);
    let unused = TWO.replace("model: pair", "model: ./b");
    bench.refused(&unused, &["out"], 2, &["document 1: name: no later stage merges `pair`"]);
    bench.refused(&TWO.replace("name: pair", "name: ../pair"), &["out"], 2, &["name: expected a word of letters"]);
    let twice = TWO.replace("---\n", "---\nname: pair\nmerge_method: passthrough\nmodels: [{model: ./a}]\n---\n");
    bench.refused(&twice, &["out"], 2, &["document 2: name: two stages are called `pair`"]);
    let wrong = TWO.replacen("linear", "lineer", 1);
    bench.refused(&wrong, &["out"], 2, &["document 1: merge_method", "did you mean `linear`"]);
    let missing = TWO.replace("./a", "./nowhere");
    bench.refused(&missing, &["out"], 66, &["nowhere"]);
    bench.refused(TWO, &["out", "--eta", "0.5"], 2, &["--eta", "several stages"]);
    bench.refused(TWO, &["c"], 73, &["not empty"]);
    let (code, _, errors) = bench.run("saliency", TWO, &[]);
    assert_eq!(code, Some(2));
    assert!(errors.contains("several stages"), "{errors}");
}

#[test]
fn a_stage_that_fails_leaves_nothing() {
    let bench = Bench::new();
    let broken = Model::default().f32("layers.0.w", &[1.0, 1.0]).f32("layers.1.w", &[f32::NAN, 1.0]);
    broken.write(&bench.path("c/model.safetensors"));
    bench.refused(TWO, &["out"], 65, &["c/model.safetensors", "layers.1.w", "NaN"]);
    broken.write(&bench.path("a/model.safetensors"));
    bench.refused(TWO, &["out"], 65, &["a/model.safetensors", "layers.1.w", "NaN"]);
}

#[test]
fn what_a_killed_run_left_is_removed_and_a_name_on_a_single_merge_is_no_harm() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path(".out.stages/pair")).unwrap();
    fs::write(bench.path(".out.stages/pair/old"), "old").unwrap();
    bench.merged(TWO, "out");
    assert!(!bench.path(".out.stages").exists());
    let single = TWO.split_once("---\n").unwrap().0;
    bench.merged(single, "single");
}
