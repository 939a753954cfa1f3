//! Recipes of several documents: each merge may take the results of those before.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::{Model, Random, tree};
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
    let inputs: Vec<_> = report["inputs"].as_array().unwrap().iter().map(|i| (&i["role"], &i["path"])).collect();
    assert_eq!(serde_json::json!(inputs[2..]), serde_json::json!([("stage", "./a"), ("stage", "./b")]));
    assert_eq!((&report["stages"][0]["name"], &report["stages"][0]["fused"]), (&"pair".into(), &true.into()));
    let stage = &report["stages"][0]["report"];
    assert_eq!(stage["inputs"][1]["path"], "./b");
    let hash = blake3::hash(&fs::read(bench.path("b/model.safetensors")).unwrap()).to_hex().to_string();
    assert_eq!(stage["inputs"][1]["files"][0]["blake3"], hash);
    assert_eq!(report["inputs"][3]["files"], stage["inputs"][1]["files"]);
    assert_eq!((&stage["outputs"], &stage["run"]["bytes_written"]), (&Value::Array(vec![]), &0.into()));
    assert_eq!(stage["tensors"][1]["action"], "merged");
    let card = fs::read_to_string(bench.path("out/README.md")).unwrap();
    assert!(card.starts_with("---\nbase_model:\n- \"a\"\n- \"b\"\n- \"c\"\nlibrary_name"), "{card}");
}

#[test]
fn the_report_of_a_written_result_tells_its_hash_and_its_reader_the_same() {
    let bench = Bench::new();
    let (code, _, errors) = bench.run("merge", TWO, &["out", "--fuse", "false"]);
    assert_eq!(code, Some(0), "{errors}");
    let report: Value = serde_json::from_slice(&fs::read(bench.path("out/taskvec.json")).unwrap()).unwrap();
    let stage = &report["stages"][0];
    assert_eq!(stage["fused"], false);
    assert!(stage["report"]["outputs"][0]["blake3"].is_string());
    assert_eq!(stage["report"]["outputs"][0]["blake3"], report["inputs"][0]["files"][0]["blake3"]);
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
    for fuse in ["true", "false"] {
        fs::create_dir_all(bench.path(".out.stages/pair")).unwrap();
        fs::write(bench.path(".out.stages/pair/old"), "old").unwrap();
        let (code, _, errors) = bench.run("merge", TWO, &["out", "--overwrite", "--fuse", fuse]);
        assert_eq!(code, Some(0), "{errors}");
        assert!(!bench.path(".out.stages").exists());
    }
    let single = TWO.split_once("---\n").unwrap().0;
    bench.merged(single, "single");
}

/// Models of two layers of 97 rows of 53 elements, and a tensor of integers.
fn large() -> Bench {
    let bench = Bench::new();
    for (seed, name) in (1..).zip(["base", "a", "b", "c"]) {
        let mut random = Random(seed);
        let mut layer = || -> Vec<u8> {
            let values = (0..97 * 53).map(|_| (random.below(20_000) as f32 - 10_000.0) / 7001.0);
            values.flat_map(f32::to_le_bytes).collect()
        };
        let model = Model::default().tensor("embed.ids", "I64", &[3], vec![7; 24]);
        let model = model.tensor("layers.0.weight", "F32", &[97, 53], layer());
        let model = model.tensor("layers.1.weight", "F32", &[97, 53], layer());
        model.write(&bench.path(name).join("model.safetensors"));
    }
    bench
}

