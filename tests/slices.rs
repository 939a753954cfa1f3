//! Slices: layers of several models put one after another, and what mergekit 0.1.5 made of the same recipes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::folder::Folder;
use common::{Model, merge, options};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use taskvec::codec::Codec;
use taskvec::job;
use taskvec::plan::{Options, Plan};
use taskvec::recipe::Recipe;
use taskvec::source::Io;

/// A folder with `base`, `a` and `b`: four layers in `h`, between an embedding and a norm.
fn models() -> Folder {
    let folder = Folder::new();
    for (name, shift) in [("base", 0.0), ("a", 1.0), ("b", 2.0)] {
        folder.put(name, &model(shift, 4));
    }
    folder
}

/// The value of a tensor tells model, layer and kind.
fn model(shift: f32, layers: u32) -> Model {
    let mut model = Model::default().f32("wte.weight", &[shift + 0.25, 1.0]);
    for layer in 0..layers {
        let value = 10.0 * layer as f32 + shift;
        model =
            model.f32(&format!("h.{layer}.attn"), &[value, 1.0]).f32(&format!("h.{layer}.mlp"), &[value + 0.5, 2.0]);
    }
    model.f32("ln_f.weight", &[shift + 0.75, 3.0])
}

fn values(model: &Model) -> Vec<(&str, f32)> {
    let first = |bytes: &[u8]| f32::from_le_bytes(bytes[..4].try_into().unwrap());
    model.tensors.iter().map(|t| (t.name.as_str(), first(&t.bytes))).collect()
}

fn passthrough(slices: &str) -> String {
    format!("merge_method: passthrough\nslices:\n{slices}")
}

const FRANKEN: &str = "- sources: [{model: ./a, layer_range: [0, 2]}]\n\
                       - sources: [{model: ./b, layer_range: [1, 3]}]\n";

// What mergekit makes.

#[test]
fn every_exact_document_gives_what_mergekit_made_of_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut documents = 0;
    for entry in fs::read_dir(root.join("recipes")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let expected = root.join("slices").join(format!("{name}.safetensors"));
        if !expected.exists() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let text =
            ["float16", "bfloat16"].iter().fold(text, |t, d| t.replace(&format!("dtype: {d}"), "dtype: float32"));
        let out = tempfile::tempdir().unwrap();
        let (out, folder) = (out.path().join("out"), root.join("slices"));
        merge(Recipe::parse(&text).unwrap(), &folder, &out, options(), Io::Mmap).unwrap();
        let worst = distance(&Model::read(&expected), &Model::read(&out.join("model.safetensors")));
        assert!(worst < 1e-6, "{name}: {worst:e}");
        let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        let layers = fs::read_to_string(root.join("slices").join(format!("{name}.layers"))).unwrap();
        assert_eq!(config["num_hidden_layers"].to_string(), layers.trim(), "{name}");
        documents += 1;
    }
    assert_eq!(documents, 9);
}

/// The largest difference, by the largest magnitude of its tensor.
fn distance(expected: &Model, got: &Model) -> f64 {
    let floats = |bytes: &[u8]| -> Vec<f64> {
        bytes.chunks(4).map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap()))).collect()
    };
    let by_name: BTreeMap<&str, &[u8]> = got.tensors.iter().map(|t| (t.name.as_str(), &t.bytes[..])).collect();
    assert_eq!(by_name.len(), expected.tensors.len());
    let of = |name: &str, bytes: &[u8]| {
        let (x, y) = (floats(bytes), floats(by_name[name]));
        let scale = x.iter().fold(1e-30, |m: f64, v| m.max(v.abs()));
        x.iter().zip(&y).fold(0.0, |m: f64, (x, y)| m.max((x - y).abs())) / scale
    };
    expected.tensors.iter().map(|t| of(&t.name, &t.bytes)).fold(0.0, f64::max)
}

// What is put together.

