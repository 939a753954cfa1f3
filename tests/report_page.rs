//! `taskvec report` and `taskvec explain`: pages that hold what a report says, whatever it says, and load nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::Model;
use serde_json::{Value, json};
use std::path::Path;
use taskvec::report::{Beside, Record, merge_page};

/// A report of `layers` layers, one tensor each, and `tasks` tasks.
fn report(layers: usize, tasks: usize) -> Value {
    let name = |l: usize| format!("model.layers.{}.mlp.part{}.weight", l / 7, l % 7);
    let score = |l: usize, t: usize| ((l * 7 + t * 3) % 11) as f64 * 1e-5;
    let file = |name: &str| json!({"name": name, "bytes": 1000, "blake3": "ab".repeat(32)});
    let model = |role: &str, path: String| json!({"role": role, "path": path, "adapter": null, "error_bound": null, "files": [file("m.safetensors")]});
    let layer = |l: usize| {
        let kept_by: Vec<bool> = (0..tasks).map(|t| score(l, t) > 5e-5).collect();
        let scores: Vec<f64> = (0..tasks).map(|t| score(l, t)).collect();
        json!({"name": name(l), "tensors": [name(l)], "elements": 64, "scores": scores, "kept": kept_by.contains(&true), "kept_by": kept_by})
    };
    let tensor = |l: usize| {
        let kept = (0..tasks).any(|t| score(l, t) > 5e-5);
        json!({
            "name": name(l), "shape": [8, 8], "dtype": "BF16", "action": if kept { "merged" } else { "pruned" }, "reason": "because",
            "elements_changed": if kept { 32 } else { 0 }, "max_abs_delta": if kept { 0.5 } else { 0.0 },
        })
    };
    let inputs: Vec<Value> = std::iter::once(model("base", "models/base".into()))
        .chain((0..tasks).map(|t| model("expert", format!("models/task{t}"))))
        .collect();
    json!({
        "schema_version": 1, "tool": "taskvec", "version": "0.1.0", "plan_id": "cd".repeat(32), "recipe_blake3": "ef".repeat(32),
        "inputs": inputs,
        "settings": {"merge_method": "ties", "lwptv": {"eta": 0.7, "score": "saliency", "consensus": "or"}},
        "layers": (0..layers).map(layer).collect::<Vec<_>>(),
        "thresholds": vec![5e-5; tasks],
        "tensors": (0..layers).map(tensor).collect::<Vec<_>>(),
        "outputs": [file("model.safetensors"), file("merged.tvd")],
        "merge_error_bound": null,
        "run": {
            "passes": [{"name": "saliency", "bytes_read": 9000, "seconds": 0.5}, {"name": "merge", "bytes_read": 9000, "seconds": 0.5}],
            "bytes_written": 1000, "peak_rss_bytes": 1_000_000, "seconds": 1.5, "threads": 2, "memory_bytes": 1 << 30,
        },
    })
}

fn page(report: &Value) -> String {
    let record = Record::parse(&serde_json::to_vec(report).unwrap()).unwrap();
    merge_page(&record, &Beside { name: "out", out: "out", recipe: Some("a: \"<b>\" # &\n"), vectors: None })
}

const TAGS: &[&str] = &[
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "header",
    "nav",
    "ul",
    "li",
    "a",
    "main",
    "section",
    "h1",
    "h2",
    "h3",
    "p",
    "figure",
    "div",
    "details",
    "summary",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "pre",
    "svg",
    "desc",
    "g",
    "rect",
    "text",
    "path",
    "linearGradient",
    "stop",
];

