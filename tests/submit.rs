//! What `taskvec submit` prints: as it was checked by hand, read by its shell, and run by a stand-in for the scheduler.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::folder::Folder;
use common::parts::assert_same_output;
use common::{Model, tree};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder in which a merge in parts is planned.
struct Bench(Folder);

impl Bench {
    /// A family of two layers, planned as TIES over the whole model with LwPTV in three parts.
    fn new() -> Self {
        let bench = Self(Folder::new());
        for (name, value) in [("base", 0.0), ("a", 2.0), ("b", -5.0)] {
            let model = Model::default().f32("layers.0.w", &[value, 1.0, 3.0]).f32("layers.1.w", &[value + 1.0, -1.0]);
            bench.0.put(name, &model);
        }
        let recipe = "merge_method: ties\nbase_model: ./base\nlwptv: {eta: 0.4}\nparameters: {scope: model, density: 0.6}\n\
                      models:\n- model: ./a\n- model: ./b\n";
        fs::write(bench.path("recipe.yml"), recipe).unwrap();
        let planned = bench.taskvec(&["plan", "recipe.yml", "--out", "run", "--partitions", "3"]);
        assert!(planned.status.success(), "{planned:?}");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn taskvec(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_taskvec")).current_dir(self.0.0.path()).args(arguments).output().unwrap()
    }

    /// What is printed, without what differs from run to run.
    fn submit(&self, arguments: &[&str]) -> (String, String) {
        let done = self.taskvec(&[&["submit"], arguments, &["--plan", "run"]].concat());
        assert!(done.status.success(), "{done:?}");
        let text = String::from_utf8(done.stdout).unwrap();
        let status = self.taskvec(&["status", "--plan", "run", "--json"]).stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        let folder = fs::canonicalize(self.path("run")).unwrap();
        let plain = text
            .replace(folder.to_str().unwrap(), "/data/run")
            .replace(status["run"].as_str().unwrap(), "0123456789ab");
        (text, plain)
    }

    /// Runs a script of array jobs with the stand-in for sbatch. Returns the names of what it keeps.
    fn run_slurm(&self, script: &str) -> Vec<PathBuf> {
        let state = self.path("state");
        fs::create_dir(&state).unwrap();
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/submit");
        let path = format!("{}:{}", stand_in.display(), std::env::var("PATH").unwrap());
        fs::write(self.path("script.sh"), script).unwrap();
        let mut bash = Command::new("bash");
        bash.arg(self.path("script.sh")).env("PATH", path).env("STATE", &state).env_remove("SLURM_ARRAY_TASK_ID");
        let done = bash.env("TASKVEC", env!("CARGO_BIN_EXE_taskvec")).env("TASKVEC_WAIT", "0").output().unwrap();
        assert!(done.status.success(), "{done:?}");
        tree(&state).into_keys().collect()
    }
}

#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let path = Path::new("fixtures/submit").join(name);
    if std::env::var_os("TASKVEC_BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "{}", path.display());
}

#[test]
fn the_slurm_script_is_the_one_on_record_and_bash_reads_it() {
    let bench = Bench::new();
    let (text, plain) = bench.submit(&["slurm", "--cpus", "8", "--memory", "4GiB", "--time", "00:30:00"]);
    assert_golden("slurm.sh", &plain);
    fs::write(bench.path("script.sh"), text).unwrap();
    assert!(Command::new("bash").arg("-n").arg(bench.path("script.sh")).status().unwrap().success());
}

#[test]
fn array_jobs_give_the_output_of_one_process() {
    let bench = Bench::new();
    let (script, _) = bench.submit(&["slurm", "--cpus", "1", "--memory", "1GiB"]);
    let state = bench.run_slurm(&script);
    let log = fs::read_to_string(bench.path("state/log")).unwrap();
    assert!(state.contains(&PathBuf::from("10.ok")), "4 rounds, merge and commit: {state:?}\n{log}");
    let merged = bench.taskvec(&["merge", "recipe.yml", "out", "--no-delta"]);
    assert!(merged.status.success(), "{merged:?}");
    assert_same_output(&bench.path("run/model"), &bench.path("out"), "array jobs");
}

#[test]
fn a_stage_that_fails_for_good_stops_what_comes_after_it_at_the_first_attempt() {
    let bench = Bench::new();
    let (script, _) = bench.submit(&["slurm"]);
    fs::write(bench.path("b/model.safetensors"), b"changed").unwrap();
    let state = bench.run_slurm(&script);
    let ok = state.iter().filter(|p| p.extension().is_some_and(|x| x == "ok")).count();
    assert_eq!(ok, 0, "{state:?}");
    let log = fs::read_to_string(bench.path("state/log")).unwrap();
    assert_eq!(log.matches("bytes when it was planned").count(), 3, "one attempt for each of 3 parts: {log}");
    assert!(!bench.path("run/model").exists());
}

#[test]
fn the_kubernetes_manifest_is_the_one_on_record() {
    let bench = Bench::new();
    let image = ["kubernetes", "--image", "registry.example/taskvec:0.1", "--claim", "models", "--mount", "/data"];
    assert_golden("kubernetes.yml", &bench.submit(&image).1);
}

#[test]
fn names_that_a_shell_would_read_otherwise_are_refused() {
    let bench = Bench::new();
    let bad = ["submit", "kubernetes", "--image", "x; rm y", "--claim", "c", "--mount", "/data", "--plan", "run"];
    assert_eq!(bench.taskvec(&bad).status.code(), Some(2));
    fs::rename(bench.path("run"), bench.path("a run")).unwrap();
    assert_eq!(bench.taskvec(&["submit", "slurm", "--plan", "a run"]).status.code(), Some(2));
}
