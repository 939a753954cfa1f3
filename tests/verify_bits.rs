//! `taskvec verify` of a merged model finds any flipped bit: in weights, index, side files, delta file and report.
//! `TASKVEC_BITS=all` flips every bit.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Model, Random, apply_run, options, tree};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use taskvec::job::check_output;
use taskvec::plan::Options;
use taskvec::recipe::Recipe;
use taskvec::source::Io;

/// Bits that are flipped when not all are.
const SAMPLED: usize = 20_000;

/// An output of two shards, an index, side files, a delta file and a report.
fn output(folder: &Path) -> PathBuf {
    for (k, name) in ["base", "a", "c"].iter().enumerate() {
        let mut random = Random(k as u64);
        let mut values = || (0..300).map(|_| (random.next() as i32) as f32 * 1e-10).collect::<Vec<_>>();
        let model = (0..4).fold(Model::default(), |m, i| m.f32(&format!("layers.{i}.weight"), &values()));
        model.write(&folder.join(name).join("model.safetensors"));
    }
    fs::write(folder.join("base/config.json"), "{\"hidden_size\": 300}").unwrap();
    let models = "models:\n- {model: ./a, parameters: {weight: 0.5}}\n- {model: ./c, parameters: {weight: 0.5}}\n";
    let recipe = format!("merge_method: task_arithmetic\nbase_model: ./base\n{models}");
    let options = Options { shard_bytes: 3000, ..options() };
    common::merge(Recipe::parse(&recipe).unwrap(), folder, &folder.join("out"), options, Io::Mmap).unwrap();
    folder.join("out")
}

/// What `verify` says: `None` if it finds nothing.
fn found(out: &Path) -> Option<i32> {
    match catch_unwind(AssertUnwindSafe(|| check_output(out, &apply_run()))) {
        Ok(Ok(_)) => None,
        Ok(Err(e)) => Some(e.exit_code().into()),
        Err(_) => Some(-1),
    }
}

#[test]
fn any_flipped_bit_in_any_file_of_an_output_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let out = output(folder.path());
    let files = tree(&out);
    let names: Vec<&str> = files.keys().map(|name| name.to_str().unwrap()).collect();
    let shards =
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"];
    let others = ["README.md", "config.json", "merged.tvd", "mergekit_config.yml", "taskvec.json"];
    assert_eq!(names, [&others[..4], &shards, &others[4..]].concat());
    let bits: usize = files.values().map(|content| content.len() * 8).sum();
    let all = std::env::var("TASKVEC_BITS").is_ok_and(|v| v == "all");
    let mut random = Random(9);
    let mut missed = Vec::new();
    let tries = if all { bits } else { SAMPLED.min(bits) };
    for i in 0..tries {
        let mut bit = if all { i } else { random.below(bits as u64) as usize };
        let (name, content) = files
            .iter()
            .find(|(_, content)| {
                let inside = bit < content.len() * 8;
                bit -= if inside { 0 } else { content.len() * 8 };
                inside
            })
            .unwrap();
        let file = File::options().write(true).open(out.join(name)).unwrap();
        file.write_all_at(&[content[bit / 8] ^ 1 << (bit % 8)], bit as u64 / 8).unwrap();
        match found(&out) {
            Some(65 | 66 | 76) => {}
            other => missed.push(format!("{} bit {bit}: {other:?}", name.display())),
        }
        file.write_all_at(&content[bit / 8..=bit / 8], bit as u64 / 8).unwrap();
    }
    println!("{tries} of {bits} bits");
    assert_eq!(found(&out), None, "the output is whole again");
    assert!(missed.is_empty(), "{} missed, such as {:?}", missed.len(), &missed[..missed.len().min(5)]);
}
