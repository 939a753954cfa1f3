//! Batches: many merges from one file, each as if it were alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::folder::Folder;
use common::{Model, tree};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const EXPERTS: usize = 4;
const TENSORS: u64 = 20;

struct Bench(Folder);

impl Bench {
    fn new() -> Self {
        let bench = Self(Folder::new());
        for m in 0..=EXPERTS {
            let name = if m == 0 { "base".into() } else { format!("e{m}") };
            model(m as u64).write(&bench.0.path(&name).join("model.safetensors"));
        }
        for (name, method, more) in [
            ("ta", "task_arithmetic", "weight: 0.3"),
            ("ties", "ties", "weight: 1, density: 0.5"),
            ("lin", "linear", "weight: 1"),
        ] {
            let models: Vec<String> = (1..=EXPERTS).map(|m| format!("- model: ./e{m}\n")).collect();
            let models = models.concat();
            let text = format!("merge_method: {method}\nbase_model: ./base\nmodels:\n{models}parameters: {{{more}}}\n");
            fs::write(bench.0.path(&format!("{name}.yml")), text).unwrap();
        }
        bench
    }

    /// Exit code, and the jobs of the summary.
    fn batch(&self, jobs: &str, more: &[&str]) -> (i32, Vec<Value>) {
        fs::write(self.0.path("jobs.yml"), jobs).unwrap();
        let (code, out, errors) = self.0.taskvec(&[&["batch", "jobs.yml", "--json"], more].concat());
        let summary: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{errors}"));
        (code, summary["jobs"].as_array().unwrap().clone())
    }

    /// Merges what the output at `out` was merged from, by itself. Returns its folder.
    fn alone(&self, out: &str) -> PathBuf {
        let recipe = fs::read_to_string(self.0.path(out).join("mergekit_config.yml")).unwrap();
        fs::write(self.0.path("alone.yml"), recipe).unwrap();
        let (code, _, errors) = self.0.taskvec(&["merge", "alone.yml", "alone", "--overwrite"]);
        assert_eq!(code, 0, "{errors}");
        self.0.path("alone")
    }

    fn weights(&self, out: &str) -> Vec<u8> {
        fs::read(self.0.path(out).join("model.safetensors")).unwrap()
    }
}

fn model(m: u64) -> Model {
    (0..TENSORS).fold(Model::default(), |model, t| {
        let step = |i: u64| if m == 0 { 0.0 } else { ((i * 31 + m * 7) % 64) as f32 * (t + 1) as f32 / 1e4 };
        let values: Vec<f32> = (0..3000).map(|i| i as f32 / 100.0 + step(i)).collect();
        model.f32(&format!("layers.{t}.weight"), &values)
    })
}

fn statuses(jobs: &[Value]) -> Vec<&str> {
    jobs.iter().map(|j| j["status"].as_str().unwrap()).collect()
}

fn bytes_read(report: &Value) -> u64 {
    report["run"]["passes"].as_array().unwrap().iter().map(|p| p["bytes_read"].as_u64().unwrap()).sum()
}

const TWELVE: &str = "jobs:\n- {recipe: ta.yml, output: 'out/{name}-{eta}'}\n- {recipe: ties.yml, output: 'out/{name}-{eta}'}\n- {recipe: lin.yml, output: 'out/{name}-{eta}'}\nmatrix: {eta: [0.9, 0.6, 0.8, 0.7]}\n";

/// Every file; of the report, all but `run`.
fn content(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = tree(out);
    let report = files.get_mut(Path::new("taskvec.json")).unwrap();
    let mut json: Value = serde_json::from_slice(report).unwrap();
    json["run"].take();
    json["report_blake3"].take();
    *report = json.to_string().into_bytes();
    files
}

