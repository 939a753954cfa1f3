//! Lossy delta files through the program: what was declared holds, checked from the files without the code under test.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use assert_cmd::Command;
use common::{Model, Tensor};
use half::{bf16, f16};
use std::path::PathBuf;
use std::process::Output;
use tempfile::TempDir;

const SCHEMES: [&str; 9] =
    ["tvq8", "tvq4", "tvq3", "tvq2", "tvq4-g128", "tvq2-g128", "sign1", "ternary", "ternary-0.2"];
const DTYPES: [&str; 3] = ["F32", "BF16", "F16"];

/// A folder in which the program runs.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, model: &Model) {
        model.write(&self.path(name));
    }

    fn run(&self, args: &str) -> Output {
        let args = args.split_whitespace();
        Command::cargo_bin("taskvec").unwrap().current_dir(self.0.path()).args(args).output().unwrap()
    }

    /// Runs it, and returns stdout and stderr.
    fn ok(&self, args: &str) -> String {
        let output = self.run(args);
        let text = text(&output);
        assert!(output.status.success(), "{args}: {text}");
        text
    }

    fn refused(&self, args: &str, code: i32, parts: &[&str]) {
        let output = self.run(args);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(code), "{args}: {text}");
        parts.iter().for_each(|part| assert!(text.contains(part), "{args}: {text:?} lacks {part:?}"));
    }

    /// What `delta` makes of `base.safetensors`.
    fn applied(&self, delta: &str) -> Model {
        let out = format!("applied-{delta}");
        self.ok(&format!("apply base.safetensors {delta} -o {out}"));
        Model::read(&self.weights(&out))
    }

    /// The only weight file of a folder.
    fn weights(&self, folder: &str) -> PathBuf {
        let files = std::fs::read_dir(self.path(folder)).unwrap().map(|f| f.unwrap().path());
        files.into_iter().find(|p| p.extension().is_some_and(|e| e == "safetensors")).unwrap()
    }

    /// `__metadata__` of a delta file.
    fn metadata(&self, delta: &str) -> serde_json::Value {
        let file = std::fs::read(self.path(delta)).unwrap();
        let bytes = usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
        let header: serde_json::Value = serde_json::from_slice(&file[8..8 + bytes]).unwrap();
        header["__metadata__"].clone()
    }

    fn bound(&self, delta: &str) -> f64 {
        self.metadata(delta)["error_bound"].as_str().unwrap().parse().unwrap()
    }

    fn length(&self, name: &str) -> u64 {
        std::fs::metadata(self.path(name)).unwrap().len()
    }

    fn report(&self, folder: &str) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.path(folder).join("taskvec.json")).unwrap()).unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Numbers spread about 0, their typical size `scale`.
fn noise(elements: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..elements).map(|_| scale * (uniform() + uniform() + uniform())).collect()
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn encoded(dtype: &str, values: &[f32]) -> Vec<u8> {
    match dtype {
        "F32" => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        "BF16" => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
    }
}

fn values(t: &Tensor) -> Vec<f32> {
    let pairs = || t.bytes.as_chunks::<2>().0.iter();
    match t.dtype.as_str() {
        "F32" => t.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        "BF16" => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        "F16" => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        _ => Vec::new(),
    }
}

/// Float tensors of one shape in all models: more than a block, rows that blocks cut, and short rows.
fn floats(dtype: &str, seed: u64) -> Model {
    [(vec![300, 500], 0.05), (vec![33], 1.0), (vec![70, 3, 3], 0.2)].iter().enumerate().fold(
        Model::default(),
        |model, (i, (shape, scale))| {
            let elements = usize::try_from(shape.iter().product::<u64>()).unwrap();
            let base = noise(elements, i as u64 + 1, *scale);
            let tau = noise(elements, 1000 * seed + i as u64, if seed == 0 { 0.0 } else { 0.5 * scale });
            model.tensor(&format!("layers.{i}.weight"), dtype, shape, encoded(dtype, &sum(&base, &tau)))
        },
    )
}

