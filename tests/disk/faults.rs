//! Every call that changes the file system fails once and for ever, in each way: exit 74 and a path, and the command, given
//! again with `--resume`, makes the same bytes.

use super::alone;
use super::common::bench::{Bench, assert_same, content};
use super::common::{apply_run, diff_run};
use std::path::{Path, PathBuf};
use std::time::Duration;
use taskvec::Result;
use taskvec::codec::{BLOCK, Codec, Kind};
use taskvec::container::checksum;
use taskvec::disk::fail::{self, Fault, Plan};
use taskvec::job::{self, ApplyRun, DiffRun, Store};
use taskvec::pass::{CodedRun, Stop};
use taskvec::sink::{DeltaSink, DeltaTensor, Existing, Unfinished};
use taskvec::tensor::Dtype;

const FAULTS: [&str; 4] = ["eio", "enospc", "eintr", "short"];

fn fault(name: &str) -> Fault {
    if name == "short" { Fault::Short } else { Fault::Error(fail::errno(name)) }
}

/// What is done in a folder, again and again.
struct Command<'a> {
    bench: &'a Bench,
    run: &'a dyn Fn(&Path, Unfinished) -> Result<()>,
    /// Whether the output is there; fails unless it then is whole.
    whole: &'a dyn Fn(&Path, &str) -> bool,
}

impl Command<'_> {
    /// Its calls.
    fn calls(&self) -> u64 {
        let case = self.bench.case();
        fail::set(None);
        (self.run)(case.path(), Unfinished::Discard).unwrap();
        fail::calls()
    }

    /// Lets one call fail. Returns whether the command did.
    fn fails(&self, name: &str, at: u64, forever: bool) -> bool {
        let why = format!("{name} at call {at}, for ever: {forever}");
        let case = self.bench.case();
        fail::set(Some(Plan { fault: fault(name), at, forever }));
        let result = (self.run)(case.path(), Unfinished::Discard);
        fail::set(None);
        let harmless = name == "short" || (name == "eintr" && !forever);
        if let Err(error) = &result {
            assert!(!harmless, "{why}: {error}");
            assert_eq!(error.exit_code(), 74, "{why}: {error}");
            assert!(error.to_string().contains(&*case.path().to_string_lossy()), "{why}: {error}");
        }
        let whole = (self.whole)(case.path(), &why);
        assert!(whole || result.is_err(), "{why}");
        (self.run)(case.path(), Unfinished::Resume).unwrap_or_else(|e| panic!("{why}, then {e}"));
        assert!((self.whole)(case.path(), &why), "{why}");
        result.is_err()
    }

    /// Lets every call fail in every way.
    #[allow(clippy::print_stdout, reason = "how many runs it was")]
    fn survives_every_fault(&self) {
        let calls = self.calls();
        let mut failed = 0;
        for name in FAULTS {
            for forever in [false, true] {
                failed += (0..calls).filter(|&at| self.fails(name, at, forever)).count() as u64;
            }
        }
        println!("{} runs with a fault, {failed} failed", calls * 2 * FAULTS.len() as u64);
        assert!(failed > 2 * calls, "{failed} of {calls} calls");
    }
}

/// A delta file from `base` to `math`.
fn delta(bench: &Bench) -> PathBuf {
    let delta = bench.path("math.tvd");
    diff(bench, &delta, Unfinished::Discard).unwrap();
    delta
}

fn diff(bench: &Bench, out: &Path, unfinished: Unfinished) -> Result<()> {
    let [base, model] = ["base", "math"].map(|name| bench.path(name).to_str().unwrap().to_owned());
    let run = DiffRun { threads: 1, unfinished, journal: Some(Duration::ZERO), ..diff_run(Codec::Auto) };
    job::diff(&base, None, &model, out, &run).map(drop)
}

fn is_file(path: &Path, golden: &[u8], why: &str) -> bool {
    path.exists() && {
        assert!(std::fs::read(path).unwrap() == golden, "{why}: {} differs", path.display());
        true
    }
}

#[test]
fn a_merge_goes_on_after_any_failed_call() {
    let _alone = alone();
    let bench = Bench::new(4, 3000);
    let run = |case: &Path, unfinished| bench.merge(&case.join("out"), unfinished, &Stop::default());
    let whole = |case: &Path, why: &str| bench.is_whole(&case.join("out"), why);
    Command { bench: &bench, run: &run, whole: &whole }.survives_every_fault();
}

#[test]
fn a_payload_that_could_not_be_ended_is_never_taken_for_one_without_bytes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    // More than the writer holds before it writes.
    let (count, block) = (12, vec![7; BLOCK]);
    let blocks = vec![(Kind::RAW.byte(), BLOCK, checksum(Kind::RAW.byte(), &block)); count];
    let run = CodedRun { bytes: block.repeat(count), blocks, ..CodedRun::default() };
    let shape = vec![(count * BLOCK) as u64];
    let tensor = DeltaTensor { name: "w".into(), dtype: Dtype::U8, shape, base: None, base_elements: 0 };
    let mut failed = 0;
    for at in 0.. {
        let mut sink = DeltaSink::create(&folder.path().join(format!("{at}.tvd")), vec![tensor.clone()]).unwrap();
        sink.take_run(&run).unwrap();
        fail::set(Some(Plan { fault: fault("enospc"), at, forever: false }));
        let ended = sink.end_before(1);
        fail::set(None);
        if ended.is_ok() {
            break;
        }
        assert!(sink.end_before(1).is_err(), "call {at}");
        failed += 1;
    }
    assert!(failed > 0);
}

#[test]
fn a_diff_goes_on_after_any_failed_call() {
    let _alone = alone();
    let bench = Bench::new(4, 3000);
    let golden = std::fs::read(delta(&bench)).unwrap();
    let run = |case: &Path, unfinished| diff(&bench, &case.join("x.tvd"), unfinished);
    let whole = |case: &Path, why: &str| is_file(&case.join("x.tvd"), &golden, why);
    Command { bench: &bench, run: &run, whole: &whole }.survives_every_fault();
}

#[test]
fn an_apply_goes_on_after_any_failed_call() {
    let _alone = alone();
    let bench = Bench::new(4, 3000);
    let delta = delta(&bench);
    let base = bench.path("base").to_str().unwrap().to_owned();
    let golden = content(&bench.path("math"));
    let run = |case: &Path, unfinished| {
        let run = ApplyRun { threads: 1, unfinished, journal: Some(Duration::ZERO), ..apply_run() };
        job::apply(&base, &delta, &case.join("out"), &run).map(drop)
    };
    let whole = |case: &Path, why: &str| {
        let out = case.join("out");
        out.exists() && {
            assert_same(&content(&out), &golden, why);
            true
        }
    };
    Command { bench: &bench, run: &run, whole: &whole }.survives_every_fault();
}

#[test]
fn a_store_takes_a_delta_file_in_after_any_failed_call() {
    let _alone = alone();
    let bench = Bench::new(4, 3000);
    let delta = delta(&bench);
    let golden = std::fs::read(&delta).unwrap();
    let run =
        |case: &Path, unfinished| Store::open(&case.join("store"), true)?.add(&delta, "math", unfinished).map(drop);
    let whole = |case: &Path, why: &str| {
        let (folder, out) = (case.join("store"), case.join("again.tvd"));
        let there = Store::open(&folder, false).is_ok_and(|store| store.list().contains_key("math"));
        there && {
            Store::open(&folder, false).unwrap().get("math", &out, Existing::Replace).unwrap();
            is_file(&out, &golden, why)
        }
    };
    Command { bench: &bench, run: &run, whole: &whole }.survives_every_fault();
}
