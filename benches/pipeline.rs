//! Whole merges, each beside the floor: a plain loop that reads the bytes that LwPTV must read, touches them once, writes
//! the output and syncs it.
//!
//! `cargo bench --bench pipeline` makes checkpoints under `target/`, runs the merges of each round one after another and
//! prints medians. `-- --elements 1000000000` makes larger models. `-- --short` runs everything once on small ones and
//! compares hashes: that the output is the same whatever threads, memory and input, and no times.

#![allow(clippy::print_stdout, reason = "a bench prints its results")]
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use taskvec::tensor::Dtype;

/// Experts of a family.
const EXPERTS: usize = 4;

/// Shares of the experts' tensors that LwPTV keeps here, about; what the floor reads in its second pass.
const KEPT: f64 = 0.5;

/// One family of checkpoints on disk.
struct Family {
    folder: PathBuf,
}

impl Family {
    /// A base and its experts, of so many tensors of so many elements.
    fn make(folder: PathBuf, dtype: Dtype, tensors: u64, elements: u64) -> Self {
        for model in 0..=EXPERTS {
            let folder = folder.join(name(model));
            fs::create_dir_all(&folder).unwrap();
            write_model(&folder.join("model.safetensors"), dtype, tensors, elements, model);
        }
        Self { folder }
    }

    fn files(&self) -> Vec<PathBuf> {
        (0..=EXPERTS).map(|m| self.folder.join(name(m)).join("model.safetensors")).collect()
    }
}

fn name(model: usize) -> String {
    if model == 0 { "base".into() } else { format!("e{}", model - 1) }
}

/// Values near N(0, 0.02^2); an expert changes each tensor by an amount that differs by expert and tensor.
fn write_model(path: &Path, dtype: Dtype, tensors: u64, elements: u64, model: usize) {
    let size = dtype.bytes() as u64;
    let entry = |t: u64| {
        let at = t * elements * size;
        let data = serde_json::json!({"dtype": dtype.to_string(), "shape": [elements],
            "data_offsets": [at, at + elements * size]});
        (format!("layers.{t}.weight"), data)
    };
    let header: serde_json::Map<_, _> = (0..tensors).map(entry).collect();
    let mut json = serde_json::to_vec(&header).unwrap();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&json).unwrap();
    let mut bytes = vec![0; (elements * size) as usize];
    for t in 0..tensors {
        let change = 1e-3 * (1.0 + unit(t * 31 + model as u64).abs() * 8.0);
        let value = |i: u64| {
            let place = t * elements + i;
            let base = 0.03 * unit(place);
            if model == 0 { base } else { base + change * unit(place ^ ((model as u64) << 56)) }
        };
        let values: Vec<f32> = (0..elements).map(value).collect();
        dtype.encode(&values, &mut bytes);
        file.write_all(&bytes).unwrap();
    }
    file.into_inner().unwrap().sync_all().unwrap();
}

/// A number in [-1, 1) that follows from `x`.
fn unit(x: u64) -> f32 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// One line of the table.
struct Row {
    label: String,
    family: usize,
    recipe: String,
    flags: Vec<&'static str>,
    seconds: Vec<f64>,
    peak: u64,
    hash: String,
}

impl Row {
    fn new(label: &str, family: usize, recipe: &str, flags: &[&'static str]) -> Self {
        Self {
            label: label.into(),
            family,
            recipe: recipe.into(),
            flags: flags.to_vec(),
            seconds: Vec::new(),
            peak: 0,
            hash: String::new(),
        }
    }

    fn run(&mut self, folder: &Path) {
        let out = folder.join("out");
        let _ = fs::remove_dir_all(&out);
        fs::write(folder.join("recipe.yml"), &self.recipe).unwrap();
        let start = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_taskvec"))
            .current_dir(folder)
            .args(["merge", "recipe.yml", "out", "--quiet", "--progress", "none"])
            .args(&self.flags)
            .status()
            .unwrap();
        self.seconds.push(start.elapsed().as_secs_f64());
        assert!(status.success(), "{}", self.label);
        let report: serde_json::Value = serde_json::from_slice(&fs::read(out.join("taskvec.json")).unwrap()).unwrap();
        self.peak = report["run"]["peak_rss_bytes"].as_u64().unwrap();
        let weights = report["outputs"].as_array().unwrap().iter().find(|o| o["name"] == "model.safetensors").unwrap();
        let hash = weights["blake3"].as_str().unwrap().to_owned();
        assert!(self.hash.is_empty() || self.hash == hash, "{}: two runs differ", self.label);
        self.hash = hash;
        fs::remove_dir_all(&out).unwrap();
    }
}

fn recipe(method: &str, base: bool, experts: usize, parameters: &str, lwptv: &str) -> String {
    let models: Vec<String> = (0..experts).map(|k| format!("- model: e{k}\n")).collect();
    let models = models.concat();
    let base = if base { "base_model: base\n" } else { "base_model: e0\n" };
    let parameters = if parameters.is_empty() { String::new() } else { format!("parameters: {parameters}\n") };
    let lwptv = if lwptv.is_empty() { String::new() } else { format!("lwptv: {lwptv}\n") };
    format!("merge_method: {method}\n{base}models:\n{models}{parameters}{lwptv}")
}

/// Seconds to read all files, then the first and a share of the others, and to write and sync the first.
fn floor(files: &[PathBuf], out: &Path, threads: u64) -> f64 {
    let _ = fs::remove_file(out);
    let start = Instant::now();
    let target = File::create(out).unwrap();
    for pass in 0..2 {
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let target = &target;
                scope.spawn(move || {
                    for (i, path) in files.iter().enumerate() {
                        let share = if pass == 1 && i > 0 { KEPT } else { 1.0 };
                        touch(path, share, (thread, threads), (pass == 1 && i == 0).then_some(target));
                    }
                });
            }
        });
    }
    target.sync_all().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    fs::remove_file(out).unwrap();
    seconds
}