/// The same, with tensors that have to stay exact: integers, a NaN, rows that the base lacks.
fn mixed(dtype: &str, seed: u64) -> Model {
    let rows = 40 + seed;
    let mut broken = noise(640, 8 + seed, 0.1);
    broken[77] = if seed == 0 { 1.0 } else { f32::NAN };
    floats(dtype, seed)
        .tensor("ids", "I64", &[16], (0..16).flat_map(|i| (i * i + seed).to_le_bytes()).collect())
        .tensor("with_nan", dtype, &[20, 32], encoded(dtype, &broken))
        .tensor("grown", dtype, &[rows, 4], encoded(dtype, &noise(4 * rows as usize, 5 + seed, 0.1)))
        .tensor("same", dtype, &[64], encoded(dtype, &noise(64, 3, 0.1)))
}

/// The largest |a - b| over all finite pairs.
fn largest_error(a: &Model, b: &Model) -> f64 {
    let error = |(a, b): (f32, f32)| (f64::from(a) - f64::from(b)).abs();
    let tensor = |(a, b): (&Tensor, &Tensor)| {
        assert_eq!((&a.name, &a.dtype, &a.shape), (&b.name, &b.dtype, &b.shape));
        values(a).into_iter().zip(values(b)).map(error).filter(|e| e.is_finite()).fold(0.0, f64::max)
    };
    a.tensors.iter().zip(&b.tensors).map(tensor).fold(0.0, f64::max)
}

fn assert_declared(bench: &Bench, delta: &str, model: &Model, said: &str) {
    let metadata = bench.metadata(delta);
    assert_eq!((&metadata["mode"], &metadata["features_required"]), (&"lossy".into(), &"lossy".into()), "{delta}");
    let (bound, found) = (bench.bound(delta), largest_error(model, &bench.applied(delta)));
    assert!(found > 0.0 && found <= bound && bound <= found * (1.0 + 1e-6), "{delta}: {found}, declared {bound}");
    let printed = metadata["error_bound"].as_str().unwrap();
    assert!(said.contains(printed), "{said:?} lacks {printed}");
    assert!(bench.ok(&format!("inspect {delta}")).contains(&format!("lossy, error at most {printed}")));
    bench.ok(&format!("verify {delta} --against base.safetensors"));
}

#[test]
fn every_scheme_comes_back_within_the_bound_that_it_declares_and_what_must_be_exact_is() {
    for dtype in DTYPES {
        let bench = Bench::new();
        let model = mixed(dtype, 1);
        bench.put("base.safetensors", &mixed(dtype, 0));
        bench.put("model.safetensors", &model);
        for scheme in SCHEMES {
            let delta = format!("{scheme}.tvd");
            let said = bench.ok(&format!("diff base.safetensors model.safetensors -o {delta} --codec {scheme}"));
            assert_declared(&bench, &delta, &model, &said);
            let restored = Model::read(&bench.weights(&format!("applied-{delta}")));
            for name in ["ids", "with_nan", "grown", "same"] {
                let find = |m: &Model| m.tensors.iter().find(|t| t.name == name).unwrap().clone();
                assert_eq!(find(&model), find(&restored), "{dtype} {scheme}");
            }
        }
    }
}

#[test]
fn threads_and_kinds_of_io_do_not_show_in_a_lossy_delta() {
    let bench = Bench::new();
    bench.put("base.safetensors", &floats("BF16", 0));
    bench.put("model.safetensors", &floats("BF16", 1));
    bench.ok("diff base.safetensors model.safetensors -o a.tvd --codec tvq3 -j 1 --io pread");
    bench.ok("diff base.safetensors model.safetensors -o b.tvd --codec tvq3 -j 3");
    assert!(std::fs::read(bench.path("a.tvd")).unwrap() == std::fs::read(bench.path("b.tvd")).unwrap());
}

