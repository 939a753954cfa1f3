//! Laws that every merge method obeys, alone and under LwPTV, without being asked.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::parts::{Parts, forget};
use common::{Model, Random, apply_run, diff_run, merge, options};
use std::cell::Cell;
use std::path::Path;
use taskvec::codec::Codec;
use taskvec::job::{self, Next};
use taskvec::method::{Basis, Entry, Kind, METHODS, Parameter, Scope};
use taskvec::plan::Options;
use taskvec::recipe::{Base, Recipe};
use taskvec::source::Io;

/// Sizes of the tensors: empty, one, around the smallest trims, around a block, several blocks.
const SIZES: [usize; 9] = [0, 1, 2, 99, 100, 4095, 4096, 4097, 20_000];

fn value(seed: u64, i: usize) -> f32 {
    let mixed = (seed << 32 ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
}

fn model(seed: u64, step: f32) -> Model {
    let mut model = Model::default();
    for (t, &size) in SIZES.iter().enumerate() {
        let base = |i: usize| if i % 17 == 3 { -0.0 } else { value(t as u64, i) };
        let own = |i: usize| if step == 0.0 { 0.0 } else { step * value(seed * 100 + t as u64, i) };
        let values: Vec<f32> = (0..size).map(|i| if own(i) == 0.0 { base(i) } else { base(i) + own(i) }).collect();
        model = model.f32(&format!("model.layers.{t}.weight"), &values);
    }
    let ids = (0..7u64).flat_map(u64::to_le_bytes).collect();
    model.tensor("position_ids", "I64", &[7], ids)
}

/// A family in a folder: `base`, `a`, `b`, `c`.
fn family(folder: &Path, step: f32) {
    model(0, 0.0).write(&folder.join("base.safetensors"));
    for (seed, name) in [(1, "a"), (2, "b"), (3, "c")] {
        model(seed, step).write(&folder.join(format!("{name}.safetensors")));
    }
}

/// As many models as the method takes, three at most.
fn models_of(method: &Entry) -> &'static [&'static str] {
    let (least, most) = method.experts;
    &["a", "b", "c"][..most.min(3).max(least)]
}

