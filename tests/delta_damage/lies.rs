//! A delta file that was made to deceive ends with an error, a documented exit code, and nothing published.

use super::common::{self, apply_run, diff_run, tree};
use super::forged::{ENTRY, Forged, HEAD};
use super::{made, made_with_a_histogram};
use assert_cmd::Command;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use taskvec::codec::Codec;
use taskvec::job;

/// A folder with `base`, `x.tvd`, and what has been changed in it.
struct Trial {
    folder: tempfile::TempDir,
    good: Forged,
}

impl Trial {
    fn new() -> Self {
        let folder = made(Codec::Auto);
        let good = Forged::read(&folder.path().join("x.tvd"));
        Self { folder, good }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        let command = command.current_dir(self.folder.path()).args(args).env("HF_HUB_CACHE", self.path("no-cache"));
        let run = command.output().unwrap();
        (run.status.code().unwrap_or(-1), String::from_utf8_lossy(&run.stderr).into_owned())
    }

    /// `apply` and `verify --against` end with `code` and say `words`; a merge ends with that code or does not mind; no
    /// file changes.
    #[track_caller]
    fn refused(&self, code: i32, words: &str, change: impl FnOnce(&mut Forged)) {
        let mut forged = self.good.clone();
        change(&mut forged);
        forged.write(&self.path("x.tvd"));
        let before = tree(self.folder.path());
        let merge =
            ["merge", "out", "--method", "task_arithmetic", "--base", "base", "--model", "x.tvd=1", "--dry-run"];
        for args in [&["apply", "base", "x.tvd", "-o", "out"][..], &["verify", "x.tvd", "--against", "base"], &merge] {
            let (got, message) = self.run(args);
            let merges = args[0] == "merge" && got == 0;
            assert!(merges || [65, 76].contains(&got), "{args:?}: {got}: {message}");
            if args[0] != "merge" {
                assert_eq!(got, code, "{args:?}: {message}");
                assert!(message.contains(words), "`{words}` is not in: {message}");
                assert!(message.contains("x.tvd"), "{message}");
            }
            assert!(tree(self.folder.path()) == before, "{args:?}: the folder changed");
        }
    }
}

const W: &str = "layers.0.weight";
const TWO: &str = "two.blocks";

#[test]
fn a_forged_file_without_a_lie_is_taken_so_that_refusals_below_have_one_cause() {
    let trial = Trial::new();
    trial.good.write(&trial.path("x.tvd"));
    let (code, message) = trial.run(&["apply", "base", "x.tvd", "-o", "out"]);
    assert_eq!(code, 0, "{message}");
    common::assert_same_files(&trial.path("model"), &trial.path("out"));
}

#[test]
fn a_wrong_number_of_blocks_is_refused() {
    Trial::new().refused(65, W, |f| f.put(W, 32, &2u64.to_le_bytes()));
    Trial::new().refused(65, TWO, |f| f.put(TWO, 32, &1u64.to_le_bytes()));
    Trial::new().refused(65, TWO, |f| f.put(TWO, 32, &u64::MAX.to_le_bytes()));
}

#[test]
fn block_tables_that_overlap_fall_or_leave_the_payload_are_refused() {
    let first_end = |end: u64| move |f: &mut Forged| f.put(TWO, HEAD, &end.to_le_bytes());
    for end in [u64::MAX, 1 << 60, 1 << 20] {
        Trial::new().refused(65, "block 0: its place in the block table is impossible", first_end(end));
    }
    let trial = Trial::new();
    let last = trial.good.number(TWO, HEAD + ENTRY, 8);
    trial.refused(65, "impossible", first_end(last + 1));
    trial.refused(65, "does not end", |f| f.put(TWO, HEAD + ENTRY, &(last + 1).to_le_bytes()));
    trial.refused(65, "does not end", |f| f.put(TWO, HEAD + ENTRY, &u64::MAX.to_le_bytes()));
}