#[test]
fn a_batch_of_three_recipes_and_four_etas_makes_the_same_files_from_two_fifths_of_the_bytes() {
    let bench = Bench::new();
    let (code, jobs) = bench.batch(TWELVE, &[]);
    assert_eq!((code, statuses(&jobs)), (0, vec!["done"; 12]));
    let mut alone = 0;
    for name in ["ta", "ties", "lin"] {
        for eta in ["0.9", "0.6", "0.8", "0.7"] {
            let out = format!("out/{name}-{eta}");
            let folder = bench.alone(&out);
            assert!(content(&folder) == content(&bench.0.path(&out)), "{out}");
            alone += bytes_read(&serde_json::from_slice(&fs::read(folder.join("taskvec.json")).unwrap()).unwrap());
        }
    }
    let together: u64 = jobs.iter().map(|j| j["bytes_read"].as_u64().unwrap()).sum();
    assert!(together * 5 <= alone * 2, "{together} bytes together, {alone} alone");
    let reused: u64 = jobs.iter().map(|j| j["bytes_reused"].as_u64().unwrap()).sum();
    assert!(reused > 0);
}

#[test]
fn tensors_are_shared_only_where_their_values_are_the_same() {
    let bench = Bench::new();
    // All keep every layer, and differ in what decides the bytes of a merged tensor.
    let text = "jobs:\n\
                - {recipe: ta.yml, name: one, output: 'o/one', overrides: {eta: 0}}\n\
                - {recipe: ta.yml, name: weight, output: 'o/weight', overrides: {eta: 0, weight: 0.5}}\n\
                - {recipe: ta.yml, name: lambda, output: 'o/lambda', overrides: {eta: 0, lambda: 0.5}}\n\
                - {recipe: ta.yml, name: dtype, output: 'o/dtype', overrides: {eta: 0, dtype: bfloat16}}\n\
                - {recipe: ta.yml, name: models, output: 'o/models', overrides: {eta: 0, models: [e1, e3]}}\n\
                - {recipe: ties.yml, name: method, output: 'o/method', overrides: {eta: 0}}\n\
                - {recipe: none.yml, name: tasks, output: 'o/tasks', overrides: {eta: 0.5}}\n\
                - {recipe: none.yml, name: fewer, output: 'o/fewer', overrides: {eta: 0.6}}\n\
                - {recipe: scaled.yml, name: scaled, output: 'o/scaled', overrides: {eta: 0.5}}\n\
                - {recipe: scaled.yml, name: more, output: 'o/more', overrides: {eta: 0.6}}\n\
                - {recipe: ta.yml, name: unpruned, output: 'o/unpruned'}\n";
    let ta = fs::read_to_string(bench.0.path("ta.yml")).unwrap();
    fs::write(bench.0.path("none.yml"), format!("{ta}lwptv: {{eta: 0, consensus: none}}\n")).unwrap();
    fs::write(bench.0.path("scaled.yml"), format!("{ta}lwptv: {{eta: 0, scale_by_eta: true}}\n")).unwrap();
    let (code, jobs) = bench.batch(text, &[]);
    assert_eq!((code, statuses(&jobs)), (0, vec!["done"; 11]));
    for job in &jobs {
        let out = format!("o/{}", job["job"].as_str().unwrap());
        assert!(content(&bench.alone(&out)) == content(&bench.0.path(&out)), "{out}");
    }
}

#[test]
fn a_batch_that_was_killed_goes_on_to_the_same_bytes() {
    let bench = Bench::new();
    assert_eq!(bench.batch(TWELVE, &[]).0, 0);
    let whole: Vec<_> = outputs().map(|out| content(&bench.0.path(&out))).collect();
    fs::remove_dir_all(bench.0.path("out")).unwrap();

    let args = ["batch", "jobs.yml", "--events", "events.jsonl"];
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_taskvec"));
    let run = run.current_dir(bench.0.0.path()).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().unwrap();
    let ended = || fs::read_to_string(bench.0.path("events.jsonl")).unwrap_or_default().matches("\"ended\"").count();
    while ended() < 5 && run.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    run.kill().unwrap();
    run.wait().unwrap();

    let (code, jobs) = bench.batch(TWELVE, &[]);
    assert_eq!(code, 0);
    assert!(statuses(&jobs).iter().filter(|s| **s == "up_to_date").count() >= 5);
    assert!(outputs().map(|out| content(&bench.0.path(&out))).collect::<Vec<_>>() == whole);
    let hidden = |e: fs::DirEntry| e.file_name().to_string_lossy().starts_with('.');
    assert!(!fs::read_dir(bench.0.path("out")).unwrap().any(|e| hidden(e.unwrap())), "parts are left");
}

