//! fixtures/container/v1: delta files of format version 1 that every later version restores. `base` and `model` are what
//! they stand between; each codec made one of them, and `equal.tvd` has a block without bytes.
//!
//! Today's writer makes these bytes. If the encoder is changed on purpose, move the old files to a folder beside (they
//! must be restored for ever) and run `TASKVEC_GOLDEN=write cargo test --test delta_golden models_of`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Model, Random, apply_run, assert_same_files, diff_run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use taskvec::codec::{BLOCK, Codec};
use taskvec::job;
use taskvec::tensor::Dtype;

const CODECS: [(&str, Codec); 4] = [("auto", Codec::Auto), ("s1", Codec::S1), ("s2", Codec::S2), ("raw", Codec::Raw)];

fn golden(name: &str) -> PathBuf {
    Path::new("fixtures/container/v1").join(name)
}

/// Both sides of what `equal.tvd` stands between; too long to be kept as files.
fn put_equal(folder: &Path) -> [PathBuf; 2] {
    let mut bytes: Vec<u8> = (0..BLOCK + 40).map(|i| (i % 251) as u8).collect();
    let put = |name: &str, bytes: Vec<u8>| {
        let path = folder.join(name);
        Model::default().tensor("x", "U8", &[bytes.len() as u64], bytes).write(&path.join("model.safetensors"));
        path
    };
    let base = put("base", bytes.clone());
    bytes[BLOCK + 7] ^= 1;
    [base, put("model", bytes)]
}

fn diff(base: &Path, model: &Path, delta: &Path, codec: Codec) {
    job::diff(base.to_str().unwrap(), None, model.to_str().unwrap(), delta, &diff_run(codec)).unwrap();
}

fn apply(base: &Path, delta: &Path, out: &Path) {
    job::apply(base.to_str().unwrap(), delta, out, &apply_run()).unwrap();
}

#[test]
fn files_of_version_1_are_restored() {
    let folder = tempfile::tempdir().unwrap();
    for (name, _) in CODECS {
        let out = folder.path().join(name);
        apply(&golden("base"), &golden(&format!("{name}.tvd")), &out);
        assert_same_files(&golden("model"), &out);
    }
    let [base, model] = put_equal(folder.path());
    let out = folder.path().join("out");
    apply(&base, &golden("equal.tvd"), &out);
    assert_same_files(&model, &out);
}

#[test]
fn the_writer_makes_the_bytes_of_the_files_of_version_1() {
    let folder = tempfile::tempdir().unwrap();
    let [base, model] = put_equal(folder.path());
    let pairs = CODECS.map(|(name, codec)| (golden("base"), golden("model"), name, codec));
    for (base, model, name, codec) in pairs.into_iter().chain([(base, model, "equal", Codec::Auto)]) {
        let made = folder.path().join(format!("{name}.tvd"));
        diff(&base, &model, &made, codec);
        let kept = golden(&format!("{name}.tvd"));
        assert!(
            fs::read(&made).unwrap() == fs::read(&kept).unwrap(),
            "{} is not what the writer makes",
            kept.display()
        );
    }
}

#[test]
fn the_files_of_version_1_hold_every_kind_of_block_in_few_bytes() {
    let mut kinds = BTreeSet::new();
    let mut bytes = 0;
    for (name, _) in CODECS.into_iter().chain([("equal", Codec::Auto)]) {
        bytes += fs::metadata(golden(&format!("{name}.tvd"))).unwrap().len();
        for payload in Model::read(&golden(&format!("{name}.tvd"))).tensors {
            if payload.name.ends_with("#d0") {
                let blocks = u64::from_le_bytes(payload.bytes[32..40].try_into().unwrap()) as usize;
                kinds.extend((0..blocks).map(|i| payload.bytes[64 + 17 * i + 8]));
            }
        }
    }
    let expected = [0, 1, 2, 3, 4, 0x12, 0x13, 0x14, 0x15, 0x22, 0x23, 0x24, 0x25];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
    bytes +=
        ["base", "model"].map(|f| fs::metadata(golden(f).join("model.safetensors")).unwrap().len()).iter().sum::<u64>();
    assert!(bytes < 200_000, "{bytes} bytes");
}

/// With `TASKVEC_GOLDEN=write` everything in `fixtures/container/v1` is made anew.
#[test]
fn the_models_of_version_1_are_those_that_this_file_makes() {
    if std::env::var("TASKVEC_GOLDEN").is_ok_and(|wish| wish == "write") {
        remake();
    }
    let (base, model) = models();
    for (folder, made) in [("base", base), ("model", model)] {
        assert!(fs::read(golden(folder).join("model.safetensors")).unwrap() == made.to_bytes(), "{folder}");
    }
}

fn remake() {
    let _ = fs::remove_dir_all(golden(""));
    let (base, model) = models();
    base.write(&golden("base/model.safetensors"));
    model.write(&golden("model/model.safetensors"));
    for folder in ["base", "model"] {
        fs::write(golden(folder).join("config.json"), "{\"model_type\": \"golden\"}\n").unwrap();
    }
    fs::write(golden("model/README.md"), "# A model for delta files of version 1\n").unwrap();
    CODECS
        .into_iter()
        .for_each(|(name, codec)| diff(&golden("base"), &golden("model"), &golden(&format!("{name}.tvd")), codec));
    let folder = tempfile::tempdir().unwrap();
    let [base, model] = put_equal(folder.path());
    diff(&base, &model, &golden("equal.tvd"), Codec::Auto);
}