/// Panics unless tags are known and balanced, attributes quoted and harmless, entities known, and control characters gone.
fn assert_harmless(page: &str) {
    let body = page.strip_prefix("<!DOCTYPE html>\n").expect("a page says what it is");
    let mut open = Vec::new();
    for piece in body.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap_or_else(|| panic!("a tag ends: {piece:?}"));
        assert!(!text.contains('>'), "{piece:?}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{piece:?}");
            continue;
        }
        let (name, attributes) = tag.trim_end_matches('/').split_once(' ').unwrap_or((tag.trim_end_matches('/'), ""));
        assert!(TAGS.contains(&name), "{piece:?}");
        assert_attributes(attributes);
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let known = ["amp;", "lt;", "gt;", "quot;"];
    assert!(body.split('&').skip(1).all(|rest| known.iter().any(|k| rest.starts_with(k))));
    assert!(body.chars().all(|c| c == '\n' || !c.is_control()));
}

fn assert_attributes(attributes: &str) {
    let parts: Vec<&str> = attributes.trim().split('"').collect();
    assert_eq!(parts.len() % 2, 1, "{attributes:?}");
    for pair in parts.chunks_exact(2) {
        let name = pair[0].trim().strip_suffix('=').unwrap_or_else(|| panic!("{attributes:?}"));
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{attributes:?}");
        assert!(
            !name.starts_with("on") && !["src", "style", "srcset", "data", "action"].contains(&name),
            "{attributes:?}"
        );
        assert!(name != "href" || pair[1].starts_with('#'), "{attributes:?}");
        assert!(!pair[1].contains("//") || name == "xmlns" || name == "aria-label", "{attributes:?}");
    }
}

#[test]
fn a_page_has_a_row_for_every_layer_and_tensor_and_a_cell_for_every_task() {
    for (layers, tasks) in [(1, 1), (104, 8), (302, 20)] {
        let page = page(&report(layers, tasks));
        assert_harmless(&page);
        for l in 0..layers {
            let name = format!("model.layers.{}.mlp.part{}.weight", l / 7, l % 7);
            assert_eq!(page.matches(&format!("<tr><th scope=\"row\">{name}</th>")).count(), 2, "{name}");
            assert_eq!(page.matches(&format!("<title>{name}\n")).count(), tasks + 1, "{name}");
        }
        assert_eq!(page.matches("<section ").count(), page.matches("<h2 ").count());
        assert_eq!(page.matches("<table>").count(), page.matches("<caption>").count());
        assert_eq!(page.matches("<svg ").count(), page.matches("role=\"img\"").count());
    }
}

/// Puts `text` in place of every text of a report but those that it is understood by.
fn infect(value: &mut Value, text: &str) {
    match value {
        Value::String(s) if !["merged", "pruned", "base", "expert"].contains(&s.as_str()) => {
            *s = format!("{text}{s}{text}");
        }
        Value::Array(list) => list.iter_mut().for_each(|v| infect(v, text)),
        Value::Object(map) => map.values_mut().for_each(|v| infect(v, text)),
        _ => {}
    }
}

#[test]
fn texts_of_a_hostile_report_stay_texts() {
    for text in [
        "</title></style><script>alert(1)</script>",
        "\" onload=\"alert(1)\" x=\"",
        "'><img src=x onerror=alert(1)>",
        "--> <!-- ]]> <?x?> &lt; &#60;script&#62; &nosuch;",
        "\u{0}\u{1b}[31m\r\u{9b}\u{202e}\u{2066}\u{fffe}",
        "url(https://example.com/x) @import '//example.com/x'; expression(alert(1))",
    ] {
        let mut report = report(9, 3);
        infect(&mut report, text);
        report["stages"] = json!([{"name": text, "report": report.clone()}]);
        let page = page(&report);
        assert_harmless(&page);
        assert!(!page.contains("<script") && !page.contains("<img"));
        let record = Record::parse(&serde_json::to_vec(&report).unwrap()).unwrap();
        let hostile = Beside { name: text, out: text, recipe: Some(text), vectors: None };
        assert_harmless(&merge_page(&record, &hostile));
    }
}

