//! Modules: parts of a model that are put together each in its own way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::Model;
use common::folder::Folder;
use serde_json::Value;
use std::fs;

/// A folder with `a` and `b`: a tower of two layers and a language model of three.
fn models() -> Folder {
    let folder = Folder::new();
    for (name, shift) in [("a", 0.0), ("b", 100.0)] {
        let tensor = |m: Model, (name, value): (&str, f32)| m.f32(name, &[value + shift]);
        let names = [
            ("vision.embed.weight", 1.0),
            ("vision.layers.0.w", 2.0),
            ("vision.layers.1.w", 3.0),
            ("text.embed.weight", 4.0),
            ("text.layers.0.w", 5.0),
            ("text.layers.1.w", 6.0),
            ("text.layers.2.w", 7.0),
            ("text.norm.weight", 8.0),
            ("connector.weight", 9.0),
        ];
        let path = folder.path(name);
        names.into_iter().fold(Model::default(), tensor).write(&path.join("model.safetensors"));
        let config = r#"{"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 2}}"#;
        fs::write(path.join("config.json"), config).unwrap();
    }
    folder
}

/// The first value of each tensor of the merge, in order.
#[track_caller]
fn values(folder: &Folder, recipe: &str) -> Vec<(String, f32)> {
    let first = |bytes: &[u8]| f32::from_le_bytes(bytes[..4].try_into().unwrap());
    let (out, _) = folder.run(recipe, "out");
    out.tensors.iter().map(|t| (t.name.clone(), first(&t.bytes))).collect()
}

const MODULES: &str = "merge_method: linear\n\
    parameters: {weight: 1}\n\
    modules:\n  \
      vision:\n    \
        models:\n    \
        - {model: ./a, parameters: {weight: 3}}\n    \
        - {model: ./b}\n  \
      text:\n    \
        slices:\n    \
        - sources: [{model: ./a, layer_range: [0, 2]}, {model: ./b, layer_range: [0, 2]}]\n    \
        - sources: [{model: ./a, layer_range: [1, 3]}, {model: ./b, layer_range: [1, 3]}]\n      \
          parameters: {weight: 0.5}\n    \
        parameters: {weight: [{filter: embed, value: 2}]}\n  \
      default:\n    \
        models: [{model: ./b, parameters: {weight: 0}}, {model: ./a}]\n";

#[test]
fn each_module_is_put_together_in_its_own_way_with_its_own_layers_and_settings() {
    let folder = models();
    let want = [
        ("vision.embed.weight", 26.0),
        ("vision.layers.0.w", 27.0),
        ("vision.layers.1.w", 28.0),
        ("text.embed.weight", 54.0),
        ("text.layers.0.w", 55.0),
        ("text.layers.1.w", 56.0),
        ("text.layers.2.w", 56.0),
        ("text.layers.3.w", 57.0),
        ("text.norm.weight", 58.0),
        ("connector.weight", 9.0),
    ];
    assert_eq!(values(&folder, MODULES), want.map(|(name, value)| (name.to_owned(), value)));
    let config: Value = serde_json::from_slice(&fs::read(folder.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(config["text_config"]["num_hidden_layers"], 4);
    assert_eq!(config["vision_config"]["num_hidden_layers"], 2);
}

#[test]
fn a_setting_is_that_of_the_model_then_the_slice_then_the_module_then_the_recipe() {
    let plan = models().plan(MODULES).unwrap();
    let weights = |name: &str| {
        let t = plan.tensors.iter().find(|t| t.name == name).unwrap();
        plan.settings[t.settings].get("weight").to_vec()
    };
    assert_eq!(weights("vision.layers.0.w"), [3.0, 1.0], "model, recipe");
    assert_eq!(weights("text.embed.weight"), [2.0, 2.0], "module");
    assert_eq!(weights("text.layers.0.w"), [1.0, 1.0], "the module's filter does not match: recipe");
    assert_eq!(weights("text.layers.2.w"), [0.5, 0.5], "slice");
}

#[test]
fn a_tensor_belongs_to_the_module_with_the_longest_name() {
    let recipe = "merge_method: passthrough\nmodules:\n  text: {models: [{model: ./a}]}\n  \
                  text.layers: {models: [{model: ./b}]}\n  default: {models: [{model: ./a}]}\n";
    let values = values(&models(), recipe);
    let of = |name: &str| values.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!([of("text.norm.weight"), of("text.layers.1.w"), of("vision.layers.1.w")], [8.0, 106.0, 3.0]);
}

#[test]
fn a_module_of_another_model_has_the_layers_of_that_model() {
    let folder = models();
    let mut tall = Model::read(&folder.path("b/model.safetensors"));
    tall = tall.f32("text.layers.3.w", &[107.5]);
    tall.write(&folder.path("b/model.safetensors"));
    let recipe = "merge_method: passthrough\nmodules:\n  vision: {models: [{model: ./a}]}\n  \
                  default: {models: [{model: ./b}]}\n";
    assert_eq!(values(&folder, recipe).len(), 10);
    let config: Value = serde_json::from_slice(&fs::read(folder.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(config["text_config"]["num_hidden_layers"], 4);
}

#[test]
fn a_tensor_in_no_module_and_a_module_without_tensors_are_refused() {
    let folder = models();
    let without_default = MODULES.split("  default:").next().unwrap();
    folder.refused(without_default, 2, &["no module takes tensor `connector.weight` of `./a`", "`default`"]);
    let misspelt = MODULES.replace("vision:", "visoin:");
    folder.refused(&misspelt, 2, &["modules.visoin", "no tensor begins with `visoin.`", "vision, text, connector"]);
    let needless = "merge_method: passthrough\nmodules:\n  vision: {models: [{model: ./a}]}\n  text: {models: [{model: ./a}]}\n  \
                    connector: {models: [{model: ./a}]}\n  default: {models: [{model: ./a}]}\n";
    folder.refused(needless, 2, &["modules.default", "no tensors are left"]);
}

#[test]
fn modules_agree_in_the_number_of_models_and_in_having_a_base() {
    let folder = models();
    let uneven = MODULES.replace("{model: ./b, parameters: {weight: 0}}, ", "");
    folder.refused(&uneven, 2, &["modules.default.models: 1 models besides the base, but 2 in modules.vision.models"]);
    let base = "merge_method: linear\nparameters: {weight: 1}\nmodules:\n  \
                text: {base_model: ./a, models: [{model: ./b}]}\n  default: {models: [{model: ./b}]}\n";
    folder.refused(base, 2, &["some slices have a base_model and some have none", "top level"]);
    folder.refused("merge_method: linear\nmodules: {}\n", 2, &["modules: expected modules, got an empty mapping"]);
    let nothing = "merge_method: linear\nmodules: {text: {parameters: {weight: 1}}}\n";
    folder.refused(nothing, 2, &["modules.text: expected one of `models` and `slices`"]);
}