/// A recipe that gives every required parameter a sensible value, and those of `set` theirs.
fn recipe(method: &Entry, lwptv: Option<&str>, set: &[(&str, &str)]) -> Recipe {
    let chosen = |p: &Parameter| match (set.iter().find(|(name, _)| *name == p.name), p.default, p.kind) {
        (Some((_, value)), ..) => Some((*value).to_owned()),
        (None, Some(_), _) if p.name != "density" => None,
        (None, _, Kind::Choice(words)) => Some(words[0].to_owned()),
        (None, _, Kind::Flag) => Some("true".to_owned()),
        (None, ..) => Some("0.5".to_owned()),
    };
    let list = |scope| {
        let given = method.parameters.iter().filter(|p| p.scope == scope);
        given.filter_map(|p| chosen(p).map(|v| format!("{}: {v}", p.name))).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("merge_method: {}\nparameters: {{{}}}\nmodels:\n", method.name, list(Scope::Global));
    for name in models_of(method) {
        text += &format!("- {{model: ./{name}.safetensors, parameters: {{{}}}}}\n", list(Scope::Model));
    }
    if method.basis != Basis::Weights || lwptv.is_some() {
        text += "base_model: ./base.safetensors\n";
    }
    if let Some(lwptv) = lwptv {
        text += &format!("lwptv: {{{lwptv}}}\n");
    }
    Recipe::parse(&text).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

fn output(recipe: Recipe, folder: &Path, options: Options, io: Io) -> Vec<u8> {
    let out = folder.join("out");
    merge(recipe, folder, &out, options, io).unwrap();
    let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
    std::fs::remove_dir_all(out).unwrap();
    bytes
}

/// Runs `law` for every method, alone and under LwPTV.
fn every_method(step: f32, law: impl Fn(&'static Entry, Option<&str>, &Path)) {
    let root = tempfile::tempdir().unwrap();
    family(root.path(), step);
    for method in METHODS {
        // LwPTV compares experts: it needs two.
        let blocks = [None, Some("eta: 0.4"), Some("eta: 0.4, layer: element")];
        for &lwptv in if models_of(method).len() > 1 { &blocks[..] } else { &blocks[..1] } {
            law(method, lwptv, root.path());
        }
    }
}

/// Threads, elements of a tile, and how inputs are read: every combination.
fn ways() -> Vec<(usize, usize, Io)> {
    let tiles = [4096, 65_536, (1 << 20) + 1];
    let of = |threads| tiles.into_iter().flat_map(move |tile| [Io::Mmap, Io::Pread].map(|io| (threads, tile, io)));
    [1, 2, 3, 8].into_iter().flat_map(of).collect()
}

#[test]
fn bytes_do_not_depend_on_threads_tiles_waves_io_or_budget() {
    let (ways, turn) = (ways(), Cell::new(0));
    every_method(0.5, |method, lwptv, folder| {
        let plain = output(recipe(method, lwptv, &[]), folder, options(), Io::Mmap);
        // Every method goes all of them: alone, under LwPTV and under PwPTV a third each.
        let share = if models_of(method).len() > 1 { 3 } else { 1 };
        let first = turn.replace(turn.get() + 1) % share;
        for &(threads, tile, io) in ways.iter().skip(first).step_by(share) {
            let (memory_bytes, wave_bytes) = if io == Io::Pread { (256 << 20, Some(1)) } else { (1 << 30, None) };
            let options = Options { threads, tile_elements: Some(tile), memory_bytes, wave_bytes, ..options() };
            let same = output(recipe(method, lwptv, &[]), folder, options, io) == plain;
            assert!(same, "{} {lwptv:?} with {threads} threads, tiles of {tile}, {io:?}", method.name);
        }
    });
}

#[test]
fn bytes_do_not_depend_on_how_many_machines_share_a_merge() {
    every_method(0.5, |method, lwptv, folder| {
        let recipe = recipe(method, lwptv, &[]);
        let text = recipe.text.clone();
        let plain = output(recipe, folder, options(), Io::Mmap);
        let run = folder.join("run");
        let parts = Parts::plan(&text, folder, &run, 3, options()).unwrap();
        parts.run_until(Next::Nothing, &mut Random(1));
        assert!(std::fs::read(run.join("model/model.safetensors")).unwrap() == plain, "{} {lwptv:?}", method.name);
        forget(&run);
    });
}

#[test]
fn experts_equal_to_the_base_give_the_base() {
    every_method(0.0, |method, lwptv, folder| {
        let base = Model::read(&folder.join("base.safetensors"));
        std::fs::write(folder.join("m.safetensors"), output(recipe(method, lwptv, &[]), folder, options(), Io::Mmap))
            .unwrap();
        let merged = Model::read(&folder.join("m.safetensors"));
        if method.basis == Basis::TaskVectors {
            assert_eq!(merged, base, "{} {lwptv:?}", method.name);
        } else {
            assert_close(&merged, &base, method.name);
        }
    });
}

#[test]
fn lambda_zero_gives_the_base() {
    every_method(0.5, |method, lwptv, folder| {
        if method.parameters.iter().any(|p| p.name == "lambda") {
            std::fs::write(
                folder.join("m.safetensors"),
                output(recipe(method, lwptv, &[("lambda", "0")]), folder, options(), Io::Mmap),
            )
            .unwrap();
            let base = Model::read(&folder.join("base.safetensors"));
            assert_eq!(Model::read(&folder.join("m.safetensors")), base, "{} {lwptv:?}", method.name);
        }
    });
}

#[test]
fn eta_one_gives_the_base_and_eta_zero_the_merge_without_lwptv() {
    every_method(0.5, |method, lwptv, folder| {
        let Some(lwptv) = lwptv else { return };
        let merged = |lwptv| output(recipe(method, lwptv, &[]), folder, options(), Io::Mmap);
        let (all, none) = (lwptv.replace("0.4", "0"), lwptv.replace("0.4", "1"));
        assert!(merged(Some(&all)) == merged(None), "{} {all}", method.name);
        std::fs::write(folder.join("m.safetensors"), merged(Some(&none))).unwrap();
        assert_eq!(
            Model::read(&folder.join("m.safetensors")),
            Model::read(&folder.join("base.safetensors")),
            "{}",
            method.name
        );
    });
}

#[test]
fn a_nan_in_any_input_is_refused_by_every_method() {
    every_method(0.5, |method, lwptv, folder| {
        let models = models_of(method);
        let seed = models.len().min(2);
        let name = format!("{}.safetensors", models[seed - 1]);
        let mut poisoned = model(seed as u64, 0.5);
        poisoned.tensors[8].bytes[4000..4004].copy_from_slice(&f32::NAN.to_le_bytes());
        poisoned.write(&folder.join(&name));
        let failed = merge(recipe(method, lwptv, &[]), folder, &folder.join("out"), options(), Io::Mmap).unwrap_err();
        assert!(
            failed.to_string().contains(&format!("{name}: tensor `model.layers.8.weight`: element 1000 is NaN")),
            "{failed}"
        );
        assert!(!folder.join("out").exists());
        model(seed as u64, 0.5).write(&folder.join(&name));
    });
}

/// Tensors of more than one block of a delta file, in rows that do not divide it.
fn large(seed: u64, step: f32) -> Model {
    let shapes: [&[u64]; 4] = [&[300, 1536], &[132, 1000], &[3, 48], &[131_100]];
    let ids = (0..7u64).flat_map(u64::to_le_bytes).collect();
    let tensors = shapes.into_iter().enumerate().fold(Model::default(), |model, (t, shape)| {
        // Few digits, so that magnitudes tie.
        let digits = |x: f32| (x * 2048.0).round() / 2048.0;
        let value = |i: usize| {
            let own = if step == 0.0 || i.is_multiple_of(3) { 0.0 } else { step * value(seed * 100 + t as u64, i) };
            digits(value(t as u64, i)) + digits(own)
        };
        let elements = shape.iter().product::<u64>() as usize;
        let bytes = (0..elements).flat_map(|i| value(i).to_le_bytes()).collect();
        model.tensor(&format!("model.layers.{t}.weight"), "F32", shape, bytes)
    });
    tensors.tensor("position_ids", "I64", &[7], ids)
}

/// The same recipe, its models replaced by delta files, with a base.
fn over_deltas(mut recipe: Recipe, deltas: bool) -> Recipe {
    recipe.base = Some("./base.safetensors".into());
    recipe.modules[0].slices[0].base = Some(Base { model: "./base.safetensors".into(), layers: None });
    for expert in recipe.experts_mut().filter(|_| deltas) {
        expert.model = expert.model.replace(".safetensors", ".tvd");
    }
    recipe
}

#[test]
fn deltas_merge_as_checkpoints_do_and_the_delta_of_the_output_restores_it() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    large(0, 0.0).write(&path("base.safetensors"));
    let base = path("base.safetensors");
    let base = base.to_str().unwrap();
    for (seed, name) in [(1, "a"), (2, "b"), (3, "c")] {
        let model = path(&format!("{name}.safetensors"));
        large(seed, 0.5).write(&model);
        job::diff(base, None, model.to_str().unwrap(), &path(&format!("{name}.tvd")), &diff_run(Codec::Auto)).unwrap();
    }
    let blocks =
        [None, Some("eta: 0.4"), Some("eta: 0.4, layer: element"), Some("eta: 0.4, layer: element, score: magnitude")];
    let model_wide = [("scope", "model")];
    for method in METHODS {
        let scoped = method.parameters.iter().any(|p| p.name == "scope");
        for set in [&[][..], &model_wide[..]].into_iter().take(1 + usize::from(scoped)) {
            for &lwptv in if models_of(method).len() > 1 { &blocks[..] } else { &blocks[..1] } {
                let recipe = |deltas| over_deltas(recipe(method, lwptv, set), deltas);
                let plain = Options { delta: false, ..options() };
                let want = output(recipe(false), root.path(), plain, Io::Mmap);
                let small = Options { threads: 3, tile_elements: Some(4096), wave_bytes: Some(1), ..options() };
                let cases = [(false, small), (true, options()), (true, Options { delta: false, ..small })];
                for (i, (deltas, options)) in cases.into_iter().enumerate() {
                    let case = format!("{} {lwptv:?} {set:?} {i}", method.name);
                    let (out, back) = (path("out"), path("back"));
                    merge(recipe(deltas), root.path(), &out, options, Io::Mmap)
                        .unwrap_or_else(|e| panic!("{case}: {e}"));
                    assert!(std::fs::read(out.join("model.safetensors")).unwrap() == want, "{case}");
                    if options.delta {
                        job::apply(base, &out.join("merged.tvd"), &back, &apply_run())
                            .unwrap_or_else(|e| panic!("{case}: {e}"));
                        assert!(std::fs::read(back.join("model.safetensors")).unwrap() == want, "{case}");
                        std::fs::remove_dir_all(back).unwrap();
                    }
                    std::fs::remove_dir_all(out).unwrap();
                }
            }
        }
    }
}

#[test]
fn rows_too_long_for_a_delta_within_the_memory_are_refused_with_what_would_do() {
    let root = tempfile::tempdir().unwrap();
    for (seed, name) in [(0, "base"), (1, "a"), (2, "b"), (3, "c")] {
        let values = |i: usize| value(0, i) + if seed == 0 { 0.0 } else { value(seed, i) };
        let bytes = (0..64 * 11_008).flat_map(|i| values(i).to_le_bytes()).collect();
        Model::default()
            .tensor("w", "F32", &[64, 11_008], bytes)
            .write(&root.path().join(format!("{name}.safetensors")));
    }
    let della = METHODS.iter().find(|m| m.name == "della").unwrap();
    let set = [("epsilon", "0.1")];
    let tight = Options { memory_bytes: 128 << 20, ..options() };
    let out = root.path().join("out");
    let refused = merge(recipe(della, None, &set), root.path(), &out, tight, Io::Mmap).unwrap_err();
    assert!(refused.to_string().contains("--no-delta"), "{refused}");
    assert_eq!(refused.exit_code(), 2);
    let want = output(recipe(della, None, &set), root.path(), Options { delta: false, ..tight }, Io::Mmap);
    let taskvec::Error::DeltaBudgetTooSmall { needed, .. } = refused else { panic!("{refused}") };
    let enough = Options { memory_bytes: needed.0, ..tight };
    assert!(output(recipe(della, None, &set), root.path(), enough, Io::Mmap) == want);
}

fn assert_close(a: &Model, b: &Model, name: &str) {
    for (a, b) in a.tensors.iter().zip(&b.tensors).filter(|(a, _)| a.dtype == "F32") {
        for (x, y) in a.bytes.as_chunks::<4>().0.iter().zip(b.bytes.as_chunks::<4>().0) {
            let (x, y) = (f32::from_le_bytes(*x), f32::from_le_bytes(*y));
            assert!((x - y).abs() <= 1e-6 * y.abs(), "{name}: {x} for {y}");
        }
    }
}