#[test]
fn layers_are_numbered_anew_and_the_rest_comes_from_the_first_and_the_last_slice() {
    let (out, report) = models().run(&passthrough(FRANKEN), "out");
    let want = [
        ("wte.weight", 1.25),
        ("h.0.attn", 1.0),
        ("h.0.mlp", 1.5),
        ("h.1.attn", 11.0),
        ("h.1.mlp", 11.5),
        ("h.2.attn", 12.0),
        ("h.2.mlp", 12.5),
        ("h.3.attn", 22.0),
        ("h.3.mlp", 22.5),
        ("ln_f.weight", 2.75),
    ];
    assert_eq!(values(&out), want);
    assert!(report.tensors.iter().all(|t| t.elements_changed.is_none()), "there is no base to compare with");
}

#[test]
fn one_slice_over_all_layers_is_the_models_form() {
    let folder = models();
    let models = "- {model: ./a, parameters: {weight: [0, 1]}}\n- {model: ./b, parameters: {weight: 0.5}}\n";
    let form = |list: &str| format!("merge_method: task_arithmetic\nbase_model: ./base\n{list}");
    let whole = folder.run(&form(&format!("models:\n{models}")), "whole").0;
    let sliced = models.replace("./a", "./a, layer_range: [0, 4]").replace("./b", "./b, layer_range: [0, 4]");
    let sliced = sliced.replace("- {", "  - {");
    assert_eq!(folder.run(&form(&format!("slices:\n- sources:\n{sliced}")), "sliced").0, whole);
    let open = models.replace("- {", "  - {");
    assert_eq!(
        folder.run(&form(&format!("slices:\n- sources:\n{open}")), "open").0,
        whole,
        "no layer_range: all layers"
    );
}

#[test]
fn a_gradient_runs_over_each_slice_by_itself_and_ends_in_a_slice_of_one_layer() {
    let slices = "- {sources: [{model: ./a, layer_range: [0, 3], parameters: {scale: [2, 4]}}]}\n\
                  - {sources: [{model: ./a, layer_range: [3, 4], parameters: {scale: [6, 8]}}]}\n";
    let plan = models().plan(&passthrough(slices)).unwrap();
    let scales: Vec<f64> = plan.tensors.iter().map(|t| plan.settings[t.settings].get("scale")[0]).collect();
    assert_eq!(scales, [2.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 8.0, 8.0, 6.0]);
}

#[test]
fn model_parameters_test_the_inputs_name_and_global_ones_the_outputs() {
    let recipe = "merge_method: task_arithmetic\nbase_model: ./base\nslices:\n\
                  - sources: [{model: ./a, layer_range: [2, 4], parameters: {weight: [{filter: h.2, value: 0.5}, {value: 0.25}]}}]\n\
                  parameters: {lambda: [{filter: h.0, value: 3}, {value: 5}]}\n";
    let plan = models().plan(recipe).unwrap();
    let of = |name: &str| {
        let settings = &plan.settings[plan.tensors.iter().find(|t| t.name == name).unwrap().settings];
        (settings.get("weight")[0], settings.get("lambda")[0])
    };
    assert_eq!(["h.0.attn", "h.1.attn", "ln_f.weight"].map(of), [(0.5, 3.0), (0.25, 5.0), (0.25, 5.0)]);
}

#[test]
fn the_base_of_a_slice_has_the_layers_that_it_is_listed_with() {
    let recipe = |base: &str| {
        format!(
            "merge_method: task_arithmetic\nbase_model: ./base\nparameters: {{weight: 1}}\nslices:\n\
             - sources: [{base}{{model: ./a, layer_range: [2, 3]}}]\n"
        )
    };
    let folder = models();
    // base 30 + 1 * (a 21 - base 30)
    let listed = folder.plan(&recipe("{model: ./base, layer_range: [3, 4]}, ")).unwrap();
    let of = |plan: &Plan, source: usize| plan.tensors[1].places[source].offset;
    let unlisted = folder.plan(&recipe("")).unwrap();
    assert_ne!(of(&listed, 0), of(&listed, 1));
    assert_eq!(of(&unlisted, 0), of(&unlisted, 1), "as the first source");
}

