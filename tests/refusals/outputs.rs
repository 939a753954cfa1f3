//! Outputs that would overwrite something.

use crate::{Bench, whole};
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn an_output_folder_that_is_not_empty_is_refused_with_73_and_untouched() {
    let bench = Bench::new();
    fs::create_dir(bench.path("made/out")).unwrap();
    fs::write(bench.path("made/out/config.json"), "old").unwrap();
    bench.refused(&[], 73, &["made/out: ", "not empty", "--overwrite"]);
    let merged = bench.merged(&["--overwrite"]);
    assert_eq!(merged.tensors.len(), 3);
    assert!(!bench.path("made/out/config.json").exists());
    assert_eq!(fs::read_dir(bench.path("made")).unwrap().count(), 1);
}

#[test]
fn a_failed_merge_does_not_touch_the_output_that_it_was_to_replace() {
    let bench = Bench::new();
    bench.merged(&[]);
    let mut model = whole(1.0);
    model.tensors[2].bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    bench.put("c", &model);
    bench.refused(&["--overwrite"], 65, &["`layers.1.weight`"]);
}

#[test]
fn an_output_folder_that_is_empty_is_filled() {
    let bench = Bench::new();
    fs::create_dir(bench.path("made/out")).unwrap();
    assert_eq!(bench.merged(&[]).tensors.len(), 3);
}

#[test]
fn an_output_that_is_a_file_is_refused_with_73() {
    let bench = Bench::new();
    fs::write(bench.path("made/out"), "letters").unwrap();
    bench.refused(&[], 73, &["made/out: ", "not a folder"]);
    bench.refused(&["--overwrite"], 73, &["made/out: ", "not a folder"]);
}

#[test]
fn an_output_that_is_a_link_to_nothing_is_refused_with_73() {
    let bench = Bench::new();
    symlink("gone", bench.path("made/out")).unwrap();
    bench.refused(&[], 73, &["made/out: "]);
}

#[test]
fn overwrite_does_not_replace_a_folder_without_a_model() {
    let bench = Bench::new();
    fs::create_dir(bench.path("made/out")).unwrap();
    fs::write(bench.path("made/out/letters.txt"), "dear").unwrap();
    bench.refused(&["--overwrite"], 73, &["made/out: ", "neither taskvec.json nor config.json nor weights"]);
}

#[test]
fn overwrite_does_not_replace_an_input() {
    let bench = Bench::new();
    let (recipe, base) = (bench.path("in/recipe.yml"), bench.path("in/base"));
    let args = ["merge", recipe.to_str().unwrap(), base.to_str().unwrap(), "--overwrite"];
    bench.refused_args(&args, 73, &["in/base", "input"]);
}

#[test]
fn overwrite_does_not_replace_a_folder_that_holds_an_input() {
    let bench = Bench::new();
    fs::write(bench.path("in/config.json"), "{}").unwrap();
    let (recipe, models) = (bench.path("in/recipe.yml"), bench.path("in"));
    let args = ["merge", recipe.to_str().unwrap(), models.to_str().unwrap(), "--overwrite"];
    bench.refused_args(&args, 73, &["/in", "input"]);
}

#[test]
fn a_second_process_on_the_same_output_is_told_so_with_75() {
    let bench = Bench::new();
    let lock = fs::File::create(bench.path("made/.out.lock")).unwrap();
    lock.lock().unwrap();
    bench.refused(&[], 75, &["made/out: ", "another taskvec", "try again"]);
    drop(lock);
    bench.merged(&[]);
    assert_eq!(fs::read_dir(bench.path("made")).unwrap().count(), 1);
}
