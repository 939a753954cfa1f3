//! Recipes and flags.

use crate::{Bench, TASK_ARITHMETIC, text};
use std::fs;
use std::time::{Duration, Instant};

#[track_caller]
fn recipe_is_refused(recipe: &str, words: &[&str]) {
    let bench = Bench::new();
    bench.recipe(recipe);
    bench.refused(&[], 2, &[&["in/recipe.yml: "], words].concat());
}

#[test]
fn an_unknown_key_is_refused_with_2_and_a_suggestion() {
    let recipe = format!("{TASK_ARITHMETIC}lwtpv: {{eta: 0.5}}\n");
    recipe_is_refused(&recipe, &["unknown key `lwtpv`", "did you mean `lwptv`?"]);
}

#[test]
fn an_unknown_key_inside_a_block_is_refused_with_2_and_its_place() {
    let recipe = format!("{TASK_ARITHMETIC}lwptv: {{eta: 0.5, consensu: or}}\n");
    recipe_is_refused(&recipe, &["lwptv.consensu: ", "did you mean `consensus`?"]);
    let recipe = TASK_ARITHMETIC.replace("{model: ./c, parameters", "{model: ./c, parametres");
    recipe_is_refused(&recipe, &["models[1].parametres: ", "did you mean `parameters`?"]);
}

#[test]
fn an_unknown_parameter_is_refused_with_2_and_a_suggestion() {
    let recipe = format!("{TASK_ARITHMETIC}parameters: {{lamda: 0.5}}\n");
    recipe_is_refused(&recipe, &["parameters.lamda: ", "task_arithmetic", "did you mean `lambda`?"]);
}

#[test]
fn an_unknown_method_is_refused_with_2_and_a_suggestion() {
    let recipe = TASK_ARITHMETIC.replace("task_arithmetic", "task_arithmetics");
    recipe_is_refused(&recipe, &["merge_method: ", "`task_arithmetics`", "did you mean `task_arithmetic`?"]);
}

#[test]
fn an_eta_outside_its_range_is_refused_with_2() {
    for (eta, words) in [("1.5", "0 to 1, got 1.5"), ("-0.1", "0 to 1, got -0.1"), ("most", "a number, got text")] {
        recipe_is_refused(&format!("{TASK_ARITHMETIC}lwptv: {{eta: {eta}}}\n"), &["lwptv.eta: ", words]);
        Bench::with_lwptv().refused(&["--eta", eta], 2, &["--eta", eta]);
    }
    recipe_is_refused(&format!("{TASK_ARITHMETIC}lwptv: {{eta: .nan}}\n"), &["line 6", "non-finite float `.nan`"]);
    recipe_is_refused(&format!("{TASK_ARITHMETIC}lwptv: {{layer: block}}\n"), &["lwptv: ", "`eta` is missing"]);
}

#[test]
fn lwptv_with_one_expert_is_refused_with_2_and_the_reason() {
    let one = "merge_method: task_arithmetic\nbase_model: ./base\nmodels: [{model: ./a, parameters: {weight: 1}}]\n";
    recipe_is_refused(&format!("{one}lwptv: {{eta: 0.5}}\n"), &["models: ", "at least two experts", "every layer"]);
    let bench = Bench::new();
    bench.recipe(one);
    bench.refused(&["--eta", "0.5"], 2, &["at least two experts"]);
}

#[test]
fn lwptv_without_base_model_is_refused_with_2() {
    let linear = TASK_ARITHMETIC.replace("task_arithmetic", "linear").replace("base_model: ./base\n", "");
    recipe_is_refused(&format!("{linear}lwptv: {{eta: 0.5}}\n"), &["base_model: ", "missing, but lwptv is on"]);
}

#[test]
fn task_vectors_without_base_model_are_refused_with_2() {
    recipe_is_refused(
        &TASK_ARITHMETIC.replace("base_model: ./base\n", ""),
        &["base_model: ", "missing", "task_arithmetic"],
    );
}

#[test]
fn a_missing_weight_is_refused_with_2_and_the_model_named() {
    let recipe = TASK_ARITHMETIC.replace("{model: ./c, parameters: {weight: 0.5}}", "{model: ./c}");
    let bench = Bench::new();
    bench.recipe(&recipe);
    bench.refused(&[], 2, &["in/recipe.yml: ", "models[1] (./c): ", "`weight` has no value", "embed.weight"]);
}

