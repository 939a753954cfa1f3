//! Tensors that are not merged: excluded, copied from a model, or stood in for by the embedding.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Model, merge, options};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use taskvec::job;
use taskvec::plan::Plan;
use taskvec::recipe::Recipe;
use taskvec::report::{Report, TensorAction};
use taskvec::source::{Io, Links};

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for (name, value) in [("base", 0.0), ("a", 2.0), ("b", 4.0), ("other", 9.0)] {
            bench.put(name, &model(value));
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, model: &Model) {
        model.write(&self.path(name).join("model.safetensors"));
    }

    fn plan(&self, recipe: &str) -> taskvec::Result<Plan> {
        job::plan(Recipe::parse(recipe)?, self.0.path(), Links::Inside, options())
    }

    #[track_caller]
    fn run(&self, recipe: &str, out: &str) -> (Model, Report) {
        let report = merge(Recipe::parse(recipe).unwrap(), self.0.path(), &self.path(out), options(), Io::Mmap);
        let report = report.unwrap_or_else(|e| panic!("{e}"));
        (Model::read(&self.path(out).join("model.safetensors")), report)
    }

    #[track_caller]
    fn refused(&self, recipe: &str, code: u8, words: &[&str]) {
        let error = self.plan(recipe).expect_err("the recipe is refused");
        let message = error.to_string();
        assert_eq!(error.exit_code(), code, "{message}");
        words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in: {message}"));
    }
}

fn model(value: f32) -> Model {
    let names = ["embed_tokens.weight", "layers.0.mlp", "layers.1.mlp", "norm.weight"];
    names.iter().fold(Model::default(), |m, name| m.f32(name, &[value, 1.0]))
}

fn values(model: &Model) -> Vec<f32> {
    model.tensors.iter().map(|t| f32::from_le_bytes(t.bytes[..4].try_into().unwrap())).collect()
}

const SUM: &str = "merge_method: task_arithmetic\nbase_model: ./base\nparameters: {weight: 1}\n\
                   models: [{model: ./a}, {model: ./b}]\n";
const MEAN: &str = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: ./a}, {model: ./b}]\n";

#[test]
fn excluded_tensors_are_the_bases_or_the_first_models() {
    let bench = Bench::new();
    let (out, report) = bench.run(&format!("{SUM}exclude: [norm, layers.1]\n"), "out");
    assert_eq!(values(&out), [6.0, 6.0, 0.0, 0.0]);
    let copied: Vec<_> = report.tensors.iter().filter(|t| t.action == TensorAction::Copied).collect();
    assert_eq!(copied.len(), 2);
    assert!(copied.iter().all(|t| t.reason.contains("excludes") && t.elements_changed == Some(0)));
    let (out, _) = bench.run(&format!("{MEAN}exclude: norm\n"), "first");
    assert_eq!(values(&out), [3.0, 3.0, 3.0, 2.0]);
}

#[test]
fn copied_tensors_are_those_of_the_model_that_is_named_whether_it_is_merged_or_not() {
    let bench = Bench::new();
    let recipe = format!("{SUM}copy_from: [{{filter: layers.0, model: ./b}}, {{filter: layers, model: ./other}}]\n");
    let (out, report) = bench.run(&recipe, "out");
    assert_eq!(values(&out), [6.0, 4.0, 9.0, 6.0], "the first entry whose filter matches holds");
    assert_eq!(report.inputs.iter().map(|i| i.role).collect::<Vec<_>>(), ["base", "expert", "expert", "copied"]);
    assert_eq!(report.tensors[1].elements_changed, None);
    assert!(report.tensors[1].reason.contains("copy_from"));
    assert!(!bench.path("out/merged.tvd").exists(), "not every tensor is the base's");
}

#[test]
fn the_plan_counts_a_copied_tensor_once() {
    let bench = Bench::new();
    let read = |recipe: &str| {
        let plan = bench.plan(recipe).unwrap();
        (0..plan.sources.len()).map(|s| plan.source_bytes(s)).collect::<Vec<_>>()
    };
    assert_eq!(read(SUM), [32, 32, 32]);
    assert_eq!(read(&format!("{SUM}exclude: [norm, layers.1]\n")), [32, 16, 16]);
}

#[test]
fn the_delta_file_of_a_merge_with_excluded_tensors_restores_it() {
    let bench = Bench::new();
    bench.run(&format!("{SUM}exclude: [norm]\n"), "out");
    let (delta, to) = (bench.path("out/merged.tvd"), bench.path("restored"));
    job::apply(bench.path("base").to_str().unwrap(), &delta, &to, &common::apply_run()).unwrap();
    let weights = |folder: &str| fs::read(bench.path(folder).join("model.safetensors")).unwrap();
    assert_eq!(weights("restored"), weights("out"));
}