#[test]
fn a_store_gives_a_lossy_delta_back_as_it_was() {
    let bench = Bench::new();
    bench.put("base.safetensors", &floats("F32", 0));
    bench.put("model.safetensors", &floats("F32", 1));
    bench.ok("diff base.safetensors model.safetensors -o x.tvd --codec sign1");
    bench.ok("store add kept x.tvd");
    bench.ok("store get kept x -o y.tvd");
    assert!(std::fs::read(bench.path("x.tvd")).unwrap() == std::fs::read(bench.path("y.tvd")).unwrap());
}

#[test]
fn blocks_that_are_smaller_exactly_are_exact() {
    let bench = Bench::new();
    let (base, mut model) = (floats("BF16", 0), floats("BF16", 0));
    model.tensors[0].bytes[11] ^= 1;
    bench.put("base.safetensors", &base);
    bench.put("model.safetensors", &model);
    let said = bench.ok("diff base.safetensors model.safetensors -o x.tvd --codec sign1");
    assert!(!said.contains("lossy"), "{said}");
    let metadata = bench.metadata("x.tvd");
    assert_eq!((&metadata["mode"], &metadata["features_required"]), (&"exact".into(), &"".into()));
    assert_eq!(bench.applied("x.tvd"), model);
}

#[test]
fn every_flipped_bit_and_another_base_are_found() {
    let bench = Bench::new();
    bench.put("base.safetensors", &floats("F32", 0));
    bench.put("model.safetensors", &floats("F32", 1));
    bench.ok("diff base.safetensors model.safetensors -o x.tvd --codec tvq4");
    let whole = std::fs::read(bench.path("x.tvd")).unwrap();
    let first = 8 + usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
    // The scheme, its parameter, the first block's checksum, and places inside blocks.
    for at in [6, 12, 80, 64 + 34 + 3, 5000, 50_000].map(|at| first + at) {
        let mut bad = whole.clone();
        bad[at] ^= 4;
        std::fs::write(bench.path("bad.tvd"), bad).unwrap();
        let code = bench.run("apply base.safetensors bad.tvd -o out").status.code();
        assert!(matches!(code, Some(65 | 76)), "byte {at}: {code:?}");
        assert!(!bench.path("out").exists());
    }
    let mut other = floats("F32", 0);
    other.tensors[0].bytes[4000] ^= 1;
    bench.put("other.safetensors", &other);
    bench.refused("apply other.safetensors x.tvd -o out", 76, &["is not the one that x.tvd was made for"]);
    bench.refused("verify x.tvd --against other.safetensors", 76, &["layers.0.weight"]);
    assert!(!bench.path("out").exists());
}

#[test]
fn a_delta_that_needs_an_unknown_feature_is_refused() {
    let bench = Bench::new();
    bench.put("base.safetensors", &floats("F32", 0));
    bench.put("model.safetensors", &floats("F32", 1));
    bench.ok("diff base.safetensors model.safetensors -o x.tvd --codec sign1");
    let mut file = std::fs::read(bench.path("x.tvd")).unwrap();
    let key = br#""features_required":"lossy""#;
    let at = file.windows(key.len()).position(|w| w == key).unwrap();
    file[at + key.len() - 6..at + key.len() - 1].copy_from_slice(b"lossi");
    std::fs::write(bench.path("x.tvd"), file).unwrap();
    bench.refused("apply base.safetensors x.tvd -o out", 65, &["does not have (lossi)"]);
}

#[test]
fn two_small_deltas_over_a_shared_mean_beat_one_of_the_same_bits() {
    let bench = Bench::new();
    let (base, mean) = (floats("F32", 0), floats("F32", 7));
    let near = |seed: u64| {
        let mut model = mean.clone();
        for t in &mut model.tensors {
            let v = values(t);
            t.bytes = encoded("F32", &sum(&v, &noise(v.len(), seed, 0.002)));
        }
        model
    };
    bench.put("base.safetensors", &base);
    bench.put("mean.safetensors", &mean);
    bench.ok("diff base.safetensors mean.safetensors -o shared.tvd --codec tvq3");
    for seed in [21, 22] {
        let model = near(seed);
        bench.put("model.safetensors", &model);
        let delta = format!("m{seed}.tvd");
        let said =
            bench.ok(&format!("diff base.safetensors model.safetensors --on shared.tvd --codec tvq2 -o {delta}"));
        assert_declared(&bench, &delta, &model, &said);
        bench.ok("diff base.safetensors model.safetensors --codec tvq2 -o alone.tvd --overwrite");
        assert!(bench.bound(&delta) < 0.7 * bench.bound("alone.tvd"));
    }
}