#[test]
fn jobs_side_by_side_make_the_files_of_one_after_another_and_one_that_fails_fails_alone() {
    let bench = Bench::new();
    let mut nan = model(3);
    nan.tensors[7].bytes[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
    nan.write(&bench.0.path("e3/model.safetensors"));
    let text = "jobs: [{recipe: ta.yml, output: 'out/{models}-{eta}'}]\n\
                matrix: {eta: [0.6, 0.8], models: {a: [e1, e2], b: [e3, e4], c: [e2, e4], d: [e1, e4]}}\n";
    let (code, jobs) = bench.batch(text, &["--jobs", "3", "--memory", "900MiB", "--events", "events.jsonl"]);
    assert_eq!(code, 65);
    for job in &jobs {
        let (output, fails) = (job["output"].as_str().unwrap(), job["output"].as_str().unwrap().contains("/b-"));
        assert_eq!(job["status"], if fails { "failed" } else { "done" }, "{job}");
        assert!(fails || content(&bench.alone(output)) == content(&bench.0.path(output)), "{output}");
    }
    let events = fs::read_to_string(bench.0.path("events.jsonl")).unwrap();
    let events: Vec<Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events.len(), 2 * jobs.len());
    for job in &jobs {
        let of_job: Vec<_> = events.iter().filter(|e| e["job"] == job["job"]).map(|e| &e["event"]).collect();
        assert_eq!(of_job, ["started", "ended"]);
    }
    // Jobs that read the same models wait for each other.
    let at = |job: &str, event: &str| events.iter().position(|e| e["job"] == job && e["event"] == event).unwrap();
    let named = |j: &Value| j["job"].as_str().unwrap().to_owned();
    for pair in jobs.chunks(1).flat_map(|j| jobs.iter().map(move |other| (named(&j[0]), named(other)))) {
        let same = |a: &str, b: &str| a != b && a.replace("0.6", "0.8") == b;
        assert!(!same(&pair.0, &pair.1) || at(&pair.0, "ended") < at(&pair.1, "started"), "{pair:?}");
    }
    let (code, _) = bench.batch("jobs: [{recipe: ta.yml, output: other}]", &["--jobs", "40", "--memory", "1GiB"]);
    assert_eq!(code, 2);
}

#[test]
fn a_signal_ends_all_lanes_and_what_they_began_is_finished_by_the_next_run() {
    let bench = Bench::new();
    let text = "jobs: [{recipe: ta.yml, output: 'out/{models}-{eta}'}]\n\
                matrix: {eta: [0.5, 0.6, 0.7, 0.8], models: {a: [e1, e2], b: [e3, e4], c: [e2, e4], d: [e1, e4]}}\n";
    fs::write(bench.0.path("jobs.yml"), text).unwrap();
    let args = ["batch", "jobs.yml", "--events", "events.jsonl", "--jobs", "3", "--memory", "900MiB"];
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_taskvec"));
    let run = run.current_dir(bench.0.0.path()).args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().unwrap();
    let told = |what: &str| fs::read_to_string(bench.0.path("events.jsonl")).unwrap_or_default().matches(what).count();
    while told("\"started\"") < 3 && run.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    common::bench::signal(&run, "-TERM");
    assert_eq!(run.wait().unwrap().code(), Some(143));
    assert_eq!(told("\"started\"") + told("\"not_started\""), told("\"ended\""));
    let (code, jobs) = bench.batch(text, &["--jobs", "2", "--memory", "900MiB"]);
    assert_eq!(code, 0);
    for job in jobs.iter().step_by(5) {
        let output = job["output"].as_str().unwrap();
        assert!(content(&bench.alone(output)) == content(&bench.0.path(output)), "{output}");
    }
}

fn outputs() -> impl Iterator<Item = String> {
    ["ta", "ties", "lin"].into_iter().flat_map(|n| ["0.6", "0.7", "0.8", "0.9"].map(|eta| format!("out/{n}-{eta}")))
}