#[test]
fn a_file_that_several_tensors_are_read_from_is_hashed_and_listed_once_a_model() {
    let folder = models();
    let slices = "- sources: [{model: ./a, layer_range: [0, 3]}]\n- sources: [{model: ./a, layer_range: [1, 4]}]\n\
                  - sources: [{model: ./b, layer_range: [3, 4]}]\n";
    let (_, report) = folder.run(&passthrough(slices), "out");
    let hash = |name: &str| {
        let file = fs::read(folder.path(name).join("model.safetensors")).unwrap();
        Some(blake3::hash(&file).to_hex().to_string())
    };
    let inputs: Vec<_> = report.inputs.iter().map(|i| (i.role, i.files[0].blake3.clone())).collect();
    assert_eq!(inputs, [("expert", hash("a")), ("expert", hash("b"))]);
}

#[test]
fn a_model_that_is_listed_twice_counts_twice() {
    let folder = models();
    let recipe = "merge_method: linear\nmodels:\n- {model: ./a, parameters: {weight: 1}}\n\
                  - {model: ./b, parameters: {weight: 1}}\n- {model: ./a/, parameters: {weight: 2}}\n";
    let (out, report) = folder.run(recipe, "out");
    assert_eq!(values(&out)[1], ("h.0.attn", 1.25));
    assert_eq!(report.inputs.len(), 3);
}

#[test]
fn threads_and_tiles_do_not_show() {
    let folder = models();
    for name in ["base", "a", "b"] {
        let long = |seed: usize| (0..5000).map(|i| ((i * 7 + seed * name.len()) % 23) as f32).collect::<Vec<_>>();
        let model = (0..4).fold(Model::default(), |m, l| m.f32(&format!("h.{l}.w"), &long(l)));
        folder.put(name, &model);
    }
    let recipe = "merge_method: ties\nbase_model: ./base\nparameters: {weight: 1, density: 0.5}\nslices:\n\
                  - sources: [{model: ./a, layer_range: [0, 3]}, {model: ./b, layer_range: [1, 4]}]\n\
                  - sources: [{model: ./a, layer_range: [1, 3]}, {model: ./b, layer_range: [0, 2]}]\n";
    let run = |out: &str, options: Options| {
        merge(Recipe::parse(recipe).unwrap(), folder.0.path(), &folder.path(out), options, Io::Pread).unwrap();
        fs::read(folder.path(out).join("model.safetensors")).unwrap()
    };
    let one = run("one", Options { threads: 1, ..options() });
    assert_eq!(run("four", Options { threads: 4, tile_elements: Some(2048), ..options() }), one);
}

// What goes with it.

