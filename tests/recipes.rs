//! What a recipe means: mergekit's dialect, its flag form, its models in every layout, and what the output then holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::{Model, options};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use taskvec::job;
use taskvec::plan::Plan;
use taskvec::recipe::Recipe;
use taskvec::source::Links;
use taskvec::tensor::Dtype;

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

// Parameters.

#[test]
fn a_models_own_parameter_goes_before_the_top_level() {
    let models = "[{model: x, parameters: {weight: 0.9}}, {model: z}]";
    assert_eq!(weights(models, "weight: 0.1", "t", 0.0), [0.9, 0.1]);
    let models = "[{model: x, parameters: {weight: 0}}, {model: z, parameters: }]";
    assert_eq!(weights(models, "weight: 0.1", "t", 0.0), [0.0, 0.1], "0 is a value, not an absence");
}

#[test]
fn a_filter_list_without_a_match_falls_through_to_the_top_level() {
    let models = "[{model: x, parameters: {weight: [{filter: mlp, value: 0.9}]}}, {model: z}]";
    assert_eq!(weights(models, "weight: 0.1", "layers.0.mlp.up", 0.0), [0.9, 0.1]);
    assert_eq!(weights(models, "weight: 0.1", "layers.0.attn.q", 0.0), [0.1, 0.1]);
}

#[test]
fn a_parameter_without_a_value_at_any_level_is_refused_for_the_tensor_that_lacks_it() {
    let text = "merge_method: task_arithmetic\nbase_model: b\n\
                models: [{model: x, parameters: {weight: {filter: mlp, value: 0.9}}}]\n";
    let recipe = Recipe::parse(text).unwrap();
    assert_eq!(recipe.settings("mlp", 0.0).unwrap().get("weight"), [0.9]);
    let error = recipe.settings("norm", 0.0).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("`weight` has no value for tensor `norm`"), "{error}");
}

#[test]
fn the_first_filter_that_is_part_of_the_name_wins() {
    let models =
        "[{model: x, parameters: {weight: [{filter: mlp, value: 1}, {filter: layers, value: 2}, {value: 3}]}}]";
    let seen = ["layers.0.mlp", "layers.0.attn", "norm"].map(|name| weights(models, "", name, 0.0)[0]);
    assert_eq!(seen, [1.0, 2.0, 3.0]);
    let models = "[{model: x, parameters: {weight: [{filter: '*', value: 1}, {filter: mlp, value: 2}]}}]";
    assert_eq!(weights(models, "", "layers.0.mlp", 0.0), [1.0]);
}

#[test]
fn a_gradient_is_linear_over_the_depth_also_inside_a_filter() {
    let models = "[{model: x, parameters: {weight: [1, 0.7, 0.1]}}, {model: z, parameters: {weight: [5]}}]";
    let seen = [0.0, 0.25, 0.5, 1.0].map(|depth| weights(models, "", "t", depth));
    assert_eq!(seen, [[1.0, 5.0], [0.85, 5.0], [0.7, 5.0], [0.1, 5.0]]);
    let models = "[{model: x, parameters: {weight: [{filter: mlp, value: [0, 1]}, {value: 9}]}}]";
    assert_eq!([0.5, 1.0].map(|depth| weights(models, "", "mlp", depth)[0]), [0.5, 1.0]);
}

#[test]
fn a_list_of_flags_is_stepped_through_not_interpolated() {
    let normalize = |depth| {
        let text = format!("{TASK_ARITHMETIC}parameters: {{normalize: [false, true]}}\n");
        Recipe::parse(&text).unwrap().settings("t", depth).unwrap().get("normalize")[0]
    };
    assert_eq!([0.0, 0.5, 0.75, 1.0].map(normalize), [0.0, 0.0, 0.0, 1.0], "as mergekit 0.1.5 evaluates it");
}

#[test]
fn the_plan_spreads_a_gradient_over_the_blocks_and_gives_the_rest_its_first_entry() {
    let bench = Bench::new();
    let recipe = TASK_ARITHMETIC.replacen("weight: 0.5", "weight: [0, 1]", 1);
    let plan = bench.plan(&recipe).unwrap();
    let seen: Vec<f64> = plan.tensors.iter().map(|t| plan.settings[t.settings].get("weight")[0]).collect();
    assert_eq!(seen, [0.0, 0.0, 0.5, 1.0, 0.0]);
}