#[test]
fn a_block_longer_than_its_elements_is_refused() {
    Trial::new().refused(65, "block 0", |f| {
        let extra = 64 * 5000;
        let (length, end, histogram) = (f.number(W, 40, 8), f.number(W, HEAD, 8), f.number(W, 52, 4));
        f.put(W, 40, &(length + extra).to_le_bytes());
        f.put(W, HEAD, &(end + extra + histogram).to_le_bytes());
        f.put(W, 52, &[0; 4]);
        let padded = (length + extra).next_multiple_of(64) as usize;
        f.payload(W).resize(padded, 0);
        f.seal(W);
    });
}

#[test]
fn reserved_kinds_and_kinds_that_need_a_base_where_there_is_none_are_refused() {
    for kind in [6, 15, 0x13, 0x30, 0xff, 0x00] {
        Trial::new().refused(65, "block 0", |f| {
            f.put(W, HEAD + 8, &[kind]);
            f.seal(W);
        });
    }
    for kind in [0, 3, 4, 5] {
        Trial::new().refused(65, "tensor `new.weight`: block 0", |f| {
            f.put("new.weight", HEAD + 8, &[kind]);
            f.seal("new.weight");
        });
    }
}

#[test]
fn payload_headers_that_contradict_the_index_are_refused() {
    for (at, bytes) in [
        (16, &(1u64 << 60).to_le_bytes()[..]),
        (16, &0u64.to_le_bytes()),
        (24, &1u64.to_le_bytes()),
        (24, &u64::MAX.to_le_bytes()),
        (40, &u64::MAX.to_le_bytes()),
        (40, &0u64.to_le_bytes()),
        (52, &u32::MAX.to_le_bytes()),
        (4, &[2]),
        (6, &[1]),
        (7, &[18]),
        (8, &[1]),
        (8, &[15]),
        (9, &[255]),
        (9, &[15]),
        (10, &[1]),
        (12, &[1]),
        (48, &[2]),
    ] {
        Trial::new().refused(65, W, |f| f.put(W, at, bytes));
    }
}

#[test]
fn lengths_that_no_file_has_are_refused_before_memory_is_taken() {
    let trial = Trial::new();
    for huge in [1u64 << 60, (1 << 61) - 1, u64::MAX / 2, u64::MAX] {
        trial.refused(65, W, |f| f.tensor(W)["shape"] = json!([huge]));
        trial.refused(65, "", |f| f.index["files"][0]["bytes"] = huge.into());
        trial.refused(65, "", |f| f.index["files"][0]["kept_bytes"] = huge.into());
        for section in ["#index", "#files"] {
            trial.refused(65, section, |f| {
                f.leads.insert(section, [huge, 100]);
            });
            trial.refused(65, section, |f| {
                f.leads.insert(section, [100, huge]);
            });
        }
    }
    trial.refused(65, W, |f| f.tensor(W)["shape"] = json!([1u64 << 40, 1u64 << 40]));
    trial.refused(65, W, |f| f.tensor(W)["shape"] = json!(vec![1; 65]));
    trial.refused(65, "same.weight", |f| {
        f.tensor("same.weight")["shape"] = json!([1u64 << 60]);
        f.tensor("same.weight")["base"] = Value::Null;
    });
    trial.refused(65, "same.weight", |f| f.tensor("same.weight")["shape"] = json!([1u64 << 60]));
    trial.refused(65, "same.weight", |f| f.tensor("same.weight")["base"]["dtype"] = "I16".into());
}

#[test]
fn a_gibibyte_in_a_few_kilobytes_is_refused() {
    let mut zstd = zstd::Encoder::new(Vec::new(), 3).unwrap();
    let mebibyte = vec![b' '; 1 << 20];
    (0..1024).for_each(|_| zstd.write_all(&mebibyte).unwrap());
    let bomb = zstd.finish().unwrap();
    assert!(bomb.len() < 200_000);
    let trial = Trial::new();
    for section in ["#index", "#files"] {
        for claimed in [1 << 30, 100 << 20, 1000] {
            trial.refused(65, section, |f| {
                f.leads.insert(section, [claimed, bomb.len() as u64]);
                f.frames.insert(section, bomb.clone());
            });
        }
    }
}

