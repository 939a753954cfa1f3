//! Laws over random models, 1,000 cases each: tensors of any dtype, empty, of no dimension, with NaN, infinities and -0.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Model, Random, apply_run, diff_run};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use taskvec::codec::Codec;
use taskvec::job;
use taskvec::plan::Options;
use taskvec::recipe::Recipe;
use taskvec::source::Io;

const DTYPES: [&str; 12] = ["F32", "BF16", "F16", "F64", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL"];
const WIDTHS: [usize; 12] = [4, 2, 2, 8, 1, 1, 8, 4, 2, 1, 1, 1];

#[derive(Clone, Debug)]
struct Drawn {
    dtype: usize,
    shape: Vec<u64>,
    seed: u64,
}

fn tensor() -> impl Strategy<Value = Drawn> {
    let shape = prop_oneof![
        Just(vec![]),
        Just(vec![0]),
        Just(vec![3, 0, 2]),
        prop::collection::vec(1..9u64, 1..4),
        (1..3000u64).prop_map(|n| vec![n]),
    ];
    (0..DTYPES.len(), shape, any::<u64>()).prop_map(|(dtype, shape, seed)| Drawn { dtype, shape, seed })
}

fn tensors() -> impl Strategy<Value = Vec<Drawn>> {
    prop::collection::vec(tensor(), 1..6)
}

/// Any bits; `finite` leaves out NaN and infinities.
fn model(drawn: &[Drawn], change: u64, finite: bool) -> Model {
    let add = |model: Model, (i, t): (usize, &Drawn)| {
        let width = WIDTHS[t.dtype];
        let count = t.shape.iter().product::<u64>() as usize;
        let mut random = Random(t.seed);
        let mut bytes = random.bytes(count * width);
        let mut changes = Random(t.seed ^ change);
        if change != 0 {
            bytes.chunks_mut(width).for_each(|e| e[0] ^= changes.below(4) as u8);
        }
        if DTYPES[t.dtype] == "BOOL" {
            bytes.iter_mut().for_each(|b| *b &= 1);
        }
        // The second highest bit of every exponent is 0: nothing is infinite, and sums stay finite.
        if finite && t.dtype < 6 {
            bytes.chunks_mut(width).for_each(|e| *e.last_mut().unwrap() &= 0b1011_1111);
        }
        model.tensor(&format!("layers.{i}.weight"), DTYPES[t.dtype], &t.shape, bytes)
    };
    drawn.iter().enumerate().fold(Model::default(), add)
}

/// A folder in memory, where there is one: these are many small outputs, each of which is synced.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn merged(folder: &Path, recipe: &str, out: &str) -> taskvec::Result<Model> {
    let options = Options { delta: false, write_card: false, memory_bytes: 256 << 20, ..common::options() };
    common::merge(Recipe::parse(recipe)?, folder, &folder.join(out), options, Io::Mmap)?;
    Ok(Model::read(&folder.join(out).join("model.safetensors")))
}

const RECIPES: [&str; 3] = [
    "merge_method: task_arithmetic\nbase_model: ./base\nmodels:\n- {model: ./a, parameters: {weight: 0.5}}\n- {model: ./c, parameters: {weight: 0.25}}\n",
    "merge_method: ties\nbase_model: ./base\nmodels:\n- {model: ./a, parameters: {weight: 0.5, density: 0.5}}\n- {model: ./c, parameters: {weight: 0.25, density: 0.5}}\n",
    "merge_method: dare_linear\nbase_model: ./base\nmodels:\n- {model: ./a, parameters: {weight: 0.5, density: 0.5}}\n- {model: ./c, parameters: {weight: 0.25, density: 0.5}}\n",
];

fn put(folder: &Path, name: &str, model: &Model) -> PathBuf {
    let path = folder.join(name);
    model.write(&path.join("model.safetensors"));
    path
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn experts_that_are_the_base_merge_to_its_values(drawn in tensors(), recipe in 0..RECIPES.len()) {
        let folder = folder();
        // F64 is merged in f32 (docs/numerics.md), so that its values are rounded.
        let drawn: Vec<Drawn> = drawn.into_iter().filter(|t| DTYPES[t.dtype] != "F64").collect();
        prop_assume!(!drawn.is_empty());
        let base = model(&drawn, 0, true);
        ["base", "a", "c"].iter().for_each(|name| drop(put(folder.path(), name, &base)));
        let merged = merged(folder.path(), RECIPES[recipe], "out").unwrap();
        for (want, got) in base.tensors.iter().zip(&merged.tensors) {
            // -0 + 0 is 0.
            let plain = |bytes: &[u8], dtype: &str| {
                let width = WIDTHS[DTYPES.iter().position(|d| *d == dtype).unwrap()];
                let float = dtype.contains('F');
                let is_zero = |e: &[u8]| float && e[..width - 1].iter().all(|b| *b == 0) && matches!(e[width - 1], 0 | 128);
                bytes.chunks(width).map(|e| if is_zero(e) { vec![0; width] } else { e.to_vec() }).collect::<Vec<_>>()
            };
            prop_assert_eq!(plain(&want.bytes, &want.dtype), plain(&got.bytes, &got.dtype), "{}", &want.dtype);
        }
    }

    #[test]
    fn what_diff_takes_apart_apply_puts_together_bit_for_bit(drawn in tensors(), change in 1..u64::MAX) {
        let folder = folder();
        let [base, tuned] = [0, change].map(|c| model(&drawn, c, false));
        let (from, to) = (put(folder.path(), "base", &base), put(folder.path(), "a", &tuned));
        let delta = folder.path().join("x.tvd");
        job::diff(from.to_str().unwrap(), None, to.to_str().unwrap(), &delta, &diff_run(Codec::Auto)).unwrap();
        job::apply(from.to_str().unwrap(), &delta, &folder.path().join("back"), &apply_run()).unwrap();
        let read = |name: &str| fs::read(folder.path().join(name).join("model.safetensors")).unwrap();
        prop_assert!(read("a") == read("back"));
    }

    #[test]
    fn the_order_of_tensors_in_experts_does_not_show(drawn in tensors(), change in 1..u64::MAX, recipe in 0..RECIPES.len()) {
        let folder = folder();
        let drawn: Vec<Drawn> = drawn.into_iter().filter(|t| t.dtype < 6).collect();
        prop_assume!(!drawn.is_empty());
        put(folder.path(), "base", &model(&drawn, 0, true));
        let (a, c) = (model(&drawn, change, true), model(&drawn, change / 2, true));
        [("a", &a), ("c", &c)].iter().for_each(|(name, m)| drop(put(folder.path(), name, m)));
        let first = merged(folder.path(), RECIPES[recipe], "first").unwrap();
        let turned = Model { tensors: a.tensors.iter().rev().cloned().collect() };
        put(folder.path(), "a", &turned);
        prop_assert!(first == merged(folder.path(), RECIPES[recipe], "second").unwrap());
    }
}