#[test]
fn the_configuration_gets_the_number_of_layers_and_their_types() {
    let folder = models();
    let config = r#"{"n_layer": 4, "layer_types": ["w", "x", "y", "z"]}"#;
    fs::write(folder.path("a/config.json"), config).unwrap();
    let slices = FRANKEN.to_owned() + "- sources: [{model: ./a, layer_range: [3, 4]}]\n";
    folder.run(&passthrough(&slices), "out");
    let config: Value = serde_json::from_slice(&fs::read(folder.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(config, serde_json::json!({"n_layer": 5, "layer_types": ["w", "x", "x", "y", "z"]}));
}

#[test]
fn a_configuration_that_does_not_tell_the_layers_is_a_warning() {
    let plan = models().plan(&passthrough(&FRANKEN.replace("[1, 3]", "[1, 4]"))).unwrap();
    let told = |w: &String| w.contains("config.json does not say once that `h` has 4 layers: set the number to 5");
    assert!(plan.warnings.iter().any(told), "{:?}", plan.warnings);
}

#[test]
fn a_delta_is_written_only_where_every_tensor_is_the_bases_by_name() {
    let folder = models();
    let recipe = |range: &str| {
        format!(
            "merge_method: task_arithmetic\nbase_model: ./base\nparameters: {{weight: 1}}\nslices:\n\
             - sources: [{{model: ./a, layer_range: {range}}}]\n"
        )
    };
    for (range, written) in [("[0, 4]", true), ("[0, 2]", true), ("[1, 4]", false)] {
        let plan = folder.plan(&recipe(range)).unwrap();
        assert_eq!(plan.writes_delta(), written, "{range}");
        assert_eq!(plan.warnings.iter().any(|w| w.contains("no delta file is written")), !written, "{range}");
    }
    folder.run(&recipe("[1, 4]"), "out");
    assert!(!folder.path("out/merged.tvd").exists());
}

#[test]
fn lwptv_prunes_layers_to_the_bases_layers_of_the_slice() {
    let folder = models();
    let recipe = "merge_method: task_arithmetic\nbase_model: ./base\nparameters: {weight: 1}\nlwptv: {eta: 1}\nslices:\n\
                  - sources: [{model: ./a, layer_range: [2, 4]}, {model: ./b, layer_range: [2, 4]}]\n\
                  - sources: [{model: ./a, layer_range: [0, 1]}, {model: ./b, layer_range: [1, 2]}]\n";
    let (out, report) = folder.run(recipe, "out");
    let attn: Vec<f32> = values(&out).into_iter().filter(|(n, _)| n.ends_with("attn")).map(|(_, v)| v).collect();
    assert_eq!(attn, [20.0, 30.0, 0.0]);
    assert_eq!(report.layers.len(), out.tensors.len());
}

#[test]
fn delta_files_are_sources_where_their_layers_meet_the_same_layers_of_the_base() {
    let folder = models();
    let run = common::diff_run(Codec::Auto);
    let text = |name: &str| folder.path(name).to_str().unwrap().to_owned();
    job::diff(&text("base"), None, &text("a"), &folder.path("a.tvd"), &run).unwrap();
    let recipe = |a: &str, range: &str| {
        format!(
            "merge_method: task_arithmetic\nbase_model: ./base\nparameters: {{weight: 1}}\nslices:\n\
             - sources: [{{model: ./base, layer_range: [1, 3]}}, {{model: {a}, layer_range: {range}}}]\n"
        )
    };
    let whole = folder.run(&recipe("./a", "[1, 3]"), "checkpoint").0;
    assert_eq!(folder.run(&recipe("./a.tvd", "[1, 3]"), "delta").0, whole);
    folder.refused(&recipe("./a.tvd", "[0, 2]"), 2, &["a.tvd", "same layers of its base", "taskvec apply"]);
}

// What is refused.

#[test]
fn ranges_that_do_not_fit_are_refused_with_the_slice_and_the_range() {
    let folder = models();
    let two = |a: &str, b: &str| {
        let sources = format!("{{model: ./a, layer_range: {a}}}, {{model: ./b, layer_range: {b}}}");
        format!("merge_method: linear\nparameters: {{weight: 1}}\nslices:\n- sources: [{sources}]\n")
    };
    folder.refused(
        &two("[0, 2]", "[1, 4]"),
        2,
        &["slices[0]", "layer_range [1, 4]: 3 layers of `./b`, but 2 of the first"],
    );
    folder.refused(&two("[3, 5]", "[2, 4]"), 2, &["slices[0]", "layer_range [3, 5]: `./a` has 4 layers in `h`"]);
    for bad in ["[2, 2]", "[3, 1]", "[0]", "[-1, 2]", "[0, 1.5]", "[0, 1, 2]"] {
        folder.refused(&two(bad, "[0, 2]"), 2, &["slices[0].sources[0].layer_range: expected [FIRST, END]"]);
    }
    folder.refused(&two("{a: b}", "[0, 2]"), 2, &["slices[0].sources[0].layer_range: expected a list"]);
}

#[test]
fn slices_with_another_number_of_sources_are_refused_with_what_to_list() {
    let recipe = "merge_method: linear\nparameters: {weight: 1}\nslices:\n\
                  - sources: [{model: ./a, layer_range: [0, 1]}, {model: ./b, layer_range: [0, 1]}]\n\
                  - sources: [{model: ./a, layer_range: [1, 2]}]\n";
    models().refused(recipe, 2, &["slices[1]: 1 models besides the base, but 2 in slices[0]", "`weight: 0`"]);
}

#[test]
fn what_ranks_over_the_whole_model_needs_the_same_models_in_every_slice() {
    let folder = models();
    let recipe = |method: &str, first: &str| {
        format!(
            "merge_method: {method}\nbase_model: ./base\nparameters: {{weight: 1}}\nslices:\n\
             - sources: [{{model: ./a, layer_range: [0, 1]}}, {{model: ./b, layer_range: [0, 1]}}]\n\
             - sources: [{{model: {first}, layer_range: [1, 2]}}, {{model: ./b, layer_range: [1, 2]}}]\n"
        )
    };
    let ties = |scope: &str, first| recipe("ties", first).replace("weight: 1", &format!("weight: 1, scope: {scope}"));
    assert!(folder.plan(&ties("model", "./a")).is_ok());
    assert!(folder.plan(&ties("tensor", "./b")).is_ok());
    folder.refused(&ties("model", "./b"), 2, &["rank values over the whole model", "same order in every slice"]);
    assert!(folder.plan(&recipe("slerp", "./b").replace("weight", "t")).is_ok());
    let lwptv = |first| recipe("task_arithmetic", first) + "lwptv: {eta: 0.5}\n";
    assert!(folder.plan(&lwptv("./a")).is_ok());
    folder.refused(&lwptv("./b"), 2, &["no task has a score over all layers", "drop lwptv"]);
}

#[test]
fn a_model_of_several_stacks_is_sliced_only_where_one_has_the_layers() {
    let folder = models();
    let two = |first: u32, second: u32| {
        let m = (0..first).fold(Model::default(), |m, l| m.f32(&format!("enc.{l}.w"), &[l as f32]));
        (0..second).fold(m, |m, l| m.f32(&format!("dec.{l}.w"), &[100.0 + l as f32]))
    };
    folder.put("two", &two(2, 4));
    let slices = "- sources: [{model: ./two, layer_range: [2, 4]}]\n";
    let (out, _) = folder.run(&passthrough(slices), "out");
    let want = [("dec.0.w", 102.0), ("dec.1.w", 103.0), ("enc.0.w", 0.0), ("enc.1.w", 1.0)];
    assert_eq!(values(&out), want);
    folder.put("two", &two(4, 4));
    folder.refused(&passthrough(slices), 2, &["several stacks of layers: `dec` of 4, `enc` of 4", "under `modules`"]);
    folder.put("none", &Model::default().f32("w", &[1.0]));
    folder.refused(&passthrough(&slices.replace("two", "none")), 2, &["`./none` has no layers"]);
}

#[test]
fn structure_that_says_nothing_or_too_much_is_refused() {
    let folder = models();
    let top = "merge_method: passthrough\n";
    folder.refused(top, 2, &["`models` is missing", "`slices`"]);
    let both = format!("{top}models: [{{model: ./a}}]\nslices:\n{FRANKEN}");
    folder.refused(&both, 2, &["expected one of `models`, `slices` and `modules`"]);
    folder.refused(&format!("{top}slices: []\n"), 2, &["slices: expected slices, got an empty list"]);
    folder.refused(&format!("{top}slices: [{{}}]\n"), 2, &["slices[0]: `sources` is missing"]);
    let range = passthrough(&FRANKEN.replace("layer_range", "layers_range"));
    folder.refused(&range, 2, &["slices[0].sources[0].layers_range", "did you mean `layer_range`"]);
    let in_models = format!("{top}models: [{{model: ./a, layer_range: [0, 1]}}]\n");
    folder.refused(&in_models, 2, &["models[0].layer_range: unknown key"]);
}

#[test]
fn a_layer_that_one_source_lacks_is_told_by_its_new_name() {
    let folder = models();
    let mut short = model(2.0, 4);
    short.tensors.retain(|t| t.name != "h.3.mlp");
    folder.put("b", &short);
    let recipe = "merge_method: linear\nparameters: {weight: 1}\nslices:\n\
                  - sources: [{model: ./a, layer_range: [2, 4]}, {model: ./b, layer_range: [2, 4]}]\n";
    folder.refused(recipe, 65, &["h.1.mlp", "./b", "missing"]);
}
