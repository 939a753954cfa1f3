//! Tensors that are not merged: excluded, copied from a model, or stood in for by the embedding.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::Model;
use common::folder::Folder;
use serde_json::Value;
use std::fs;
use taskvec::job;
use taskvec::report::TensorAction;

/// A folder with `base`, `a`, `b` and `other`.
fn models() -> Folder {
    let folder = Folder::new();
    for (name, value) in [("base", 0.0), ("a", 2.0), ("b", 4.0), ("other", 9.0)] {
        folder.put(name, &model(value));
    }
    folder
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
    let folder = models();
    let (out, report) = folder.run(&format!("{SUM}exclude: [norm, layers.1]\n"), "out");
    assert_eq!(values(&out), [6.0, 6.0, 0.0, 0.0]);
    let copied: Vec<_> = report.tensors.iter().filter(|t| t.action == TensorAction::Copied).collect();
    assert_eq!(copied.len(), 2);
    assert!(copied.iter().all(|t| t.reason.contains("excludes") && t.elements_changed == Some(0)));
    let (out, _) = folder.run(&format!("{MEAN}exclude: norm\n"), "first");
    assert_eq!(values(&out), [3.0, 3.0, 3.0, 2.0]);
}

#[test]
fn copied_tensors_are_those_of_the_model_that_is_named_whether_it_is_merged_or_not() {
    let folder = models();
    let recipe = format!("{SUM}copy_from: [{{filter: layers.0, model: ./b}}, {{filter: layers, model: ./other}}]\n");
    let (out, report) = folder.run(&recipe, "out");
    assert_eq!(values(&out), [6.0, 4.0, 9.0, 6.0], "the first entry whose filter matches holds");
    assert_eq!(report.inputs.iter().map(|i| i.role).collect::<Vec<_>>(), ["base", "expert", "expert", "copied"]);
    assert_eq!(report.tensors[1].elements_changed, None);
    assert!(report.tensors[1].reason.contains("copy_from"));
    assert!(!folder.path("out/merged.tvd").exists(), "not every tensor is the base's");
}

#[test]
fn the_plan_counts_a_copied_tensor_once() {
    let folder = models();
    let read = |recipe: &str| {
        let plan = folder.plan(recipe).unwrap();
        (0..plan.sources.len()).map(|s| plan.source_bytes(s)).collect::<Vec<_>>()
    };
    assert_eq!(read(SUM), [32, 32, 32]);
    assert_eq!(read(&format!("{SUM}exclude: [norm, layers.1]\n")), [32, 16, 16]);
}

#[test]
fn the_delta_file_of_a_merge_with_excluded_tensors_restores_it() {
    let folder = models();
    folder.run(&format!("{SUM}exclude: [norm]\n"), "out");
    let (delta, to) = (folder.path("out/merged.tvd"), folder.path("restored"));
    job::apply(folder.path("base").to_str().unwrap(), &delta, &to, &common::apply_run()).unwrap();
    let weights = |name: &str| fs::read(folder.path(name).join("model.safetensors")).unwrap();
    assert_eq!(weights("restored"), weights("out"));
}

#[test]
fn what_is_copied_has_the_outputs_dtype() {
    let (out, _) = models().run(&format!("{SUM}exclude: [norm]\nout_dtype: float16\n"), "out");
    assert!(out.tensors.iter().all(|t| t.dtype == "F16"));
    assert_eq!(out.tensors[3].bytes, [0, 0, 0, 0x3c]);
}

#[test]
fn a_tensor_of_another_shape_is_merged_around_if_it_is_excluded() {
    let folder = models();
    let mut grown = model(2.0);
    grown.tensors.remove(0);
    folder.put("a", &grown.f32("embed_tokens.weight", &[7.0, 7.0, 7.0]));
    let advice = ["embed_tokens.weight", "[2]", "[3]", "exclude: [\"embed_tokens.weight\"]", "copy_from"];
    folder.refused(SUM, 65, &advice);
    let (out, _) = folder.run(&format!("{SUM}exclude: [embed]\n"), "out");
    assert_eq!(values(&out), [0.0, 6.0, 6.0, 6.0]);
    let (out, _) = folder.run(&format!("{SUM}copy_from: [{{filter: embed, model: ./a}}]\n"), "copied");
    assert_eq!((values(&out), out.tensors[0].shape.clone()), (vec![7.0, 6.0, 6.0, 6.0], vec![3]));
}

