//! One merge on several machines: the same bytes, and nothing published that is not whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod kills;
mod kinds;

use assert_cmd::Command;
use common::folder::Folder;
use common::parts::{Parts, assert_same_output, forget};
use common::{Model, Random, diff_run, merge, options, tree};
use std::fs;
use std::path::{Path, PathBuf};
use taskvec::codec::Codec;
use taskvec::job::{Committed, Next, PartDone, diff};
use taskvec::plan::Options;
use taskvec::recipe::Recipe;
use taskvec::source::Io;

/// More than a chunk, so that it can be cut.
const LARGE: usize = (1 << 20) + 70_000;

const RECIPES: [(&str, &str); 4] = [
    ("task_arithmetic", "weight: 0.3"),
    ("ties", "scope: model, density: 0.2, merge: disjoint_sum, lambda: 0.4"),
    ("pcb", "density: 0.1"),
    ("dare_linear", "density: 0.5, weight: 0.4, rescale_by: probability"),
];

fn recipe(method: &str, parameters: &str, lwptv: &str) -> String {
    let models = "- {model: ./a}\n- {model: ./b}\n- {model: ./c}\n";
    let lwptv = if lwptv.is_empty() { String::new() } else { format!("lwptv: {{{lwptv}}}\n") };
    format!("merge_method: {method}\nbase_model: ./base\nparameters: {{{parameters}}}\n{lwptv}models:\n{models}")
}

/// BF16 values of a few digits, so that many tie.
fn bf16(random: &mut Random, scale: f32, base: Option<&[u8]>, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * count);
    for i in 0..count {
        let own = (random.below(256) as f32 - 128.0) * scale;
        let old = base.map_or(0.0, |b| f32::from_bits(u32::from(u16::from_le_bytes([b[2 * i], b[2 * i + 1]])) << 16));
        bytes.extend_from_slice(&((old + own).to_bits() >> 16).to_le_bytes()[..2]);
    }
    bytes
}

/// `base`, `a`, `b` and `c`, one tensor of which can be cut.
fn family(folder: &Path) {
    let sizes = [3, LARGE, 40_000, 0, 5000, 2048];
    let mut base: Vec<Vec<u8>> = Vec::new();
    for (number, name) in ["base", "a", "b", "c"].into_iter().enumerate() {
        let mut random = Random(number as u64);
        let mut model = Model::default();
        for (t, &size) in sizes.iter().enumerate() {
            let scale = if number == 0 { 1e-3 } else { 1e-5 * (t + number) as f32 };
            let bytes = bf16(&mut random, scale, base.get(t).map(Vec::as_slice).filter(|_| number > 0), size);
            if number == 0 {
                base.push(bytes.clone());
            }
            model = model.tensor(&format!("model.layers.{t}.weight"), "BF16", &[size as u64], bytes);
        }
        model = model.tensor("position_ids", "I64", &[2], vec![7; 16]);
        model.write(&folder.join(name).join("model.safetensors"));
        fs::write(folder.join(name).join("config.json"), r#"{"num_hidden_layers": 6}"#).unwrap();
    }
}

fn one_process(text: &str, folder: &Path, out: &Path, options: Options) {
    merge(Recipe::parse(text).unwrap(), folder, out, Options { delta: false, ..options }, Io::Mmap).unwrap();
}

/// A folder with the family.
fn bench() -> Folder {
    let bench = Folder::new();
    family(bench.0.path());
    bench
}

/// A planned run of TIES over the whole model, with LwPTV.
fn planned(bench: &Folder, name: &str, parts: usize) -> Parts {
    let text = recipe("ties", RECIPES[1].1, "eta: 0.4");
    Parts::plan(&text, bench.0.path(), &bench.path(name), parts, options()).unwrap()
}

/// What one process makes of the same.
fn expected(bench: &Folder) -> PathBuf {
    let out = bench.path("expected");
    one_process(&recipe("ties", RECIPES[1].1, "eta: 0.4"), bench.0.path(), &out, options());
    out
}

/// The error's exit code, and its message, which must hold these words.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: taskvec::Result<T>, code: u8, words: &[&str]) {
    let error = result.unwrap_err();
    let message = error.to_string();
    assert_eq!(error.exit_code(), code, "{message}");
    words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in: {message}"));
}

