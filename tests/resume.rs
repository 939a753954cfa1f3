//! `--resume`: what a stopped run has done is kept and not done again, and what is kept is checked before it is used.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::bench::{Bench, assert_code, signal, taskvec, wait_until_stopped};
use common::{Model, diff_run};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use taskvec::codec::Codec;
use taskvec::job::{self, DiffReport, DiffRun};
use taskvec::pass::{Progress, Stop};
use taskvec::sink::Unfinished;

/// Asks for a stop after so many jobs.
struct StopAfter {
    jobs: u64,
    seen: AtomicU64,
    traffic: AtomicU64,
    stop: Stop,
}

impl StopAfter {
    fn new(jobs: u64) -> Self {
        Self { jobs, seen: AtomicU64::new(0), traffic: AtomicU64::new(0), stop: Stop::default() }
    }
}

impl Progress for StopAfter {
    fn begin(&self, _pass: &str, _bytes: u64) {}
    fn end(&self) {}

    fn advance(&self, bytes: u64) {
        self.traffic.fetch_add(bytes, Ordering::Relaxed);
        if self.seen.fetch_add(1, Ordering::Relaxed) + 1 == self.jobs {
            self.stop.0.store(15, Ordering::Relaxed);
        }
    }
}

/// Stops a merge after so many jobs; `None` if it ended before. Returns the traffic of those jobs.
fn stopped(bench: &Bench, out: &Path, jobs: u64) -> Option<u64> {
    let watch = StopAfter::new(jobs);
    let error = bench.merge_watched(out, Unfinished::Discard, &watch.stop, &watch).err()?;
    assert_eq!(error.exit_code(), 143, "{error}");
    assert!(error.to_string().contains("--resume"), "{error}");
    assert!(!out.exists());
    Some(watch.traffic.into_inner())
}

/// Stops a merge in the midst of its last pass.
fn stopped_late(bench: &Bench, out: &Path) {
    let watch = StopAfter::new(0);
    let plain = bench.case();
    bench.merge_watched(&plain.path().join("out"), Unfinished::Discard, &Stop::default(), &watch).unwrap();
    stopped(bench, out, watch.seen.into_inner() - 8).unwrap();
}

fn part(folder: &Path) -> PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut parts = entries.filter(|p| p.is_dir());
    parts.next().unwrap()
}

#[test]
fn a_merge_stopped_after_any_job_goes_on_to_the_same_bytes_without_doing_its_work_again() {
    // So many that the last jobs are not all read ahead by the time of the stop.
    let bench = Bench::new(48, 3000);
    let watch = StopAfter::new(0);
    let whole = bench.merge_watched(&bench.path("plain"), Unfinished::Discard, &Stop::default(), &watch);
    let (whole, all) = (whole.unwrap().unwrap(), watch.traffic.into_inner());
    let mut stops = 0;
    // The first job of pass 1 is noted with the second.
    for jobs in 2.. {
        let case = bench.case();
        let out = case.path().join("out");
        let Some(done) = stopped(&bench, &out, jobs) else { break };
        if done == all {
            // Stopped behind the last job: the parts are hashed again.
            break;
        }
        let again =
            bench.merge_watched(&out, Unfinished::Resume, &Stop::default(), &StopAfter::new(0)).unwrap().unwrap();
        assert!(bench.is_whole(&out, &format!("stopped after {jobs} jobs")));
        // One tensor of pass 1 over two models, or one of the merge over three and its output; headers.
        let slack = 4 * 3000 * 4 + 8192;
        assert!(again + done <= whole + slack, "stopped after {jobs} jobs: {done} done, {again} more, {whole} in all");
        stops += 1;
    }
    assert!(stops > 8, "{stops} stops");
}

#[test]
fn a_part_that_was_damaged_meanwhile_is_made_again() {
    let bench = Bench::new(24, 12_000);
    for name in ["model-00001-of-00008.safetensors", "merged.tvd", ".journal"] {
        let case = bench.case();
        let out = case.path().join("out");
        stopped_late(&bench, &out);
        let path = part(case.path()).join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = if name == "merged.tvd" { bytes.len() - 300 } else { bytes.len() / 2 };
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        bench.merge(&out, Unfinished::Resume, &Stop::default()).unwrap();
        assert!(bench.is_whole(&out, name));
    }
}

