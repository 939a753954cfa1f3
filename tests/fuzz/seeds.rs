//! `fuzz/seeds`: small whole inputs for each target, made of fixtures and of what taskvec writes.

use crate::common::{Model, Random, diff_run};
use crate::targets::TARGETS;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use taskvec::codec::lossy::Scheme;
use taskvec::codec::{self, Codec, Coding, Kind};
use taskvec::job;
use taskvec::source::DeltaFile;
use taskvec::tensor::Dtype;

/// Writes all of them into the source folder.
pub fn write() {
    for target in TARGETS {
        let folder = Path::new("fuzz/seeds").join(target.name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for (i, seed) in of(target.name).iter().enumerate() {
            fs::write(folder.join(format!("{i:02}")), seed).unwrap();
        }
    }
}

/// Those of one target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "header" => headers(),
        "shard_index" => shard_indexes(),
        "recipe" => recipes(),
        "coefficients" => texts(COEFFICIENTS),
        "adapter_config" => adapter_configs(),
        "tokenizer" => texts(TOKENIZERS),
        "config" => texts(CONFIGS),
        "delta_index" => delta_files(),
        "delta_block" => blocks(),
        "delta_round_trip" => values(),
        _ => unreachable!(),
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}

fn headers() -> Vec<Vec<u8>> {
    let dtypes = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL"];
    let mut all = Map::new();
    let mut at = 0;
    for dtype in dtypes {
        let end = at + 6 * Dtype::from_header(dtype).unwrap().bytes();
        all.insert(dtype.to_lowercase(), json!({"dtype": dtype, "shape": [2, 3], "data_offsets": [at, end]}));
        at = end;
    }
    let layer = |i: usize| {
        let name = format!("model.layers.{i}.self_attn.q_proj.weight");
        (name, json!({"dtype": "BF16", "shape": [16, 16], "data_offsets": [i * 512, (i + 1) * 512]}))
    };
    let mut layers: Map<String, Value> = (0..6).map(layer).collect();
    layers.insert("__metadata__".into(), json!({"format": "pt", "made by": "nobody"}));
    let few = [
        json!({}),
        json!({"__metadata__": {}}),
        json!({"x": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}),
        json!({"e": {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]}, "s": {"dtype": "U8", "shape": [1, 1, 1, 1], "data_offsets": [0, 1]}}),
        json!({"x": {"dtype": "F64", "shape": [1u64 << 40, 0, 1u64 << 20], "data_offsets": [0, 0]}}),
        Value::Object(all),
        Value::Object(layers),
    ];
    let mut seeds: Vec<Vec<u8>> = few.iter().map(|v| v.to_string().into_bytes()).collect();
    for name in ["whole", "name_twice", "tensors_overlap"] {
        let file = fs::read(format!("fixtures/broken/{name}.safetensors")).unwrap();
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        seeds.push(file[8..8 + length].to_vec());
    }
    seeds
}

fn shard_indexes() -> Vec<Vec<u8>> {
    let map: Map<String, Value> = (0..8)
        .map(|i| (format!("model.layers.{i}.weight"), format!("model-0000{}-of-00002.safetensors", 1 + i % 2).into()))
        .collect();
    let all = [
        json!({"metadata": {"total_size": 1024}, "weight_map": map}),
        json!({"weight_map": {}}),
        json!({"weight_map": {"a": "x.safetensors"}, "more": [1, {"deep": null}]}),
        json!({"metadata": {}, "weight_map": {"a": "../x.safetensors"}}),
    ];
    all.iter().map(|v| v.to_string().into_bytes()).collect()
}

fn recipes() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for folder in ["fixtures/recipes", "fixtures/tokenizer"] {
        let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        paths.retain(|p| p.extension().is_some_and(|e| e == "yml"));
        seeds.extend(paths.iter().map(|p| fs::read(p).unwrap()));
    }
    let reference = fs::read_dir("fixtures/reference").unwrap().map(|e| e.unwrap().path().join("recipe.yml"));
    let mut reference: Vec<_> = reference.filter(|p| p.exists()).collect();
    reference.sort();
    seeds.extend(reference.iter().step_by(8).map(|p| fs::read(p).unwrap()));
    seeds.extend(texts(&[
        "merge_method: linear\nmodels: &a\n- &m {model: ./a, parameters: &p {weight: [0, 1]}}\n- *m\n",
        "merge_method: ties\nbase_model: b\nmodels: [{model: c}, {model: d}]\nparameters: {weight: 1, density: [{filter: mlp, value: 0.5}, {value: 1}]}\nlwptv: {eta: 0.5, layer: block, consensus: or}\n",
    ]));
    seeds.retain(|s| s.len() <= 2048);
    seeds
}