#[test]
fn every_number_of_parts_in_any_order_gives_the_bytes_of_one_process() {
    let bench = bench();
    let (folder, run) = (bench.0.path(), bench.path("run"));
    for (method, parameters) in RECIPES {
        for lwptv in ["", "eta: 0.4"] {
            let text = recipe(method, parameters, lwptv);
            // Small weight files, so that some are written by several parts and some by one.
            let options = Options { shard_bytes: 50_000, ..options() };
            let expected = bench.path("expected");
            one_process(&text, folder, &expected, options);
            for parts in [1, 2, 3, 7, 64] {
                let random = &mut Random(parts as u64);
                Parts::plan(&text, folder, &run, parts, options).unwrap().run_until(Next::Nothing, random);
                assert_same_output(&run.join("model"), &expected, &format!("{method} {lwptv:?}, {parts} parts"));
                forget(&run);
            }
            forget(&expected);
        }
    }
}

#[test]
fn a_large_tensor_is_cut_and_one_whose_statistics_are_its_own_is_not() {
    let bench = bench();
    let borders = |text: &str| {
        let run = bench.path("run");
        Parts::plan(text, bench.0.path(), &run, 2, options()).unwrap();
        let plan: serde_json::Value = serde_json::from_slice(&fs::read(run.join("plan.json")).unwrap()).unwrap();
        forget(&run);
        plan["borders"].clone()
    };
    let whole = serde_json::json!([[0, 0], [2, 0], [7, 0]]);
    let small = recipe("ties", "density: 0.2", "");
    assert_eq!(borders(&small), whole, "ties per tensor ranks each tensor where it is merged");
    let cut = borders(&recipe("task_arithmetic", "weight: 0.3", ""));
    assert_eq!(cut, serde_json::json!([[0, 0], [1, 1 << 20], [7, 0]]));
}

#[test]
fn delta_files_are_inputs_like_others() {
    let bench = bench();
    let base = bench.path("base").display().to_string();
    for name in ["a", "b", "c"] {
        let (model, tvd) = (bench.path(name).display().to_string(), bench.path(&format!("{name}.tvd")));
        diff(&base, None, &model, &tvd, &diff_run(Codec::Auto)).unwrap();
    }
    for (method, parameters) in [RECIPES[0], RECIPES[1]] {
        let text = recipe(method, parameters, "eta: 0.4").replace("./a}", "./a.tvd}").replace("./c}", "./c.tvd}");
        let (run, expected) = (bench.path("run"), bench.path("expected"));
        one_process(&text, bench.0.path(), &expected, options());
        Parts::plan(&text, bench.0.path(), &run, 3, options()).unwrap().run_until(Next::Nothing, &mut Random(5));
        assert_same_output(&run.join("model"), &expected, method);
        forget(&run);
        forget(&expected);
    }
}

#[test]
fn a_part_may_run_again_and_twice_at_once() {
    let bench = bench();
    let run = planned(&bench, "run", 4);
    assert!(matches!(run.survey(1, Some(1)).unwrap(), PartDone::Now { .. }));
    assert_eq!(run.survey(1, Some(1)).unwrap(), PartDone::Before);
    run.run_until(Next::Merge, &mut Random(2));
    std::thread::scope(|scope| {
        for part in [0, 1, 1, 1, 2, 2, 3] {
            let run = &run;
            scope.spawn(move || run.merge(part).unwrap());
        }
    });
    assert_eq!(run.merge(2).unwrap(), PartDone::Before);
    run.commit().unwrap();
    assert_same_output(&run.model(), &expected(&bench), "parts at once");
}

