//! Coefficients from a file become the experts' weights.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Model, merge, options};
use std::path::Path;
use taskvec::recipe::Recipe;
use taskvec::source::Io;

const FILE: &str =
    r#"{"tasks": ["x", "y"], "base": 1.0, "layers": {"blocks.0.w": [0.25, 0.5]}, "default": [0.125, 1]}"#;

const COEFFICIENTS: &str = "coefficients: ./c.json\nmodels: [{model: ./a.safetensors}, {model: ./b.safetensors}]\n";

const WEIGHTS: &str = "models:
- {model: ./a.safetensors, parameters: {weight: [{filter: blocks.0, value: 0.25}, {value: 0.125}]}}
- {model: ./b.safetensors, parameters: {weight: [{filter: blocks.0, value: 0.5}, {value: 1}]}}
";

fn family(folder: &Path, coefficients: &str) {
    for (name, values) in [("base", [0.5, -1.0]), ("a", [1.5, -1.25]), ("b", [0.25, -3.0])] {
        let model = Model::default().f32("blocks.0.w", &values).f32("norm", &values);
        model.write(&folder.join(format!("{name}.safetensors")));
    }
    std::fs::write(folder.join("c.json"), coefficients).unwrap();
}

fn merged(recipe: &str, coefficients: &str) -> taskvec::Result<Model> {
    let root = tempfile::tempdir().unwrap();
    family(root.path(), coefficients);
    let out = root.path().join("out");
    merge(Recipe::parse(recipe)?, root.path(), &out, options(), Io::Mmap)?;
    Ok(Model::read(&out.join("model.safetensors")))
}

#[test]
fn a_file_of_coefficients_merges_as_weights_by_name_do() {
    for method in ["task_arithmetic", "ties\nparameters: {scope: model, merge: disjoint_sum, density: 0.5}"] {
        let top = format!("merge_method: {method}\nbase_model: ./base.safetensors\n");
        let want = merged(&format!("{top}{WEIGHTS}"), FILE).unwrap();
        assert_eq!(merged(&format!("{top}{COEFFICIENTS}"), FILE).unwrap(), want, "{method}");
    }
}

#[test]
fn a_file_of_coefficients_that_does_not_fit_the_merge_is_refused() {
    let top = "merge_method: task_arithmetic\nbase_model: ./base.safetensors\n";
    let refused = |recipe: &str, file: &str, code: u8, want: &str| {
        let error = merged(recipe, file).unwrap_err();
        assert!(error.to_string().contains(want) && error.exit_code() == code, "{error}");
    };
    refused(&format!("{top}{COEFFICIENTS}"), "{layers: {blocks.0.v: [1, 1]}}", 2, "did you mean `blocks.0.w`");
    refused(&format!("{top}{COEFFICIENTS}"), "{layers: {blocks.0.w: [1, 1]}}", 2, "no value for tensor `norm`");
    refused(&format!("{top}{COEFFICIENTS}parameters: {{weight: 1}}\n"), FILE, 2, "the recipe has weights too");
    refused(&format!("{top}{COEFFICIENTS}").replace("c.json", "d.json"), FILE, 66, "d.json: no such file");
    let karcher = COEFFICIENTS.replace("coefficients", "merge_method: karcher\ncoefficients");
    refused(&karcher, FILE, 2, "`karcher` has no weights");
}

#[test]
fn the_file_that_plan_prints_merges_as_the_recipe_it_was_printed_for() {
    let root = tempfile::tempdir().unwrap();
    family(root.path(), FILE);
    let top = "merge_method: task_arithmetic\nbase_model: ./base.safetensors\n";
    std::fs::write(root.path().join("r.yml"), format!("{top}{WEIGHTS}")).unwrap();
    let mut command = assert_cmd::Command::cargo_bin("taskvec").unwrap();
    let printed = command.current_dir(root.path()).args(["plan", "r.yml", "--coefficients"]).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let file = String::from_utf8(printed.stdout).unwrap();
    let want = merged(&format!("{top}{WEIGHTS}"), FILE).unwrap();
    assert_eq!(merged(&format!("{top}{COEFFICIENTS}"), &file).unwrap(), want, "{file}");
}