/// Kills a merge in its last pass, lets `meddle` change the weight file that is noted, and goes on. Returns the passes of
/// the second run and what they read.
fn killed_and_resumed(bench: &Bench, meddle: impl Fn(&mut [u8]) -> bool) -> Vec<(String, u64)> {
    let case = bench.case();
    let (out, count) = (case.path().join("out"), bench.path("count"));
    let mut counted = bench.merge_command(&bench.case().path().join("out"));
    assert_code(&counted.env("TASKVEC_FAILPOINT", format!("count:{}", count.display())).output().unwrap(), 0, "");
    let calls: u64 = std::fs::read_to_string(count).unwrap().parse().unwrap();
    bench.merge_command(&out).env("TASKVEC_FAILPOINT", format!("kill:{}", calls * 2 / 3)).output().unwrap();
    let path = part(case.path()).join("model-00001-of-00008.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    if meddle(&mut bytes) {
        // Later than the run can have written itself.
        std::thread::sleep(Duration::from_millis(300));
        std::fs::write(&path, bytes).unwrap();
    }
    assert_code(&bench.merge_command(&out).arg("--resume").output().unwrap(), 0, "after a kill");
    assert!(bench.is_whole(&out, "after a kill"));
    let report = std::fs::read(out.join("taskvec.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let passes = report["run"]["passes"].as_array().unwrap().iter();
    passes.map(|p| (p["name"].as_str().unwrap().to_owned(), p["bytes_read"].as_u64().unwrap())).collect()
}

#[test]
fn a_killed_merge_hashes_its_parts_again_only_if_somebody_wrote_to_them_since() {
    let bench = Bench::new(24, 12_000);
    let of = |passes: &[(String, u64)], name: &str| passes.iter().find(|(n, _)| n == name).map(|(_, bytes)| *bytes);
    let (merge, again) = ("merge", "hash the parts again");
    let untouched = killed_and_resumed(&bench, |_| false);
    assert_eq!(of(&untouched, again), None, "{untouched:?}");
    let written = killed_and_resumed(&bench, |_| true);
    assert!(of(&written, again).is_some_and(|bytes| bytes > 3 * 12_000 * 4), "{written:?}");
    let damaged = killed_and_resumed(&bench, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        true
    });
    // How far a run has come when it is killed differs a little, but it had come some way.
    for kept in [&written, &untouched] {
        assert!(of(kept, merge) < of(&damaged, merge), "{kept:?} {damaged:?}");
    }
}

/// Diffs in this process, noting every tensor.
fn diff(bench: &Bench, out: &Path, unfinished: Unfinished, watch: &StopAfter) -> taskvec::Result<DiffReport> {
    let [base, model] = ["base", "math"].map(|name| bench.path(name).to_str().unwrap().to_owned());
    let journal = Some(Duration::ZERO);
    let run = DiffRun { threads: 1, unfinished, journal, progress: watch, stop: &watch.stop, ..diff_run(Codec::Auto) };
    job::diff(&base, None, &model, out, &run)
}

#[test]
fn a_diff_stopped_after_any_tensor_goes_on_to_the_same_bytes_without_doing_its_work_again() {
    // Two jobs for each tensor.
    let bench = Bench::new(8, 300_000);
    let watch = StopAfter::new(0);
    let plain = bench.path("plain.tvd");
    let whole = diff(&bench, &plain, Unfinished::Discard, &watch).unwrap().bytes_read;
    let (all, golden) = (watch.traffic.into_inner(), std::fs::read(&plain).unwrap());
    let mut stops = 0;
    for jobs in 3.. {
        let case = bench.case();
        let out = case.path().join("x.tvd");
        let watch = StopAfter::new(jobs);
        let Err(error) = diff(&bench, &out, Unfinished::Discard, &watch) else { break };
        assert!(error.exit_code() == 143 && error.to_string().contains("--resume"), "{error}");
        assert!(!out.exists());
        let done = watch.traffic.into_inner();
        if done == all {
            break;
        }
        let made = diff(&bench, &out, Unfinished::Resume, &StopAfter::new(0)).unwrap();
        assert!(std::fs::read(&out).unwrap() == golden, "stopped after {jobs} jobs");
        // One tensor of both sides, and the payloads that are hashed again.
        let slack = 2 * 300_000 * 4 + golden.len() as u64;
        assert!(made.bytes_read + done <= whole + slack, "{jobs} jobs: {done} done, {} more", made.bytes_read);
        stops += 1;
    }
    assert!(stops > 4, "{stops} stops");
}

#[test]
fn a_whole_delta_file_is_left_alone_and_another_one_is_refused() {
    let bench = Bench::new(4, 3000);
    let out = bench.path("x.tvd");
    let diff = |model: &str, args: &[&str]| {
        let mut command = taskvec();
        command.arg("diff").args([bench.path("base"), bench.path(model)]).arg("-o").arg(&out).args(args);
        command.output().unwrap()
    };
    assert_code(&diff("math", &["--resume"]), 0, "nothing to go on with");
    let written = || std::fs::metadata(&out).unwrap().modified().unwrap();
    let before = written();
    assert_code(&diff("math", &["--resume"]), 0, "whole");
    assert_eq!(written(), before);
    assert_code(&diff("code", &["--resume"]), 73, "of another model");
    assert_code(&diff("math", &["--resume", "--codec", "tvq4"]), 73, "exact, and a lossy one is wanted");
    let mut bytes = std::fs::read(&out).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&out, bytes).unwrap();
    assert_code(&diff("math", &["--resume"]), 73, "damaged");
    assert_code(&diff("math", &["--resume", "--overwrite"]), 0, "made again");
    assert_code(&taskvec().arg("verify").arg(&out).output().unwrap(), 0, "whole again");
}

