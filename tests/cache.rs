//! A merge that is made again after some inputs changed reads and computes only what depends on them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::Model;
use common::bench::content;
use common::folder::Folder;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use taskvec::Error;
use taskvec::job::{self, Memo, Run};
use taskvec::pass::{Progress, Stop};
use taskvec::plan::Options;
use taskvec::recipe::Stages;
use taskvec::sink::{Existing, Unfinished};
use taskvec::source::{Io, Links};

const EXPERTS: u64 = 4;
const TENSORS: u64 = 20;
const CACHED: [&str; 2] = ["--cache", "cache"];

/// In how many weight files each model lies.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    One,
    Ten,
}

struct Bench(Folder);

impl Bench {
    fn new(layout: Layout, elements: u64) -> Self {
        let bench = Self(Folder::new());
        (0..=EXPERTS).for_each(|m| bench.write(m, layout, &model(m, elements)));
        bench.recipe("task_arithmetic", "parameters: {weight: 0.3}\nlwptv: {eta: 0.4}");
        bench
    }

    /// Writes a model's tensors into its weight files: those whose content is as it was are left alone.
    fn write(&self, m: u64, layout: Layout, model: &Model) {
        let folder = self.0.path(&name(m));
        if layout == Layout::One {
            return model.write(&folder.join("model.safetensors"));
        }
        let files: Vec<String> = (1..=10).map(|s| format!("model-{s:05}-of-00010.safetensors")).collect();
        let mut map = serde_json::Map::new();
        for (file, tensors) in files.iter().zip(model.tensors.chunks(model.tensors.len().div_ceil(10))) {
            let shard = Model { tensors: tensors.to_vec() };
            map.extend(tensors.iter().map(|t| (t.name.clone(), file.clone().into())));
            if fs::read(folder.join(file)).ok() != Some(shard.to_bytes()) {
                shard.write(&folder.join(file));
            }
        }
        fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    }

    fn recipe(&self, method: &str, more: &str) {
        let models: Vec<String> = (1..=EXPERTS).map(|m| format!("- model: ./{}\n", name(m))).collect();
        let models = models.concat();
        let recipe = format!("merge_method: {method}\nbase_model: ./base\nmodels:\n{models}{more}\n");
        fs::write(self.0.path("r.yml"), recipe).unwrap();
    }

    /// Merges, and tells how many bytes were read.
    fn merge(&self, out: &str, more: &[&str]) -> u64 {
        let args = [&["merge", "r.yml", out, "--overwrite", "--io", "pread"], more].concat();
        let (code, _, errors) = self.0.taskvec(&args);
        assert_eq!(code, 0, "{errors}");
        self.report(out)["run"]["passes"].as_array().unwrap().iter().map(|p| p["bytes_read"].as_u64().unwrap()).sum()
    }

    fn report(&self, out: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.path(out).join("taskvec.json")).unwrap()).unwrap()
    }

    /// Whether the cached output is what a merge from nothing makes; and what that one reads.
    #[track_caller]
    fn check(&self, more: &[&str]) -> u64 {
        let read = self.merge("full", more);
        common::bench::assert_same(&content(&self.0.path("out")), &content(&self.0.path("full")), "the output");
        read
    }

    /// Merges again with the cache. The bytes read of a full run, in percent.
    #[track_caller]
    fn again(&self, more: &[&str]) -> u64 {
        let read = self.merge("out", &[&CACHED, more].concat());
        read * 100 / self.check(more)
    }

    fn verify(&self) -> i32 {
        self.0.taskvec(&["verify", "out"]).0
    }
}

fn name(m: u64) -> String {
    if m == 0 { "base".into() } else { format!("e{m}") }
}

/// Task vectors whose layers are kept by some tasks and not by others.
fn model(m: u64, elements: u64) -> Model {
    (0..TENSORS).fold(Model::default(), |model, t| model.f32(&format!("layers.{t}.weight"), &values(m, t, elements, 0)))
}

fn values(m: u64, t: u64, elements: u64, change: u64) -> Vec<f32> {
    let step = |i: u64| {
        if m == 0 { 0.0 } else { ((i * 31 + m * 7 + change) % 64) as f32 * ((t * 7 + m * 5) % 20 + 1) as f32 / 1e4 }
    };
    (0..elements).map(|i| i as f32 / 100.0 + step(i)).collect()
}

/// The model with other values in these tensors.
fn changed(m: u64, elements: u64, tensors: &[usize]) -> Model {
    let mut model = model(m, elements);
    for &t in tensors {
        let values = values(m, t as u64, elements, 5);
        model.tensors[t].bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    }
    model
}

#[test]
fn after_a_tenth_of_one_expert_changed_a_fifth_is_read_and_the_bytes_are_those_of_a_full_run() {
    for layout in [Layout::One, Layout::Ten] {
        for more in [&["--no-delta"][..], &[]] {
            let bench = Bench::new(layout, 12_000);
            bench.merge("out", &[&CACHED, more].concat());
            bench.write(2, layout, &changed(2, 12_000, &[6, 7]));
            let share = bench.again(more);
            println!("{share} % of the bytes");
            assert!(share <= 20);
            let run = &bench.report("out")["run"];
            assert!(run["bytes_moved"].as_u64() > Some(0) && run["bytes_reused"].as_u64() > Some(0));
            assert_eq!(bench.verify(), 0);
        }
    }
}

