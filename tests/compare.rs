//! `taskvec compare`: the numbers, that nothing else shows in them, and what it takes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Model, diff_run};
use serde_json::Value;
use std::path::Path;
use taskvec::codec::Codec;
use taskvec::job::{self, CompareRun, compare};
use taskvec::pass::{Silent, Stop};
use taskvec::report::Comparison;
use taskvec::source::{Io, Links};

const FIXTURES: &str = "fixtures/compare";

fn run(stop: &Stop) -> CompareRun<'_> {
    let (io, links) = (Io::Mmap, Links::Inside);
    CompareRun { memory_bytes: 1 << 30, threads: 2, tile_elements: None, io, links, progress: &Silent, stop }
}

fn fixtures(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| format!("{FIXTURES}/{n}.safetensors")).collect()
}

/// Without what names the models and what the run cost.
fn numbers(found: &Comparison) -> Value {
    let mut json = serde_json::to_value(found).unwrap();
    for key in ["run", "base", "models"] {
        json.as_object_mut().unwrap().remove(key);
    }
    json
}

/// Equal, but for the last bits of fractions.
#[track_caller]
fn assert_close(got: &Value, expected: &Value, place: &str) {
    match (got, expected) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-12 * b.abs().max(1e-3), "{place}: {a} instead of {b}");
        }
        (Value::Object(got), Value::Object(expected)) => {
            for (key, expected) in expected {
                assert_close(&got[key], expected, &format!("{place}.{key}"));
            }
        }
        (Value::Array(got), Value::Array(expected)) => {
            assert_eq!(got.len(), expected.len(), "{place}");
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                assert_close(got, expected, &format!("{place}[{i}]"));
            }
        }
        _ => assert_eq!(got, expected, "{place}"),
    }
}

#[test]
fn the_numbers_are_those_of_numpy() {
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{FIXTURES}/expected.json")).unwrap()).unwrap();
    let stop = Stop::default();
    let found = compare(&fixtures(&["base"])[0], &fixtures(&["a", "b", "c"]), &run(&stop)).unwrap();
    let json = numbers(&found);
    for part in ["elements", "total", "tensors"] {
        assert_close(&json[part], &expected[part], part);
    }
    let apart: Vec<&str> = found.apart.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(serde_json::json!(apart), expected["apart"]);
    assert_eq!(found.apart[1].base.as_deref(), Some("F32 [2, 3]"));
    assert_eq!(found.apart[1].models[1].as_deref(), Some("F32 [3, 2]"));
    assert_eq!(found.apart[2].models[0], None);
}

#[test]
fn threads_tiles_memory_and_kind_of_reading_show_in_no_number() {
    let stop = Stop::default();
    let (base, models) = (&fixtures(&["base"])[0], fixtures(&["a", "b", "c"]));
    let expected = numbers(&compare(base, &models, &run(&stop)).unwrap());
    for (threads, tile, memory, io) in
        [(1, None, 1 << 30, Io::Pread), (4, Some(2048), 1 << 30, Io::Mmap), (3, Some(2048), 64 << 20, Io::Pread)]
    {
        let other = CompareRun { threads, tile_elements: tile, memory_bytes: memory, io, ..run(&stop) };
        assert_eq!(numbers(&compare(base, &models, &other).unwrap()), expected, "{threads} {tile:?} {memory}");
    }
}

#[test]
fn delta_files_compare_as_the_models_they_stand_for() {
    let (folder, stop) = (tempfile::tempdir().unwrap(), Stop::default());
    let (base, model) = (&fixtures(&["base"])[0], fixtures(&["a"]));
    let delta = folder.path().join("a.tvd");
    job::diff(base, None, &model[0], &delta, &diff_run(Codec::Auto)).unwrap();
    let of_delta = compare(base, &[delta.display().to_string()], &run(&stop)).unwrap();
    assert_eq!(numbers(&of_delta), numbers(&compare(base, &model, &run(&stop)).unwrap()));
}

