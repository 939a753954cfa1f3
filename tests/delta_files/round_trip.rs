//! What goes in comes out, the same however it is made.

use super::common::{Model, Random, apply_run, assert_same_files, diff_run};
use super::{Bench, any_bits, elements, every_dtype, nudged, tuned, weights};
use proptest::prelude::*;
use taskvec::codec::{BLOCK, Codec};
use taskvec::job;
use taskvec::tensor::Dtype;

const CODECS: [Codec; 4] = [Codec::Auto, Codec::S1, Codec::S2, Codec::Raw];

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
        prop::sample::select(Dtype::ALL.to_vec()).prop_map(Base::OtherDtype),
        (0..9u64).prop_map(Base::Rows),
        Just(Base::OtherShape),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_tensor_comes_back_from_any_base(
        dtype in prop::sample::select(Dtype::ALL.to_vec()),
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