const COEFFICIENTS: &[&str] = &[
    r#"{"tasks": ["x", "y", "z"], "base": 1.0, "layers": {"a": [0.25, 0.5, 1], "b": [0, 1, 2]}, "default": [1, 1, 1]}"#,
    r#"{"names": ["a", "b"], "rows": [[1.0, 0.25, 0.5, 0], [1.0, 0, 1, 3]]}"#,
    r#"{"names": ["a", "b"], "columns": [[0.25, 0], [0.5, 1], [1, 2]]}"#,
    "[[1.0, 0.3, 0.4, 0.5]]",
    "layers:\n  a: [1, 2, 3]\ndefault: [3, 4, 5]\n",
];

fn adapter_configs() -> Vec<Vec<u8>> {
    let mut seeds = texts(&[
        r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {"layers.1.q": 4, "q": 2}, "alpha_pattern": {"k|v": 3.5, "mlp\\..*": 1}}"#,
        r#"{"peft_type": "LORA", "r": 9, "lora_alpha": 6.5, "use_rslora": true, "fan_in_fan_out": false, "modules_to_save": ["score"], "init_lora_weights": "gaussian"}"#,
        r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": false, "layer_replication": null, "init_lora_weights": true}"#,
    ]);
    let peft = ["gpt2", "llama_all", "llama_attention"];
    let of = |name: &&str| fs::read(format!("fixtures/lora/peft/{name}/adapter/adapter_config.json")).unwrap();
    seeds.extend(peft.iter().map(of));
    seeds
}

const TOKENIZERS: &[&str] = &[
    r#"{"version": "1.0", "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}], "normalizer": null, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3}, "merges": [["a", "b"]]}}"#,
    r#"{"added_tokens": [{"id": 1, "content": "b"}, {"id": 3, "content": "x"}, {"id": 4, "content": "y"}], "model": {"vocab": [["a", -1.5], ["b", -2.0], ["c", 0]]}}"#,
    r#"{"model": {"vocab": {}}}"#,
    r#"{"added_tokens": null, "model": {"vocab": {"\ud83d\ude00": 7, "z": 9}}}"#,
];

const CONFIGS: &[&str] = &[
    r#"{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "torch_dtype": "float32", "vocab_size": 32000, "tie_word_embeddings": true, "rope_theta": 10000.0}"#,
    r#"{"text_config": {"n_layers": 3, "vocab_size": 8}, "vision_config": {"num_hidden_layers": 7}, "dtype": "float16"}"#,
    r#"{"n_layer": 3, "n_layers": 3, "id2label": {"0": "x"}, "big": 18446744073709551615, "small": -1e-300}"#,
];

fn delta_files() -> Vec<Vec<u8>> {
    let codings = [Codec::Auto, Codec::Raw, Codec::S1].map(Coding::Exact);
    let lossy = ["tvq4", "ternary-0.2"].map(|name| Coding::Lossy(Scheme::from_name(name).unwrap()));
    codings.into_iter().chain(lossy).map(delta_file).collect()
}

/// The parts of a delta file of a few tensors.
fn delta_file(coding: Coding) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let values =
        |n: usize, step: f32| (0..n).map(|i| (i % 17) as f32 * 0.125 + (i % 3) as f32 * step).collect::<Vec<_>>();
    let base = Model::default().f32("w", &values(60, 0.0)).f32("gone", &[1.0]);
    let model = Model::default().f32("w", &values(60, 0.25)).f32("new", &[2.0, 3.0]);
    base.write(&path("base/model.safetensors"));
    model.write(&path("model/model.safetensors"));
    fs::write(path("model/config.json"), "{}").unwrap();
    let (from, to) = (path("base"), path("model"));
    let run = job::DiffRun { coding, ..diff_run(Codec::Auto) };
    job::diff(from.to_str().unwrap(), None, to.to_str().unwrap(), &path("x.tvd"), &run).unwrap();
    let delta = DeltaFile::open(&path("x.tvd")).unwrap();
    let bytes = fs::read(path("x.tvd")).unwrap();
    let payload = |(_, at, length): (_, u64, u64)| bytes[at as usize..(at + length) as usize].to_vec();
    let payloads = delta.index.tensors.iter().filter_map(|t| delta.payload(t)).map(payload);
    let parts: Vec<Vec<u8>> = [delta.files().unwrap()].into_iter().chain(payloads).collect();
    let part = |part: &Vec<u8>| [&(part.len() as u16).to_le_bytes()[..], part].concat();
    let lead: Vec<u8> = [parts.len() as u8].into_iter().chain(parts.iter().flat_map(part)).collect();
    [lead, serde_json::to_vec(&delta.index).unwrap()].concat()
}

