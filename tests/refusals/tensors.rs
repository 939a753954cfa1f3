//! Models that do not fit together, and values that cannot be merged.

use crate::common::Model;
use crate::{Bench, TASK_ARITHMETIC, pair, text, thirds, whole};

#[test]
fn models_that_fit_together_are_merged_so_that_refusals_below_have_one_cause() {
    let merged = Bench::broken("whole").merged(&["--quiet"]);
    assert_eq!(merged.tensors.len(), 3);
    Bench::with_lwptv().merged(&["--quiet"]);
}

// Models that do not fit together.

#[test]
fn a_model_that_differs_in_one_shape_is_refused_with_65() {
    let bench = Bench::new();
    let mut model = whole(1.0);
    model.tensors[1].shape = vec![4];
    bench.put("a", &model);
    bench.refused(&[], 65, &["layers.0.weight", "./a", "[2, 2]", "[4]", "expected", "got"]);
}

#[test]
fn a_tensor_missing_in_an_expert_is_refused_with_65() {
    let bench = Bench::new();
    let [embed, first, _] = thirds();
    bench.put("c", &pair(&embed, &first));
    bench.refused(&[], 65, &["layers.1.weight", "./c", "F32 [2, 2]", "missing"]);
}

#[test]
fn a_tensor_that_the_base_does_not_have_is_refused_with_65() {
    let bench = Bench::new();
    bench.put("a", &whole(1.0).f32("score.weight", &[1.0]));
    bench.refused(&[], 65, &["score.weight", "./a", "not in ./base", "F32 [1]"]);
}

#[test]
fn a_float_tensor_against_an_integer_tensor_is_refused_with_65() {
    let bench = Bench::new();
    let mut model = whole(1.0);
    model.tensors[2].dtype = "I32".into();
    bench.put("c", &model);
    bench.refused(&[], 65, &["layers.1.weight", "./c", "F32", "I32", "float for float"]);
}

#[test]
fn integer_tensors_of_different_width_are_refused_with_65() {
    let bench = Bench::new();
    bench.put("base", &whole(0.0).tensor("ids", "I64", &[1], vec![7, 0, 0, 0, 0, 0, 0, 0]));
    bench.put("a", &whole(1.0).tensor("ids", "I32", &[1], vec![7, 0, 0, 0]));
    bench.put("c", &whole(2.0).tensor("ids", "I64", &[1], vec![7, 0, 0, 0, 0, 0, 0, 0]));
    bench.refused(&[], 65, &["ids", "./a", "I64", "I32"]);
}

#[test]
fn many_differences_are_one_table_of_the_first_ten_and_a_count() {
    let bench = Bench::new();
    let many = |size: usize| (0..12).fold(Model::default(), |m, i| m.f32(&format!("t{i:02}"), &vec![0.0; size]));
    bench.put("base", &many(1));
    bench.put("a", &many(2));
    bench.put("c", &many(1).f32("more", &[0.0]));
    let message = bench.refused(&[], 65, &["t00", "t09", "and 3 more"]);
    let rows: Vec<&str> = message.lines().filter(|l| l.contains("./a")).collect();
    assert_eq!(rows.len(), 10, "{message}");
    assert!(rows.iter().all(|row| row.contains("[1]") && row.contains("[2]")), "{message}");
    assert_eq!(message.matches("error: ").count(), 1, "{message}");
}

// Values that cannot be merged.

#[test]
fn nan_in_an_expert_is_refused_with_65_by_the_scoring_pass() {
    let bench = Bench::with_lwptv();
    let mut values = vec![1.0; 5000];
    ["base", "c"].iter().for_each(|name| bench.put(name, &whole(1.0).f32("long", &values)));
    values[4999] = f32::NAN;
    bench.put("a", &whole(1.0).f32("long", &values));
    bench.refused(&[], 65, &["in/./a/model.safetensors", "`long`", "element 4999 is NaN", "--allow-non-finite"]);
}

#[test]
fn nan_in_the_base_is_refused_with_65() {
    let bench = Bench::new();
    let mut base = whole(0.0);
    base.tensors[0].bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    bench.put("base", &base);
    bench.refused(&[], 65, &["base/model.safetensors", "`embed.weight`", "element 2 is NaN"]);
}

#[test]
fn infinity_in_an_expert_is_refused_with_65_also_without_lwptv() {
    for (value, shown) in [(f32::INFINITY, "element 1 is inf"), (f32::NEG_INFINITY, "element 1 is -inf")] {
        let bench = Bench::new();
        let mut model = whole(1.0);
        model.tensors[2].bytes[4..8].copy_from_slice(&value.to_le_bytes());
        bench.put("c", &model);
        bench.refused(&["--io", "pread"], 65, &["c/model.safetensors", "`layers.1.weight`", shown]);
    }
}

#[test]
fn allow_non_finite_lets_infinities_pass_into_the_output() {
    let bench = Bench::new();
    let mut model = whole(1.0);
    model.tensors[2].bytes[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    bench.put("c", &model);
    let merged = bench.merged(&["--allow-non-finite"]);
    assert_eq!(merged.tensors[2].bytes[4..8], f32::INFINITY.to_le_bytes());
    assert_eq!(merged.tensors[2].bytes[..4], (-2.0f32).to_le_bytes());
}

#[test]
fn a_merged_value_beyond_f16_is_refused_with_65_unless_allowed() {
    let bench = Bench::new();
    bench.recipe(&format!("{TASK_ARITHMETIC}out_dtype: float16\n"));
    bench.put("base", &whole(0.0).f32("big", &[0.0, 0.0]));
    ["a", "c"].iter().for_each(|name| bench.put(name, &whole(1.0).f32("big", &[1.0, -70000.0])));
    bench.refused(&[], 65, &["`big`", "element 1 is -70000", "F16", "out_dtype", "--allow-non-finite"]);
    let merged = bench.merged(&["--allow-non-finite"]);
    assert_eq!((merged.tensors[3].dtype.as_str(), &merged.tensors[3].bytes[2..]), ("F16", &[0x00, 0xfc][..]));
}

#[test]
fn an_integer_tensor_that_differs_is_refused_with_65() {
    let bench = Bench::with_lwptv();
    let ids = |last: u8| whole(1.0).tensor("ids", "I16", &[3], vec![1, 0, 2, 0, last, 0]);
    bench.put("base", &ids(3));
    bench.put("a", &ids(3));
    bench.put("c", &ids(4));
    let words = ["c/model.safetensors", "base/model.safetensors", "`ids`", "I16", "element 2"];
    bench.refused(&[], 65, &words);
}

// Files that break their format.

/// A model of 100,000 layers, counted from `first`.
fn many_layers(first: usize) -> Model {
    let layers = first..first + 100_000;
    let tensors = layers.map(|i| Model::default().f32(&format!("layers.{i}.weight"), &[i as f32]).tensors.remove(0));
    Model { tensors: tensors.collect() }
}

#[test]
fn a_hundred_thousand_layers_are_planned_and_as_many_of_other_names_refused_within_the_patience_of_a_user() {
    let bench = Bench::new();
    ["base", "a", "c"].iter().for_each(|name| bench.put(name, &many_layers(0)));
    let recipe = bench.path("in/recipe.yml");
    let planned = bench.run(&["plan", recipe.to_str().unwrap()]);
    assert_eq!(planned.status.code(), Some(0), "{}", text(&planned.stderr));
    bench.put("c", &many_layers(100_000));
    bench.refused(&[], 65, &["layers.0.weight", "missing", "and 199990 more"]);
}