#[test]
fn what_is_up_to_date_is_left_alone_and_what_is_not_is_made_again() {
    let bench = Bench::new();
    assert_eq!(bench.batch(TWELVE, &[]).0, 0);
    let before = tree(&bench.0.path("out"));
    let (code, jobs) = bench.batch(TWELVE, &[]);
    assert_eq!((code, statuses(&jobs)), (0, vec!["up_to_date"; 12]));
    assert!(tree(&bench.0.path("out")) == before);

    // Another recipe for four of them, and one output that has lost a file.
    let changed = fs::read_to_string(bench.0.path("ta.yml")).unwrap().replace("0.3", "0.4");
    fs::write(bench.0.path("ta.yml"), changed).unwrap();
    fs::remove_file(bench.0.path("out/lin-0.9/model.safetensors")).unwrap();
    let (code, jobs) = bench.batch(TWELVE, &[]);
    assert_eq!(code, 0);
    assert_eq!(
        statuses(&jobs),
        [["done"; 4], ["up_to_date"; 4], ["done", "up_to_date", "up_to_date", "up_to_date"]].concat()
    );

    // An expert with other values in the same shapes.
    let mut other = model(2);
    other.tensors[3].bytes[0] ^= 1;
    other.write(&bench.0.path("e2/model.safetensors"));
    assert_eq!(statuses(&bench.batch(TWELVE, &[]).1), ["done"; 12]);
}

#[test]
fn a_job_that_fails_fails_alone_and_its_exit_code_is_the_batchs() {
    let bench = Bench::new();
    let mut bad = fs::read(bench.0.path("e1/model.safetensors")).unwrap();
    bad.truncate(bad.len() - 5);
    fs::create_dir(bench.0.path("bad")).unwrap();
    fs::write(bench.0.path("bad/model.safetensors"), bad).unwrap();
    fs::write(bench.0.path("b.yml"), fs::read_to_string(bench.0.path("ta.yml")).unwrap().replace("./e1", "./bad"))
        .unwrap();
    let mut nan = model(1);
    nan.tensors[7].bytes[400..404].copy_from_slice(&f32::NAN.to_le_bytes());
    nan.write(&bench.0.path("nan/model.safetensors"));
    fs::write(bench.0.path("n.yml"), fs::read_to_string(bench.0.path("ta.yml")).unwrap().replace("./e1", "./nan"))
        .unwrap();
    let text = "jobs:\n- {recipe: ta.yml, output: one}\n- {recipe: b.yml, output: two}\n- {recipe: no.yml, output: three}\n\
                - {recipe: n.yml, output: four}\n- {recipe: lin.yml, output: lin.yml/five}\n- {recipe: ties.yml, output: six}\n";
    let (code, jobs) = bench.batch(text, &["--events", "events.jsonl"]);
    assert_eq!((code, statuses(&jobs)), (65, vec!["done", "failed", "failed", "failed", "failed", "done"]));
    let codes: Vec<Option<u64>> = jobs.iter().map(|j| j["exit_code"].as_u64()).collect();
    assert_eq!(codes, [None, Some(65), Some(66), Some(65), Some(74), None]);
    assert!(jobs[1]["error"].as_str().unwrap().contains("bad/model.safetensors"));
    assert!(jobs[3]["error"].as_str().unwrap().contains("layers.7.weight"));
    assert!(
        !bench.0.path("two").exists()
            && !bench.0.path("four").exists()
            && bench.0.path("six/model.safetensors").exists()
    );
    let events = fs::read_to_string(bench.0.path("events.jsonl")).unwrap();
    let events: Vec<Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let told: Vec<&str> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(told, ["started", "ended"].repeat(6));
    assert!(events.iter().all(|e| e["time"].as_f64().unwrap() > 1e9 && e["job"].is_string()));
}

