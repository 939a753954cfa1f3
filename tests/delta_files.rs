//! Delta files give back what went in: every byte of every file, for any tensors, from any base; and merges that read
//! deltas make the bytes of merges that read checkpoints.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use assert_cmd::Command;
use common::{Model, Random, apply_run, assert_same_files, diff_run, tree};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use taskvec::codec::{BLOCK, Codec};
use taskvec::job;
use taskvec::tensor::Dtype;

const DTYPES: [Dtype; 15] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F8E4M3,
    Dtype::F8E5M2,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U16,
    Dtype::U8,
    Dtype::Bool,
];
const CODECS: [Codec; 4] = [Codec::Auto, Codec::S1, Codec::S2, Codec::Raw];

/// A folder to work in, and the binary.
struct Bench(tempfile::TempDir);

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

    fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    /// A model as Hugging Face lays it out: shards, their index, and the small files around them.
    fn put_folder(&self, name: &str, model: &Model, shards: usize) {
        let mut map = serde_json::Map::new();
        let parts: Vec<_> = model.tensors.chunks(model.tensors.len().div_ceil(shards)).collect();
        for (i, tensors) in parts.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, parts.len());
            tensors.iter().for_each(|t| drop(map.insert(t.name.clone(), file.clone().into())));
            self.put(&format!("{name}/{file}"), &Model { tensors: tensors.to_vec() });
        }
        let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        self.write(&format!("{name}/model.safetensors.index.json"), &serde_json::to_vec_pretty(&index).unwrap());
        self.write(&format!("{name}/tokenizer.json"), &[b't'; 5000]);
    }

    /// Runs the binary in this folder.
    fn run(&self, args: &str) -> Output {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        command.current_dir(self.0.path()).args(args.split(' ')).env("HF_HUB_CACHE", self.path("no-cache"));
        command.output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &str) {
        let run = self.run(&format!("{args} --quiet"));
        assert_eq!(run.status.code(), Some(0), "{args}: {}", String::from_utf8_lossy(&run.stderr));
    }

    /// The command ends with `code`, says all of `words`, and leaves every file as it was.
    #[track_caller]
    fn refused(&self, args: &str, code: i32, words: &[&str]) {
        let before = tree(self.0.path());
        let run = self.run(args);
        let message = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(code), "{args}: {message}");
        words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in: {message}"));
        assert!(tree(self.0.path()) == before, "{args}: the folder changed");
    }

    #[track_caller]
    fn same(&self, a: &str, b: &str) {
        if self.path(a).is_dir() {
            return assert_same_files(&self.path(a), &self.path(b));
        }
        assert!(fs::read(self.path(a)).unwrap() == fs::read(self.path(b)).unwrap(), "{a} and {b} differ");
    }
}

/// Any bits: NaN with all payloads, both zeros, subnormals.
fn any_bits(dtype: Dtype, elements: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = random.bytes(elements * dtype.bytes());
    if dtype == Dtype::Bool {
        bytes.iter_mut().for_each(|b| *b &= 1);
    }
    bytes
}

/// A part of the elements, in steps of a few units in the last place.
fn nudged(dtype: Dtype, bytes: &[u8], one_in: u64, random: &mut Random) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for element in out.chunks_mut(dtype.bytes()) {
        let step = if dtype == Dtype::Bool { 1 } else { 1 + random.below(7) as u8 };
        element[0] ^= if random.below(one_in) == 0 { step } else { 0 };
    }
    out
}

fn elements(shape: &[u64]) -> usize {
    shape.iter().product::<u64>() as usize
}

/// Every dtype in several shapes, a scalar and an empty tensor among them.
fn every_dtype(seed: u64) -> Model {
    let mut random = Random(seed);
    DTYPES.into_iter().fold(Model::default(), |model, dtype| {
        let shapes: [(&str, &[u64]); 4] = [("matrix", &[7, 33]), ("scalar", &[]), ("empty", &[0, 3]), ("one", &[1])];
        shapes.into_iter().fold(model, |model, (name, shape)| {
            let bytes = any_bits(dtype, elements(shape), &mut random);
            model.tensor(&format!("{dtype}.{name}"), dtype.header_name(), shape, bytes)
        })
    })
}

