//! Paths at which there is no model, and links that lead elsewhere.

use crate::{Bench, TASK_ARITHMETIC, make_fifo, whole};
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn a_missing_model_is_refused_with_66() {
    let bench = Bench::new();
    bench.recipe(&TASK_ARITHMETIC.replace("./c", "./nowhere"));
    bench.refused(&[], 66, &["in/./nowhere", "no such file or folder"]);
}

#[test]
fn a_name_that_is_neither_a_path_nor_in_the_cache_is_refused_with_66() {
    let bench = Bench::new();
    bench.recipe(&TASK_ARITHMETIC.replace("./c", "org/nowhere"));
    bench.refused(&[], 66, &["org/nowhere: ", "no-cache", "download it first", "does not use the network"]);
}

#[test]
fn a_folder_of_pickles_is_refused_with_66_and_not_opened() {
    let bench = Bench::new();
    fs::rename(bench.path("in/a/model.safetensors"), bench.path("in/a/pytorch_model.bin")).unwrap();
    bench.refused(&[], 66, &["in/./a: ", "no .safetensors file", "pickles (.bin, .pt) must be converted first"]);
}

#[test]
fn a_pickle_named_in_the_recipe_is_refused_with_66() {
    let bench = Bench::new();
    fs::rename(bench.path("in/a/model.safetensors"), bench.path("in/a/model.pt")).unwrap();
    bench.recipe(&TASK_ARITHMETIC.replace("./a", "./a/model.pt"));
    bench.refused(&[], 66, &["a/model.pt", "is a pickle", "convert it to safetensors"]);
}

#[test]
fn a_fifo_as_a_model_is_refused_with_66_and_does_not_hang() {
    let bench = Bench::new();
    fs::remove_file(bench.path("in/a/model.safetensors")).unwrap();
    make_fifo(&bench.path("in/a/model.safetensors"));
    bench.refused(&[], 66, &["a/model.safetensors", "is not a regular file"]);
}

#[test]
fn a_fifo_as_an_index_or_a_recipe_is_refused_with_66_and_does_not_hang() {
    let bench = Bench::new();
    make_fifo(&bench.path("in/a/model.safetensors.index.json"));
    bench.refused(&[], 66, &["a/model.safetensors.index.json", "is not a regular file"]);
    fs::remove_file(bench.path("in/recipe.yml")).unwrap();
    make_fifo(&bench.path("in/recipe.yml"));
    bench.refused(&[], 66, &["in/recipe.yml", "is not a regular file"]);
}

#[test]
fn a_link_that_leaves_the_folder_is_refused_with_66_unless_links_are_followed() {
    let bench = Bench::new();
    let plain = bench.merged(&[]);
    fs::remove_dir_all(bench.path("made/out")).unwrap();
    fs::rename(bench.path("in/a/model.safetensors"), bench.path("in/elsewhere.safetensors")).unwrap();
    symlink("../elsewhere.safetensors", bench.path("in/a/model.safetensors")).unwrap();
    bench.refused(&[], 66, &["a/model.safetensors", "in/elsewhere.safetensors", "leaves", "--follow-links"]);
    assert_eq!(bench.merged(&["--follow-links"]), plain);
}

#[test]
fn a_link_to_nothing_is_refused_with_66() {
    let bench = Bench::new();
    fs::remove_file(bench.path("in/a/model.safetensors")).unwrap();
    symlink("gone.safetensors", bench.path("in/a/model.safetensors")).unwrap();
    bench.refused(&[], 66, &["a/model.safetensors", "no such file"]);
}

#[test]
fn an_index_that_is_a_link_out_of_the_folder_is_refused_with_66() {
    let bench = Bench::new();
    bench.put_shards(
        &[("1.safetensors", whole(1.0))],
        &["embed.weight", "layers.0.weight", "layers.1.weight"].map(|t| (t, "1.safetensors")),
    );
    let index = bench.path("in/a/model.safetensors.index.json");
    fs::rename(&index, bench.path("in/elsewhere.json")).unwrap();
    symlink("../elsewhere.json", &index).unwrap();
    bench.refused(&[], 66, &["a/model.safetensors.index.json", "leaves", "--follow-links"]);
    bench.merged(&["--follow-links"]);
}

#[test]
fn a_side_file_that_is_a_link_out_of_the_folder_is_not_copied_into_the_output() {
    let bench = Bench::new();
    fs::write(bench.path("in/secret.txt"), "a key").unwrap();
    symlink("../secret.txt", bench.path("in/base/vocab.txt")).unwrap();
    bench.refused(&[], 66, &["base/vocab.txt", "leaves", "--follow-links"]);
    bench.merged(&["--follow-links"]);
    assert_eq!(fs::read_to_string(bench.path("made/out/vocab.txt")).unwrap(), "a key");
}

// Recipes.