#[test]
fn a_newer_format_and_unknown_features_are_refused_and_say_so() {
    let trial = Trial::new();
    let set = |key: &'static str, value: &'static str| {
        move |f: &mut Forged| drop(f.metadata.insert(key.into(), value.into()))
    };
    trial.refused(65, "use a newer taskvec", set("min_reader", "2"));
    trial.refused(65, "use a newer taskvec", set("min_reader", "one"));
    trial.refused(65, "use a newer taskvec", set("features_required", "spectral"));
    trial.refused(65, "not a delta file", set("format", "pt"));
    trial.refused(65, "mode", set("mode", "almost"));
    trial.refused(65, "base_root", set("base_root", "12"));
    trial.refused(
        76,
        "result_root",
        set("result_root", "00aa0000000000000000000000000000000000000000000000000000000000aa"),
    );
}

#[test]
fn a_newer_version_and_unknown_metadata_that_ask_nothing_of_the_reader_are_taken() {
    let trial = Trial::new();
    let mut forged = trial.good.clone();
    forged.metadata.insert("version".into(), "2".into());
    forged.metadata.insert("made_on".into(), "a whim".into());
    forged.write(&trial.path("x.tvd"));
    let (code, message) = trial.run(&["verify", "x.tvd", "--against", "base"]);
    assert_eq!(code, 0, "{message}");
}

#[test]
fn names_of_files_that_lead_out_of_the_output_are_refused() {
    let trial = Trial::new();
    let bad =
        ["../x", "/x", "a//b", "", "a/", ".", "..", "a/../b", "./a", "a/.", "a\\b", "a\nb", "a\0b", "/", "a/../../x"];
    for name in bad {
        for file in [0, 1] {
            trial.refused(65, "lists a file called", |f| f.index["files"][file]["name"] = name.into());
        }
    }
    trial.refused(65, "lists a file called", |f| f.index["files"][0]["name"] = "in/a/folder.safetensors".into());
    trial.refused(65, "twice", |f| f.index["files"][1]["name"] = "model.safetensors".into());
    trial.refused(65, "inside another file", |f| f.index["files"][1]["name"] = "model.safetensors/x".into());
}

#[test]
fn an_index_that_does_not_fit_its_payloads_or_its_headers_is_refused() {
    let trial = Trial::new();
    trial.refused(65, W, |f| drop(f.payloads.remove(&format!("{W}#d0"))));
    trial.refused(65, W, |f| f.tensor(W)["payload"] = Value::Null);
    trial.refused(65, "", |f| drop(f.payloads.insert("stranger#d0".into(), vec![0; 64])));
    trial.refused(65, "", |f| drop(f.payloads.insert("#other".into(), vec![0; 64])));
    trial.refused(65, "twice", |f| {
        let t = f.tensor("same.weight").clone();
        f.index["tensors"].as_array_mut().unwrap().push(t);
    });
    trial.refused(65, "same.weight", |f| {
        f.index["tensors"].as_array_mut().unwrap().retain(|t| t["name"] != "same.weight");
    });
    trial.refused(65, "same.weight", |f| f.tensor("same.weight")["shape"] = json!([10, 10]));
    trial.refused(65, "model.safetensors", |f| f.files[3] ^= 1);
    trial.refused(65, "x.tvd", |f| f.files.truncate(20));
    trial.refused(65, "x.tvd", |f| f.files.push(b' '));
    trial.refused(76, "config.json", |f| *f.files.last_mut().unwrap() ^= 1);
    trial.refused(65, "U8", |f| f.dtype = "I8");
    trial.refused(65, "", |f| f.index["surprise"] = 1.into());
    trial.refused(65, "", |f| drop(f.index.as_object_mut().unwrap().remove("base_only")));
    let deep = vec![b'['; 100_000];
    for json in [&b"[]"[..], b"", b"{", b"\xff", &deep] {
        trial.refused(65, "#index", |f| f.json = Some(json.to_vec()));
    }
}

