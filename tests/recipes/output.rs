//! What an output consists of.

use crate::common::Model;
use crate::{Bench, TASK_ARITHMETIC, json, model, refused};
use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use taskvec::recipe::Recipe;
use taskvec::tensor::Dtype;

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