#[test]
fn what_is_copied_has_the_outputs_dtype() {
    let (out, _) = Bench::new().run(&format!("{SUM}exclude: [norm]\nout_dtype: float16\n"), "out");
    assert!(out.tensors.iter().all(|t| t.dtype == "F16"));
    assert_eq!(out.tensors[3].bytes, [0, 0, 0, 0x3c]);
}

#[test]
fn a_tensor_of_another_shape_is_merged_around_if_it_is_excluded() {
    let bench = Bench::new();
    let mut grown = model(2.0);
    grown.tensors.remove(0);
    bench.put("a", &grown.f32("embed_tokens.weight", &[7.0, 7.0, 7.0]));
    let advice = ["embed_tokens.weight", "[2]", "[3]", "exclude: [\"embed_tokens.weight\"]", "copy_from"];
    bench.refused(SUM, 65, &advice);
    let (out, _) = bench.run(&format!("{SUM}exclude: [embed]\n"), "out");
    assert_eq!(values(&out), [0.0, 6.0, 6.0, 6.0]);
    let (out, _) = bench.run(&format!("{SUM}copy_from: [{{filter: embed, model: ./a}}]\n"), "copied");
    assert_eq!((values(&out), out.tensors[0].shape.clone()), (vec![7.0, 6.0, 6.0, 6.0], vec![3]));
}

#[test]
fn copied_tensors_are_no_layers_of_lwptv() {
    let (out, report) = Bench::new().run(&format!("{SUM}exclude: [layers]\nlwptv: {{eta: 0}}\n"), "out");
    assert_eq!(
        report.layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(),
        ["embed_tokens.weight", "norm.weight"]
    );
    assert_eq!(values(&out)[1..3], [0.0, 0.0]);
}

#[test]
fn a_pattern_that_matches_nothing_and_a_model_without_the_tensor_are_refused() {
    let bench = Bench::new();
    bench.refused(&format!("{SUM}exclude: [norm, nrom]\n"), 2, &["exclude[1]: no tensor's name holds `nrom`"]);
    let copy = |filter: &str, model: &str| format!("{SUM}copy_from: [{{filter: {filter}, model: {model}}}]\n");
    bench.refused(&copy("nrom", "./a"), 2, &["copy_from[0]: no tensor's name holds `nrom`"]);
    bench.put("short", &Model::default().f32("norm.weight", &[1.0, 1.0]));
    bench.refused(&copy("layers", "./short"), 2, &["copy_from[0]: `./short` has no tensor `layers.0.mlp`"]);
    bench.refused(&format!("{SUM}copy_from: [{{filter: norm}}]\n"), 2, &["copy_from[0]: `model` is missing"]);
    bench.refused(&format!("{SUM}exclude: ['']\n"), 2, &["exclude[0]: expected a part of tensor names"]);
    bench.put("more", &model(4.0).f32("extra", &[1.0]));
    let more = SUM.replace("./b}", "./more}");
    bench.refused(&format!("{more}exclude: [extra]\n"), 2, &["exclude[0]", "no tensor `extra`", "copy_from"]);
    let (out, _) = bench.run(&format!("{more}copy_from: [{{filter: extra, model: ./more}}]\n"), "out");
    assert_eq!(values(&out).last(), Some(&1.0));
}

#[test]
fn an_embedding_stands_in_for_a_head_that_the_configuration_ties_to_it() {
    let bench = Bench::new();
    bench.put("b", &model(4.0).f32("lm_head.weight", &[10.0, 1.0]));
    bench.refused(MEAN, 65, &["lm_head.weight", "not in ./a"]);
    fs::write(bench.path("a/config.json"), r#"{"tie_word_embeddings": true}"#).unwrap();
    let (out, report) = bench.run(MEAN, "out");
    assert_eq!(out.tensors.last().unwrap().name, "lm_head.weight");
    assert_eq!(values(&out), [3.0, 3.0, 3.0, 3.0, 6.0]);
    let config: Value = serde_json::from_slice(&fs::read(bench.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(config["tie_word_embeddings"], false, "the output has a head of its own");
    assert!(report.inputs.iter().all(|i| i.files[0].blake3.is_some()));
    // The other way round, and filters see the head's name.
    let other = "merge_method: linear\nmodels:\n- {model: ./b, parameters: {weight: 1}}\n\
                 - {model: ./a, parameters: {weight: [{filter: lm_head, value: 3}, {value: 1}]}}\n";
    assert_eq!(values(&bench.run(other, "turned").0).last(), Some(&4.0));
    // A base that is tied: its own head is no tensor of its file, so there is no delta.
    let based = SUM.replace("./base", "./a").replace("{model: ./a}, ", "");
    let plan = bench.plan(&based).unwrap();
    assert!(!plan.writes_delta());
    assert_eq!(values(&bench.run(&based, "based").0), [4.0, 4.0, 4.0, 4.0, 10.0]);
}