#[test]
fn lost_parts_are_listed_and_nothing_is_published_without_them() {
    let bench = bench();
    let run = planned(&bench, "run", 5);
    refused(run.merge(0), 75, &["round 1", "not reduced"]);
    refused(run.survey(0, Some(2)), 75, &["round 1"]);
    run.survey(0, None).unwrap();
    run.survey(3, None).unwrap();
    refused(run.reduce(), 75, &["1, 2, 4", "taskvec part survey --round 1 --part 1"]);
    run.run_until(Next::Commit, &mut Random(3));
    let piece = fs::read_dir(run.0.join("parts")).unwrap().map(|e| e.unwrap().path());
    let piece = piece.filter(|p| p.to_string_lossy().contains("merge-00002-")).min().unwrap();
    fs::remove_file(run.0.join("parts/merge-00004.json")).unwrap();
    assert!(piece.to_string_lossy().ends_with(".piece"), "{}", piece.display());
    fs::remove_file(piece).unwrap();
    refused(run.commit(), 75, &["2, 4", "taskvec part merge --part 2"]);
    assert!(!run.model().exists());
    assert!(matches!(run.merge(2).unwrap(), PartDone::Now { .. }));
    run.merge(4).unwrap();
    run.commit().unwrap();
    assert_same_output(&run.model(), &expected(&bench), "parts that were lost and made again");
}

#[test]
fn files_of_another_plan_are_refused_and_named() {
    let bench = bench();
    let (run, other) = (planned(&bench, "run", 3), planned(&bench, "other", 3));
    let text = recipe("ties", "scope: model, density: 0.3", "eta: 0.4");
    forget(&other.0);
    let other = Parts::plan(&text, bench.0.path(), &other.0, 3, options()).unwrap();
    let take = |name: &str| fs::copy(other.0.join(name), run.0.join(name)).unwrap();
    for part in 0..3 {
        run.survey(part, None).unwrap();
        other.survey(part, None).unwrap();
    }
    take("parts/survey-1-00002.json");
    refused(run.reduce(), 65, &["survey-1-00002.json", "another plan", "run these parts again"]);
    assert!(matches!(run.survey(2, Some(1)).unwrap(), PartDone::Now { .. }), "the part takes its place back");
    run.run_until(Next::Commit, &mut Random(4));
    other.run_until(Next::Commit, &mut Random(4));
    take("parts/merge-00001.json");
    refused(run.commit(), 65, &["merge-00001.json", "another plan"]);
    take("reduced-1.json");
    refused(run.merge(1), 65, &["reduced-1.json", "another plan"]);
    assert!(!run.model().exists());
    // The own part's file under another part's name.
    let survey = run.0.join("parts/merge-00001.json");
    fs::copy(run.0.join("parts/merge-00000.json"), &survey).unwrap();
    refused(run.commit(), 65, &["merge-00001.json", "another part"]);
}

#[test]
fn a_damaged_piece_is_found_and_can_be_made_again() {
    let bench = bench();
    let run = planned(&bench, "run", 3);
    run.run_until(Next::Commit, &mut Random(6));
    let piece = run.0.join("parts/merge-00001-00000.piece");
    let mut bytes = fs::read(&piece).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&piece, bytes).unwrap();
    refused(run.commit(), 76, &["merge-00001-00000.piece", "part 1", "run `taskvec part merge`"]);
    assert!(!run.model().exists());
    assert_eq!((run.status().next, run.status().missing), (Next::Merge, vec![1]));
    run.merge(1).unwrap();
    run.commit().unwrap();
    assert_same_output(&run.model(), &expected(&bench), "a piece that was damaged and made again");
}