/// The same tensors, a third of the elements a little different.
fn tuned(model: &Model, seed: u64) -> Model {
    let mut random = Random(seed);
    let mut tuned = model.clone();
    for t in &mut tuned.tensors {
        t.bytes = nudged(Dtype::from_header(&t.dtype).unwrap(), &t.bytes, 3, &mut random);
    }
    tuned
}

// What goes in comes out.

#[test]
fn a_folder_of_shards_and_side_files_comes_back_byte_for_byte() {
    let bench = Bench::new();
    let base = every_dtype(1);
    bench.put_folder("base", &base, 2);
    bench.put_folder("model", &tuned(&base, 2), 5);
    bench.write("model/README.md", b"# mine\n");
    bench.write("model/.gitattributes", b"*.safetensors filter=lfs\n");
    bench.write("model/empty.txt", b"");
    bench.write("model/1_Pooling/deep/config.json", b"{}");
    bench.write("base/only_here.txt", b"stays");
    for codec in ["auto", "s1", "s2", "raw"] {
        bench.ok(&format!("diff base model -o {codec}.tvd --codec {codec}"));
        bench.ok(&format!("verify {codec}.tvd --against base"));
        for verify in ["none", "fast", "full"] {
            bench.ok(&format!("apply base {codec}.tvd -o {codec}_{verify} --verify {verify}"));
            bench.same("model", &format!("{codec}_{verify}"));
        }
    }
}

#[test]
fn a_single_file_comes_back_under_its_name() {
    let bench = Bench::new();
    let base = every_dtype(1);
    bench.put("base.safetensors", &base);
    bench.put("model/tuned.safetensors", &tuned(&base, 2));
    bench.ok("diff base.safetensors model/tuned.safetensors -o x.tvd");
    bench.ok("apply base.safetensors x.tvd -o out");
    bench.same("model", "out");
}

#[test]
fn a_base_that_is_cut_into_other_files_gives_the_same_delta_and_takes_it() {
    let bench = Bench::new();
    let base = every_dtype(1);
    bench.put_folder("three", &base, 3);
    bench.put_folder("seven", &base, 7);
    bench.put_folder("model", &tuned(&base, 2), 2);
    bench.ok("diff three model -o a.tvd");
    bench.ok("diff seven model -o b.tvd");
    bench.same("a.tvd", "b.tvd");
    bench.ok("apply seven a.tvd -o out");
    bench.same("model", "out");
}

#[test]
fn tensors_that_only_one_side_has_are_restored_or_left_out() {
    let bench = Bench::new();
    let (mut base, mut model) = (every_dtype(1), tuned(&every_dtype(1), 2));
    base.tensors.retain(|t| !t.name.starts_with("F32"));
    model.tensors.retain(|t| !t.name.starts_with("BF16") && t.name != "I8.one");
    bench.put_folder("base", &base, 2);
    bench.put_folder("model", &model, 2);
    bench.ok("diff base model -o x.tvd");
    bench.ok("apply base x.tvd -o out");
    bench.same("model", "out");
}

#[test]
fn a_model_that_is_its_base_needs_no_payload() {
    let bench = Bench::new();
    bench.put_folder("base", &every_dtype(1), 2);
    bench.ok("diff base base -o x.tvd");
    bench.ok("apply base x.tvd -o out");
    bench.same("base", "out");
    assert!(Model::read(&bench.path("x.tvd")).tensors.iter().all(|t| t.name.starts_with('#')));
}

/// Diffs and applies one tensor by the library; `base` may lack it.
#[track_caller]
fn round_trip(base: Option<(Dtype, &[u64], &[u8])>, result: (Dtype, &[u64], &[u8]), codec: Codec) {
    let bench = Bench::new();
    let with = |side: Option<(Dtype, &[u64], &[u8])>| {
        let other = Model::default().f32("other", &[1.0]);
        let add = |(dtype, shape, bytes): (Dtype, &[u64], &[u8])| {
            other.clone().tensor("x", dtype.header_name(), shape, bytes.to_vec())
        };
        side.map_or(other.clone(), add)
    };
    bench.put("base/model.safetensors", &with(base));
    bench.put("model/model.safetensors", &with(Some(result)));
    let (from, model, delta) = (bench.path("base"), bench.path("model"), bench.path("x.tvd"));
    let from = from.to_str().unwrap();
    job::diff(from, None, model.to_str().unwrap(), &delta, &diff_run(codec)).unwrap();
    job::check_delta(&delta, None, &apply_run()).unwrap();
    job::apply(from, &delta, &bench.path("out"), &apply_run()).unwrap();
    assert_same_files(&model, &bench.path("out"));
}