#[test]
fn an_input_that_was_written_meanwhile_is_read_again() {
    let mut bench = Bench::new(24, 12_000);
    let case = bench.case();
    let out = case.path().join("out");
    stopped_late(&bench, &out);
    let path = bench.path("math/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - 1;
    bytes[end - 2] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let plain = bench.case();
    bench.merge(&plain.path().join("out"), Unfinished::Discard, &Stop::default()).unwrap();
    let old = std::mem::replace(&mut bench.golden, common::bench::content(&plain.path().join("out")));
    assert_ne!(old, bench.golden);
    bench.merge(&out, Unfinished::Resume, &Stop::default()).unwrap();
    assert!(bench.is_whole(&out, "with another input"));
}

#[test]
fn a_whole_output_is_left_alone_and_another_one_is_refused() {
    let bench = Bench::new(4, 3000);
    let case = bench.case();
    let out = case.path().join("out");
    let resume = || bench.merge_command(&out).arg("--resume").output().unwrap();
    assert_code(&resume(), 0, "nothing to go on with");
    let written = || std::fs::metadata(out.join("taskvec.json")).unwrap().modified().unwrap();
    let before = written();
    assert_code(&resume(), 0, "whole");
    assert_eq!(written(), before);

    // The same files under other names: found to be the same by their hashes.
    let (math, code, aside) = (bench.path("math"), bench.path("code"), bench.path("aside"));
    let bytes = std::fs::read(math.join("model.safetensors")).unwrap();
    std::fs::write(math.join("model.safetensors"), bytes).unwrap();
    assert_code(&resume(), 0, "whole, from inputs that were copied");
    assert_eq!(written(), before);

    std::fs::rename(&math, &aside).unwrap();
    std::fs::rename(&code, &math).unwrap();
    std::fs::rename(&aside, &code).unwrap();
    assert_code(&resume(), 73, "other inputs with the same headers");
    let eta = bench.merge_command(&out).args(["--resume", "--eta", "0.25"]).output().unwrap();
    assert_code(&eta, 73, "another recipe");
    std::fs::rename(&math, &aside).unwrap();
    std::fs::rename(&code, &math).unwrap();
    std::fs::rename(&aside, &code).unwrap();
    std::fs::remove_file(out.join("config.json")).unwrap();
    assert_code(&resume(), 73, "a file is missing");
}

#[test]
fn the_first_signal_keeps_what_is_done_and_the_second_ends_the_run_at_once() {
    let bench = Bench::new(8, 3000);
    for (signals, codes) in [(&["-TERM"][..], [143, 143]), (&["-INT"], [130, 130]), (&["-INT", "-TERM"], [130, 143])] {
        let case = bench.case();
        let out = case.path().join("out");
        let mut command = bench.merge_command(&out);
        command.env("TASKVEC_FAILPOINT", "stop:30").stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_until_stopped(&child);
        signals.iter().for_each(|name| signal(&child, name));
        signal(&child, "-CONT");
        let output = child.wait_with_output().unwrap();
        assert!(codes.map(Some).contains(&output.status.code()), "{signals:?}: {output:?}");
        assert!(!out.exists());
        // One that is ended at once says nothing.
        let told = String::from_utf8_lossy(&output.stderr).contains("--resume");
        assert_eq!(told, signals.len() == 1, "{output:?}");
        assert_code(&bench.merge_command(&out).arg("--resume").output().unwrap(), 0, "after signals");
        assert!(bench.is_whole(&out, "after signals"));
    }
}

#[test]
fn the_first_signal_ends_a_run_that_only_plans_at_once() {
    let root = tempfile::tempdir().unwrap();
    let model = (0..3000).fold(Model::default(), |model, i| model.f32(&format!("layers.{i}.weight"), &[1.0]));
    ["base", "math"].iter().for_each(|name| model.write(&root.path().join(name).join("model.safetensors")));
    let recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: math}]\nparameters: {weight: 1}\n";
    std::fs::write(root.path().join("recipe.yml"), recipe).unwrap();
    let mut plan = taskvec();
    plan.args(["plan", "--coefficients"]).arg(root.path().join("recipe.yml")).stdout(Stdio::piped());
    let mut child = plan.spawn().unwrap();
    // More than a pipe holds is printed, and one byte is read: the process waits for somebody to read on.
    let mut printed = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut printed, &mut [0]).unwrap();
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn verify_deep_makes_tiles_again_and_finds_a_changed_byte_that_the_report_vouches_for() {
    let bench = Bench::new(4, 3000);
    let case = bench.case();
    let out = case.path().join("out");
    assert_code(&bench.merge_command(&out).arg("--paranoid").output().unwrap(), 0, "read back");
    let deep = |share: &str| {
        let mut command = taskvec();
        command.args(["verify", "--deep", "--share", share]).arg(&out);
        command.output().unwrap()
    };
    let some = deep("0.1");
    assert_code(&some, 0, "a share");
    let all = deep("1");
    assert_code(&all, 0, "all");
    let text = String::from_utf8_lossy(&all.stdout).into_owned();
    assert!(text.contains("4 tiles made again"), "{text}");

    // A changed byte whose hash was written into the report as well.
    let name = "model-00001-of-00002.safetensors";
    let path = out.join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    let old = blake3::hash(&bytes).to_hex().to_string();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    let new = blake3::hash(&bytes).to_hex().to_string();
    std::fs::write(&path, bytes).unwrap();
    let report = std::fs::read_to_string(out.join("taskvec.json")).unwrap();
    let (open, _) = report.rsplit_once(",\n    \"report_blake3\"").unwrap();
    let sealed = taskvec::report::seal(&format!("{}\n  }}\n}}", open.replace(&old, &new)));
    std::fs::write(out.join("taskvec.json"), sealed).unwrap();
    assert_code(&taskvec().arg("verify").arg(&out).output().unwrap(), 0, "hashes alone");
    let found = deep("1");
    assert_code(&found, 76, "made again");
    let text = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(text.contains("layers.2.weight"), "{text}");
}
