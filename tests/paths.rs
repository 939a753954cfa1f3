//! What a model's files may be: a table of names, links and special files that are taken or refused. Nothing outside the
//! model's folder is read unless `--follow-links` is given, and nothing that could hang is opened.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::Model;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// A base, an expert `in/a` and a recipe; other models lie in `else`.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for folder in ["in/base", "in/a", "else"] {
            model(folder.len() as f32).write(&bench.path(folder).join("model.safetensors"));
        }
        bench.write("else/config.json", "{\"tie_word_embeddings\": true}");
        bench.write("recipe.yml", "merge_method: linear\nmodels:\n- {model: ./in/base, parameters: {weight: 1}}\n- {model: ./in/a, parameters: {weight: 1}}\n");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    fn link(&self, target: &str, name: &str) {
        let _ = fs::remove_file(self.path(name));
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        symlink(target, self.path(name)).unwrap();
    }

    fn special(&self, name: &str, kind: FileType) {
        let _ = fs::remove_file(self.path(name));
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        mknodat(CWD, self.path(name), kind, Mode::RWXU, 0).unwrap();
    }

    fn socket(&self, name: &str) {
        let _ = fs::remove_file(self.path(name));
        drop(UnixListener::bind(self.path(name)).unwrap());
    }

    fn recipe(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("recipe.yml")).unwrap();
        self.write("recipe.yml", &text.replace(from, to));
    }

    /// Replaces expert `a` by a shard index that names `shard` for every tensor.
    fn index(&self, shard: &str) {
        fs::rename(self.path("in/a/model.safetensors"), self.path("in/a/x.safetensors")).unwrap();
        let map: serde_json::Map<_, _> = model(0.0).tensors.into_iter().map(|t| (t.name, json!(shard))).collect();
        self.write("in/a/model.safetensors.index.json", &json!({"weight_map": map}).to_string());
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        let run = command.args(args).current_dir(self.0.path()).env("HF_HUB_CACHE", self.path("hub"));
        let run = run.timeout(PATIENCE).output().unwrap();
        (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
    }

    fn merge(&self, flags: &[&str]) -> (Option<i32>, String) {
        self.run(&[&["merge", "recipe.yml", "out", "--quiet", "--no-delta"], flags].concat())
    }
}

