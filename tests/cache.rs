//! A merge that is made again after some inputs changed reads and computes only what depends on them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::Model;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

const EXPERTS: u64 = 4;
const SHARDS: u64 = 10;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for m in 0..=EXPERTS {
            let folder = bench.path(&if m == 0 { "base".into() } else { format!("e{m}") });
            let names: Vec<(String, String)> =
                (0..SHARDS).flat_map(|s| shard(m, s, 0).tensors.into_iter().map(move |t| (t.name, file(s)))).collect();
            (0..SHARDS).for_each(|s| shard(m, s, 0).write(&folder.join(file(s))));
            let map: serde_json::Map<_, _> = names.into_iter().map(|(name, file)| (name, file.into())).collect();
            fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
        }
        let models: Vec<String> = (1..=EXPERTS).map(|m| format!("- model: ./e{m}\n")).collect();
        let models = models.concat();
        let recipe = format!(
            "merge_method: task_arithmetic\nbase_model: ./base\nmodels:\n{models}parameters: {{weight: 0.3}}\nlwptv: {{eta: 0.4}}\n"
        );
        fs::write(bench.path("r.yml"), recipe).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Merges, and tells how many bytes were read.
    fn merge(&self, out: &str, more: &[&str]) -> u64 {
        let mut run = Command::cargo_bin("taskvec").unwrap();
        let run =
            run.current_dir(self.0.path()).args(["merge", "r.yml", out, "--overwrite"]).args(more).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let report: Value = serde_json::from_slice(&fs::read(self.path(out).join("taskvec.json")).unwrap()).unwrap();
        report["run"]["passes"].as_array().unwrap().iter().map(|p| p["bytes_read"].as_u64().unwrap()).sum()
    }

    /// Whether the cached output is what a merge from nothing makes; and what that one reads.
    fn check(&self, more: &[&str]) -> u64 {
        let read = self.merge("full", more);
        for name in ["model.safetensors", "README.md", "merged.tvd"] {
            let content = |out: &str| fs::read(self.path(out).join(name)).ok();
            assert!(content("out") == content("full"), "{name}");
        }
        read
    }
}

fn file(shard: u64) -> String {
    format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1)
}

/// Two tensors.
fn shard(m: u64, s: u64, change: u64) -> Model {
    (2 * s..2 * s + 2).fold(Model::default(), |model, t| {
        let step = |i: u64| {
            if m == 0 { 0.0 } else { ((i * 31 + m * 7 + change) % 64) as f32 * ((t * 7 + m * 5) % 20 + 1) as f32 / 1e4 }
        };
        let values: Vec<f32> = (0..6_000).map(|i| i as f32 / 100.0 + step(i)).collect();
        model.f32(&format!("layers.{t}.weight"), &values)
    })
}

#[test]
fn after_a_tenth_of_one_expert_changed_little_is_read_and_the_bytes_are_those_of_a_full_run() {
    for (more, share) in [(vec!["--no-delta"], 20), (vec![], 30)] {
        let bench = Bench::new();
        let cached = [&["--cache", "cache"], &more[..]].concat();
        bench.merge("out", &cached);
        shard(2, 3, 5).write(&bench.path("e2").join(file(3)));
        let read = bench.merge("out", &cached);
        let full = bench.check(&more);
        println!("{read} of {full} bytes: {:.1} %", 100.0 * read as f64 / full as f64);
        assert!(read * 100 <= full * share, "{read} of {full} bytes");
    }
}

#[test]
fn nothing_is_taken_from_an_output_that_changed_or_a_cache_that_is_damaged() {
    let bench = Bench::new();
    let full = bench.merge("out", &["--cache", "cache"]);
    // The output is written to: its tensors are merged again; the sums are known still.
    let weights = bench.path("out/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let read = bench.merge("out", &["--cache", "cache"]);
    bench.check(&[]);
    assert!(read < full, "{read} of {full} bytes");

    let cache = fs::read(bench.path("cache")).unwrap();
    let other_version = String::from_utf8(cache.clone()).unwrap().replace("cache 1,", "cache 0,");
    // Still JSON, and still numbers: a sum, and where a tensor lies.
    let text = String::from_utf8(cache.clone()).unwrap();
    let digit = |after: &str| {
        let at = text.find(after).unwrap() + after.len();
        let at = at + text[at..].find(|c: char| c.is_ascii_digit() && c != '9').unwrap();
        let next = char::from(text.as_bytes()[at] + 1);
        format!("{}{next}{}", &text[..at], &text[at + 1..])
    };
    let (sum, offset) = (digit("\",["), digit("\"offset\":"));
    for damaged in [&cache[..cache.len() / 2], b"", other_version.as_bytes(), sum.as_bytes(), offset.as_bytes()] {
        fs::write(bench.path("cache"), damaged).unwrap();
        assert_eq!(bench.merge("out", &["--cache", "cache"]), full);
        bench.check(&[]);
    }
}

#[test]
fn another_recipe_takes_only_what_is_the_same_in_it() {
    let bench = Bench::new();
    bench.merge("out", &["--cache", "cache"]);
    let recipe = fs::read_to_string(bench.path("r.yml")).unwrap();
    let changes = [
        ("weight: 0.3", "weight: 0.4"),
        ("eta: 0.4", "eta: 0.6"),
        ("task_arithmetic", "ties"),
        ("lwptv:", "dtype: bfloat16\nlwptv:"),
    ];
    for (from, to) in changes {
        fs::write(bench.path("r.yml"), recipe.replace(from, to)).unwrap();
        bench.merge("out", &["--cache", "cache"]);
        bench.check(&[]);
    }
}
