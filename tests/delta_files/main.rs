//! Delta files give back what went in: every byte of every file, for any tensors, from any base; and merges that read
//! deltas make the bytes of merges that read checkpoints.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod chains;
#[path = "../common/mod.rs"]
mod common;
mod merges;
mod refused;
mod round_trip;

use assert_cmd::Command;
use common::{Model, Random, assert_same_files, diff_run, tree};
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use taskvec::codec::Codec;
use taskvec::job;
use taskvec::tensor::Dtype;

/// A folder to work in, and the binary.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, model: &Model) {
        model.write(&self.path(name));
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    /// A model as Hugging Face lays it out: shards, their index, and the small files around them.
    fn put_folder(&self, name: &str, model: &Model, shards: usize) {
        let mut map = serde_json::Map::new();
        let parts: Vec<_> = model.tensors.chunks(model.tensors.len().div_ceil(shards)).collect();
        for (i, tensors) in parts.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, parts.len());
            tensors.iter().for_each(|t| drop(map.insert(t.name.clone(), file.clone().into())));
            self.put(&format!("{name}/{file}"), &Model { tensors: tensors.to_vec() });
        }
        let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        self.write(&format!("{name}/model.safetensors.index.json"), &serde_json::to_vec_pretty(&index).unwrap());
        self.write(&format!("{name}/tokenizer.json"), &[b't'; 5000]);
    }

    /// Runs the binary in this folder.
    fn run(&self, args: &str) -> Output {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        command.current_dir(self.0.path()).args(args.split(' ')).env("HF_HUB_CACHE", self.path("no-cache"));
        command.output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &str) {
        let run = self.run(&format!("{args} --quiet"));
        assert_eq!(run.status.code(), Some(0), "{args}: {}", String::from_utf8_lossy(&run.stderr));
    }

    /// The command ends with `code`, says all of `words`, and leaves every file as it was.
    #[track_caller]
    fn refused(&self, args: &str, code: i32, words: &[&str]) {
        let before = tree(self.0.path());
        let run = self.run(args);
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(code), "{args}: {message}");
        words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in: {message}"));
        assert!(tree(self.0.path()) == before, "{args}: the folder changed");
    }

    #[track_caller]
    fn same(&self, a: &str, b: &str) {
        if self.path(a).is_dir() {
            return assert_same_files(&self.path(a), &self.path(b));
        }
        assert!(fs::read(self.path(a)).unwrap() == fs::read(self.path(b)).unwrap(), "{a} and {b} differ");
    }
}

/// Any bits: NaN with all payloads, both zeros, subnormals.
fn any_bits(dtype: Dtype, elements: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = random.bytes(elements * dtype.bytes());
    if dtype == Dtype::Bool {
        bytes.iter_mut().for_each(|b| *b &= 1);
    }
    bytes
}

/// A part of the elements, in steps of a few units in the last place.
fn nudged(dtype: Dtype, bytes: &[u8], one_in: u64, random: &mut Random) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for element in out.chunks_mut(dtype.bytes()) {
        let step = if dtype == Dtype::Bool { 1 } else { 1 + random.below(7) as u8 };
        element[0] ^= if random.below(one_in) == 0 { step } else { 0 };
    }
    out
}

fn elements(shape: &[u64]) -> usize {
    shape.iter().product::<u64>() as usize
}

/// Every dtype in several shapes, a scalar and an empty tensor among them.
fn every_dtype(seed: u64) -> Model {
    let mut random = Random(seed);
    Dtype::ALL.into_iter().fold(Model::default(), |model, dtype| {
        let shapes: [(&str, &[u64]); 4] = [("matrix", &[7, 33]), ("scalar", &[]), ("empty", &[0, 3]), ("one", &[1])];
        shapes.into_iter().fold(model, |model, (name, shape)| {
            let bytes = any_bits(dtype, elements(shape), &mut random);
            model.tensor(&format!("{dtype}.{name}"), dtype.header_name(), shape, bytes)
        })
    })
}

/// The same tensors, a third of the elements a little different.
fn tuned(model: &Model, seed: u64) -> Model {
    let mut random = Random(seed);
    let mut tuned = model.clone();
    for t in &mut tuned.tensors {
        t.bytes = nudged(Dtype::from_header(&t.dtype).unwrap(), &t.bytes, 3, &mut random);
    }
    tuned
}

/// `m0` to `m<depth>`, and in `deltas` `1.tvd` to `<depth>.tvd`, each on the one before.
fn chain(depth: usize) -> Bench {
    let bench = Bench::new();
    let mut model = every_dtype(1);
    bench.put("m0/model.safetensors", &model);
    fs::create_dir(bench.path("deltas")).unwrap();
    for i in 1..=depth {
        model = tuned(&model, i as u64);
        bench.put(&format!("m{i}/model.safetensors"), &model);
        let on = (i > 1).then(|| bench.path(&format!("deltas/{}.tvd", i - 1)));
        let (base, tip) = (bench.path("m0"), bench.path(&format!("m{i}")));
        let out = bench.path(&format!("deltas/{i}.tvd"));
        let (base, tip) = (base.to_str().unwrap(), tip.to_str().unwrap());
        job::diff(base, on.as_deref(), tip, &out, &diff_run(Codec::Auto)).unwrap();
    }
    bench
}

/// Weights in several dtypes, of three blocks and of a few elements; `shift` sets the experts apart.
fn weights(dtypes: [Dtype; 2], seed: u64, share: u64) -> Model {
    let shapes: [(&str, &[u64]); 6] = [
        ("embed.weight", &[1000, 300]),
        ("layers.0.mlp.weight", &[64, 64]),
        ("layers.0.norm.weight", &[64]),
        ("layers.1.mlp.weight", &[64, 64]),
        ("layers.1.norm.weight", &[64]),
        ("head.weight", &[10, 64]),
    ];
    let mut random = Random(7);
    let mut steps = Random(seed);
    shapes.iter().enumerate().fold(Model::default(), |model, (i, (name, shape))| {
        let dtype = dtypes[i % 2];
        let frozen = share == 0 || *name == "layers.1.norm.weight";
        let value = |_| {
            let base = (random.next() as i32) as f32 * 1e-11;
            let step = (steps.next() as i32) as f32 * 2e-13;
            if frozen || steps.below(100) >= share { base } else { base + step * (1 + i) as f32 }
        };
        let values: Vec<f32> = (0..elements(shape)).map(value).collect();
        let mut bytes = vec![0; values.len() * dtype.bytes()];
        dtype.encode(&values, &mut bytes);
        model.tensor(name, dtype.header_name(), shape, bytes)
    })
}