impl Bench {
    /// The report of a merge that writes no result of a stage, if all can be fused. Fails unless OUT is that of written
    /// results, but for the report, in tiles of any size.
    #[track_caller]
    fn fused(&self, recipe: &str) -> Value {
        let small = ["small", "--fuse", "true", "--tile-elements", "2048", "-j", "1", "--io", "pread"];
        // Nothing can be written beside the output where its lock cannot be taken.
        [".fused.stages.lock", ".small.stages.lock"].iter().for_each(|f| fs::create_dir_all(self.path(f)).unwrap());
        for flags in [&["written", "--fuse", "false"][..], &["fused", "--fuse", "true"], &small] {
            let (code, _, errors) = self.run("merge", recipe, &[flags, &["--overwrite"]].concat());
            assert_eq!(code, Some(0), "{errors}");
        }
        let files = |out: &str| {
            let mut files = tree(&self.path(out));
            let report = files.remove(std::path::Path::new("taskvec.json")).unwrap();
            (files, serde_json::from_slice::<Value>(&report).unwrap())
        };
        let ((written, written_report), (fused, report)) = (files("written"), files("fused"));
        assert_eq!(written.keys().collect::<Vec<_>>(), fused.keys().collect::<Vec<_>>());
        written.iter().for_each(|(name, content)| assert!(*content == fused[name], "{} differs", name.display()));
        assert!(written == files("small").0, "the size of tiles shows");
        for (stage, written) in both(&report["stages"], &written_report["stages"]) {
            assert_eq!((&stage["fused"], &written["fused"]), (&true.into(), &false.into()));
            for field in ["plan_id", "settings", "layers", "thresholds"] {
                assert_eq!(stage["report"][field], written["report"][field], "{field}");
            }
            for (t, written) in both(&stage["report"]["tensors"], &written["report"]["tensors"]) {
                assert_eq!((&t["name"], &t["action"]), (&written["name"], &written["action"]));
            }
        }
        assert_eq!(report["run"]["bytes_written"], written_report["run"]["bytes_written"]);
        assert_eq!(report["layers"], written_report["layers"]);
        assert_eq!(report["tensors"], written_report["tensors"]);
        report
    }
}

fn both<'a>(a: &'a Value, b: &'a Value) -> impl Iterator<Item = (&'a Value, &'a Value)> {
    let (a, b) = (a.as_array().unwrap(), b.as_array().unwrap());
    assert_eq!(a.len(), b.len());
    a.iter().zip(b)
}

/// A document of a recipe on `./base`.
fn document(name: &str, method: &str, models: &[&str], more: &str) -> String {
    let parameters = "parameters: {weight: 0.7, density: 0.6}".to_owned();
    let parameters = match method {
        "linear" | "task_arithmetic" => "parameters: {weight: 0.7}".into(),
        "passthrough" | "consensus_ta" | "model_stock" | "karcher" => String::new(),
        "dare_linear" | "dare_ties" => parameters.replace('}', ", rescale_by: probability}"),
        "slerp" | "nearswap" => "parameters: {t: 0.3}".into(),
        _ => parameters,
    };
    let models: Vec<String> = models.iter().map(|m| format!("- {{model: {m}}}\n")).collect();
    let base = if ["linear", "passthrough", "slerp", "nearswap", "karcher"].contains(&method) {
        ""
    } else {
        "base_model: ./base\n"
    };
    let name = if name.is_empty() { String::new() } else { format!("name: {name}\n") };
    format!("{name}merge_method: {method}\n{base}{parameters}\n{more}models:\n{}---\n", models.concat())
}

#[test]
fn fused_stages_of_every_kind_give_the_bytes_of_written_ones() {
    let bench = large();
    for (first, second) in [
        ("linear", "ties"),
        ("task_arithmetic", "slerp"),
        ("dare_linear", "dare_ties"),
        ("consensus_ta", "della"),
        ("nearswap", "model_stock"),
        ("dare_ties", "karcher"),
        ("linear", "passthrough"),
    ] {
        let models: &[&str] = if second == "passthrough" { &["one"] } else { &["one", "./c"] };
        let recipe = document("one", first, &["./a", "./b"], "") + &document("", second, models, "");
        bench.fused(&recipe);
    }
}

#[test]
fn a_fused_stage_may_read_fused_stages_and_may_be_read_twice() {
    let bench = large();
    let one = document("one", "linear", &["./a", "./b"], "");
    let two = document("two", "task_arithmetic", &["one", "./c"], "");
    let chain = bench.fused(&(one.clone() + &two + &document("", "ties", &["two", "./a"], "")));
    let paths: Vec<&Value> = chain["inputs"].as_array().unwrap().iter().map(|i| &i["path"]).collect();
    assert_eq!(paths, ["./base", "stage two", "./a", "./c", "./b"]);
    bench.fused(&(one + &two + &document("", "ties", &["two", "one", "./a"], "")));
}

#[test]
fn a_fused_result_is_rounded_to_the_stages_dtype() {
    let bench = large();
    let first = |dtype: &str| document("one", "linear", &["./a", "./b"], dtype);
    let last = document("", "task_arithmetic", &["one", "./c"], "");
    bench.fused(&(first("out_dtype: bfloat16\n") + &last));
    let rounded = Model::read(&bench.path("fused/model.safetensors"));
    bench.fused(&(first("") + &last));
    assert_ne!(Model::read(&bench.path("fused/model.safetensors")), rounded);
}