#[test]
fn of_commits_at_once_one_publishes_and_later_ones_change_nothing() {
    let bench = bench();
    let run = planned(&bench, "run", 2);
    run.run_until(Next::Commit, &mut Random(7));
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| run.commit())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let now = results.iter().filter(|r| matches!(r, Ok(Committed::Now(_)))).count();
    assert_eq!(now, 1, "{results:?}");
    let fine = |r: &taskvec::Result<Committed>| r.as_ref().map_or_else(|e| e.exit_code() == 75, |_| true);
    assert!(results.iter().all(fine), "{results:?}");
    let before = tree(&run.model());
    assert_eq!(run.commit().unwrap(), Committed::Before(run.model()));
    assert_eq!(run.merge(0).unwrap(), PartDone::Before);
    assert!(tree(&run.model()) == before);
    assert_same_output(&run.model(), &expected(&bench), "commits at once");
    let pieces = fs::read_dir(run.0.join("parts")).unwrap().map(|e| e.unwrap().path());
    assert_eq!(pieces.filter(|p| p.extension().is_some_and(|x| x == "piece")).count(), 0, "pieces are removed");
}

#[test]
fn inputs_that_changed_since_the_plan_are_refused() {
    let bench = bench();
    let run = planned(&bench, "run", 2);
    let file = bench.path("b/model.safetensors");
    let (bytes, time) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().modified().unwrap());
    let touched = fs::File::options().write(true).open(&file).unwrap();
    touched.set_modified(time + std::time::Duration::from_secs(1)).unwrap();
    refused(run.survey(0, None), 66, &["b/model.safetensors", "since it was planned"]);
    // The same length and time, another header.
    let mut other = bytes.clone();
    let at = other.windows(5).position(|w| w == b"BF16\"").unwrap();
    other[at..at + 5].copy_from_slice(b"F16\" ");
    fs::write(&file, &other).unwrap();
    touched.set_modified(time).unwrap();
    refused(run.survey(0, None), 66, &["plan's id"]);
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    refused(run.survey(0, None), 66, &["b/model.safetensors", "bytes when it was planned"]);
    fs::write(&file, &bytes).unwrap();
    touched.set_modified(time).unwrap();
    run.survey(0, None).unwrap();
}

#[test]
fn what_cannot_be_cut_into_parts_is_refused_before_anything_is_written() {
    let bench = bench();
    let run = bench.path("run");
    let plan = |text: &str, parts| Parts::plan(text, bench.0.path(), &run, parts, options()).map(|_| ());
    let staged = format!(
        "name: x\n{}---\nmerge_method: linear\nmodels:\n- model: x\n- model: ./c\nparameters: {{weight: 1}}\n",
        recipe("linear", "weight: 1", "")
    );
    refused(plan(&staged, 2), 2, &["one stage"]);
    refused(plan(&recipe("linear", "weight: 1", ""), 0), 2, &["--partitions 0"]);
    assert!(!run.exists());
    plan(&recipe("linear", "weight: 1", ""), 2).unwrap();
    plan(&recipe("linear", "weight: 1", ""), 2).unwrap();
    refused(plan(&recipe("linear", "weight: 1", ""), 3), 73, &["another plan"]);
    let mut text = fs::read(run.join("plan.json")).unwrap();
    text[30] ^= 1;
    fs::write(run.join("plan.json"), text).unwrap();
    refused(Parts(run.clone()).survey(0, None), 65, &["plan.json", "damaged"]);
    refused(Parts(bench.path("none")).survey(0, None), 66, &["no such file", "--partitions"]);
}