#[test]
fn every_kind_of_method_gives_the_bytes_of_a_full_run_whatever_changed() {
    let methods = [
        ("ties", "parameters: {density: 0.5}\nlwptv: {eta: 0.4}"),
        ("ties", "parameters: {density: 0.5, scope: model}\nlwptv: {eta: 0.4}"),
        ("task_arithmetic", "parameters: {weight: 0.3}\nlwptv: {eta: 0.4, layer: element}"),
        ("task_arithmetic", "parameters: {weight: 0.3}\ndtype: bfloat16\nlwptv: {eta: 0.7}"),
        ("linear", "parameters: {weight: 1}\nlwptv: {eta: 0.4, score: magnitude}"),
        ("dare_ties", "parameters: {weight: 1, density: 0.5}"),
    ];
    let bench = Bench::new(Layout::One, 600);
    for (method, more) in methods {
        bench.write(2, Layout::One, &model(2, 600));
        bench.recipe(method, more);
        let _ = fs::remove_file(bench.0.path("cache"));
        bench.merge("out", &CACHED);
        bench.write(2, Layout::One, &changed(2, 600, &[3]));
        // PwPTV ranks elements over the whole model, so that every tensor is made again.
        let share = bench.again(&[]);
        assert!(share < 100 || more.contains("element"), "{method} {more}: {share} %");
        // Another eta, and what was changed is as it was before.
        bench.write(2, Layout::One, &model(2, 600));
        bench.recipe(method, &more.replace("eta: 0.4", "eta: 0.6"));
        bench.again(&[]);
        // The base is another in a tensor; nothing of it is known but what lies in it.
        bench.write(0, Layout::One, &changed(1, 600, &[4]));
        bench.again(&[]);
        bench.write(0, Layout::One, &model(0, 600));
    }
}

#[test]
fn tensors_that_are_new_gone_or_of_another_shape_are_made_and_the_others_known() {
    let bench = Bench::new(Layout::One, 3_000);
    bench.merge("out", &CACHED);
    let all = |change: &dyn Fn(&mut Model)| {
        for m in 0..=EXPERTS {
            let mut model = model(m, 3_000);
            change(&mut model);
            bench.write(m, Layout::One, &model);
        }
        bench.again(&[]);
    };
    all(&|model| drop(model.tensors.remove(5)));
    all(&|model| model.tensors[2].shape = vec![30, 100]);
    all(&|model| model.tensors[2].name = "layers.99.weight".into());
    all(&|model| model.tensors.insert(0, Model::default().f32("layers.20.weight", &[1.0, 2.0]).tensors.remove(0)));
    // Integers are copied where all models have the same.
    all(&|model| *model = model.clone().tensor("positions", "I64", &[2], vec![7; 16]));
    bench.again(&[]);
    let run = bench.report("out")["run"].clone();
    assert_eq!(
        run["bytes_reused"],
        bench.report("full")["run"]["bytes_written"].as_u64().unwrap() - header_bytes(&bench)
    );
    let mut other = model(3, 3_000).tensor("positions", "I64", &[2], vec![7; 16]);
    other.tensors[20].bytes[3] ^= 1;
    bench.write(3, Layout::One, &other);
    let args = [&["merge", "r.yml", "out", "--overwrite"][..], &CACHED].concat();
    assert_eq!(bench.0.taskvec(&args).0, 65);
}

fn header_bytes(bench: &Bench) -> u64 {
    let file = fs::read(bench.0.path("out/model.safetensors")).unwrap();
    8 + u64::from_le_bytes(file[..8].try_into().unwrap())
}