#[test]
fn a_stack_of_one_block_takes_the_last_entry_of_a_gradient() {
    let bench = Bench::new();
    let one = Model::default().f32("embed.weight", &[1.0]).f32("layers.0.weight", &[1.0]);
    ["base", "a", "c"].iter().for_each(|name| one.write(&bench.path(name).join("model.safetensors")));
    let plan = bench.plan(&TASK_ARITHMETIC.replacen("weight: 0.5", "weight: [0, 1]", 1)).unwrap();
    let seen: Vec<f64> = plan.tensors.iter().map(|t| plan.settings[t.settings].get("weight")[0]).collect();
    assert_eq!(seen, [0.0, 1.0]);
}

#[test]
fn a_global_parameter_under_a_model_is_refused_where_mergekit_ignores_it() {
    let recipe = TASK_ARITHMETIC.replacen("weight: 0.5", "weight: 0.5, lambda: 2", 1);
    refused(&recipe, &["models[0].parameters", "`lambda` is not per model", "top-level parameters"]);
}

#[test]
fn what_mergekit_files_carry_everywhere_is_accepted_with_a_note_each() {
    let cabs =
        TASK_ARITHMETIC.replace("task_arithmetic", "cabs").replacen("weight: 0.5", "weight: 0.5, int8_mask: true", 1);
    let carried = "{n: 1, m: 4, int8_mask: true, normalize: true, rescale: true}";
    let plan = Bench::new().plan(&format!("{cabs}parameters: {carried}\n")).unwrap();
    for name in ["int8_mask", "normalize", "rescale"] {
        let notes = plan.warnings.iter().filter(|w| w.contains(&format!("`{name}` has no effect on cabs"))).count();
        assert_eq!(notes, 1, "{name}: {:?}", plan.warnings);
    }
}

#[test]
fn a_removed_parameter_is_noted_and_one_that_nobody_reads_is_refused() {
    let old = format!("{TASK_ARITHMETIC}parameters: {{embed_slerp: true}}\n");
    let plan = Bench::new().plan(&old).unwrap();
    assert!(plan.warnings.iter().any(|w| w.contains("`embed_slerp` is gone from mergekit too")), "{:?}", plan.warnings);
    let nobodys = TASK_ARITHMETIC.replacen("weight: 0.5", "weight: 0.5, residual_weight: 1", 1);
    refused(&nobodys, &["residual_weight"]);
    refused(&format!("{TASK_ARITHMETIC}dtype: bfloat\n"), &["did you mean `bfloat16`"]);
}

#[test]
fn a_method_of_two_models_refuses_one_and_three() {
    let slerp = |names: &[&str]| {
        let models = names.iter().map(|n| format!("- {{model: ./{n}}}\n")).collect::<Vec<_>>().concat();
        format!("merge_method: slerp\nparameters: {{t: 0.5}}\nmodels:\n{models}")
    };
    for names in [&["a"][..], &["a", "c", "base"]] {
        let error = Bench::new().plan(&slerp(names)).unwrap_err().to_string();
        assert!(error.contains(&format!("slerp merges 2 models besides the base, got {}", names.len())), "{error}");
    }
    assert!(Bench::new().plan(&slerp(&["a", "c"])).is_ok());
}

#[test]
fn element_masks_have_no_random_score() {
    let recipe = format!("{TASK_ARITHMETIC}lwptv: {{eta: 0.5, layer: element, score: random}}\n");
    let error = Bench::new().plan(&recipe).unwrap_err().to_string();
    assert!(error.contains("lwptv.score") && error.contains("random_mask"), "{error}");
}

// Models.

#[test]
fn a_base_listed_among_the_models_is_dropped_with_a_note() {
    let bench = Bench::new();
    let listed = TASK_ARITHMETIC.replace("models:\n", "models:\n- model: ./base\n  # no parameters\n");
    let recipe = Recipe::parse(&listed).unwrap();
    assert_eq!(recipe.experts().iter().map(|e| e.model.as_str()).collect::<Vec<_>>(), ["./a", "./c"]);
    let plan = bench.plan(&listed).unwrap();
    assert!(plan.warnings.iter().any(|w| w.contains("`./base` is the base")), "{:?}", plan.warnings);
    assert_eq!(bench.weights(&listed, "listed"), bench.weights(TASK_ARITHMETIC, "plain"));
}

#[test]
fn a_base_listed_among_the_models_of_a_method_on_weights_is_an_expert() {
    let linear = TASK_ARITHMETIC.replace("task_arithmetic", "linear");
    let listed = linear.replace("models:\n", "models:\n- {model: ./base, parameters: {weight: 1}}\n");
    assert_eq!(Recipe::parse(&listed).unwrap().experts().len(), 3);
}