#[test]
fn numbers_of_a_hostile_report_do_no_harm() {
    let mut report = report(9, 3);
    report["run"]["seconds"] = json!(-1.5);
    report["run"]["passes"] = json!([
        {"name": "a", "bytes_read": u64::MAX, "seconds": 1e308}, {"name": "b", "bytes_read": u64::MAX, "seconds": 1e308},
        {"name": "c", "bytes_read": 0, "seconds": -1e308}, {"name": "d", "bytes_read": 1, "seconds": 0}
    ]);
    report["tensors"][0]["shape"] = json!([u64::MAX, u64::MAX, 3]);
    report["tensors"][1]["shape"] = json!([0]);
    report["tensors"][2]["elements_changed"] = json!(u64::MAX);
    report["tensors"][3]["max_abs_delta"] = json!(-1e308);
    report["tensors"][4]["name"] = json!("a.4294967295.b.99999999999999999999.c");
    report["layers"][0]["scores"] = json!([null, -1.0, 1e-320]);
    report["layers"][1]["elements"] = json!(u64::MAX);
    report["inputs"][1]["files"][0]["bytes"] = json!(u64::MAX);
    report["outputs"][0]["bytes"] = json!(u64::MAX);
    report["settings"]["lwptv"]["eta"] = json!(1e300);
    let page = page(&report);
    assert_harmless(&page);
    assert!(!page.contains(">inf") && !page.contains("-1.5"));
}

#[test]
fn the_least_report_gives_a_page_too() {
    let mut report = report(0, 0);
    for list in ["inputs", "tensors", "outputs"] {
        report[list] = json!([]);
    }
    report["settings"] = json!(null);
    report["run"] =
        json!({"passes": [], "bytes_written": 0, "peak_rss_bytes": 0, "seconds": 0.0, "threads": 0, "memory_bytes": 0});
    assert_harmless(&page(&report));
    let record = Record::parse(&serde_json::to_vec(&report).unwrap()).unwrap();
    assert!(record.gist("out").iter().any(|l| l == "Next: taskvec verify out"));
}

#[test]
fn the_same_report_gives_the_same_bytes() {
    assert_eq!(page(&report(104, 8)), page(&report(104, 8)));
}

/// What is broken in a report.
type Change<'a> = &'a dyn Fn(&mut Value);

#[test]
fn a_report_that_contradicts_itself_is_refused() {
    let broken = |change: Change<'_>| {
        let mut report = report(4, 3);
        change(&mut report);
        Record::parse(&serde_json::to_vec(&report).unwrap()).map(|_| ()).unwrap_err()
    };
    let too_many = |r: &mut Value| {
        let n = 400_001;
        r["layers"] =
            json!([{"name": "l", "elements": 1, "scores": vec![1; n], "kept_by": vec![true; n], "kept": true}]);
        r["thresholds"] = json!(vec![1; n]);
    };
    let cases: [(Change<'_>, &str); 6] = [
        (&|r| r["schema_version"] = json!(2), "schema version 2"),
        (&|r| r["schema_version"] = json!("1"), "no schema_version"),
        (&|r| r["layers"][2]["scores"] = json!([1.0, 2.0]), "2 scores and 3 masks, expected 3"),
        (&|r| r["thresholds"] = json!([1.0]), "1 thresholds, expected 3"),
        (&|r| r["tensors"][0]["action"] = json!("melted"), "melted"),
        (&too_many, "more than a page can show"),
    ];
    for (change, says) in cases {
        let problem = broken(change);
        assert!(problem.contains(says), "{problem}");
    }
}

#[test]
fn the_gist_counts_what_was_kept_and_who_stands_alone() {
    let mut report = report(2, 2);
    for (l, kept) in [[false, true], [true, true]].iter().enumerate() {
        report["layers"][l]["kept_by"] = json!(kept);
        report["layers"][l]["kept"] = json!(true);
    }
    let record = Record::parse(&serde_json::to_vec(&report).unwrap()).unwrap();
    let gist = record.gist("OUT").join("\n");
    assert!(gist.contains("2 of 2 layers are kept by some task and merged (100.0 % of the elements)"), "{gist}");
    assert!(gist.contains("All 2 tasks agree on 1 of those"), "{gist}");
    assert!(gist.contains("Layers that only one task keeps: task1 (1)."), "{gist}");
    assert!(gist.contains("a higher eta"), "{gist}");
}

