//! `taskvec store`, through the program.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use assert_cmd::Command;
use common::Model;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Bench {
    root: TempDir,
}

impl Bench {
    /// A base and the deltas `a.tvd` and `b.tvd`, which share one tensor's payload.
    fn new() -> Self {
        let bench = Self { root: tempfile::tempdir().unwrap() };
        let values = |start: f32| (0..5000).map(|i| start + i as f32 / 4096.0).collect::<Vec<_>>();
        let model = |x: f32, y: f32| Model::default().f32("shared", &values(x)).f32("own", &values(y));
        model(0.0, 0.0).write(&bench.path("base/model.safetensors"));
        model(0.5, 1.0).write(&bench.path("a/model.safetensors"));
        model(0.5, 2.0).write(&bench.path("b/model.safetensors"));
        for name in ["a", "b"] {
            bench.run(&["diff", "base", name, "-o", &format!("{name}.tvd")], 0);
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Runs taskvec, expects this exit code, and returns what it wrote on both streams.
    fn run(&self, args: &[&str], code: i32) -> (String, String) {
        let output =
            Command::cargo_bin("taskvec").unwrap().current_dir(self.root.path()).args(args).assert().code(code);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&output.get_output().stdout), text(&output.get_output().stderr))
    }

    fn payloads(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.path("st/payloads"), &mut found);
        found
    }
}

#[test]
fn a_delta_comes_back_byte_for_byte_and_shared_tensors_are_kept_once() {
    let bench = Bench::new();
    bench.run(&["store", "add", "st", "a.tvd"], 0);
    let before = bench.payloads().len();
    bench.run(&["store", "add", "st", "b.tvd", "--name", "second"], 0);
    // One new tensor; the other tensor and the kept header are there already.
    assert_eq!(bench.payloads().len(), before + 1);
    for (name, file) in [("a", "a.tvd"), ("second", "b.tvd")] {
        bench.run(&["store", "get", "st", name, "-o", "out.tvd", "--overwrite"], 0);
        assert_eq!(fs::read(bench.path("out.tvd")).unwrap(), fs::read(bench.path(file)).unwrap());
    }
}

#[test]
fn what_is_dropped_is_forgotten_and_what_others_use_stays() {
    let bench = Bench::new();
    bench.run(&["store", "add", "st", "a.tvd"], 0);
    bench.run(&["store", "add", "st", "b.tvd"], 0);
    let before = bench.payloads().len();
    bench.run(&["store", "gc", "st"], 0);
    assert_eq!(bench.payloads().len(), before);
    bench.run(&["store", "gc", "st", "--drop", "b"], 0);
    assert_eq!(bench.payloads().len(), before - 1);
    bench.run(&["store", "get", "st", "a", "-o", "out.tvd"], 0);
    let (_, error) = bench.run(&["store", "get", "st", "b", "-o", "b2.tvd"], 66);
    assert!(error.contains("holds no `b`; it holds: a"), "{error}");
    assert!(!bench.path("b2.tvd").exists());
}

#[test]
fn a_run_that_died_before_the_manifest_leaves_only_what_gc_removes() {
    let bench = Bench::new();
    bench.run(&["store", "add", "st", "a.tvd"], 0);
    let manifest = fs::read(bench.path("st/manifest.json")).unwrap();
    bench.run(&["store", "add", "st", "b.tvd"], 0);
    // The state just before the last rename of the second `add`.
    fs::write(bench.path("st/manifest.json"), manifest).unwrap();
    fs::write(bench.path("st/payloads/.left.part"), "half").unwrap();
    let before = bench.payloads().len();
    bench.run(&["store", "gc", "st"], 0);
    assert_eq!(bench.payloads().len(), before - 2);
    bench.run(&["store", "get", "st", "a", "-o", "out.tvd"], 0);
    bench.run(&["store", "add", "st", "b.tvd"], 0);
    bench.run(&["store", "get", "st", "b", "-o", "b2.tvd"], 0);
    assert_eq!(fs::read(bench.path("b2.tvd")).unwrap(), fs::read(bench.path("b.tvd")).unwrap());
}

#[test]
fn a_damaged_payload_is_found_and_nothing_is_written() {
    let bench = Bench::new();
    bench.run(&["store", "add", "st", "a.tvd"], 0);
    let largest = bench.payloads().into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    bench.run(&["store", "get", "st", "a", "-o", "out.tvd"], 76);
    assert!(!bench.path("out.tvd").exists() && !bench.path(".out.tvd.part").exists());
}

#[test]
fn a_manifest_that_names_no_hashes_is_refused() {
    let bench = Bench::new();
    bench.run(&["store", "add", "st", "a.tvd"], 0);
    let manifest = fs::read_to_string(bench.path("st/manifest.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    for bad in ["../../a", "12", ""] {
        json["experts"]["a"]["result_root"] = bad.into();
        fs::write(bench.path("st/manifest.json"), json.to_string()).unwrap();
        for args in [&["store", "get", "st", "a", "-o", "out.tvd"][..], &["store", "add", "st", "b.tvd", "--name", "a"]]
        {
            let (_, error) = bench.run(args, 65);
            assert!(error.contains("no blake3 hash"), "{error}");
        }
    }
    assert!(!bench.path("out.tvd").exists());
}

#[test]
fn a_kept_delta_with_an_endless_root_is_refused_without_a_panic() {
    let bench = Bench::new();
    bench.run(&["store", "add", "st", "a.tvd"], 0);
    let path = fs::read_dir(bench.path("st/deltas")).unwrap().next().unwrap().unwrap().path();
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["base_root"] = "a".repeat(10_000).into();
    fs::write(&path, json.to_string()).unwrap();
    bench.run(&["store", "get", "st", "a", "-o", "out.tvd"], 65);
    assert!(!bench.path("out.tvd").exists());
}

#[test]
fn a_folder_that_is_no_store_is_left_alone() {
    let bench = Bench::new();
    fs::create_dir(bench.path("home")).unwrap();
    fs::write(bench.path("home/letter.txt"), "dear").unwrap();
    bench.run(&["store", "add", "home", "a.tvd"], 73);
    bench.run(&["store", "list", "home"], 66);
    assert_eq!(fs::read_dir(bench.path("home")).unwrap().count(), 1);
}

#[test]
fn a_name_is_taken_once_and_must_be_plain() {
    let bench = Bench::new();
    bench.run(&["store", "add", "st", "a.tvd"], 0);
    bench.run(&["store", "add", "st", "b.tvd", "--name", "a"], 73);
    bench.run(&["store", "add", "st", "b.tvd", "--name", "../b"], 2);
    let (list, _) = bench.run(&["store", "list", "st", "--json"], 0);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list.as_object().unwrap().keys().collect::<Vec<_>>(), ["a"]);
}