#[test]
fn a_tensor_with_more_or_fewer_rows_than_its_base_is_restored() {
    let mut random = Random(3);
    let row = 300u64;
    let all = any_bits(Dtype::BF16, 1200 * row as usize, &mut random);
    let near = nudged(Dtype::BF16, &all, 4, &mut random);
    // Ends before, on and behind the borders of blocks, which 131,072 = 436.9 rows make inside rows.
    for (base, model) in
        [(1, 2), (1200, 1), (436, 437), (437, 436), (437, 1200), (1200, 437), (874, 875), (0, 5), (5, 0)]
    {
        let bytes = |rows: u64, from: &[u8]| from[..(rows * row) as usize * 2].to_vec();
        for result in [bytes(model, &near), bytes(model, &all)] {
            let base = (Dtype::BF16, &[base, row][..], &bytes(base, &all)[..]);
            round_trip(Some(base), (Dtype::BF16, &[model, row], &result), Codec::Auto);
        }
    }
    let rows = BLOCK as u64 / 64;
    let wide = any_bits(Dtype::F32, 3 * BLOCK, &mut random);
    for (base, model) in [(rows, 2 * rows), (2 * rows, 3 * rows), (3 * rows, rows)] {
        let bytes = |rows: u64| &wide[..(rows * 64) as usize * 4];
        let base = (Dtype::F32, &[base, 64][..], bytes(base));
        round_trip(Some(base), (Dtype::F32, &[model, 64], bytes(model)), Codec::Auto);
    }
}

#[test]
fn a_tensor_that_is_its_base_and_zeros_behind_it_is_restored() {
    let bytes = any_bits(Dtype::F32, 12, &mut Random(3));
    let longer = [bytes.clone(), vec![0; 16]].concat();
    for codec in CODECS {
        round_trip(Some((Dtype::F32, &[3, 4], &bytes)), (Dtype::F32, &[4, 4], &longer), codec);
    }
    let long = any_bits(Dtype::U8, BLOCK + 8, &mut Random(4));
    let longer = [long.clone(), vec![0; 800]].concat();
    round_trip(
        Some((Dtype::U8, &[BLOCK as u64 / 8 + 1, 8], &long)),
        (Dtype::U8, &[BLOCK as u64 / 8 + 101, 8], &longer),
        Codec::Auto,
    );
}

#[test]
fn a_tensor_whose_dtype_does_not_convert_to_its_bases_is_restored() {
    let mut random = Random(5);
    for (from, to) in
        [(Dtype::I32, Dtype::F32), (Dtype::F32, Dtype::I32), (Dtype::U8, Dtype::Bool), (Dtype::I64, Dtype::I32)]
    {
        let (base, result) = (any_bits(from, 40, &mut random), any_bits(to, 40, &mut random));
        round_trip(Some((from, &[40], &base)), (to, &[40], &result), Codec::Auto);
        round_trip(Some((from, &[40], &base)), (to, &[40], &vec![0; 40 * to.bytes()]), Codec::Auto);
    }
}

#[test]
fn an_empty_tensor_whose_other_dimensions_do_not_multiply_is_restored() {
    let shape = [0, 1 << 40, 1 << 40];
    round_trip(Some((Dtype::F32, &shape, &[])), (Dtype::F32, &shape, &[]), Codec::Auto);
    round_trip(Some((Dtype::F32, &shape, &[])), (Dtype::F32, &[0], &[]), Codec::Auto);
}

#[test]
fn the_base_rounded_to_another_dtype_takes_no_payload_and_comes_back() {
    let values: Vec<f32> = (0..5000).map(|i| (i as f32 - 2500.0) * 1.37e-3).collect();
    let wide: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    for to in [Dtype::F64, Dtype::F16, Dtype::BF16, Dtype::F8E4M3, Dtype::F8E5M2] {
        let mut narrow = vec![0; values.len() * to.bytes()];
        to.encode(&values, &mut narrow);
        round_trip(Some((Dtype::F32, &[5000], &wide)), (to, &[5000], &narrow), Codec::Auto);
    }
}

#[derive(Clone, Copy, Debug)]
enum Base {
    Absent,
    Same,
    Near(u64),
    Unrelated,
    OtherDtype(Dtype),
    Rows(u64),
    OtherShape,
}

