//! Mutated inputs for every reader of untrusted bytes: none may panic, ask for more than 512 MB, or be accepted against
//! the checks of its target. `fuzz/README.md` says how to run more of them, and how to repeat one.
//!
//! Inputs follow from the seeds, the number of runs and `TASKVEC_FUZZ_SEED` alone. An input whose message is new is kept
//! and mutated further. With the feature `planted-faults` each target has a fault, and the test is that it is found.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;
mod memory;
mod mutate;
mod seeds;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use common::Random;
use mutate::Mutator;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use targets::Target;

/// Bytes that one run may hold.
const MEMORY_BYTES: usize = 512_000_000;
/// An input that takes longer is kept, too.
const SLOW: Duration = Duration::from_millis(500);
/// Inputs that are kept because their message was new, at most.
const KEPT_MAX: usize = 4096;
/// Inputs that are kept because they were accepted, at most.
const TAKEN_MAX: u64 = 256;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: not a number")))
}

fn found_in(folder: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|p| fs::read(p).unwrap()).collect()
}

/// The words of `fuzz/dictionary.txt`, in libFuzzer's format: one in quotes on each line, bytes as `\xAB`.
fn dictionary() -> Vec<Vec<u8>> {
    let text = fs::read_to_string("fuzz/dictionary.txt").unwrap();
    let word = |line: &str| {
        let quoted = line.split_once('"')?.1.strip_suffix('"')?;
        let (mut word, mut rest) = (Vec::new(), quoted.as_bytes());
        while let [first, tail @ ..] = rest {
            let escape = tail.get(1..3).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
            (word, rest) = match (first, tail) {
                (b'\\', [b'x', ..]) => ([&word[..], &[escape?]].concat(), &tail[3..]),
                (b'\\', [c, tail @ ..]) => ([&word[..], &[*c]].concat(), tail),
                _ => ([&word[..], &[*first]].concat(), tail),
            };
        }
        Some(word)
    };
    text.lines().filter(|l| !l.starts_with('#')).filter_map(word).collect()
}

/// A message without what differs from input to input.
fn kind_of(message: &str) -> String {
    let mut kind = String::new();
    let mut quoted = false;
    for c in message.chars().take(120) {
        match c {
            '`' | '"' => quoted = !quoted,
            'a'..='z' if !quoted => kind.push(c),
            _ => {}
        }
    }
    kind
}

/// Writes an input that failed to target/fuzz.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let path = PathBuf::from(format!("target/fuzz/{name}-{}.bin", &blake3::hash(input).to_hex()[..8]));
    fs::create_dir_all("target/fuzz").unwrap();
    fs::write(&path, input).unwrap();
    path
}