#[test]
fn nothing_is_taken_from_an_output_that_changed_or_a_cache_that_is_damaged() {
    let bench = Bench::new(Layout::One, 3_000);
    let full = bench.merge("out", &CACHED);
    // The output is written to: its tensors are merged again; the sums are known still.
    for file in ["out/model.safetensors", "out/merged.tvd"] {
        let mut bytes = fs::read(bench.0.path(file)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(bench.0.path(file), bytes).unwrap();
        let read = bench.merge("out", &CACHED);
        bench.check(&[]);
        assert!(read < full, "{read} of {full} bytes");
    }

    let cache = fs::read(bench.0.path("cache")).unwrap();
    // Still JSON, and still numbers: a version, a sum, and where a tensor lies.
    let text = String::from_utf8(cache.clone()).unwrap();
    let digit = |after: &str| {
        let at = text.find(after).unwrap() + after.len();
        let at = at + text[at..].find(|c: char| c.is_ascii_digit() && c != '9').unwrap();
        let next = char::from(text.as_bytes()[at] + 1);
        format!("{}{next}{}", &text[..at], &text[at + 1..])
    };
    let [version, sum, offset] = ["\"version\":", "\",[", "\"offset\":"].map(digit);
    let resealed = sealed(&version);
    for damaged in [&cache[..cache.len() / 2], b"", resealed.as_bytes(), sum.as_bytes(), offset.as_bytes()] {
        fs::write(bench.0.path("cache"), damaged).unwrap();
        assert_eq!(bench.merge("out", &CACHED), full);
        bench.check(&[]);
    }
}

/// The cache with the hash that belongs to it.
fn sealed(text: &str) -> String {
    let (start, _) = text.rsplit_once(",\"blake3\":\"").unwrap();
    format!("{start},\"blake3\":\"{}\"}}\n", blake3::hash(start.as_bytes()))
}

/// Changes a byte of the output, and has the cache believe that the file is as it was.
fn damage_unseen(bench: &Bench) {
    let weights = bench.0.path("out/model.safetensors");
    let times = || {
        let m = fs::metadata(&weights).unwrap();
        format!("\"modified\":[{},{}],\"changed\":[{},{}]", m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
    };
    let (before, mut bytes) = (times(), fs::read(&weights).unwrap());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let cache = fs::read_to_string(bench.0.path("cache")).unwrap();
    let forged = cache.replace(&before, &times());
    assert_ne!(forged, cache);
    fs::write(bench.0.path("cache"), sealed(&forged)).unwrap();
}

#[test]
fn bytes_that_changed_under_an_unchanged_file_are_noticed_by_paranoid_and_by_verify() {
    let bench = Bench::new(Layout::One, 3_000);
    bench.merge("out", &CACHED);
    damage_unseen(&bench);
    bench.merge("out", &[&CACHED[..], &["--paranoid"]].concat());
    bench.check(&[]);
    // The hash on record is that of what should be there.
    damage_unseen(&bench);
    bench.merge("out", &CACHED);
    assert_eq!(bench.verify(), 76);
}

/// Asks for a stop after so many steps.
struct StopAfter(AtomicUsize, Stop);

impl Progress for StopAfter {
    fn begin(&self, _pass: &str, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.1.0.store(15, Ordering::Relaxed);
        }
    }
    fn end(&self) {}
}

/// Merges in this process, noting every tensor, and stops after so many steps. Whether the output is whole.
fn merge_some(bench: &Bench, out: &str, memo: Option<&Memo>, steps: usize) -> bool {
    let recipe = fs::read_to_string(bench.0.path("r.yml")).unwrap();
    let plan = |memory_bytes| {
        let options = Options { memory_bytes, threads: 1, memo: true, hold: true, ..Options::default() };
        let stages = Stages::parse(&recipe).unwrap();
        job::plan_stages(stages, bench.0.0.path(), Links::Inside, options, &bench.0.path(out))
    };
    let plan = match plan(1) {
        Err(Error::BudgetTooSmall { needed, .. } | Error::DeltaBudgetTooSmall { needed, .. }) => {
            plan(needed.0).unwrap()
        }
        other => panic!("{other:?}"),
    };
    let stop = Stop::default();
    let progress = StopAfter(AtomicUsize::new(steps), stop.clone());
    let run = Run {
        io: Io::Pread,
        links: Links::Inside,
        delta: None,
        masks: None,
        hash_inputs: true,
        existing: Existing::Replace,
        unfinished: Unfinished::Resume,
        read_back: false,
        journal: Some(Duration::ZERO),
        progress: &progress,
        stop: &stop,
    };
    let merged = plan.merge_knowing(&bench.0.path(out), &run, memo);
    merged.inspect_err(|e| assert_eq!(e.exit_code(), 143, "{e}")).is_ok()
}

#[test]
fn a_merge_with_a_cache_goes_on_where_it_was_stopped_to_the_bytes_of_a_full_run() {
    let bench = Bench::new(Layout::One, 3_000);
    let cached = |steps| merge_some(&bench, "out", Some(&Memo::open(&bench.0.path("cache")).unwrap()), steps);
    assert!(cached(usize::MAX));
    let mut stopped = 0;
    for steps in [1, 12, 18, 21, 23, 25, 27] {
        let tensors: Vec<usize> = (0..TENSORS as usize).filter(|t| t % 7 == steps % 7).collect();
        bench.write(2, Layout::One, &changed(2, 3_000, &tensors));
        stopped += usize::from(!cached(steps));
        assert!(cached(usize::MAX) && merge_some(&bench, "full", None, usize::MAX));
        common::bench::assert_same(&content(&bench.0.path("out")), &content(&bench.0.path("full")), "the output");
    }
    assert!(stopped > 4, "{stopped}");
}

#[test]
fn another_recipe_takes_only_what_is_the_same_in_it() {
    let bench = Bench::new(Layout::Ten, 600);
    bench.merge("out", &CACHED);
    let recipe = fs::read_to_string(bench.0.path("r.yml")).unwrap();
    let changes = [
        ("weight: 0.3", "weight: 0.4"),
        ("eta: 0.4", "eta: 0.6"),
        ("task_arithmetic", "ties"),
        ("lwptv:", "dtype: bfloat16\nlwptv:"),
    ];
    for (from, to) in changes {
        fs::write(bench.0.path("r.yml"), recipe.replace(from, to)).unwrap();
        bench.merge("out", &CACHED);
        bench.check(&[]);
    }
}
