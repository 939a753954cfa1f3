//! Golden cases: models, recipes and results that numpy made from the equations (fixtures/make_reference.py).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Model, merge_recipe};
use serde_json::Value;
use std::path::{Path, PathBuf};

#[test]
fn every_reference_case_gives_the_masks_and_the_values_that_numpy_gives() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir("fixtures/reference").unwrap().map(|e| e.unwrap().path()).collect();
    cases.retain(|p| p.is_dir());
    cases.sort();
    assert!(cases.len() >= 155, "{} cases", cases.len());
    let failures: Vec<String> =
        cases.iter().filter_map(|case| check(case).err().map(|e| format!("{}: {e}", case.display()))).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(case: &Path) -> Result<(), String> {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    merge_recipe(&case.join("recipe.yml"), &out).map_err(|e| e.to_string())?;
    let expected: Value = serde_json::from_slice(&std::fs::read(case.join("expected.json")).unwrap()).unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(out.join("taskvec.json")).unwrap()).unwrap();
    check_masks(&report, &expected)?;
    let (got, want) = (Model::read(&out.join("model.safetensors")), Model::read(&case.join("expected.safetensors")));
    let names =
        |m: &Model| m.tensors.iter().map(|t| (t.name.clone(), t.dtype.clone(), t.shape.clone())).collect::<Vec<_>>();
    if names(&got) != names(&want) {
        return Err(format!("tensors {:?}, expected {:?}", names(&got), names(&want)));
    }
    got.tensors.iter().zip(&want.tensors).try_for_each(|(g, w)| {
        match g.bytes.iter().zip(&w.bytes).position(|(a, b)| a != b) {
            Some(at) => Err(format!("{}: byte {at} of {} differs", g.name, g.bytes.len())),
            None => Ok(()),
        }
    })
}

fn check_masks(report: &Value, expected: &Value) -> Result<(), String> {
    if expected.get("scores").is_none_or(Value::is_null) {
        return Ok(());
    }
    let of = |key: &str| report["layers"].as_array().unwrap().iter().map(|l| l[key].clone()).collect::<Value>();
    for (got, want) in [(of("name"), "layers"), (of("kept_by"), "kept_by"), (of("kept"), "kept")] {
        if got != expected[want] {
            return Err(format!("{want}: {got}, expected {}", expected[want]));
        }
    }
    let close = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-12 * b.abs(),
        _ => a == b,
    };
    let flat = |v: &Value| {
        v.as_array()
            .unwrap()
            .iter()
            .flat_map(|x| x.as_array().cloned().unwrap_or_else(|| vec![x.clone()]))
            .collect::<Vec<_>>()
    };
    for (got, want) in [(of("scores"), &expected["scores"]), (report["thresholds"].clone(), &expected["thresholds"])] {
        let (got, want) = (flat(&got), flat(want));
        if got.len() != want.len() || !got.iter().zip(&want).all(|(a, b)| close(a, b)) {
            return Err(format!("{got:?}, expected {want:?}"));
        }
    }
    Ok(())
}