#[test]
fn parts_of_a_terabyte_differ_by_less_than_5_percent() {
    let root = tempfile::tempdir().unwrap();
    for model in ["base", "a"] {
        fs::create_dir_all(root.path().join(model)).unwrap();
        let mut weights = serde_json::Map::new();
        for file in 0..50 {
            let name = format!("model-{file:05}-of-00050.safetensors");
            let mut header = serde_json::Map::new();
            let mut offset = 0u64;
            // 20 GB a file: an embedding's worth, matrices, and small ones.
            for (t, rows) in [600_000u64, 300_000, 200_000, 100_000, 20_000, 1].into_iter().enumerate() {
                let tensor = format!("model.layers.{file}.t{t}.weight");
                let end = offset + rows * 8192 * 2;
                let entry = serde_json::json!({"dtype": "BF16", "shape": [rows, 8192], "data_offsets": [offset, end]});
                header.insert(tensor.clone(), entry);
                weights.insert(tensor, name.clone().into());
                offset = end;
            }
            let json = serde_json::to_vec(&header).unwrap();
            let file = fs::File::create(root.path().join(model).join(&name)).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &(json.len() as u64).to_le_bytes(), 0).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &json, 8).unwrap();
            file.set_len(8 + json.len() as u64 + offset).unwrap();
        }
        let index = serde_json::json!({"metadata": {}, "weight_map": weights});
        fs::write(root.path().join(model).join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
    let text = "merge_method: task_arithmetic\nbase_model: ./base\nparameters: {weight: 1}\nmodels:\n- model: ./a\n";
    let run = root.path().join("run");
    let parts = Parts::plan(text, root.path(), &run, 4096, options()).unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&fs::read(run.join("plan.json")).unwrap()).unwrap();
    let bytes: Vec<u64> = plan["part_bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap()).collect();
    let (least, most) = (*bytes.iter().min().unwrap(), *bytes.iter().max().unwrap());
    assert_eq!(bytes.len(), 4096);
    assert!(bytes.iter().sum::<u64>() > 2_900_000_000_000, "three times a terabyte");
    assert!(most as f64 <= 1.05 * least as f64, "{least} to {most}");
    assert_eq!((parts.status().parts, parts.status().next), (4096, Next::Merge));
}

#[test]
fn stages_are_commands_and_schedulers_name_the_part() {
    let bench = bench();
    fs::write(bench.path("recipe.yml"), recipe("task_arithmetic", "weight: 0.3", "eta: 0.4")).unwrap();
    let run = |arguments: &[&str], variable: Option<(&str, &str)>| {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        command.current_dir(bench.0.path()).args(arguments).env_remove("SLURM_ARRAY_TASK_ID");
        variable.map(|(name, value)| command.env(name, value));
        let done = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (done.status.code().unwrap(), text(&done.stdout) + &text(&done.stderr))
    };
    let (code, text) = run(&["plan", "recipe.yml", "--out", "run", "--partitions", "2"], None);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("taskvec diff BASE") && text.contains("part survey --round 1"), "{text}");
    let survey = ["part", "survey", "--plan", "run"];
    assert_eq!(run(&survey, None).0, 2);
    assert_eq!(run(&survey, Some(("SLURM_ARRAY_TASK_ID", "2"))).0, 2);
    assert_eq!(run(&["part", "survey", "--plan", "run", "--part", "0/3"], None).0, 2);
    assert_eq!(run(&["part", "survey", "--plan", "run", "--part", "0/2"], None).0, 0);
    assert_eq!(run(&["reduce", "--plan", "run"], None).0, 75);
    assert_eq!(run(&survey, Some(("JOB_COMPLETION_INDEX", "1"))).0, 0);
    assert_eq!(run(&["reduce", "--plan", "run/plan.json", "--round", "1"], None).0, 0);
    assert_eq!(run(&["reduce", "--plan", "run", "--round", "1"], None).0, 0, "again");
    let (code, text) = run(&["status", "--plan", "run", "--json"], None);
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, status["next"].as_str(), status["reduced"].as_u64()), (0, Some("merge"), Some(1)));
    for part in ["0", "1"] {
        assert_eq!(run(&["part", "merge", "--plan", "run"], Some(("SLURM_ARRAY_TASK_ID", part))).0, 0);
    }
    assert_eq!(run(&["commit", "--plan", "run"], None).0, 0);
    let (code, text) = run(&["verify", "run/model"], None);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run(&["merge", "recipe.yml", "run/model", "--no-delta", "--resume"], None);
    assert_eq!(code, 0, "a merge on one machine finds its output whole: {text}");
}