fn model(shift: f32) -> Model {
    let rows = [1.0 + shift, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    Model::default().tensor("model.embed_tokens.weight", "F32", &[2, 1], rows).f32("layers.0.weight", &[shift; 4])
}

/// One row: what is done to the models, the exit code, and what the message says. `followed`: the code with
/// `--follow-links`.
struct Row {
    name: &'static str,
    change: fn(&Bench),
    code: i32,
    followed: i32,
    says: &'static str,
}

const fn row(name: &'static str, change: fn(&Bench), code: i32, followed: i32, says: &'static str) -> Row {
    Row { name, change, code, followed, says }
}

/// Refused whether links are followed or not.
const fn refused(name: &'static str, change: fn(&Bench), code: i32, says: &'static str) -> Row {
    row(name, change, code, code, says)
}

const LEAVES: &str = "leaves the model's folder";
const SPECIAL: &str = "is not a regular file";

const ROWS: &[Row] = &[
    row("nothing is changed", |_| {}, 0, 0, ""),
    // Names in an index.
    row("a plain shard", |b| b.index("x.safetensors"), 0, 0, ""),
    refused("a shard above", |b| b.index("../base/model.safetensors"), 65, "plain file name"),
    refused("a shard at a full path", |b| b.index("/tmp/x.safetensors"), 65, "plain file name"),
    refused("a shard in a folder below", |b| b.index("sub/x.safetensors"), 65, "plain file name"),
    refused("a shard through this folder", |b| b.index("./x.safetensors"), 65, "plain file name"),
    refused("a shard with a backslash", |b| b.index("..\\x.safetensors"), 65, "plain file name"),
    refused("a shard that is the folder above", |b| b.index(".."), 65, "plain file name"),
    refused("a shard without a name", |b| b.index(""), 65, "plain file name"),
    refused("a shard with a control character", |b| b.index("x\u{1b}[2J.safetensors"), 65, "plain file name"),
    refused("a shard with a zero", |b| b.index("x\0.safetensors"), 65, "plain file name"),
    refused("a shard that is a pickle", |b| b.index("x.bin"), 65, "plain file name"),
    // Links.
    row(
        "a link inside the folder",
        |b| {
            fs::rename(b.path("in/a/model.safetensors"), b.path("in/a/weights")).unwrap();
            b.link("weights", "in/a/model.safetensors");
        },
        0,
        0,
        "",
    ),
    row(
        "a link to a folder that is the model",
        |b| {
            b.link("in/a", "linked");
            b.recipe("./in/a", "./linked");
        },
        0,
        0,
        "",
    ),
    row(
        "weights linked from elsewhere",
        |b| b.link("../../else/model.safetensors", "in/a/model.safetensors"),
        66,
        0,
        LEAVES,
    ),
    row(
        "weights linked from a full path",
        |b| {
            b.link(b.path("else/model.safetensors").to_str().unwrap(), "in/a/model.safetensors");
        },
        66,
        0,
        LEAVES,
    ),
    row(
        "a chain of links that leaves",
        |b| {
            b.link("step", "in/a/model.safetensors");
            b.link("../../else/model.safetensors", "in/a/step");
        },
        66,
        0,
        LEAVES,
    ),
    row(
        "a link to a folder whose name only begins alike",
        |b| {
            model(1.0).write(&b.path("in/ab/model.safetensors"));
            b.link("../ab/model.safetensors", "in/a/model.safetensors");
        },
        66,
        0,
        LEAVES,
    ),
    refused("a link to nothing", |b| b.link("gone", "in/a/model.safetensors"), 66, "model.safetensors"),
    refused("a link to itself", |b| b.link("model.safetensors", "in/a/model.safetensors"), 66, "in/a"),
    row(
        "an index linked from elsewhere",
        |b| {
            b.index("x.safetensors");
            fs::rename(b.path("in/a/model.safetensors.index.json"), b.path("else/i.json")).unwrap();
            b.link("../../else/i.json", "in/a/model.safetensors.index.json");
        },
        66,
        0,
        LEAVES,
    ),
    row(
        "an expert's configuration linked from elsewhere",
        |b| b.link("../../else/config.json", "in/a/config.json"),
        66,
        0,
        LEAVES,
    ),
    row(
        "the base's configuration linked from elsewhere",
        |b| b.link("../../else/config.json", "in/base/config.json"),
        66,
        0,
        LEAVES,
    ),
    row(
        "a tokenizer linked from elsewhere",
        |b| {
            for name in ["else/tokenizer.json", "in/base/tokenizer.json"] {
                b.write(name, r#"{"model": {"vocab": {"a": 0, "b": 1}}}"#);
            }
            b.link("../../else/tokenizer.json", "in/a/tokenizer.json");
            b.recipe("merge_method", "tokenizer_source: union\nmerge_method");
        },
        66,
        0,
        LEAVES,
    ),
    row("a side file linked from elsewhere", |b| b.link("../../else/config.json", "in/base/vocab.txt"), 66, 0, LEAVES),
    row("the cache's own links", |b| cached(b, "../../blobs/w"), 0, 0, ""),
    row(
        "a cached model with a link into another one",
        |b| {
            model(1.0).write(&b.path("hub/models--org--n/blobs/w"));
            cached(b, "../../../models--org--n/blobs/w");
        },
        66,
        0,
        LEAVES,
    ),
    refused("a revision that climbs", |b| b.recipe("./in/a", "org/m@../../../else"), 66, "org/m@../../../else"),
    // Special files.
    refused("a fifo as weights", |b| b.special("in/a/model.safetensors", FileType::Fifo), 66, SPECIAL),
    refused("a socket as weights", |b| b.socket("in/a/model.safetensors"), 66, SPECIAL),
    refused(
        "a folder as weights",
        |b| {
            fs::remove_file(b.path("in/a/model.safetensors")).unwrap();
            fs::create_dir(b.path("in/a/model.safetensors")).unwrap();
        },
        66,
        SPECIAL,
    ),
    row("a device as weights", |b| b.link("/dev/zero", "in/a/model.safetensors"), 66, 66, "model.safetensors"),
    refused("a fifo as an index", |b| b.special("in/a/model.safetensors.index.json", FileType::Fifo), 66, SPECIAL),
    refused("a fifo as a configuration", |b| b.special("in/a/config.json", FileType::Fifo), 66, SPECIAL),
    refused(
        "a fifo as an adapter's configuration",
        |b| {
            b.special("lora/adapter_config.json", FileType::Fifo);
            b.recipe("./in/a", "./in/a+./lora");
        },
        66,
        SPECIAL,
    ),
    refused(
        "a fifo as a tokenizer",
        |b| {
            b.write("in/base/tokenizer.json", r#"{"model": {"vocab": {"a": 0, "b": 1}}}"#);
            b.special("in/a/tokenizer.json", FileType::Fifo);
            b.recipe("merge_method", "tokenizer_source: union\nmerge_method");
        },
        66,
        SPECIAL,
    ),
    row("a fifo as a tokenizer that nobody asks for", |b| b.special("in/a/tokenizer.json", FileType::Fifo), 0, 0, ""),
    refused(
        "a fifo as coefficients",
        |b| {
            b.special("c.json", FileType::Fifo);
            b.recipe("merge_method", "coefficients: c.json\nmerge_method");
        },
        66,
        SPECIAL,
    ),
    refused(
        "a fifo as a delta file",
        |b| {
            b.special("x.tvd", FileType::Fifo);
            b.recipe("models:", "base_model: ./in/base\nmodels:");
            b.recipe("./in/a", "x.tvd");
        },
        66,
        SPECIAL,
    ),
    refused("a fifo as the recipe", |b| b.special("recipe.yml", FileType::Fifo), 66, SPECIAL),
    row("a fifo beside the base's files", |b| b.special("in/base/vocab.txt", FileType::Fifo), 0, 0, ""),
    refused("an unreadable name", |b| b.recipe("./in/a", "\"./in/\\e[31ma\""), 2, "control characters"),
];

/// Expert `a` in a Hugging Face cache, its weights a link to `target`.
fn cached(b: &Bench, target: &str) {
    let snapshot = "hub/models--org--m/snapshots/c0";
    model(1.0).write(&b.path("hub/models--org--m/blobs/w"));
    b.write("hub/models--org--m/refs/main", "c0");
    b.link(target, &format!("{snapshot}/model.safetensors"));
    b.recipe("./in/a", "org/m");
}

#[test]
fn names_links_and_special_files_are_taken_or_refused_as_the_table_says() {
    assert!(ROWS.len() >= 30);
    let mut wrong = Vec::new();
    for row in ROWS {
        for (flags, code) in [(&[][..], row.code), (&["--follow-links"][..], row.followed)] {
            let bench = Bench::new();
            (row.change)(&bench);
            let (got, message) = bench.merge(flags);
            let says = code == 0 || (message.contains(row.says) && message.contains("error: "));
            let published = bench.path("out").exists() == (code == 0);
            if got != Some(code) || !says || !published || message.contains('\u{1b}') {
                wrong.push(format!("{} {flags:?}: {got:?}, expected {code} and {:?}: {message}", row.name, row.says));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_that_would_drive_the_terminal_are_escaped_in_every_command() {
    let bench = Bench::new();
    let hostile = "red\u{202e}gnp";
    let name = "in/\u{1b}[31mred";
    model(1.0).f32(hostile, &[1.0]).write(&bench.path(name).join("model.safetensors"));
    bench.link(&format!("{}/{name}", bench.0.path().display()), "plain");
    for args in [
        vec!["inspect", name],
        vec!["inspect", "in/nothing\u{1b}]0;title\u{7}"],
        vec!["merge", "in/\u{1b}[2J.yml", "out"],
        vec!["verify", "in/\u{1b}[2J"],
        vec!["diff", "in/base", name, "-o", "x\u{9b}31m.tvd"],
        vec!["merge", "--method", "linear", "--model", "in/base=1", "--model", "plain=1", "out"],
    ] {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        let run = command.args(&args).current_dir(bench.0.path()).timeout(PATIENCE).output().unwrap();
        for (stream, bytes) in [("stdout", run.stdout), ("stderr", run.stderr)] {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let drives = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(drives), "{args:?} writes to {stream}: {}", text.escape_debug());
        }
    }
}

/// `verify` of a folder whose report names files elsewhere.
#[test]
fn a_report_that_names_files_outside_its_folder_is_refused() {
    for name in ["../else/model.safetensors", "/etc/hostname", "a/../../else/model.safetensors", "", ".", ".."] {
        let bench = Bench::new();
        assert_eq!(bench.merge(&[]).0, Some(0));
        let path = bench.path("out/taskvec.json");
        let mut report: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        report["outputs"][0]["name"] = json!(name);
        fs::write(&path, report.to_string()).unwrap();
        let (code, message) = bench.run(&["verify", "out"]);
        assert!(matches!(code, Some(65 | 76)) && message.contains("taskvec.json"), "{name}: {code:?} {message}");
    }
    assert!(Path::new("/etc").exists());
}

#[cfg(not(feature = "remote"))]
#[test]
fn a_url_needs_a_build_with_remote_and_its_secrets_are_not_shown() {
    let bench = Bench::new();
    for model in ["https://user:geheim@host/m?sig=geheim", "s3://bucket/m", "./in/a+https://host/lora"] {
        bench.write(
            "url.yml",
            &format!("merge_method: linear\nmodels:\n- {{model: '{model}', parameters: {{weight: 1}}}}\n"),
        );
        let output = Command::cargo_bin("taskvec")
            .unwrap()
            .current_dir(bench.0.path())
            .args(["merge", "url.yml", "out"])
            .output();
        let output = output.unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains("built without `remote`") && message.contains("--features remote"), "{message}");
        assert!(!message.contains("geheim") && !bench.path("out").exists(), "{message}");
    }
}
