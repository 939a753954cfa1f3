//! TALL masks in a file of their own: a bit for each element and expert.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::{Model, Random, tree};
use std::fs;
use std::path::{Path, PathBuf};

/// Exit code and stderr of a merge.
fn merge(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut run = Command::cargo_bin("taskvec").unwrap();
    let run = run.current_dir(folder).arg("merge").args(args).timeout(std::time::Duration::from_secs(60));
    let run = run.output().unwrap();
    (run.status.code(), String::from_utf8(run.stderr).unwrap())
}

#[track_caller]
fn merged(folder: &Path, args: &[&str]) {
    let (code, errors) = merge(folder, args);
    assert_eq!(code, Some(0), "{errors}");
}

/// Three experts with tensors of several tiles, and not of whole bytes.
fn models() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (seed, name) in (1..).zip(["base", "a", "b", "c"]) {
        let mut random = Random(seed);
        let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| random.below(2001) as f32 / 500.0 - 2.0).collect() };
        let model =
            Model::default().f32("first", &values(150_001)).f32("second", &values(7)).f32("third", &values(2048));
        model.write(&root.path().join(name).join("model.safetensors"));
    }
    root
}

fn recipe(folder: &Path, experts: [&str; 3], more: &str) {
    let experts = experts.map(|e| format!("- {{model: {e}}}\n")).concat();
    let text = format!("merge_method: consensus_ta\nbase_model: ./base\n{more}models:\n{experts}");
    fs::write(folder.join("recipe.yml"), text).unwrap();
}

#[test]
fn the_masks_are_those_that_numpy_packs() {
    let cases: Vec<PathBuf> = fs::read_dir("fixtures/reference").unwrap().map(|e| e.unwrap().path()).collect();
    let with_masks: Vec<&PathBuf> = cases.iter().filter(|c| c.join("masks.safetensors").exists()).collect();
    assert_eq!(with_masks.len(), 3);
    for case in with_masks {
        let root = tempfile::tempdir().unwrap();
        let [out, masks] = ["out", "masks.safetensors"].map(|name| root.path().join(name));
        let case = fs::canonicalize(case).unwrap();
        merged(&case, &["recipe.yml", out.to_str().unwrap(), "--masks", masks.to_str().unwrap()]);
        assert_eq!(Model::read(&masks), Model::read(&case.join("masks.safetensors")), "{}", case.display());
        let (out, expected) = (out.join("model.safetensors"), case.join("expected.safetensors"));
        assert!(Model::read(&out) == Model::read(&expected), "{}", case.display());
    }
}

#[test]
fn tiles_threads_and_delta_files_do_not_show_in_masks() {
    let root = models();
    for lwptv in ["", "lwptv: {eta: 0.5, consensus: none}\n"] {
        recipe(root.path(), ["./a", "./b", "./c"], lwptv);
        merged(root.path(), &["recipe.yml", "out", "--masks", "masks", "--overwrite"]);
        let small = ["-j", "1", "--tile-elements", "2048", "--no-delta"];
        merged(root.path(), &[&["recipe.yml", "small", "--masks", "small.masks", "--overwrite"], &small[..]].concat());
        merged(root.path(), &["recipe.yml", "plain", "--overwrite"]);
        for name in ["a", "b", "c"] {
            let mut diff = Command::cargo_bin("taskvec").unwrap();
            let model = format!("./{name}");
            diff.current_dir(root.path()).args(["diff", "./base", &model, "-o", &format!("{name}.tvd"), "--overwrite"]);
            diff.assert().success();
        }
        recipe(root.path(), ["./a.tvd", "./b.tvd", "./c.tvd"], lwptv);
        merged(root.path(), &["recipe.yml", "coded", "--masks", "coded.masks", "--overwrite"]);
        let read = |name: &str| fs::read(root.path().join(name)).unwrap();
        assert!(read("masks") == read("small.masks"), "{lwptv}");
        let (plain, coded) = (Model::read(&root.path().join("masks")), Model::read(&root.path().join("coded.masks")));
        assert!(plain == coded, "{lwptv}");
        for out in ["small", "plain", "coded"] {
            assert!(read(&format!("{out}/model.safetensors")) == read("out/model.safetensors"), "{out}");
        }
        assert_eq!(plain.tensors[0].shape, [3, 18_751]);
        assert!(plain.tensors[0].bytes.iter().any(|b| *b != 0), "{lwptv}");
    }
}

#[test]
fn the_header_of_the_masks_names_the_experts_and_the_order_of_bits() {
    let root = models();
    recipe(root.path(), ["./b", "./a", "./c"], "");
    merged(root.path(), &["recipe.yml", "out", "--masks", "deep/masks.safetensors"]);
    let file = fs::read(root.path().join("deep/masks.safetensors")).unwrap();
    let length = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(root.path().join("out/taskvec.json")).unwrap()).unwrap();
    let want = serde_json::json!({
        "format": "pt", "content": "TALL masks", "bit_order": "big", "experts": "[\"b\",\"a\",\"c\"]",
        "plan_id": report["plan_id"],
    });
    assert_eq!(header["__metadata__"], want);
    assert_eq!(fs::read_dir(root.path().join("deep")).unwrap().count(), 1);
}

#[test]
fn masks_that_cannot_be_written_are_refused_and_leave_nothing() {
    let root = models();
    let refused = |args: &[&str], code: i32, words: &[&str]| {
        let before = tree(root.path());
        let (got, errors) = merge(root.path(), &[&["recipe.yml", "out"], args].concat());
        assert_eq!(got, Some(code), "{errors}");
        words.iter().for_each(|w| assert!(errors.contains(w), "`{w}` is not in: {errors}"));
        assert!(tree(root.path()) == before, "something is left behind");
    };
    recipe(root.path(), ["./a", "./b", "./c"], "");
    refused(&["--masks", "out/masks.safetensors"], 2, &["--masks out/masks.safetensors", "inside the output"]);
    refused(&["--masks", "a/model.safetensors", "--overwrite"], 73, &["a/model.safetensors"]);
    fs::write(root.path().join("there"), "x").unwrap();
    refused(&["--masks", "there"], 73, &["there"]);
    let broken =
        Model::default().f32("first", &vec![f32::NAN; 150_001]).f32("second", &[0.0; 7]).f32("third", &[0.0; 2048]);
    broken.write(&root.path().join("c/model.safetensors"));
    refused(&["--masks", "masks"], 65, &["NaN"]);
    fs::write(
        root.path().join("recipe.yml"),
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: ./a}, {model: ./b}]\n",
    )
    .unwrap();
    refused(&["--masks", "masks"], 2, &["`linear` has no masks", "consensus_ta and tall_mask"]);
}

#[test]
fn a_whole_output_whose_masks_are_not_there_is_refused_when_resumed() {
    let root = models();
    recipe(root.path(), ["./a", "./b", "./c"], "");
    merged(root.path(), &["recipe.yml", "out", "--masks", "masks"]);
    let resume = |masks: &str| merge(root.path(), &["recipe.yml", "out", "--masks", masks, "--resume"]);
    let (code, said) = resume("masks");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("whole already"), "{said}");
    fs::write(root.path().join("others"), fs::read(root.path().join("masks")).unwrap().split_off(8)).unwrap();
    let before = tree(root.path());
    for masks in ["absent", "others"] {
        let (code, said) = resume(masks);
        assert_eq!(code, Some(73), "{said}");
        assert!(said.contains(masks) && said.contains("--overwrite"), "{said}");
        assert!(tree(root.path()) == before);
    }
}