/// Tensors of every dtype, and for each kind of block one that asks for it.
fn models() -> (Model, Model) {
    let mut pair = Pair { base: Model::default(), model: Model::default(), random: Random(1) };
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F8E4M3, Dtype::F8E5M2] {
        let weights = pair.weights(dtype, 180);
        pair.near(&format!("near.{dtype}"), dtype, weights, 2);
    }
    for dtype in
        [Dtype::I64, Dtype::I32, Dtype::I16, Dtype::I8, Dtype::U64, Dtype::U32, Dtype::U16, Dtype::U8, Dtype::Bool]
    {
        let any = pair.bits(dtype, 60);
        pair.near(&format!("near.{dtype}"), dtype, any, 2);
    }
    for (dtype, elements) in [(Dtype::BF16, 2000), (Dtype::F32, 1000)] {
        let weights = pair.weights(dtype, elements);
        pair.near(&format!("groups.{dtype}"), dtype, weights, 3);
    }
    for dtype in [Dtype::F32, Dtype::BF16] {
        let bits = pair.bits(dtype, 40);
        pair.near(&format!("any_bits.{dtype}"), dtype, bits, 1);
    }
    for half in [Dtype::BF16, Dtype::F16] {
        let weights = pair.weights(half, 300);
        let tuned = pair.nudge(half, &weights, 2);
        pair.put(&format!("wide.{half}"), Dtype::F32, Some(widen(half, &weights)), widen(half, &tuned));
        let weights = pair.weights(half, 1030);
        let mut tuned = weights.clone();
        tuned[1001] ^= 1;
        pair.put(&format!("wide_sparse.{half}"), Dtype::F32, Some(widen(half, &weights)), widen(half, &tuned));
        let weights = pair.weights(half, 300);
        pair.put(&format!("wide_new.{half}"), Dtype::F32, None, widen(half, &weights));
    }
    let mut few = pair.weights(Dtype::BF16, 1540);
    let before = few.clone();
    few[700] ^= 1;
    few[2002] ^= 3;
    pair.put("sparse", Dtype::BF16, Some(before), few);
    let weights = pair.weights(Dtype::F32, 250);
    pair.put("new", Dtype::F32, None, weights.clone());
    pair.put("same", Dtype::F32, Some(weights.clone()), weights.clone());
    let (base, random) = (pair.bits(Dtype::U8, 100), pair.bits(Dtype::U8, 100));
    pair.put("unrelated", Dtype::U8, Some(base), random);
    pair.put("longer", Dtype::F32, Some(weights[..400].to_vec()), weights.clone());
    pair.put("shorter", Dtype::F32, Some(weights.clone()), weights[..400].to_vec());
    pair.put("scalar", Dtype::F32, Some(vec![1, 2, 3, 4]), vec![9, 2, 3, 4]);
    pair.model.tensors.last_mut().unwrap().shape.clear();
    pair.base.tensors.last_mut().unwrap().shape.clear();
    pair.put("empty", Dtype::I32, Some(Vec::new()), Vec::new());
    pair.base = pair.base.tensor("other_dtype", "F32", &[250], weights.clone());
    let narrow = pair.weights(Dtype::BF16, 250);
    pair.model = pair.model.tensor("other_dtype", "BF16", &[250], narrow);
    pair.base = pair.base.tensor("only_in_base", "U8", &[3], vec![1, 2, 3]);
    (pair.base, pair.model)
}

struct Pair {
    base: Model,
    model: Model,
    random: Random,
}

impl Pair {
    /// Values around 0 with many exponents.
    fn weights(&mut self, dtype: Dtype, elements: usize) -> Vec<u8> {
        let random = &mut self.random;
        let values: Vec<f32> =
            (0..elements).map(|_| (random.next() as i32 >> random.below(9)) as f32 * 1e-10).collect();
        let mut bytes = vec![0; elements * dtype.bytes()];
        dtype.encode(&values, &mut bytes);
        bytes
    }

    fn bits(&mut self, dtype: Dtype, elements: usize) -> Vec<u8> {
        let mut bytes = self.random.bytes(elements * dtype.bytes());
        if dtype == Dtype::Bool {
            bytes.iter_mut().for_each(|b| *b &= 1);
        }
        bytes
    }

    fn nudge(&mut self, dtype: Dtype, bytes: &[u8], one_in: u64) -> Vec<u8> {
        let mut tuned = bytes.to_vec();
        for element in tuned.chunks_mut(dtype.bytes()) {
            let step = if dtype == Dtype::Bool { 1 } else { 1 + self.random.below(7) as u8 };
            element[0] ^= if self.random.below(one_in) == 0 { step } else { 0 };
        }
        tuned[0] ^= 1;
        tuned
    }

    fn near(&mut self, name: &str, dtype: Dtype, bytes: Vec<u8>, one_in: u64) {
        let tuned = self.nudge(dtype, &bytes, one_in);
        self.put(name, dtype, Some(bytes), tuned);
    }

    fn put(&mut self, name: &str, dtype: Dtype, base: Option<Vec<u8>>, result: Vec<u8>) {
        let add = |model: Model, bytes: Vec<u8>| {
            let shape = [(bytes.len() / dtype.bytes()) as u64];
            model.tensor(name, dtype.header_name(), &shape, bytes)
        };
        if let Some(base) = base {
            self.base = add(std::mem::take(&mut self.base), base);
        }
        self.model = add(std::mem::take(&mut self.model), result);
    }
}

fn widen(half: Dtype, bytes: &[u8]) -> Vec<u8> {
    let mut values = vec![0.0; bytes.len() / 2];
    half.decode(bytes, &mut values);
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