/// Why an input fails; `None` if it does not. The message of one that is refused is in `told`.
fn fault(target: &Target, input: &[u8], told: &mut Option<String>) -> Option<String> {
    let run = || catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let (done, _) = memory::counted(MEMORY_BYTES, target.name, input, run);
    match done {
        Ok(outcome) => {
            *told = outcome.err();
            None
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Some(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
        }
    }
}

/// Runs the seeds, and then so many inputs made of them. The fault that is met first, if any.
#[allow(clippy::print_stdout, reason = "what a long run is watched by")]
fn first_fault(target: &Target, runs: u64) -> Option<String> {
    let start = Instant::now();
    let (mut kinds, mut slowest, mut accepted) = (BTreeSet::new(), Duration::ZERO, 0);
    let mut random = Random(number("TASKVEC_FUZZ_SEED").unwrap_or(1));
    let mut mutator = Mutator { random: Random(random.next()), dictionary: dictionary(), max_bytes: target.max_bytes };
    let mut corpus = found_in(&format!("fuzz/seeds/{}", target.name));
    assert!(corpus.len() > 2, "too few seeds for {}", target.name);
    let seeds = corpus.len() as u64;
    let mut taken = Vec::new();
    for i in 0..runs + seeds {
        let from = match random.below(3) {
            _ if i < seeds => &corpus[i as usize],
            0 => &corpus[random.below(seeds) as usize],
            1 if !taken.is_empty() => &taken[random.below(taken.len() as u64) as usize],
            _ => &corpus[random.below(corpus.len() as u64) as usize],
        };
        let mut input: Vec<u8> = from.clone();
        if i >= seeds {
            let other = &corpus[random.below(corpus.len() as u64) as usize];
            mutator.mutate(&mut input, other);
        }
        let began = Instant::now();
        let mut told = None;
        if let Some(problem) = fault(target, &input, &mut told) {
            let path = keep(target.name, &input);
            return Some(format!("{} after {i} runs, {}: {problem}", target.name, path.display()));
        }
        let took = began.elapsed();
        if took > SLOW {
            // Perhaps the machine was busy.
            let again = Instant::now();
            let _ = (target.run)(&input);
            if again.elapsed() > SLOW {
                println!("{}: {} takes {:?}", target.name, keep(target.name, &input).display(), again.elapsed());
            }
        }
        slowest = slowest.max(took);
        if i > 0 && i % 5_000_000 == 0 {
            println!("{}: {i} runs in {:.0} s", target.name, start.elapsed().as_secs_f64());
        }
        let Some(told) = told else {
            accepted += 1;
            let place = random.below(TAKEN_MAX) as usize;
            if place < taken.len() {
                taken[place] = input;
            } else {
                taken.push(input);
            }
            continue;
        };
        let kind = kind_of(&told);
        if corpus.len() < KEPT_MAX && !kinds.contains(&kind) {
            kinds.insert(kind);
            corpus.push(input);
        }
    }
    println!(
        "{}: {runs} runs in {:.1} s, {accepted} accepted, {} kinds of messages, slowest {slowest:?}",
        target.name,
        start.elapsed().as_secs_f64(),
        kinds.len()
    );
    None
}

/// Fails at a fault; with planted faults, fails if none is found.
#[allow(clippy::print_stdout, reason = "what was found")]
fn survives(name: &str, runs: u64) {
    std::panic::set_hook(Box::new(|_| {}));
    let target = targets::target(name);
    let runs = number("TASKVEC_FUZZ_RUNS").unwrap_or(runs);
    let found = first_fault(target, runs);
    let _ = std::panic::take_hook();
    if cfg!(feature = "planted-faults") {
        println!("{}", found.as_ref().unwrap_or_else(|| panic!("{name}: the planted fault was not found")));
    } else if let Some(problem) = found {
        panic!("{problem}");
    }
}

macro_rules! survivors {
    ($($test:ident: $target:literal, $runs:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            survives($target, $runs);
        })*

        #[test]
        fn every_target_is_run() {
            let run = [$($target),*];
            assert!(targets::TARGETS.iter().map(|t| t.name).eq(run));
        }
    };
}

survivors! {
    mutated_headers_are_refused_or_read_as_the_safetensors_crate_reads_them: "header", 1_000_000,
    mutated_shard_indexes_are_refused_or_name_plain_files: "shard_index", 1_000_000,
    mutated_recipes_are_refused_or_have_settings_for_every_tensor: "recipe", 1_000_000,
    mutated_coefficients_are_refused_or_finite: "coefficients", 250_000,
    mutated_adapter_configurations_are_refused_or_give_finite_scales: "adapter_config", 250_000,
    mutated_tokenizers_are_refused_or_give_each_token_its_own_id: "tokenizer", 1_000_000,
    mutated_configurations_are_refused_or_edited_once: "config", 1_000_000,
    mutated_delta_files_are_refused_or_restore_plain_names: "delta_index", 1_000_000,
    mutated_blocks_are_refused_or_decoded_alike_in_both_orders: "delta_block", 1_000_000,
    values_of_any_kind_come_back_from_their_blocks: "delta_round_trip", 1_000_000,
}

