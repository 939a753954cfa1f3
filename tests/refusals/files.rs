//! Files that are damaged: lengths, headers, shards and their index.

use crate::{Bench, pair, thirds, whole};
use std::fs;

#[test]
fn a_truncated_file_is_refused_with_65_and_told_its_whole_length() {
    let words = ["a/model.safetensors", "truncated", "expected 48 bytes of tensors", "got 28"];
    Bench::broken("truncated_in_the_data").refused(&[], 65, &words);
}

#[test]
fn a_file_cut_inside_its_header_is_refused_with_65() {
    let bench = Bench::broken("truncated_in_the_header");
    bench.refused(&[], 65, &["a/model.safetensors", "not a whole safetensors file", "file of 48 bytes"]);
}

#[test]
fn a_truncated_shard_is_refused_with_65_by_its_own_name() {
    let bench = Bench::new();
    let [embed, first, second] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors"), ("layers.1.weight", "2.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first)), ("2.safetensors", second)], &map);
    let shard = bench.path("in/a/2.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 5]).unwrap();
    bench.refused(&[], 65, &["a/2.safetensors", "truncated", "expected 16 bytes", "got 11"]);
}

#[test]
fn a_file_longer_than_its_header_says_is_refused_with_65() {
    let words = ["a/model.safetensors", "longer than its header says", "expected 48", "got 49"];
    Bench::broken("longer_than_its_header_says").refused(&[], 65, &words);
}

#[test]
fn a_header_length_of_0_is_refused_with_65() {
    Bench::broken("header_length_0").refused(&[], 65, &["a/model.safetensors", "claims 0 bytes"]);
}

#[test]
fn a_header_length_of_2_pow_63_is_refused_with_65() {
    Bench::broken("header_length_2_pow_63").refused(
        &[],
        65,
        &["a/model.safetensors", "claims 9223372036854775808 bytes"],
    );
}

#[test]
fn a_header_length_beyond_the_file_is_refused_with_65() {
    let bench = Bench::broken("header_length_one_beyond_the_file");
    bench.refused(&[], 65, &["a/model.safetensors", "claims 277 bytes", "2 to 276"]);
}

#[test]
fn a_file_too_short_for_a_header_is_refused_with_65() {
    Bench::broken("empty").refused(&[], 65, &["a/model.safetensors", "0 bytes long"]);
    Bench::broken("seven_bytes").refused(&[], 65, &["a/model.safetensors", "7 bytes long"]);
}

#[test]
fn a_duplicate_name_in_a_header_is_refused_with_65() {
    Bench::broken("name_twice").refused(&[], 65, &["a/model.safetensors", "`layers.0.weight`", "listed twice"]);
}

#[test]
fn an_unknown_dtype_is_refused_with_65() {
    Bench::broken("dtype_unknown").refused(&[], 65, &["a/model.safetensors", "`layers.0.weight`", "dtype `F3`"]);
}

#[test]
fn a_block_scaled_dtype_is_refused_with_65_and_advice() {
    let words = ["a/model.safetensors", "`layers.0.weight`", "dtype `F4`", "block-scaled", "dequantise"];
    Bench::broken("dtype_f4_block_scaled").refused(&[], 65, &words);
}

#[test]
fn a_hole_between_tensors_is_refused_with_65() {
    let words = ["a/model.safetensors", "`layers.1.weight`", "begins at 36, expected 32"];
    Bench::broken("hole_between_tensors").refused(&[], 65, &words);
}

#[test]
fn tensors_that_overlap_are_refused_with_65() {
    let words = ["a/model.safetensors", "`layers.1.weight`", "begins at 28, expected 32"];
    Bench::broken("tensors_overlap").refused(&[], 65, &words);
}

#[test]
fn a_shape_that_does_not_match_its_bytes_is_refused_with_65() {
    let words = ["a/model.safetensors", "`layers.1.weight`", "[2, 3]", "takes 24 bytes"];
    Bench::broken("shape_beyond_its_data").refused(&[], 65, &words);
    let words = ["a/model.safetensors", "`layers.0.weight`", "[4611686018427387904, 4]", "overflows"];
    Bench::broken("shape_overflows").refused(&[], 65, &words);
}

// Shards and their index.

#[test]
fn a_shard_name_that_climbs_out_of_the_folder_is_refused_with_65() {
    let bench = Bench::new();
    let out = "../base/model.safetensors";
    bench.put_shards(&[], &[("embed.weight", out), ("layers.0.weight", out), ("layers.1.weight", out)]);
    bench.refused(&[], 65, &["a/model.safetensors.index.json", "`embed.weight`", out, "plain file name"]);
}

#[test]
fn a_shard_that_is_listed_but_missing_is_refused_with_66() {
    let bench = Bench::new();
    let [embed, first, _] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors"), ("layers.1.weight", "2.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first))], &map);
    bench.refused(&[], 66, &["a/2.safetensors", "no such file"]);
}

#[test]
fn a_tensor_in_two_shards_is_refused_with_65() {
    let bench = Bench::new();
    let [embed, first, second] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors"), ("layers.1.weight", "2.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first)), ("2.safetensors", pair(&first, &second))], &map);
    bench.refused(&[], 65, &["a/2.safetensors", "`layers.0.weight`", "1.safetensors", "one shard only"]);
}

#[test]
fn an_index_that_places_a_tensor_in_the_wrong_shard_is_refused_with_65() {
    let bench = Bench::new();
    let [embed, first, second] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "2.safetensors"), ("layers.1.weight", "2.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first)), ("2.safetensors", second)], &map);
    let words =
        ["a/model.safetensors.index.json", "`layers.0.weight`", "places it in 2.safetensors", "is in 1.safetensors"];
    bench.refused(&[], 65, &words);
}

#[test]
fn an_index_that_lists_a_tensor_no_shard_holds_is_refused_with_65() {
    let bench = Bench::new();
    let [embed, first, _] = thirds();
    let map =
        [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors"), ("layers.1.weight", "1.safetensors")];
    bench.put_shards(&[("1.safetensors", pair(&embed, &first))], &map);
    let words = ["a/model.safetensors.index.json", "`layers.1.weight`", "1.safetensors, which does not hold it"];
    bench.refused(&[], 65, &words);
}

#[test]
fn a_tensor_that_the_index_does_not_list_is_refused_with_65() {
    let bench = Bench::new();
    let map = [("embed.weight", "1.safetensors"), ("layers.0.weight", "1.safetensors")];
    bench.put_shards(&[("1.safetensors", whole(1.0))], &map);
    bench.refused(
        &[],
        65,
        &["a/model.safetensors.index.json", "`layers.1.weight`", "in 1.safetensors but not in the index"],
    );
}

#[test]
fn several_files_without_an_index_are_refused_with_65() {
    let bench = Bench::new();
    bench.put_shards(&[("1.safetensors", whole(1.0)), ("2.safetensors", whole(1.0))], &[]);
    fs::remove_file(bench.path("in/a/model.safetensors.index.json")).unwrap();
    bench.refused(&[], 65, &["in/./a: ", "2 .safetensors files and no model.safetensors.index.json"]);
}

// Models that are not there, or not what they should be.