#[test]
fn a_folder_that_taskvec_did_not_write_is_never_replaced() {
    let bench = Bench::new();
    let before = tree(&bench.0.path("base"));
    let (code, jobs) =
        bench.batch("jobs: [{recipe: lin.yml, output: mine}, {recipe: ta.yml, output: base}]", &["--dry-run"]);
    assert_eq!((code, statuses(&jobs)), (73, vec!["planned", "failed"]));
    let (code, jobs) = bench.batch("jobs: [{recipe: ta.yml, output: base}]", &[]);
    assert_eq!((code, statuses(&jobs)), (73, vec!["failed"]));
    assert!(tree(&bench.0.path("base")) == before && !bench.0.path("mine").exists());
}

#[test]
fn keep_leaves_so_many_old_outputs_behind() {
    let bench = Bench::new();
    let mut made = Vec::new();
    for weight in ["0.1", "0.2", "0.3", "0.4"] {
        let text = format!("jobs: [{{recipe: ta.yml, output: out, overrides: {{weight: {weight}}}}}]");
        assert_eq!(bench.batch(&text, &["--keep", "2"]).0, 0);
        made.push(bench.weights("out"));
    }
    assert!(bench.weights("out.1") == made[2] && bench.weights("out.2") == made[1] && !bench.0.path("out.3").exists());
    assert_eq!(bench.0.taskvec(&["verify", "out.2"]).0, 0);
}

#[test]
fn a_batch_file_that_is_wrong_is_refused_before_anything_is_made() {
    let bench = Bench::new();
    fs::write(bench.0.path("jobs.yml"), "jobs: [{recipe: ta.yml, output: out}]\nmatrix: {eta: [0.5, 0.7]}\n").unwrap();
    let (code, _, errors) = bench.0.taskvec(&["batch", "jobs.yml"]);
    assert_eq!(code, 2);
    assert!(errors.contains("jobs.yml") && errors.contains("out/{name}-{eta}"), "{errors}");
    assert!(!bench.0.path("out").exists());
}

#[test]
fn the_units_for_systemd_and_the_line_for_cron_are_well_formed_and_their_flags_exist() {
    let read = |name: &str| fs::read_to_string(Path::new("docs/systemd").join(name)).unwrap();
    let help = Command::cargo_bin("taskvec").unwrap().args(["batch", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (service, timer, cron) = (read("taskvec-batch.service"), read("taskvec-batch.timer"), read("crontab"));
    for unit in [&service, &timer] {
        let lines = unit.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        assert!(lines.clone().all(|l| (l.starts_with('[') && l.ends_with(']')) || l.split_once('=').is_some()));
        assert!(lines.clone().next().is_some_and(|l| l == "[Unit]"));
    }
    let command = |text: &str| text.split_once("/usr/local/bin/taskvec ").unwrap().1.lines().next().unwrap().to_owned();
    for line in [command(&service), command(&cron)] {
        assert!(line.starts_with("batch jobs.yml "));
        for flag in line.split(' ').filter(|w| w.starts_with("--")) {
            assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")), "{flag}");
        }
    }
    let last = cron.lines().last().unwrap();
    assert!(last.split_whitespace().take(5).all(|field| field == "*" || field.parse::<u8>().is_ok()), "{last}");
    let program = std::process::Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status();
    if program.is_ok_and(|s| s.success()) {
        verify_units(&service, &timer);
    }
}

/// As systemd reads them, with a program and a user that are here.
fn verify_units(service: &str, timer: &str) {
    let folder = tempfile::tempdir().unwrap();
    let here = service.replace("/usr/local/bin/taskvec", "/bin/true").replace("User=merges\n", "");
    fs::write(folder.path().join("taskvec-batch.service"), here).unwrap();
    fs::write(folder.path().join("taskvec-batch.timer"), timer).unwrap();
    let names = ["taskvec-batch.service", "taskvec-batch.timer"].map(|n| folder.path().join(n));
    let verify = std::process::Command::new("systemd-analyze").arg("verify").args(names).output().unwrap();
    let told = String::from_utf8_lossy(&verify.stderr).into_owned();
    let about_ours: Vec<&str> = told.lines().filter(|l| l.contains("taskvec-batch")).collect();
    assert!(about_ours.is_empty(), "{told}");
}