#[test]
fn a_fused_stage_prunes_its_own_layers_and_those_who_read_it_theirs() {
    let bench = large();
    for lwptv in ["{eta: 0.5}", "{eta: 0.5, score: magnitude, consensus: none}", "{eta: 0.4, layer: element}"] {
        let lwptv = format!("lwptv: {lwptv}\n");
        let first = document("one", "task_arithmetic", &["./a", "./b"], &lwptv);
        let report = bench.fused(&(first + &document("", "task_arithmetic", &["one", "./c"], &lwptv)));
        let pruned = |t: &Value| t["tensors"].as_array().unwrap().iter().any(|t| t["action"] == "pruned");
        assert_eq!(pruned(&report["stages"][0]["report"]), !lwptv.contains("element"), "{lwptv}");
    }
}

#[test]
fn adapters_and_slices_and_copied_tensors_may_be_in_a_fused_stage() {
    let bench = large();
    let config = serde_json::json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4});
    let factors = |n: usize| -> Vec<u8> { (0..n).flat_map(|i| (i as f32 / 99.0 - 1.0).to_le_bytes()).collect() };
    let adapter = Model::default().tensor("base_model.model.layers.0.lora_A.weight", "F32", &[2, 53], factors(106));
    let adapter = adapter.tensor("base_model.model.layers.0.lora_B.weight", "F32", &[97, 2], factors(194));
    adapter.write(&bench.path("lora/adapter_model.safetensors"));
    fs::write(bench.path("lora/adapter_config.json"), config.to_string()).unwrap();
    let last = document("", "ties", &["one", "./c"], "exclude: [layers.1]\n");
    bench.fused(&(document("one", "linear", &["./a+./lora", "./b"], "") + &last));
    bench.fused(&(document("one", "linear", &["./a", "./b"], "exclude: [layers.0]\n") + &last));
    let copies = "copy_from: [{filter: layers.0, model: ./c}]\n";
    bench.fused(&(document("one", "linear", &["./a", "./b"], copies) + &document("", "linear", &["one", "./b"], "")));

    let sliced = "name: one\nmerge_method: passthrough\nout_dtype: float16\nslices:\n\
                  - sources: [{model: ./a, layer_range: [0, 2]}]\n- sources: [{model: ./b, layer_range: [0, 2]}]\n---\n\
                  merge_method: linear\nparameters: {weight: 1}\nslices:\n- sources:\n  \
                  - {model: one, layer_range: [1, 3]}\n  - {model: ./c, layer_range: [0, 2]}\n";
    bench.fused(sliced);
    let config: Value = serde_json::from_slice(&fs::read(bench.path("fused/config.json")).unwrap()).unwrap();
    assert_eq!(config, serde_json::json!({"num_hidden_layers": 2, "torch_dtype": "float16"}));
}

#[test]
fn the_side_files_of_a_fused_reference_are_those_that_it_would_have_written() {
    let bench = large();
    let settings = r#"{"chat_template": "{{ messages }}", "add_bos_token": true}"#;
    fs::write(bench.path("a/tokenizer_config.json"), settings).unwrap();
    fs::write(bench.path("a/LICENSE"), "free").unwrap();
    let first = document("one", "linear", &["./a", "./b"], "chat_template: chatml\nout_dtype: bfloat16\n");
    let second = document("two", "linear", &["one", "./c"], "");
    bench.fused(&(first + &second + &document("", "linear", &["two", "./c"], "")));
    for (name, words) in [("LICENSE", "free"), ("chat_template.jinja", "im_start"), ("config.json", "bfloat16")] {
        let text = fs::read_to_string(bench.path("fused").join(name)).unwrap();
        assert!(text.contains(words), "{name}: {text}");
    }
}