#[test]
fn a_model_with_an_adapter_compares_as_the_merged_model() {
    let (case, stop) = ("fixtures/lora/formula/plain", Stop::default());
    let models = [format!("{case}/base+{case}/adapter"), format!("{case}/expected.safetensors")];
    let found = compare(&format!("{case}/base"), &models, &run(&stop)).unwrap();
    let [adapter, merged] = [0, 1].map(|k| found.total.models[k]);
    assert!(adapter.changed > 0 && adapter.changed == merged.changed);
    assert_eq!((adapter.l2, adapter.max_abs), (merged.l2, merged.max_abs));
    assert!(found.total.pairs[0].cosine.unwrap() > 1.0 - 1e-12);
}

#[test]
fn a_model_against_itself_has_no_difference_and_no_direction() {
    let (folder, stop) = (tempfile::tempdir().unwrap(), Stop::default());
    let path = folder.path().join("m.safetensors");
    Model::default().f32("x", &[1.0, 2.0]).write(&path);
    let name = path.display().to_string();
    let found = compare(&name, &[name.clone(), name.clone()], &run(&stop)).unwrap();
    let (model, pair) = (found.total.models[1], found.total.pairs[0]);
    assert_eq!(
        (model.changed, model.l2, model.relative_l2, model.cosine_to_base),
        (0, Some(0.0), Some(0.0), Some(1.0))
    );
    assert_eq!((pair.cosine, pair.sign_agreement, pair.both_changed), (None, None, 0));
}

#[test]
fn models_without_a_common_tensor_are_told_apart_and_nothing_is_read() {
    let (folder, stop) = (tempfile::tempdir().unwrap(), Stop::default());
    let names = ["x", "y"].map(|n| {
        let path = folder.path().join(format!("{n}.safetensors"));
        Model::default().f32(n, &[1.0]).write(&path);
        path.display().to_string()
    });
    let found = compare(&names[0], &names[1..], &run(&stop)).unwrap();
    assert_eq!((found.tensors.len(), found.apart.len(), found.run.passes.len()), (0, 2, 0));
    assert!(found.text().contains("not compared: 2 tensors"));
}

fn taskvec(arguments: &[&str]) -> (Option<i32>, String) {
    let output = assert_cmd::Command::cargo_bin("taskvec").unwrap().args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_cannot_be_compared_is_refused_with_its_exit_code() {
    let (base, a) = (&fixtures(&["base"])[0], &fixtures(&["a"])[0]);
    let cases: [(&[&str], i32, &str); 5] = [
        (&[base], 2, "2 values required"),
        (&[base, "nowhere"], 66, "nowhere"),
        (&[base, "fixtures/broken/tensors_overlap.safetensors"], 65, "tensors_overlap"),
        (&[base, a, "--memory", "1MB"], 2, "--memory 1.00 MB is too small"),
        (&[base, a, "--html", "/nowhere/x.html"], 74, "/nowhere/x.html"),
    ];
    for (arguments, code, says) in cases {
        let (got, text) = taskvec(&[&["compare"], arguments].concat());
        assert_eq!(got, Some(code), "{text}");
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn the_page_of_a_comparison_names_every_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("c.html");
    let names = fixtures(&["base", "a", "b", "c"]);
    let mut arguments = vec!["compare", "--quiet", "--html", page.to_str().unwrap()];
    arguments.extend(names.iter().map(String::as_str));
    let (code, text) = taskvec(&arguments);
    assert_eq!(code, Some(0), "{text}");
    let page = std::fs::read_to_string(Path::new(&page)).unwrap();
    let rows = |name: &str| page.matches(&format!("<th scope=\"row\">{name}</th>")).count();
    for name in ["matrix", "half", "mixed", "still", "zeros", "counts", "holes", "none"] {
        assert_eq!(rows(name), 2, "{name}: by model and by pair");
    }
    for name in ["base_only", "models_only", "other_shape"] {
        assert_eq!(rows(name), 1, "{name}");
    }
}