#[test]
fn a_missing_weight_is_told_by_the_place_in_the_recipe_also_after_a_listed_base() {
    let recipe = TASK_ARITHMETIC
        .replace("models:\n", "models:\n- {model: ./base}\n")
        .replace("{model: ./c, parameters: {weight: 0.5}}", "{model: ./c}");
    let bench = Bench::new();
    bench.recipe(&recipe);
    bench.refused(&[], 2, &["models[2] (./c): ", "`weight` has no value"]);
}

#[test]
fn a_yaml_syntax_error_is_refused_with_2_and_its_line() {
    recipe_is_refused(&format!("{TASK_ARITHMETIC}parameters: {{lambda: [1\n"), &["not valid YAML", "line "]);
}

#[test]
fn a_duplicate_yaml_key_is_refused_with_2() {
    recipe_is_refused(&format!("{TASK_ARITHMETIC}dtype: float32\ndtype: float16\n"), &["not valid YAML", "dtype"]);
}

#[test]
fn a_yaml_alias_bomb_is_refused_with_2_at_once() {
    let start = Instant::now();
    recipe_is_refused(
        &fs::read_to_string("fixtures/broken/alias_bomb.yml").unwrap(),
        &["not valid YAML", "budget breached"],
    );
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn deep_nesting_in_yaml_is_refused_with_2() {
    recipe_is_refused(&"[".repeat(100_000), &["not valid YAML"]);
    recipe_is_refused(&format!("{}0{}", "{a: ".repeat(5000), "}".repeat(5000)), &[]);
}

#[test]
fn a_recipe_that_is_missing_or_a_folder_is_refused_with_66() {
    let bench = Bench::new();
    fs::remove_file(bench.path("in/recipe.yml")).unwrap();
    bench.refused(&[], 66, &["in/recipe.yml: ", "No such file"]);
    fs::create_dir(bench.path("in/recipe.yml")).unwrap();
    bench.refused(&[], 66, &["in/recipe.yml: ", "is not a regular file"]);
}

#[test]
fn a_recipe_that_is_not_text_is_refused_with_2() {
    let bench = Bench::new();
    fs::write(bench.path("in/recipe.yml"), b"merge_method: \xff\n").unwrap();
    bench.refused(&[], 2, &["in/recipe.yml: ", "UTF-8"]);
}

// Flags.

#[test]
fn a_memory_budget_that_is_too_small_is_refused_with_2_and_what_is_needed() {
    Bench::new().refused(&["--memory", "1MiB"], 2, &["--memory 1.05 MB is too small", "needs ", " MB at least"]);
}

#[test]
fn the_memory_that_a_refusal_asks_for_is_enough() {
    let bench = Bench::with_lwptv();
    let recipe = bench.path("in/recipe.yml");
    for threads in ["1", "2", "3", "5", "8"] {
        let plan = |memory: &str| bench.run(&["plan", recipe.to_str().unwrap(), "--memory", memory, "-j", threads]);
        let message = text(&plan("1MiB").stderr);
        let needed = message.split("needs ").nth(1).and_then(|m| m.split(" at least").next()).unwrap();
        let again = plan(needed);
        assert_eq!(again.status.code(), Some(0), "--memory \"{needed}\" -j {threads}: {}", text(&again.stderr));
    }
}

#[test]
fn a_bad_flag_is_refused_with_2() {
    let bench = Bench::new();
    bench.refused(&["--no-such-flag"], 2, &["--no-such-flag"]);
    bench.refused(&["--memory", "lots"], 2, &["--memory lots", "expected a size"]);
    bench.refused(&["--out-shard-size", "5X"], 2, &["--out-shard-size 5X", "expected a size"]);
    bench.refused(&["-j", "0"], 2, &["--num-threads 0"]);
    bench.refused(&["--io", "carrier-pigeon"], 2, &["--io", "mmap, pread"]);
    bench.refused(&["--eta", "0.5", "--no-lwptv"], 2, &["--eta", "--no-lwptv"]);
}

#[test]
fn merge_without_out_is_refused_with_2() {
    let bench = Bench::new();
    let recipe = bench.path("in/recipe.yml");
    bench.refused_args(&["merge", recipe.to_str().unwrap()], 2, &["RECIPE.yml and OUT"]);
    bench.refused_args(&["merge"], 2, &["RECIPE.yml OUT"]);
}

#[test]
fn a_recipe_and_a_method_together_are_refused_with_2() {
    Bench::new().refused(&["--method", "linear", "--model", "x=1"], 2, &["either a recipe file or --method"]);
}

// Outputs that are in the way.