/// Reads every `threads`-th piece of the first part of a file, adds it up, and writes it to `target` if there is one.
fn touch(path: &Path, share: f64, (thread, threads): (u64, u64), target: Option<&File>) {
    use std::os::unix::fs::FileExt;
    const PIECE: u64 = 4 << 20;
    let file = File::open(path).unwrap();
    let end = (file.metadata().unwrap().len() as f64 * share) as u64;
    let mut buffer = vec![0; PIECE as usize];
    for start in (0..end.div_ceil(PIECE)).filter(|p| p % threads == thread).map(|p| p * PIECE) {
        let piece = &mut buffer[..PIECE.min(end - start) as usize];
        file.read_exact_at(piece, start).unwrap();
        let sum = piece.as_chunks::<8>().0.iter().fold(0u64, |s, b| s.wrapping_add(u64::from_le_bytes(*b)));
        std::hint::black_box(sum);
        if let Some(target) = target {
            target.write_all_at(piece, start).unwrap();
        }
    }
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn rows() -> Vec<Row> {
    let plain = &["--no-delta", "--no-input-hashes"];
    let ta = |lwptv| recipe("task_arithmetic", true, EXPERTS, "{weight: 1.0, lambda: 0.3}", lwptv);
    let ties = recipe("ties", true, EXPERTS, "{weight: 1.0, density: 0.2}", "");
    vec![
        Row::new("bf16: task arithmetic", 0, &ta(""), plain),
        Row::new("bf16: LwPTV", 0, &ta("{eta: 0.7}"), plain),
        Row::new("bf16: LwPTV, input hashes", 0, &ta("{eta: 0.7}"), &["--no-delta"]),
        Row::new("bf16: LwPTV, input hashes, delta", 0, &ta("{eta: 0.7}"), &[]),
        Row::new("bf16: PwPTV", 0, &ta("{eta: 0.7, layer: element}"), plain),
        Row::new("bf16: slerp", 0, &recipe("slerp", false, 2, "{t: 0.4}", ""), plain),
        Row::new("bf16: model_stock", 0, &recipe("model_stock", true, EXPERTS, "", ""), plain),
        Row::new("bf16: ties", 0, &ties, plain),
        Row::new("bf16: ties, one thread", 0, &ties, &["--no-delta", "--no-input-hashes", "-j", "1"]),
        Row::new("bf16, many small tensors: LwPTV", 1, &ta("{eta: 0.7}"), plain),
        Row::new("f32: task arithmetic", 2, &ta(""), plain),
        Row::new("f32: LwPTV", 2, &ta("{eta: 0.7}"), plain),
        Row::new("f32: PwPTV", 2, &ta("{eta: 0.7, layer: element}"), plain),
    ]
}

/// The same merges in other ways: other threads, memory and reads.
fn check(families: &[Family], rows: &[Row]) {
    let others: &[&[&'static str]] =
        &[&["--no-delta", "-j", "1", "--memory", "64MiB"], &["--io", "pread", "-j", "3", "--no-input-hashes"]];
    let by_recipe: BTreeMap<_, _> = rows.iter().map(|r| ((r.family, &r.recipe), &r.hash)).collect();
    for ((family, recipe), hash) in by_recipe {
        for flags in others {
            let mut row = Row::new(&format!("{recipe}{flags:?}"), family, recipe, flags);
            row.hash.clone_from(hash);
            row.run(&families[family].folder);
        }
    }
    println!("hashes are the same whatever threads, memory and reads");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let short = arguments.iter().any(|a| a == "--short" || a == "--test");
    let number = |flag: &str, default: u64| {
        let at = arguments.iter().position(|a| a == flag);
        at.map_or(default, |i| arguments[i + 1].parse().unwrap())
    };
    let rounds = number("--rounds", if short { 1 } else { 5 });
    let elements = number("--elements", if short { 1 << 20 } else { 1 << 27 });
    let tensors = if short { 30 } else { 300 };
    let many = tensors * 200;
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pipeline");
    let _ = fs::remove_dir_all(&root);
    let families = [
        Family::make(root.join("bf16"), Dtype::BF16, tensors, elements / tensors),
        Family::make(root.join("many"), Dtype::BF16, many, elements / many),
        Family::make(root.join("f32"), Dtype::F32, tensors, elements / 2 / tensors),
    ];
    let mut rows = rows();
    let mut floors = vec![Vec::new(); families.len()];
    for _ in 0..rounds {
        for (family, floors) in families.iter().zip(&mut floors) {
            family.files().iter().for_each(|f| warm(f));
            floors.push(floor(&family.files(), &root.join("out"), 2));
        }
        rows.iter_mut().for_each(|row| row.run(&families[row.family].folder));
    }
    println!("{elements} elements in {tensors} tensors ({many} small ones), K = {EXPERTS}, medians of {rounds}");
    println!("{:<36} {:>9} {:>9} {:>10}", "", "seconds", "to floor", "peak MiB");
    for row in &rows {
        let seconds = median(&row.seconds);
        let floor = median(&floors[row.family]);
        println!("{:<36} {seconds:>9.3} {:>9.2} {:>10}", row.label, seconds / floor, row.peak >> 20);
    }
    if short {
        check(&families, &rows);
    }
    fs::remove_dir_all(&root).unwrap();
}

/// Brings a file into the page cache.
fn warm(path: &Path) {
    let (mut file, mut buffer) = (File::open(path).unwrap(), vec![0; 4 << 20]);
    while file.read(&mut buffer).unwrap() > 0 {}
}