#[test]
fn tall_masks_choose_between_base_and_shared_model_by_the_formula() {
    let bench = Bench::new();
    let (base, model) = (floats("F32", 0), floats("F32", 1));
    bench.put("base.safetensors", &base);
    bench.put("model.safetensors", &model);
    let mut shared = floats("F32", 2);
    for (s, m) in shared.tensors.iter_mut().zip(&model.tensors) {
        let middle: Vec<f32> = sum(&values(s), &values(m)).iter().map(|v| v / 2.0).collect();
        s.bytes = encoded("F32", &middle);
    }
    bench.put("mean.safetensors", &shared);
    bench.ok("diff base.safetensors mean.safetensors -o shared.tvd");
    for (name, lambda) in [("tall", 0.4f32), ("tall-1.5", 1.5)] {
        let delta = format!("{name}.tvd");
        let said =
            bench.ok(&format!("diff base.safetensors model.safetensors --on shared.tvd --codec {name} -o {delta}"));
        assert_declared(&bench, &delta, &model, &said);
        let restored = Model::read(&bench.weights(&format!("applied-{delta}")));
        for (i, t) in restored.tensors.iter().enumerate() {
            let [base, shared, x] = [&base, &shared, &model].map(|m| values(&m.tensors[i]));
            let chosen = |i: usize| {
                if (base[i] - x[i]).abs() > lambda * (shared[i] - x[i]).abs() { shared[i] } else { base[i] }
            };
            let expected: Vec<f32> = (0..x.len()).map(chosen).collect();
            assert_eq!(values(t), expected, "{name} {}", t.name);
        }
    }
    assert!(bench.length("tall.tvd") < 150_000 * 4 / 20, "about a bit for each element");
    std::fs::create_dir(bench.path("alone")).unwrap();
    std::fs::copy(bench.path("tall.tvd"), bench.path("alone/tall.tvd")).unwrap();
    bench.refused("apply base.safetensors alone/tall.tvd -o out", 65, &["shared model", "in the same folder"]);
}

#[test]
fn a_codec_that_does_not_exist_and_tall_masks_without_a_shared_model_are_refused_with_2() {
    let bench = Bench::new();
    bench.put("base.safetensors", &floats("F32", 0));
    bench.put("model.safetensors", &floats("F32", 1));
    let diff = "diff base.safetensors model.safetensors -o x.tvd --codec";
    for name in ["tvq5", "ternary-2", "tall-", "fast"] {
        bench.refused(&format!("{diff} {name}"), 2, &["--codec", "tvq4", "ternary-0.1", "s2"]);
    }
    bench.refused(&format!("{diff} tall"), 2, &["--on SHARED.tvd"]);
    bench.ok("diff base.safetensors model.safetensors -o a.tvd --codec tvq4");
    bench.ok("diff base.safetensors model.safetensors --on a.tvd -o b.tvd --codec tvq4");
    bench.refused(&format!("{diff} tall --on b.tvd"), 2, &["made from BASE itself"]);
    assert!(!bench.path("x.tvd").exists());
}

/// Three models, two of them as lossy deltas, one exactly.
fn family(dtype: &str) -> Bench {
    let bench = Bench::new();
    bench.put("base.safetensors", &floats(dtype, 0));
    for (seed, codec) in [(1, "tvq4"), (2, "sign1"), (3, "auto")] {
        bench.put(&format!("e{seed}.safetensors"), &floats(dtype, seed));
        bench.ok(&format!("diff base.safetensors e{seed}.safetensors -o e{seed}.tvd --codec {codec}"));
        bench.ok(&format!("apply base.safetensors e{seed}.tvd -o applied{seed}"));
    }
    bench
}