#[test]
fn a_histogram_that_does_not_add_up_is_refused() {
    let folder = made_with_a_histogram();
    let good = Forged::read(&folder.path().join("x.tvd"));
    let mut forged = good;
    let end = forged.number("w", 40, 8) as usize;
    forged.payload("w")[end - 1] ^= 1;
    forged.seal("w");
    let path = folder.path().join("x.tvd");
    forged.write(&path);
    let error = job::check_delta(&path, None, &apply_run()).unwrap_err();
    assert_eq!((error.exit_code(), error.to_string().contains("its histogram does not parse")), (65, true), "{error}");
}

#[test]
fn a_merge_that_starts_from_a_damaged_histogram_is_refused_with_76() {
    let folder = made_with_a_histogram();
    let path = folder.path().join("x.tvd");
    let good = Forged::read(&path);
    let trial = Trial { folder, good };
    let mut forged = trial.good.clone();
    let at = forged.number("w", 40, 8) as usize - forged.number("w", 52, 4) as usize;
    forged.payload("w")[at] ^= 1;
    forged.write(&path);
    let recipe = "merge_method: ties\nbase_model: ./base\nmodels:\n- {model: ./x.tvd}\n- {model: ./model}\n- {model: ./y.tvd}\n\
        parameters: {density: 0.5, scope: model}\n";
    fs::write(trial.path("recipe.yml"), recipe.replace("- {model: ./model}\n- {model: ./y.tvd}\n", "")).unwrap();
    let before = tree(trial.folder.path());
    let (code, message) = trial.run(&["merge", "recipe.yml", "out"]);
    assert_eq!(code, 76, "{message}");
    assert!(message.contains("tensor `w`: its histogram is damaged"), "{message}");
    assert!(tree(trial.folder.path()) == before);
}

#[test]
fn a_cycle_of_deltas_is_refused() {
    let folder = made(Codec::Auto);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    job::diff(&path("model"), None, &path("base"), Path::new(&path("back.tvd")), &diff_run(Codec::Auto)).unwrap();
    for delta in ["x.tvd", "back.tvd"] {
        let error =
            job::apply(&path("base"), Path::new(&path(delta)), Path::new(&path("out")), &apply_run()).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
        assert!(error.to_string().contains("cycle"), "{error}");
        assert!(!Path::new(&path("out")).exists());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_payload_of_any_bytes_whose_hashes_fit_is_restored_or_refused(
        tensor in prop::sample::select(vec![W, TWO, "layers.0.bias", "new.weight"]),
        edits in prop::collection::vec((0..10_000usize, any::<u8>()), 1..4),
        kind in prop::option::of(0..0x30u8),
        in_blocks: bool,
    ) {
        let folder = &TRIAL.folder;
        let mut forged = TRIAL.good.clone();
        let from = if in_blocks { forged.table(tensor).0 } else { 6 };
        let length = forged.number(tensor, 40, 8) as usize;
        for (at, byte) in edits {
            forged.payload(tensor)[from + at % (length - from)] = byte;
        }
        if let Some(kind) = kind {
            forged.put(tensor, HEAD + 8, &[kind]);
        }
        forged.seal(tensor);
        let path = folder.path().join("lie.tvd");
        forged.write(&path);
        let base = folder.path().join("base");
        let _ = job::check_delta(&path, base.to_str(), &apply_run());
    }
}

static TRIAL: std::sync::LazyLock<Trial> = std::sync::LazyLock::new(Trial::new);