fn base() -> impl Strategy<Value = Base> {
    prop_oneof![
        Just(Base::Absent),
        Just(Base::Same),
        (1..2000u64).prop_map(Base::Near),
        Just(Base::Unrelated),
        prop::sample::select(DTYPES.to_vec()).prop_map(Base::OtherDtype),
        (0..9u64).prop_map(Base::Rows),
        Just(Base::OtherShape),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_tensor_comes_back_from_any_base(
        dtype in prop::sample::select(DTYPES.to_vec()),
        shape in prop::collection::vec(0..7u64, 0..5),
        base in base(),
        codec in prop::sample::select(CODECS.to_vec()),
        zeros: bool,
        seed: u64,
    ) {
        let mut random = Random(seed);
        let bytes = if zeros { vec![0; elements(&shape) * dtype.bytes()] } else { any_bits(dtype, elements(&shape), &mut random) };
        let result = (dtype, &shape[..], &bytes[..]);
        let of = |dtype: Dtype, shape: Vec<u64>, random: &mut Random| {
            let bytes = any_bits(dtype, elements(&shape), random);
            Some((dtype, shape, bytes))
        };
        let base = match base {
            Base::Absent => None,
            Base::Same => Some((dtype, shape.clone(), bytes.clone())),
            Base::Near(one_in) => Some((dtype, shape.clone(), nudged(dtype, &bytes, one_in, &mut random))),
            Base::Unrelated => of(dtype, shape.clone(), &mut random),
            Base::OtherDtype(other) => of(other, shape.clone(), &mut random),
            Base::Rows(rows) => {
                let shape: Vec<u64> = shape.iter().enumerate().map(|(i, &d)| if i == 0 { rows } else { d }).collect();
                let mut longer = bytes.clone();
                longer.resize(elements(&shape) * dtype.bytes(), 7);
                Some((dtype, shape, longer))
            }
            Base::OtherShape => of(dtype, [&shape[..], &[2]].concat(), &mut random),
        };
        round_trip(base.as_ref().map(|(d, s, b)| (*d, &s[..], &b[..])), result, codec);
    }
}

// The same bytes, however they are made.

/// Weights in several dtypes, of three blocks and of a few elements; `shift` sets the experts apart.
fn weights(dtypes: [Dtype; 2], seed: u64, share: u64) -> Model {
    let shapes: [(&str, &[u64]); 6] = [
        ("embed.weight", &[1000, 300]),
        ("layers.0.mlp.weight", &[64, 64]),
        ("layers.0.norm.weight", &[64]),
        ("layers.1.mlp.weight", &[64, 64]),
        ("layers.1.norm.weight", &[64]),
        ("head.weight", &[10, 64]),
    ];
    let mut random = Random(7);
    let mut steps = Random(seed);
    shapes.iter().enumerate().fold(Model::default(), |model, (i, (name, shape))| {
        let dtype = dtypes[i % 2];
        let frozen = share == 0 || *name == "layers.1.norm.weight";
        let value = |_| {
            let base = (random.next() as i32) as f32 * 1e-11;
            let step = (steps.next() as i32) as f32 * 2e-13;
            if frozen || steps.below(100) >= share { base } else { base + step * (1 + i) as f32 }
        };
        let values: Vec<f32> = (0..elements(shape)).map(value).collect();
        let mut bytes = vec![0; values.len() * dtype.bytes()];
        dtype.encode(&values, &mut bytes);
        model.tensor(name, dtype.header_name(), shape, bytes)
    })
}

#[test]
fn threads_and_kind_of_io_do_not_show_in_a_delta_or_a_restored_model() {
    let bench = Bench::new();
    bench.put_folder("base", &weights([Dtype::BF16, Dtype::F32], 1, 0), 2);
    bench.put_folder("model", &weights([Dtype::BF16, Dtype::F32], 2, 60), 3);
    bench.ok("diff base model -o first.tvd");
    for threads in [1, 2, 3] {
        for io in ["mmap", "pread"] {
            let name = format!("{threads}_{io}");
            bench.ok(&format!("diff base model -o {name}.tvd -j {threads} --io {io}"));
            bench.same("first.tvd", &format!("{name}.tvd"));
            bench.ok(&format!("apply base {name}.tvd -o {name} -j {threads} --io {io}"));
            bench.same("model", &name);
            bench.ok(&format!("verify {name}.tvd --against base -j {threads} --io {io}"));
        }
    }
}

// Chains.

/// `m0` to `m<depth>`, and in `deltas` `1.tvd` to `<depth>.tvd`, each on the one before.
fn chain(depth: usize) -> Bench {
    let bench = Bench::new();
    let mut model = every_dtype(1);
    bench.put("m0/model.safetensors", &model);
    fs::create_dir(bench.path("deltas")).unwrap();
    for i in 1..=depth {
        model = tuned(&model, i as u64);
        bench.put(&format!("m{i}/model.safetensors"), &model);
        let on = (i > 1).then(|| bench.path(&format!("deltas/{}.tvd", i - 1)));
        let (base, tip) = (bench.path("m0"), bench.path(&format!("m{i}")));
        let out = bench.path(&format!("deltas/{i}.tvd"));
        let (base, tip) = (base.to_str().unwrap(), tip.to_str().unwrap());
        job::diff(base, on.as_deref(), tip, &out, &diff_run(Codec::Auto)).unwrap();
    }
    bench
}

#[test]
fn a_chain_of_deltas_gives_each_of_its_models() {
    let bench = chain(3);
    for i in 1..=3 {
        bench.ok(&format!("apply m0 deltas/{i}.tvd -o out{i}"));
        bench.same(&format!("m{i}"), &format!("out{i}"));
        bench.ok(&format!("verify deltas/{i}.tvd --against m0"));
    }
}

#[test]
fn on_takes_a_delta_as_the_base_and_makes_the_delta_that_its_result_would() {
    let bench = chain(1);
    bench.put("next/model.safetensors", &tuned(&every_dtype(1), 77));
    bench.ok("diff m0 next --on deltas/1.tvd -o a.tvd");
    bench.ok("diff m1 next -o b.tvd");
    bench.same("a.tvd", "b.tvd");
    bench.ok("apply m1 b.tvd -o out");
    bench.same("next", "out");
}

#[test]
fn a_chain_may_have_sixteen_deltas_and_no_more() {
    let bench = chain(16);
    bench.ok("apply m0 deltas/16.tvd -o out");
    bench.same("m16", "out");
    bench.put("m17/model.safetensors", &tuned(&every_dtype(1), 77));
    bench.ok("diff m16 m17 -o deltas/17.tvd");
    bench.refused("apply m0 deltas/17.tvd -o out17", 65, &["17.tvd", "longer than 16"]);
    bench.ok("apply m0 deltas/16.tvd -o again");
}

#[test]
fn a_delta_whose_parent_is_missing_is_refused_with_76() {
    let bench = chain(2);
    fs::remove_file(bench.path("deltas/1.tvd")).unwrap();
    bench.refused("apply m0 deltas/2.tvd -o out", 76, &["is not the one that 2.tvd was made for"]);
    bench.ok("apply m1 deltas/2.tvd -o out");
    bench.same("m2", "out");
}

// What is refused.

fn pair() -> Bench {
    let bench = Bench::new();
    let base = every_dtype(1);
    bench.put("base/model.safetensors", &base);
    bench.put("model/model.safetensors", &tuned(&base, 2));
    bench.ok("diff base model -o x.tvd");
    bench
}

#[test]
fn a_base_with_one_other_bit_is_refused_with_76_before_a_byte_is_written() {
    let bench = pair();
    let mut base = every_dtype(1);
    base.tensors.iter_mut().find(|t| t.name == "I16.matrix").unwrap().bytes[9] ^= 4;
    bench.put("wrong/model.safetensors", &base);
    let words = ["tensor `I16.matrix` is not the one that x.tvd was made for", "Give the base"];
    bench.refused("apply wrong x.tvd -o out", 76, &words);
    bench.refused("verify x.tvd --against wrong", 76, &words);
    bench.refused("apply wrong x.tvd -o out --verify fast", 76, &["I16.matrix"]);
}

#[test]
fn a_base_of_another_shape_or_dtype_or_without_a_tensor_is_refused_with_65() {
    let bench = pair();
    let change = |name: &str, change: &dyn Fn(&mut common::Tensor)| {
        let mut base = every_dtype(1);
        change(base.tensors.iter_mut().find(|t| t.name == "F32.matrix").unwrap());
        bench.put(&format!("{name}/model.safetensors"), &base);
    };
    change("shape", &|t| t.shape = vec![33, 7]);
    change("dtype", &|t| t.dtype = "I32".into());
    change("name", &|t| t.name = "F32.other".into());
    for wrong in ["shape", "dtype", "name"] {
        bench.refused(&format!("apply {wrong} x.tvd -o out"), 65, &["F32.matrix", "F32 [7, 33]", "give the base"]);
    }
    bench.refused("apply nowhere x.tvd -o out", 66, &["nowhere"]);
    bench.refused("apply base nowhere.tvd -o out", 66, &["nowhere.tvd"]);
}

#[test]
fn a_side_file_that_the_base_no_longer_has_is_refused_with_66_and_a_changed_one_with_76() {
    let bench = Bench::new();
    bench.put_folder("base", &every_dtype(1), 1);
    bench.put_folder("model", &tuned(&every_dtype(1), 2), 1);
    bench.ok("diff base model -o x.tvd");
    bench.write("base/tokenizer.json", b"other");
    bench.refused("apply base x.tvd -o out", 76, &["tokenizer.json"]);
    fs::remove_file(bench.path("base/tokenizer.json")).unwrap();
    bench.refused("apply base x.tvd -o out", 66, &["tokenizer.json"]);
}

#[test]
fn an_output_that_is_there_is_refused_with_73_and_replaced_on_demand() {
    let bench = pair();
    bench.write("out/config.json", b"{}");
    bench.refused("apply base x.tvd -o out", 73, &["out"]);
    bench.ok("apply base x.tvd -o out --overwrite");
    bench.same("model", "out");
    bench.refused("diff base base -o x.tvd", 73, &["x.tvd"]);
    bench.ok("diff base base -o x.tvd --overwrite");
    bench.ok("apply base x.tvd -o same");
    bench.same("base", "same");
}

#[test]
fn an_output_that_is_an_input_is_refused() {
    let bench = pair();
    for args in ["apply base x.tvd -o base --overwrite", "diff base model -o model/model.safetensors --overwrite"] {
        let before = tree(&bench.path(""));
        assert_ne!(bench.run(args).status.code(), Some(0), "{args}");
        assert!(tree(&bench.path("")) == before, "{args}");
    }
}

// Merges.

/// A base, three experts and their deltas.
fn experts(base: [Dtype; 2], expert: [Dtype; 2]) -> Bench {
    let bench = Bench::new();
    bench.put_folder("base", &weights(base, 1, 0), 2);
    for (i, share) in [(1, 20), (2, 60), (3, 99)] {
        bench.put_folder(&format!("e{i}"), &weights(expert, 10 + i, share), 1);
        bench.ok(&format!("diff base e{i} -o e{i}.tvd"));
    }
    bench
}

const METHODS: [(&str, &str); 4] = [
    ("linear", "parameters: {weight: 0.4}\n"),
    ("task_arithmetic", "parameters: {weight: 0.4, lambda: 0.9}\n"),
    ("ties", "parameters: {weight: 0.4, density: 0.3, scope: model}\n"),
    ("ties", "parameters: {density: 0.7, scope: model, merge: disjoint_max}\n"),
];
const LWPTV: [&str; 3] = ["", "lwptv: {eta: 0.5}\n", "lwptv: {eta: 0.4, score: magnitude}\n"];

fn recipe(method: (&str, &str), lwptv: &str, models: [&str; 3]) -> String {
    let models = models.map(|m| format!("- model: ./{m}\n")).concat();
    format!("merge_method: {}\nbase_model: ./base\nmodels:\n{models}{}{lwptv}", method.0, method.1)
}

/// The weight files of a merge.
#[track_caller]
fn merged(bench: &Bench, name: &str, recipe: &str, flags: &str) -> Vec<(PathBuf, Vec<u8>)> {
    bench.write("recipe.yml", recipe.as_bytes());
    bench.ok(&format!("merge recipe.yml {name}{flags}"));
    let files = tree(&bench.path(name)).into_iter();
    let made: Vec<_> = files.filter(|(path, _)| path.to_string_lossy().contains(".safetensors")).collect();
    assert!(!made.is_empty());
    made
}

#[track_caller]
fn deltas_merge_as_checkpoints_do(bench: &Bench) {
    for (m, method) in METHODS.into_iter().enumerate() {
        for (l, lwptv) in LWPTV.into_iter().enumerate() {
            let name = |what: &str| format!("{m}_{l}_{what}");
            let want = merged(bench, &name("whole"), &recipe(method, lwptv, ["e1", "e2", "e3"]), "");
            let inputs: [([&str; 3], &str); 4] = [
                (["e1.tvd", "e2.tvd", "e3.tvd"], ""),
                (["e1.tvd", "e2", "e3.tvd"], " -j 1 --io pread"),
                (["e1", "e2", "e3.tvd"], " -j 3 --tile-elements 5000"),
                (["e1.tvd", "e2.tvd", "e3.tvd"], " -j 2 --tile-elements 200000 --no-delta"),
            ];
            for (i, (models, flags)) in inputs.into_iter().enumerate() {
                let got = merged(bench, &name(&i.to_string()), &recipe(method, lwptv, models), flags);
                assert!(got == want, "{method:?} {lwptv} {models:?} {flags}");
                fs::remove_dir_all(bench.path(&name(&i.to_string()))).unwrap();
            }
            fs::remove_dir_all(bench.path(&name("whole"))).unwrap();
        }
    }
}

#[test]
fn merging_deltas_gives_the_bytes_of_merging_checkpoints() {
    deltas_merge_as_checkpoints_do(&experts([Dtype::BF16, Dtype::F32], [Dtype::BF16, Dtype::F32]));
}

#[test]
fn merging_deltas_of_a_narrower_dtype_than_the_base_gives_the_bytes_of_merging_checkpoints() {
    deltas_merge_as_checkpoints_do(&experts([Dtype::F32, Dtype::F32], [Dtype::BF16, Dtype::F16]));
}

#[test]
fn a_merge_of_chained_deltas_gives_the_bytes_of_merging_checkpoints() {
    let bench = experts([Dtype::BF16, Dtype::BF16], [Dtype::BF16, Dtype::BF16]);
    bench.ok("diff base e3 --on e2.tvd -o on2.tvd");
    for (m, method) in METHODS.into_iter().enumerate() {
        let want = merged(&bench, &format!("{m}_whole"), &recipe(method, LWPTV[1], ["e1", "e2", "e3"]), "");
        let got = merged(&bench, &format!("{m}_chain"), &recipe(method, LWPTV[1], ["e1.tvd", "e2.tvd", "on2.tvd"]), "");
        assert!(got == want, "{method:?}");
    }
}

#[test]
fn a_merge_of_deltas_made_for_another_base_is_refused_with_76_and_leaves_nothing() {
    let bench = experts([Dtype::BF16, Dtype::F32], [Dtype::BF16, Dtype::F32]);
    let mut base = weights([Dtype::BF16, Dtype::F32], 1, 0);
    base.tensors[0].bytes[7] ^= 1;
    bench.put_folder("base", &base, 2);
    bench.write("recipe.yml", recipe(METHODS[1], "", ["e1.tvd", "e2.tvd", "e3.tvd"]).as_bytes());
    bench.refused("merge recipe.yml out", 76, &["embed.weight", "e1.tvd"]);
}

#[test]
fn the_delta_that_a_merge_writes_restores_its_output() {
    let bench = experts([Dtype::BF16, Dtype::F32], [Dtype::BF16, Dtype::F32]);
    bench.write("base/config.json", b"{\"torch_dtype\": \"bfloat16\"}\n");
    for (i, models) in [["e1", "e2", "e3"], ["e1.tvd", "e2.tvd", "e3.tvd"]].into_iter().enumerate() {
        for (m, method) in METHODS.into_iter().enumerate() {
            let (out, back) = (format!("out{i}{m}"), format!("back{i}{m}"));
            merged(&bench, &out, &recipe(method, LWPTV[m % 3], models), " --out-shard-size 300KB");
            bench.ok(&format!("verify {out}/merged.tvd --against base"));
            bench.ok(&format!("apply base {out}/merged.tvd -o {back}"));
            let mut made = tree(&bench.path(&out));
            made.retain(|path, _| path != Path::new("merged.tvd") && path != Path::new("taskvec.json"));
            assert!(made.len() > 4);
            assert!(made == tree(&bench.path(&back)), "{out}: {:?}", tree(&bench.path(&back)).keys());
            bench.ok(&format!("verify {out}"));
        }
    }
}