#[test]
fn references_may_be_mappings() {
    let text = "merge_method: task_arithmetic\n\
                base_model: {model: {path: org/base, revision: v1.1}}\n\
                models:\n\
                - {model: {model: {path: org/x, revision: null}}, parameters: {weight: 1}}\n\
                - {model: {path: ./y, lora: null}, parameters: {weight: 1}}\n\
                - {model: {model: {path: org/x, revision: v2}, lora: {path: org/l, revision: v3}}}\n\
                - model: {path: ./y, lora: ./l}\n\
                parameters: {weight: 1}\n";
    let recipe = Recipe::parse(text).unwrap();
    assert_eq!(recipe.base.as_deref(), Some("org/base@v1.1"));
    assert_eq!(
        recipe.experts().iter().map(|e| e.model.as_str()).collect::<Vec<_>>(),
        ["org/x", "./y", "org/x@v2+org/l@v3", "./y+./l"]
    );
    let both = TASK_ARITHMETIC.replace("./a", "{path: ./a+./l, revision: v2}");
    refused(&both, &["write PATH@REV+LORA@REV"]);
}

#[test]
fn what_this_version_does_not_do_is_refused_with_2_and_said_clearly() {}

#[test]
fn a_folder_beside_the_recipe_may_have_a_plus_in_its_name() {
    let bench = Bench::new();
    fs::rename(bench.path("a"), bench.path("a+tuned")).unwrap();
    bench.weights(&TASK_ARITHMETIC.replace("./a", "./a+tuned"), "out");
}

#[test]
fn a_hub_id_is_resolved_in_the_local_cache_through_links_into_blobs() {
    let bench = Bench::new();
    let plain = bench.weights(TASK_ARITHMETIC, "plain");
    for name in ["base", "a"] {
        let repo = bench.path("hub").join(format!("models--org--{name}"));
        ["refs", "blobs", "snapshots/abc123"].iter().for_each(|f| fs::create_dir_all(repo.join(f)).unwrap());
        fs::write(repo.join("refs/main"), "abc123").unwrap();
        fs::rename(bench.path(name).join("model.safetensors"), repo.join("blobs/f00d")).unwrap();
        fs::write(repo.join("blobs/beef"), "{}").unwrap();
        symlink("../../blobs/f00d", repo.join("snapshots/abc123/model.safetensors")).unwrap();
        symlink("../../blobs/beef", repo.join("snapshots/abc123/config.json")).unwrap();
    }
    let by_id = TASK_ARITHMETIC.replace("./base", "org/base").replace("./a", "org/a");
    assert_eq!(bench.weights(&by_id, "by_id"), plain);
    assert_eq!(fs::read_to_string(bench.path("by_id/config.json")).unwrap(), "{}");
    assert!(fs::symlink_metadata(bench.path("by_id/config.json")).unwrap().is_file());
    let card = fs::read_to_string(bench.path("by_id/README.md")).unwrap();
    assert!(card.starts_with("---\nbase_model:\n- \"org/base\"\n- \"org/a\"\n- \"c\"\n"), "{card}");
    assert_eq!(bench.weights(&by_id.replace("org/a", "org/a@abc123"), "by_commit"), plain);
    let by_map = by_id.replace("org/base", "{model: {path: org/base, revision: main}}");
    assert_eq!(bench.weights(&by_map, "by_map"), plain);
}

#[test]
fn how_a_model_is_sharded_and_ordered_does_not_reach_the_output() {
    let bench = Bench::new();
    let recipe = format!("{TASK_ARITHMETIC}lwptv: {{eta: 0.4}}\n");
    bench.merge(&recipe, "plain", &[]);
    let whole = model(1.0).tensors;
    // Order 4, 2 | 0, 3, 1.
    let parts = [("z.safetensors", vec![4, 2]), ("b.safetensors", vec![0, 3, 1])];
    let mut map = serde_json::Map::new();
    for (name, tensors) in parts {
        tensors.iter().for_each(|&i| drop(map.insert(whole[i].name.clone(), name.into())));
        let part = Model { tensors: tensors.iter().map(|&i| whole[i].clone()).collect() };
        part.write(&bench.path("a").join(name));
    }
    fs::remove_file(bench.path("a/model.safetensors")).unwrap();
    bench.write("a/model.safetensors.index.json", &serde_json::json!({"weight_map": map}).to_string());
    Model { tensors: model(2.0).tensors.into_iter().rev().collect() }.write(&bench.path("c/model.safetensors"));
    bench.merge(&recipe, "sharded", &[]);
    let file = |out: &str| fs::read(bench.path(out).join("model.safetensors")).unwrap();
    assert_eq!(file("sharded"), file("plain"));
    let by_index = recipe.replace("./a", "./a/model.safetensors.index.json").replace("./c", "c/model.safetensors");
    bench.merge(&by_index, "by_index", &[]);
    assert_eq!(file("by_index"), file("plain"));
}

