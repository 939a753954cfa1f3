//! Damage is found and lies are refused: no flipped bit, missing or extra byte passes a check, and a delta file that was
//! made to deceive ends with an error, a documented exit code, and nothing published.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod flips;
mod forged;
mod lies;

use common::{Model, Random, diff_run};
use forged::Forged;
use std::fs;
use taskvec::codec::{BLOCK, Codec};
use taskvec::job;
use taskvec::tensor::Dtype;

/// Tensors that together need every kind of block but RAW: most change little, one is sparse over two blocks. The first
/// has so many `rows`.
fn models(rows: u64) -> (Model, Model) {
    let mut random = Random(11);
    let (mut base, mut result) = (Model::default(), Model::default());
    let mut add = |name: &str, dtype: Dtype, shape: &[u64], one_in: u64, in_base: bool| {
        let elements = shape.iter().product::<u64>() as usize;
        let values: Vec<f32> = (0..elements).map(|_| (random.next() as i32) as f32 * 1e-11).collect();
        let mut bytes = vec![0; elements * dtype.bytes()];
        dtype.encode(&values, &mut bytes);
        if in_base {
            base = base.clone().tensor(name, dtype.header_name(), shape, bytes.clone());
        }
        for element in bytes.chunks_mut(dtype.bytes()) {
            element[0] ^= if random.below(one_in) == 0 { 1 + random.below(5) as u8 } else { 0 };
        }
        result = result.clone().tensor(name, dtype.header_name(), shape, bytes);
    };
    add("layers.0.weight", Dtype::BF16, &[rows, 115], 2, true);
    add("layers.0.bias", Dtype::F32, &[700], 3, true);
    add("two.blocks", Dtype::BF16, &[BLOCK as u64 + 900], 4000, true);
    add("new.weight", Dtype::F16, &[400], 2, false);
    add("same.weight", Dtype::BF16, &[100], u64::MAX, true);
    (base, result)
}

/// `base`, `model` and the delta file `x.tvd`.
fn made(codec: Codec) -> tempfile::TempDir {
    made_of(codec, 200)
}

fn made_of(codec: Codec, rows: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (base, result) = models(rows);
    base.write(&path("base/model.safetensors"));
    result.write(&path("model/model.safetensors"));
    fs::write(path("model/config.json"), "{\"hidden_size\": 50}").unwrap();
    let (from, to) = (path("base"), path("model"));
    job::diff(from.to_str().unwrap(), None, to.to_str().unwrap(), &path("x.tvd"), &diff_run(codec)).unwrap();
    folder
}

/// The same from a few hundred bytes whose blocks are RAW, so that a histogram is kept.
fn made_with_a_histogram() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let values: Vec<f32> = (0..400).map(|i| i as f32).collect();
    Model::default().f32("w", &values).write(&path("base/model.safetensors"));
    Model::default()
        .f32("w", &values.iter().map(|v| v + 0.5).collect::<Vec<_>>())
        .write(&path("model/model.safetensors"));
    let (from, to) = (path("base"), path("model"));
    job::diff(from.to_str().unwrap(), None, to.to_str().unwrap(), &path("x.tvd"), &diff_run(Codec::Raw)).unwrap();
    assert!(Forged::read(&path("x.tvd")).number("w", 52, 4) > 0, "has a histogram");
    folder
}