#[test]
fn copied_tensors_are_no_layers_of_lwptv() {
    let (out, report) = models().run(&format!("{SUM}exclude: [layers]\nlwptv: {{eta: 0}}\n"), "out");
    assert_eq!(
        report.layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(),
        ["embed_tokens.weight", "norm.weight"]
    );
    assert_eq!(values(&out)[1..3], [0.0, 0.0]);
}

#[test]
fn a_pattern_that_matches_nothing_and_a_model_without_the_tensor_are_refused() {
    let folder = models();
    folder.refused(&format!("{SUM}exclude: [norm, nrom]\n"), 2, &["exclude[1]: no tensor's name holds `nrom`"]);
    let copy = |filter: &str, model: &str| format!("{SUM}copy_from: [{{filter: {filter}, model: {model}}}]\n");
    folder.refused(&copy("nrom", "./a"), 2, &["copy_from[0]: no tensor's name holds `nrom`"]);
    folder.put("short", &Model::default().f32("norm.weight", &[1.0, 1.0]));
    folder.refused(&copy("layers", "./short"), 2, &["copy_from[0]: `./short` has no tensor `layers.0.mlp`"]);
    folder.refused(&format!("{SUM}copy_from: [{{filter: norm}}]\n"), 2, &["copy_from[0]: `model` is missing"]);
    folder.refused(&format!("{SUM}exclude: ['']\n"), 2, &["exclude[0]: expected a part of tensor names"]);
    folder.put("more", &model(4.0).f32("extra", &[1.0]));
    let more = SUM.replace("./b}", "./more}");
    folder.refused(&format!("{more}exclude: [extra]\n"), 2, &["exclude[0]", "no tensor `extra`", "copy_from"]);
    let (out, _) = folder.run(&format!("{more}copy_from: [{{filter: extra, model: ./more}}]\n"), "out");
    assert_eq!(values(&out).last(), Some(&1.0));
}

#[test]
fn an_embedding_stands_in_for_a_head_that_the_configuration_ties_to_it() {
    let folder = models();
    folder.put("b", &model(4.0).f32("lm_head.weight", &[10.0, 1.0]));
    folder.refused(MEAN, 65, &["lm_head.weight", "not in ./a"]);
    fs::write(folder.path("a/config.json"), r#"{"tie_word_embeddings": true}"#).unwrap();
    let (out, report) = folder.run(MEAN, "out");
    assert_eq!(out.tensors.last().unwrap().name, "lm_head.weight");
    assert_eq!(values(&out), [3.0, 3.0, 3.0, 3.0, 6.0]);
    let config: Value = serde_json::from_slice(&fs::read(folder.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(config["tie_word_embeddings"], false, "the output has a head of its own");
    assert!(report.inputs.iter().all(|i| i.files[0].blake3.is_some()));
    // The other way round, and filters see the head's name.
    let other = "merge_method: linear\nmodels:\n- {model: ./b, parameters: {weight: 1}}\n\
                 - {model: ./a, parameters: {weight: [{filter: lm_head, value: 3}, {value: 1}]}}\n";
    assert_eq!(values(&folder.run(other, "turned").0).last(), Some(&4.0));
    // A base that is tied: its own head is no tensor of its file, so there is no delta.
    let based = SUM.replace("./base", "./a").replace("{model: ./a}, ", "");
    let plan = folder.plan(&based).unwrap();
    assert!(!plan.writes_delta());
    assert_eq!(values(&folder.run(&based, "based").0), [4.0, 4.0, 4.0, 4.0, 10.0]);
}
