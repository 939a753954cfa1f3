//! Flags in place of a recipe, and beside one.

use crate::common::Model;
use crate::{Bench, TASK_ARITHMETIC, expect_success, json, model, text};
use serde_json::Value;
use std::fs;

#[test]
fn flags_merge_to_what_the_recipe_they_write_merges_to() {
    let bench = Bench::new();
    let flags = ["merge", "--method", "task_arithmetic", "--base", "base", "--model", "a=0.3", "--model", "c=0.3"];
    let mut command = bench.command();
    command.current_dir(bench.0.path()).args(flags).args(["--eta", "0.7", "out"]);
    expect_success(command.output().unwrap());
    let by_flags = fs::read(bench.path("out/model.safetensors")).unwrap();
    let written = fs::read_to_string(bench.path("out/mergekit_config.yml")).unwrap();
    bench.merge(&written, "again", &[]);
    assert_eq!(fs::read(bench.path("again/model.safetensors")).unwrap(), by_flags);
    assert_eq!(fs::read_to_string(bench.path("again/mergekit_config.yml")).unwrap(), written);
    let by_hand = format!("{}lwptv: {{eta: 0.7}}\n", TASK_ARITHMETIC.replace("0.5", "0.3"));
    bench.merge(&by_hand, "by_hand", &[]);
    assert_eq!(fs::read(bench.path("by_hand/model.safetensors")).unwrap(), by_flags);
    let actions = |out: &str| json(&bench.path(out).join("taskvec.json"))["tensors"].clone();
    let pruned = |t: &&Value| t["action"] == "pruned";
    assert!(actions("out").as_array().unwrap().iter().any(|t| pruned(&t)), "the mask prunes something");
    assert_eq!(actions("out"), actions("by_hand"));
}

#[test]
fn flags_with_absolute_paths_write_a_recipe_that_runs_where_it_lies() {
    let bench = Bench::new();
    let [base, a, c] = ["base", "a", "c"].map(|name| bench.path(name).to_str().unwrap().to_owned());
    let out = bench.path("out");
    let mut command = bench.command();
    command.args(["merge", "--method", "linear", "--base", &base, "--model", &format!("{a}=1"), "--model"]);
    command.args([&format!("{c}=-2.5"), "--set", "normalize=false", "--dtype", "bfloat16", out.to_str().unwrap()]);
    expect_success(command.output().unwrap());
    let mut again = bench.command();
    again.arg("merge").args([out.join("mergekit_config.yml"), bench.path("again")]);
    expect_success(again.output().unwrap());
    let file = |out: &str| fs::read(bench.path(out).join("model.safetensors")).unwrap();
    assert_eq!(file("again"), file("out"));
}

#[test]
fn eta_on_the_command_line_overrides_the_recipe() {
    let bench = Bench::new();
    let eta = |out: &str| json(&bench.path(out).join("taskvec.json"))["settings"]["lwptv"]["eta"].clone();
    let recipe = format!("{TASK_ARITHMETIC}lwptv: {{eta: 0}}\n");
    bench.merge(&recipe, "all", &["--eta", "1"]);
    assert_eq!(eta("all"), 1.0);
    let merged = Model::read(&bench.path("all/model.safetensors"));
    assert_eq!(merged, model(0.0), "eta 1 prunes every layer to the base");
    bench.merge(&recipe, "off", &["--no-lwptv"]);
    assert_eq!(eta("off"), Value::Null);
    assert_ne!(Model::read(&bench.path("off/model.safetensors")), model(0.0));
}

#[test]
fn no_lwptv_lets_a_recipe_run_that_lwptv_would_refuse() {
    let bench = Bench::new();
    let one = "merge_method: task_arithmetic\nbase_model: ./base\nmodels: [{model: ./a, parameters: {weight: 1}}]\n";
    bench.merge(&format!("{one}lwptv: {{eta: 0.5}}\n"), "out", &["--no-lwptv"]);
    assert_eq!(Model::read(&bench.path("out/model.safetensors")), model(1.0));
}

#[test]
fn mergekits_flags_without_meaning_here_are_accepted_with_one_note() {
    let bench = Bench::new();
    let flags = ["--lazy-unpickle", "--cuda", "--copy-tokenizer", "--allow-crimes", "--write-threads", "4"];
    let run = bench.merge(TASK_ARITHMETIC, "out", &flags);
    let note = "note: --lazy-unpickle, --cuda, --copy-tokenizer, --allow-crimes, --write-threads have no effect here";
    assert!(text(&run.stderr).contains(note), "{}", text(&run.stderr));
}