/// How targets are told a dtype.
fn number(dtype: Dtype) -> u8 {
    Dtype::ALL.iter().position(|d| *d == dtype).unwrap() as u8
}

/// Whole blocks of several kinds, on the bases that the target makes.
fn blocks() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut scratch = codec::Scratch::new();
    for dtype in [Dtype::BF16, Dtype::F32, Dtype::F16, Dtype::F64, Dtype::U8] {
        for (codec, count) in [(Codec::Auto, 700), (Codec::S1, 300), (Codec::S2, 1100), (Codec::Auto, 4096)] {
            for seed in [0, 7] {
                let base = crate::targets::values(dtype, count, seed);
                let mut result = base.clone();
                let mut random = Random(count as u64);
                let step = if count == 4096 { 900 } else { 3 };
                result.iter_mut().step_by(step * dtype.bytes()).for_each(|b| *b ^= random.below(7) as u8);
                let mut block = Vec::new();
                let with_base = (seed != 0).then_some(base.as_slice());
                let kind = codec::encode(codec, dtype, with_base, &result, &mut scratch, &mut block);
                let count = (count as u16).to_le_bytes();
                seeds.push([&[kind.byte(), number(dtype), count[0], count[1], seed, 0, 0, 0], &block[..]].concat());
            }
        }
    }
    for name in ["tvq2", "tvq4-g128", "sign1", "ternary-0.2", "tall-0.3"] {
        seeds.push(lossy_block(Scheme::from_name(name).unwrap()));
    }
    seeds.retain(|s| s.len() <= 4096);
    seeds
}

fn lossy_block(scheme: Scheme) -> Vec<u8> {
    use taskvec::codec::lossy::{Known, Place, Scratch, encode};
    let (code, parameter) = scheme.to_code();
    let bytes = crate::targets::values(Dtype::F32, 400, 7);
    let mut base = vec![0.0; 400];
    Dtype::F32.decode(&bytes, &mut base);
    let shared: Vec<f32> = base.iter().map(|v| v + 0.01).collect();
    let result: Vec<f32> = base.iter().enumerate().map(|(i, v)| v + (i % 5) as f32 * 0.003).collect();
    let known = Known { base: &base, shared: Some(&shared) };
    let mut block = Vec::new();
    encode(scheme, Place { row: 1, first: 0 }, known, &result, &mut Scratch::new(), &mut block).unwrap();
    let parameter = (parameter as u16).to_le_bytes();
    [&[Kind::LOSSY.byte(), number(Dtype::F32), 144, 1, 7, code, parameter[0], parameter[1]], &block[..]].concat()
}

fn values() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for dtype in [Dtype::BF16, Dtype::F32, Dtype::F16, Dtype::F64, Dtype::F8E4M3] {
        for (codec, repeats, scheme) in
            [(0u8, 0u8, [0u8, 0, 0, 0]), (1, 3, [0; 4]), (2, 20, [1, 0, 4, 0]), (0, 31, [3, 0, 200, 0])]
        {
            let base = crate::targets::values(dtype, 40, 3);
            let mut result = base.clone();
            result.iter_mut().step_by(3 * dtype.bytes()).for_each(|b| *b ^= 3);
            seeds.push([&[number(dtype), codec, 1, repeats], &scheme[..], &base, &result].concat());
        }
    }
    // F32 that is BF16 widened.
    let wide: Vec<u8> = (0..80u8).flat_map(|i| [0, 0, i, 0x3f]).collect();
    seeds.push([&[number(Dtype::F32), 0, 1, 9, 0, 0, 0, 0], &wide[..]].concat());
    seeds
}