#[test]
fn fused_and_written_stages_meet_in_one_recipe() {
    let bench = large();
    let mut diff = Command::cargo_bin("taskvec").unwrap();
    diff.current_dir(bench.0.path()).args(["diff", "./base", "./a", "-o", "a.tvd"]).assert().success();
    let recipe = document("one", "task_arithmetic", &["./a.tvd", "./b"], "")
        + &document("two", "linear", &["one", "./c"], "")
        + &document("three", "ties", &["two", "./b"], "")
        + &document("", "task_arithmetic", &["three", "two", "./a.tvd"], "");
    let (code, plan, errors) = bench.run("plan", &recipe, &["--fuse", "true"]);
    assert_eq!(code, Some(0), "{errors}");
    let results: Vec<&str> = plan.lines().filter(|l| l.starts_with("result")).collect();
    let fused = "result    fused: its result is made as it is read, and not written";
    let coded = "result    written, because it reads delta files";
    let surveyed = "result    written, because its method gathers statistics of whole tensors first";
    assert_eq!(results, [coded, fused, surveyed]);
    for (out, fuse) in [("some", "true"), ("none", "false")] {
        let (code, _, errors) = bench.run("merge", &recipe, &[out, "--fuse", fuse]);
        assert_eq!(code, Some(0), "{errors}");
        assert!(!bench.path(&format!(".{out}.stages")).exists());
    }
    let weights = |out: &str| fs::read(bench.path(out).join("model.safetensors")).unwrap();
    assert!(weights("some") == weights("none"));
    let report: Value = serde_json::from_slice(&fs::read(bench.path("some/taskvec.json")).unwrap()).unwrap();
    let stages: Vec<_> = report["stages"].as_array().unwrap().iter().map(|s| (&s["name"], &s["fused"])).collect();
    assert_eq!(serde_json::json!(stages), serde_json::json!([("one", false), ("two", true), ("three", false)]));
}

#[test]
fn a_stage_is_fused_where_that_moves_fewer_bytes() {
    let bench = large();
    let first = document("one", "linear", &["./a", "./b"], "");
    let result = |last: &str, flags: &[&str]| {
        let (code, plan, errors) = bench.run("plan", &(first.clone() + last), flags);
        assert_eq!(code, Some(0), "{errors}");
        plan.lines().find_map(|l| l.strip_prefix("result    ")).unwrap().to_owned()
    };
    let (once, often) = (document("", "linear", &["one", "./c"], ""), document("", "ties", &["one", "./c"], ""));
    assert!(result(&once, &[]).starts_with("fused"));
    // Four reads of a and b, each of 41 kB, against one, and a result that is written once and read four times.
    let moved =
        "making it as often as it is read would read 329 kB; making it once, writing and reading it takes 288 kB";
    assert_eq!(result(&often, &[]), format!("written, because {moved}"));
    let united = once.replace("models:", "tokenizer_source: base\nmodels:");
    assert!(result(&united, &["--fuse", "true"]).starts_with("fused"), "there are no tokens");
    let template = once.replace("models:", "chat_template: auto\nmodels:");
    assert_eq!(result(&template, &["--fuse", "true"]), "written, because a later stage reads its chat template");
}

#[test]
fn a_stage_that_does_not_fit_the_memory_beside_its_reader_is_written() {
    let bench = large();
    let recipe = document("one", "linear", &["./a", "./b"], "") + &document("", "linear", &["one", "./c"], "");
    let (code, _, errors) = bench.run("plan", &recipe, &["-j", "8", "--memory", "1MB"]);
    assert_eq!(code, Some(2), "{errors}");
    let number = errors.split("needs ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let memory = |more: f64| format!("{}MB", number.parse::<f64>().unwrap() + more);
    let (_, tight, _) = bench.run("plan", &recipe, &["-j", "8", "--memory", &memory(0.0)]);
    assert!(tight.contains("written, because its models do not fit --memory"), "{tight}");
    let (_, wide, _) = bench.run("plan", &recipe, &["-j", "8", "--memory", &memory(30.0)]);
    assert!(wide.contains("result    fused"), "{wide}");
}

#[test]
fn tensors_that_a_fused_stage_copies_are_compared_with_those_of_its_reader() {
    let bench = large();
    let recipe = document("one", "linear", &["./a", "./b"], "") + &document("", "linear", &["one", "./c"], "");
    let other = Model::read(&bench.path("c/model.safetensors"));
    let mut changed = other.clone();
    changed.tensors[0].bytes[9] = 1;
    changed.write(&bench.path("c/model.safetensors"));
    bench.refused(&recipe, &["out"], 65, &["embed.ids", "stage one", "c/model.safetensors"]);
    other.write(&bench.path("c/model.safetensors"));
    changed.write(&bench.path("b/model.safetensors"));
    bench.refused(&recipe, &["out"], 65, &["embed.ids", "a/model.safetensors", "b/model.safetensors"]);
}