// Flags.

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

// The output.

#[test]
fn out_dtype_goes_before_dtype() {
    let dtype = |lines: &str| Recipe::parse(&format!("{TASK_ARITHMETIC}{lines}")).unwrap().dtype;
    assert_eq!(dtype("dtype: float16\nout_dtype: bfloat16\n"), Some(Dtype::BF16));
    assert_eq!(dtype("dtype: float16\n"), Some(Dtype::F16));
    assert_eq!(dtype("out_dtype: null\ndtype: float32\n"), Some(Dtype::F32));
    assert_eq!(dtype(""), None);
    refused(&format!("{TASK_ARITHMETIC}dtype: bfloat\nout_dtype: float16\n"), &["dtype: ", "did you mean `bfloat16`?"]);
    let written = Bench::new().weights(&format!("{TASK_ARITHMETIC}dtype: float32\nout_dtype: float16\n"), "out");
    assert!(written.tensors.iter().all(|t| t.dtype == "F16" && t.bytes.len() == 6));
}

#[test]
fn a_small_shard_size_gives_shards_and_an_index_in_the_bases_order() {
    let bench = Bench::new();
    let base = Model { tensors: model(0.0).tensors.into_iter().rev().collect() }.tensor("ids", "I64", &[], vec![7; 8]);
    base.write(&bench.path("base/model.safetensors"));
    let with_ids = |shift| model(shift).tensor("ids", "I64", &[], vec![7; 8]);
    [("a", 1.0), ("c", 2.0)].iter().for_each(|(n, s)| with_ids(*s).write(&bench.path(n).join("model.safetensors")));
    let whole = bench.weights(TASK_ARITHMETIC, "whole");
    bench.merge(TASK_ARITHMETIC, "out", &["--out-shard-size", "30"]);

    let index = json(&bench.path("out/model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], 5 * 12 + 8);
    let names: Vec<String> = (1..=3).map(|i| format!("model-{i:05}-of-00003.safetensors")).collect();
    let (mut tensors, mut map) = (Vec::new(), serde_json::Map::new());
    for name in &names {
        let path = bench.path("out").join(name);
        let bytes = fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap().get("format").map(String::as_str), Some("pt"));
        let ours = Model::read(&path).tensors;
        assert_eq!(theirs.len(), ours.len());
        assert!(ours.iter().map(|t| t.bytes.len()).sum::<usize>() <= 30, "{name}");
        for t in &ours {
            assert_eq!(theirs.tensor(&t.name).unwrap().data(), t.bytes);
            map.insert(t.name.clone(), name.clone().into());
        }
        tensors.extend(ours);
    }
    assert_eq!(
        tensors.iter().map(|t| &t.name).collect::<Vec<_>>(),
        base.tensors.iter().map(|t| &t.name).collect::<Vec<_>>()
    );
    assert_eq!(tensors, whole.tensors);
    assert_eq!(index["weight_map"], Value::Object(map));
    assert!(!bench.path("out/model.safetensors").exists());
    let report = json(&bench.path("out/taskvec.json"));
    let listed: Vec<_> = report["outputs"].as_array().unwrap().iter().take(3).map(|f| f["name"].clone()).collect();
    assert_eq!(listed, names);
}

#[test]
fn a_tensor_larger_than_the_shard_size_gets_a_shard_of_its_own() {
    let bench = Bench::new();
    bench.merge(TASK_ARITHMETIC, "out", &["--out-shard-size", "1"]);
    let sizes: Vec<usize> = (1..=5)
        .map(|i| Model::read(&bench.path(&format!("out/model-{i:05}-of-00005.safetensors"))).tensors.len())
        .collect();
    assert_eq!(sizes, [1; 5]);
}

#[test]
fn an_output_in_shards_is_an_input_like_any_other() {
    let bench = Bench::new();
    let recipe = |model: &str| TASK_ARITHMETIC.replace("./a", model);
    bench.merge(TASK_ARITHMETIC, "one", &[]);
    bench.merge(TASK_ARITHMETIC, "many", &["--out-shard-size", "24"]);
    assert_eq!(bench.weights(&recipe("./many"), "x"), bench.weights(&recipe("./one"), "y"));
}

#[test]
fn side_files_of_the_base_travel_and_its_weights_do_not() {
    let bench = Bench::new();
    bench.write("base/tokenizer.json", "{\"t\": 1}");
    bench.write("base/1_Pooling/config.json", "{}");
    bench.write("base/chat.py", "x = 1\n");
    bench.write("base/pytorch_model.bin", "pickle");
    bench.write("base/README.md", "the base's card");
    bench.write("base/config.json", "{\"torch_dtype\":\"float32\"}");
    bench.write("a/vocab.txt", "an expert's");
    bench.merge(TASK_ARITHMETIC, "out", &[]);
    let out = bench.path("out");
    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let want = ["1_Pooling", "README.md", "chat.py", "config.json", "merged.tvd", "mergekit_config.yml"];
    assert_eq!(names, [&want[..], &["model.safetensors", "taskvec.json", "tokenizer.json"]].concat());
    for name in ["tokenizer.json", "1_Pooling/config.json", "chat.py", "config.json"] {
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(bench.path("base").join(name)).unwrap(), "{name}");
    }
    assert_eq!(fs::read_to_string(out.join("mergekit_config.yml")).unwrap(), TASK_ARITHMETIC);
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.starts_with("---\nbase_model:\n- \"base\"\n- \"a\"\n- \"c\"\nlibrary_name: transformers\n"), "{card}");
    assert!(card.contains("tags:\n- mergekit\n- merge\n- taskvec\n"), "{card}");
}