const WEIGHTS: [f64; 3] = [0.5, -0.3, 0.4];

fn merge(bench: &Bench, flags: &str, model: impl Fn(usize) -> String, out: &str) -> String {
    let model = |k: usize| format!("--model {}={}", model(k), WEIGHTS[k - 1]);
    let models = [1, 2, 3].map(model).join(" ");
    bench.ok(&format!("merge --base base.safetensors {flags} {models} {out}"))
}

#[test]
fn merging_lossy_deltas_is_merging_what_they_restore() {
    for dtype in ["F32", "BF16"] {
        let bench = family(dtype);
        bench.ok("diff base.safetensors e3.safetensors --on e1.tvd --codec tall -o e3.tvd --overwrite");
        bench.ok("apply base.safetensors e3.tvd -o applied3 --overwrite");
        assert_eq!(bench.metadata("e3.tvd")["mode"], "lossy");
        let flags = [
            "--method linear",
            "--method task_arithmetic --eta 0.5",
            "--method ties --set density=0.4 --set scope=model",
        ];
        for (i, flags) in flags.iter().enumerate() {
            let said = merge(&bench, flags, |k| format!("e{k}.tvd"), &format!("coded{i}"));
            assert_eq!(said.matches("lossy deltas").count(), 1, "{said}");
            merge(&bench, flags, |k| format!("applied{k}"), &format!("whole{i}"));
            let bytes = |folder: &str| std::fs::read(bench.path(folder).join("model.safetensors")).unwrap();
            assert!(bytes(&format!("coded{i}")) == bytes(&format!("whole{i}")), "{dtype} {flags}");
        }
    }
}

#[test]
fn the_report_has_the_bounds_of_inputs_and_a_bound_of_the_merge_that_holds() {
    let bench = family("F32");
    let bounds = [bench.bound("e1.tvd"), bench.bound("e2.tvd"), 0.0];
    let weighted: f64 = WEIGHTS.iter().zip(bounds).map(|(w, e)| f64::from(w.abs() as f32) * e).sum();
    let total: f64 = WEIGHTS.iter().sum();
    let cases = [
        ("--method task_arithmetic --set lambda=0.7", Some(weighted * f64::from(0.7f32))),
        ("--method linear --set normalize=false", Some(weighted)),
        ("--method linear", Some(weighted / total)),
        ("--method task_arithmetic --set normalize=true", None),
        ("--method ties --set density=0.4 --set scope=model", None),
    ];
    for (i, (flags, expected)) in cases.into_iter().enumerate() {
        merge(&bench, flags, |k| format!("e{k}.tvd"), &format!("coded{i}"));
        merge(&bench, flags, |k| format!("e{k}.safetensors"), &format!("exact{i}"));
        let (report, exact) = (bench.report(&format!("coded{i}")), bench.report(&format!("exact{i}")));
        let declared: Vec<_> = report["inputs"].as_array().unwrap().iter().map(|m| m["error_bound"].as_f64()).collect();
        assert_eq!(declared, [None, Some(bounds[0]), Some(bounds[1]), None], "{flags}");
        assert!(exact["merge_error_bound"].is_null());
        let bound = report["merge_error_bound"].as_f64();
        let Some(expected) = expected else {
            assert_eq!(bound, None, "{flags}");
            continue;
        };
        let bound = bound.unwrap();
        assert!((bound / expected - 1.0).abs() < 1e-6, "{flags}: {bound}, expected {expected}");
        let [a, b] = ["coded", "exact"].map(|n| Model::read(&bench.weights(&format!("{n}{i}"))));
        let found = largest_error(&a, &b);
        assert!(found > bound / 100.0 && found <= bound + 1e-6, "{flags}: {found}, declared {bound}");
    }
}