/// A header of random tensors, and perhaps one lie in it.
fn generated_header(random: &mut Random) -> (Vec<u8>, bool) {
    const DTYPES: [(&str, u64); 8] =
        [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("F8_E4M3", 1), ("I64", 8), ("U8", 1), ("BOOL", 1)];
    const NAMES: [&str; 5] = ["model.layers.", "é.", "a b\\\"", "x\\u00e9/", "\\ud83d\\ude00"];
    let count = random.below(12);
    // One of the tensors has a lie: a hole, an overlap, another length, a doubled name.
    let liar = if count > 0 && random.below(2) == 0 { random.below(count) } else { u64::MAX };
    let (mut entries, mut at) = (Vec::new(), 0);
    for i in 0..count {
        let (dtype, width) = DTYPES[random.below(8) as usize];
        let shape: Vec<u64> = (0..random.below(5)).map(|_| random.below(7)).collect();
        let end = at + width * shape.iter().product::<u64>();
        // Where a tensor is empty, its place may be moved behind the next one.
        let kind = if i == liar { 1 + u64::from(end == at) + random.below(2) } else { 0 };
        let (from, to) = [(at, end), (at + 1, end + 1), (at, end + 1), (at + 1, end)][kind as usize];
        let name = format!("{}{i}", NAMES[random.below(5) as usize]);
        let space = ["", " ", "\n  "][random.below(3) as usize];
        let fields = [
            format!("\"dtype\":{space}\"{dtype}\""),
            format!("\"shape\":{shape:?}"),
            format!("\"data_offsets\": [{from},{to}]"),
        ];
        let turn = random.below(3) as usize;
        let fields = [0, 1, 2].map(|k| fields[(k + turn) % 3].as_str()).join(",");
        entries.push(format!("\"{name}\":{space}{{{fields}{space}}}"));
        at = end;
    }
    for i in (1..entries.len()).rev() {
        entries.swap(i, random.below(i as u64 + 1) as usize);
    }
    if random.below(3) == 0 {
        entries.insert(0, "\"__metadata__\":{\"format\":\"pt\",\"\":\"\"}".into());
    }
    (format!("{{{}}}", entries.join(",")).into_bytes(), liar != u64::MAX)
}

#[test]
fn generated_headers_are_read_as_the_safetensors_crate_reads_them_and_lies_are_refused() {
    let mut random = Random(number("TASKVEC_FUZZ_SEED").unwrap_or(1));
    let mut lies = 0;
    for _ in 0..100_000 {
        let (json, is_lie) = generated_header(&mut random);
        let taken = (targets::target("header").run)(&json);
        assert_eq!(taken.is_err(), is_lie, "{}: {taken:?}", String::from_utf8_lossy(&json));
        lies += u64::from(is_lie);
    }
    assert!((30_000..70_000).contains(&lies), "{lies}");
}

/// `TASKVEC_FUZZ_INPUT` names a file with another input, whose name begins with its target.
#[test]
fn one_input_is_repeated_on_its_target() {
    let given = std::env::var("TASKVEC_FUZZ_INPUT").ok().map(PathBuf::from);
    let path = given.unwrap_or_else(|| {
        let path = PathBuf::from("target/fuzz/header-seed.bin");
        fs::create_dir_all("target/fuzz").unwrap();
        fs::write(&path, &seeds::of("header")[0]).unwrap();
        path
    });
    let name = path.file_name().unwrap().to_str().unwrap();
    let target = targets::TARGETS.iter().rfind(|t| name.starts_with(t.name)).unwrap();
    println!("{}: {:?}", target.name, (target.run)(&fs::read(&path).unwrap()));
}

/// With `TASKVEC_FUZZ_SEEDS=write` they are written to `fuzz/seeds`.
#[test]
fn seeds_are_of_every_target_short_enough_and_without_fault() {
    for target in targets::TARGETS {
        let seeds = seeds::of(target.name);
        assert!(seeds.len() > 2, "{}", target.name);
        for (i, seed) in seeds.iter().enumerate() {
            assert!(seed.len() <= target.max_bytes, "{} {i}: {} bytes", target.name, seed.len());
            let found = fault(target, seed, &mut None).filter(|_| !cfg!(feature = "planted-faults"));
            assert_eq!(found, None, "{} {i}", target.name);
        }
    }
    if std::env::var("TASKVEC_FUZZ_SEEDS").is_ok_and(|wish| wish == "write") {
        seeds::write();
    }
}