fn taskvec(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = assert_cmd::Command::cargo_bin("taskvec").unwrap().args(arguments).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), out, err)
}

/// A merge of two models, made by the program itself: the output's folder.
fn merged(folder: &Path) -> String {
    for (name, shift) in [("base", 0.0), ("a", 1.0), ("b", -0.5)] {
        let values: Vec<f32> = (0..50).map(|i| i as f32 + shift * (i % 3) as f32).collect();
        let model = Model::default().f32("model.layers.0.mlp.up.weight", &values).f32("model.norm.weight", &values);
        model.write(&folder.join(name).join("model.safetensors"));
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let out = path("out");
    let (base, a, b) = (path("base"), path("a"), path("b"));
    let (code, _, err) = taskvec(&[
        "merge",
        "--quiet",
        "--method",
        "task_arithmetic",
        "--base",
        &base,
        "--model",
        &a,
        "--model",
        &b,
        "--set",
        "weight=0.5",
        "--eta",
        "0.5",
        &out,
    ]);
    assert_eq!(code, Some(0), "{err}");
    out
}

#[test]
fn a_report_lies_beside_the_output_which_stays_whole() {
    let folder = tempfile::tempdir().unwrap();
    let out = merged(folder.path());
    let before = common::tree(Path::new(&out));
    let (code, gist, err) = taskvec(&["report", &out]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(taskvec(&["explain", &out]).1, gist);
    assert!(gist.starts_with("task_arithmetic of 2 models on base"), "{gist}");
    let page = std::fs::read_to_string(folder.path().join("out.report.html")).unwrap();
    assert_harmless(&page);
    assert!(page.contains("merge_method: task_arithmetic"), "the recipe's text is there");
    assert_eq!(common::tree(Path::new(&out)), before);
    assert_eq!(taskvec(&["verify", &out]).0, Some(0));
    let chosen = folder.path().join("x.html");
    let (code, gist, _) = taskvec(&["report", &out, "--html", chosen.to_str().unwrap()]);
    assert_eq!((code, gist.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_to_string(chosen).unwrap(), page);
}

#[test]
fn the_inputs_task_vectors_are_shown_if_the_inputs_are_what_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let out = merged(folder.path());
    assert_eq!(taskvec(&["report", "--inputs", &out]).0, Some(0));
    let page = std::fs::read_to_string(folder.path().join("out.report.html")).unwrap();
    assert_harmless(&page);
    assert!(page.contains("Cosine between task vectors") && page.contains("<title>a, b: -1.0000</title>"));
    let input = folder.path().join("b/model.safetensors");
    Model::default().f32("model.norm.weight", &[1.0]).write(&input);
    let (code, _, err) = taskvec(&["report", "--inputs", &out]);
    assert_eq!(code, Some(66));
    assert!(err.contains("changed since"), "{err}");
    std::fs::remove_file(&input).unwrap();
    assert_eq!(taskvec(&["report", "--inputs", &out]).0, Some(66));
    assert_eq!(taskvec(&["report", &out]).0, Some(0), "without --inputs no input is needed");
}

#[test]
fn what_is_no_output_is_refused_with_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("taskvec.json");
    let path = folder.path().display().to_string();
    for command in ["explain", "report"] {
        let _ = std::fs::remove_file(&json);
        assert_eq!(taskvec(&[command, &path]).0, Some(66));
        for broken in ["", "{", "[]", "{\"schema_version\": 1}", &"[".repeat(100_000)] {
            std::fs::write(&json, broken).unwrap();
            let (code, _, err) = taskvec(&[command, &path]);
            assert_eq!(code, Some(65), "{err}");
            assert!(err.contains("taskvec.json"), "{err}");
        }
    }
    assert!(!folder.path().parent().unwrap().join("taskvec.report.html").exists());
}