#[test]
fn the_dtype_in_config_json_follows_a_changed_out_dtype() {
    let bench = Bench::new();
    let config = "{\"z\": 1, \"torch_dtype\": \"float32\", \"a\": [1.0]}";
    bench.write("base/config.json", config);
    bench.merge(&format!("{TASK_ARITHMETIC}dtype: float32\nout_dtype: bfloat16\n"), "out", &[]);
    let written = fs::read_to_string(bench.path("out/config.json")).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&written).unwrap(),
        serde_json::json!({"z": 1, "torch_dtype": "bfloat16", "a": [1.0]})
    );
    assert!(written.find("\"z\"") < written.find("\"a\""), "the order of keys stays: {written}");
    bench.merge(&format!("{TASK_ARITHMETIC}out_dtype: float32\n"), "same", &[]);
    assert_eq!(fs::read_to_string(bench.path("same/config.json")).unwrap(), config);
}

#[test]
fn the_report_lists_every_file_with_its_length_and_hash() {
    let bench = Bench::new();
    bench.write("base/config.json", "{}");
    bench.merge(TASK_ARITHMETIC, "out", &["--out-shard-size", "24"]);
    let report = json(&bench.path("out/taskvec.json"));
    let mut listed: Vec<String> = vec!["taskvec.json".into()];
    for file in report["outputs"].as_array().unwrap() {
        let bytes = fs::read(bench.path("out").join(file["name"].as_str().unwrap())).unwrap();
        assert_eq!(file["bytes"], bytes.len() as u64);
        assert_eq!(file["blake3"], blake3::hash(&bytes).to_hex().as_str());
        listed.push(file["name"].as_str().unwrap().to_owned());
    }
    listed.sort();
    assert_eq!(listed, files(&bench.path("out")).into_keys().collect::<Vec<_>>());
}

#[test]
fn two_runs_differ_in_the_run_field_of_the_report_alone() {
    let bench = Bench::new();
    bench.write("base/config.json", "{\"torch_dtype\": \"float32\"}");
    let recipe = format!("{TASK_ARITHMETIC}out_dtype: bfloat16\nlwptv: {{eta: 0.4}}\n");
    bench.merge(&recipe, "first", &["-j", "1", "--memory", "200MiB"]);
    bench.merge(&recipe, "second", &["-j", "3", "--io", "pread", "--quiet"]);
    let [mut first, mut second] = ["first", "second"].map(|out| files(&bench.path(out)));
    let [mut a, mut b] = [&mut first, &mut second]
        .map(|files| serde_json::from_slice::<serde_json::Map<_, _>>(&files.remove("taskvec.json").unwrap()).unwrap());
    assert_eq!(first, second);
    assert!(a.remove("run").is_some() && b.remove("run").is_some());
    assert_eq!(a, b);
    let inside = bench.0.path().to_str().unwrap();
    for (name, bytes) in &first {
        assert!(!String::from_utf8_lossy(bytes).contains(inside), "{name} holds a path");
    }
    a.remove("inputs");
    assert!(!serde_json::to_string(&a).unwrap().contains(inside), "paths are under `inputs` only");
}

/// The files of a folder without subfolders.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |e: std::io::Result<fs::DirEntry>| {
        let e = e.unwrap();
        (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())
    };
    fs::read_dir(folder).unwrap().map(entry).collect()
}
