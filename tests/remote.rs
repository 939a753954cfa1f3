//! Models under URLs: the bytes of local ones, whatever a server does, or a clear message and no output.

#![cfg(feature = "remote")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use assert_cmd::Command;
use common::server::{Fault, Server};
use common::{Model, Random, tree};
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use tempfile::TempDir;

/// More than some requests take.
const LARGE: usize = 700_000;

/// A family of models, and a server that has it.
struct Bench {
    folder: TempDir,
    server: Server,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (number, name) in ["base", "a", "b"].into_iter().enumerate() {
            let mut random = Random(number as u64);
            let mut model = Model::default();
            for (i, count) in [3, LARGE, 4000, 0, 5000].into_iter().enumerate() {
                // BF16 near 1, so that models differ in their last bits.
                let bytes: Vec<u8> = (0..count).flat_map(|_| [(random.next() % 64) as u8, 0x3f]).collect();
                model = model.tensor(&format!("model.layers.{i}.weight"), "BF16", &[count as u64], bytes);
            }
            write(&folder.path().join(name), &model, name == "base");
        }
        let server = Server::start(folder.path().to_owned());
        Self { folder, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn recipe(&self, name: &str, root: &str, method: &str) {
        let models: String =
            ["a", "b"].map(|m| format!("- model: {root}/{m}\n  parameters: {{weight: 0.4}}\n")).concat();
        let text = format!("merge_method: {method}\nbase_model: {root}/base\nmodels:\n{models}");
        fs::write(self.path(name), text).unwrap();
    }

    fn taskvec(&self, args: &[&str]) -> Output {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        let output = command.current_dir(self.folder.path()).args(args).arg("--quiet");
        output.env("TASKVEC_ALLOW_HTTP", "true").timeout(std::time::Duration::from_secs(60)).output().unwrap()
    }

    fn merge(&self, recipe: &str, out: &str) -> Output {
        self.taskvec(&["merge", recipe, out])
    }

    /// Merges the models under the URL and compares with what the local ones give.
    #[track_caller]
    fn gives_the_same(&self, out: &str) {
        self.recipe("remote.yml", &self.server.url, "task_arithmetic");
        let output = self.merge("remote.yml", out);
        assert!(output.status.success(), "{out}: {}", String::from_utf8_lossy(&output.stderr));
        self.assert_same(out);
    }

    /// Fails unless `out` has the files of the merge of the local models, but for those that tell where models are.
    #[track_caller]
    fn assert_same(&self, out: &str) {
        let expected = self.path("expected");
        if !expected.exists() {
            self.recipe("local.yml", ".", "task_arithmetic");
            assert!(self.merge("local.yml", "expected").status.success());
        }
        assert_same_output(&self.path(out), &expected);
    }

    /// The merge fails with `code`, says all of `words`, and leaves nothing.
    #[track_caller]
    fn refused(&self, code: i32, words: &[&str]) {
        self.recipe("remote.yml", &self.server.url, "task_arithmetic");
        let output = self.merge("remote.yml", "refused");
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{message}");
        words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in: {message}"));
        assert!(!self.path("refused").exists());
    }
}

fn write(folder: &std::path::Path, model: &Model, sharded: bool) {
    if sharded {
        let mut map = serde_json::Map::new();
        for (shard, tensors) in model.tensors.chunks(2).enumerate() {
            let name = format!("model-{shard:05}-of-00003.safetensors");
            tensors.iter().for_each(|t| drop(map.insert(t.name.clone(), name.clone().into())));
            Model { tensors: tensors.to_vec() }.write(&folder.join(name));
        }
        let index = serde_json::json!({"weight_map": map}).to_string();
        fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    } else {
        model.write(&folder.join("model.safetensors"));
    }
    fs::write(folder.join("config.json"), r#"{"num_hidden_layers": 5}"#).unwrap();
    fs::write(folder.join("tokenizer.json"), r#"{"model": {"vocab": {"a": 0, "b": 1}}}"#).unwrap();
}

/// All that does not tell where models are: weights, side files, and hashes of inputs.
#[track_caller]
fn assert_same_output(out: &std::path::Path, expected: &std::path::Path) {
    let (mut made, mut wanted) = (tree(out), tree(expected));
    let hashes = |tree: &std::collections::BTreeMap<PathBuf, Vec<u8>>| {
        let report: serde_json::Value = serde_json::from_slice(&tree[&PathBuf::from("taskvec.json")]).unwrap();
        let files = report["inputs"].as_array().unwrap().iter().map(|i| i["files"].clone());
        (files.collect::<Vec<_>>(), report["tensors"].clone(), report["layers"].clone())
    };
    assert_eq!(hashes(&made), hashes(&wanted));
    for name in ["README.md", "mergekit_config.yml", "taskvec.json", "merged.tvd"] {
        made.remove(&PathBuf::from(name));
        wanted.remove(&PathBuf::from(name));
    }
    assert_eq!(made.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    assert!(made == wanted, "{} differs", out.display());
}

#[test]
fn models_under_urls_give_the_bytes_of_local_ones() {
    let bench = Bench::new();
    for method in [
        "task_arithmetic",
        "ties\nlwptv: {eta: 0.5}\nparameters: {density: 0.3}",
        "dare_linear\nparameters: {density: 0.5}",
    ] {
        bench.recipe("local.yml", ".", method);
        bench.recipe("remote.yml", &bench.server.url, method);
        for (recipe, out) in [("local.yml", "x"), ("remote.yml", "y")] {
            let output = bench.merge(recipe, out);
            assert!(output.status.success(), "{method}: {}", String::from_utf8_lossy(&output.stderr));
        }
        assert_same_output(&bench.path("y"), &bench.path("x"));
        ["x", "y"].iter().for_each(|out| fs::remove_dir_all(bench.path(out)).unwrap());
    }
}

#[test]
fn a_pass_asks_for_every_byte_once_and_for_many_at_a_time() {
    let bench = Bench::new();
    // Long enough that those who are asked at once are under way at once.
    bench.server.fault(&["GET", "/model.safetensors"], 0, usize::MAX, Fault::Pause(100));
    bench.gives_the_same("out");
    let asked = bench.server.reset();
    let weights = asked.iter().filter(|a| a.line.starts_with("GET") && a.line.ends_with("model.safetensors"));
    let bytes: u64 = weights.clone().filter_map(|a| a.range).map(|(first, end)| end - first).sum();
    let files: u64 =
        ["a", "b"].map(|m| fs::metadata(bench.path(m).join("model.safetensors")).unwrap().len()).iter().sum();
    // Headers are read when the files are opened, with what follows them, and once more for the hashes.
    assert!((files..files + 2 * (65_536 + 2000)).contains(&bytes), "{bytes} of {files}");
    assert!(weights.count() < 40);
    assert!(bench.server.most_under_way() > 3, "{}", bench.server.most_under_way());
    let unmatched = asked.iter().filter(|a| a.range.is_some()).filter(|a| !a.headers.contains_key("if-match")).count();
    assert_eq!(unmatched, 0, "a range is asked for without saying of which state of the object");
}

#[test]
fn a_merge_outlives_what_servers_do() {
    let bench = Bench::new();
    let weights: &[&str] = &["GET", "a/model.safetensors"];
    for (i, (words, skip, times, fault)) in [
        (weights, 1, 3, Fault::Status(503)),
        (weights, 0, 2, Fault::Status(429)),
        (&["HEAD"][..], 0, 4, Fault::Status(500)),
        (&["config.json"][..], 0, 1, Fault::Status(503)),
        (weights, 1, 3, Fault::Short),
        (&["GET", "base/model-00000"][..], 1, 2, Fault::Short),
        (weights, 1, 3, Fault::Reset),
        (weights, 1, 1, Fault::Pause(300)),
        (weights, 2, 1, Fault::Pause(3000)),
        (&["model.safetensors"][..], 0, usize::MAX, Fault::NoEtag),
        (&["model.safetensors"][..], 0, usize::MAX, Fault::WeakTag),
    ]
    .into_iter()
    .enumerate()
    {
        bench.server.fault(words, skip, times, fault);
        bench.gives_the_same(&format!("out-{i}"));
        bench.server.reset();
    }
    // Both at once: an answer that breaks off, of which nothing tells that it is still the same object.
    bench.server.fault(&["GET", "a/model.safetensors"], 1, 2, Fault::ShortNoEtag);
    bench.server.fault(&["a/model.safetensors"], 0, usize::MAX, Fault::NoEtag);
    bench.gives_the_same("both");
}

#[test]
fn an_object_that_changes_is_noticed_and_named_with_both_etags() {
    let bench = Bench::new();
    let url = format!("{}/a/model.safetensors", bench.server.url);
    let words = [url.as_str(), "changed while it was read", "expected ETag \"first\"", "got ETag \"second\""];
    for fault in [Fault::OtherTag, Fault::Replaced] {
        // When its tensors are read: to look for an index, for the file, and to open it takes four requests.
        for skip in [4, 6] {
            bench.server.fault(&["a/model.safetensors"], skip, usize::MAX, fault);
            bench.refused(66, &words);
            bench.server.reset();
        }
    }
    // When all is read, before the output is published.
    bench.server.fault(&["HEAD", "a/model.safetensors"], 3, usize::MAX, Fault::OtherTag);
    bench.refused(66, &words);
    bench.server.reset();
    bench.server.fault(&["GET", "b/model.safetensors"], 1, usize::MAX, Fault::Status(404));
    bench.refused(66, &["b/model.safetensors", "changed"]);
}

#[test]
fn what_cannot_be_read_is_refused_with_a_reason_and_a_next_step() {
    let bench = Bench::new();
    let weights: &[&str] = &["a/model.safetensors"];
    for (words, fault, code, said) in [
        (weights, Fault::Status(404), 66, ["/a: neither model.safetensors.index.json nor", "name the weight file"]),
        (weights, Fault::Status(403), 66, ["access denied", "only what is public"]),
        (weights, Fault::Status(401), 66, ["access denied", "401"]),
        (weights, Fault::NoTag, 66, ["neither ETag nor Last-Modified", "fetch the model first"]),
        (weights, Fault::Whole, 66, ["does not answer range requests", "fetch the model first"]),
        (weights, Fault::Shifted, 74, ["a/model.safetensors", "Requested"]),
        (weights, Fault::Status(503), 74, ["a/model.safetensors", "503"]),
        (
            &["base/model-00001"][..],
            Fault::Status(404),
            66,
            ["base/model-00001-of-00003.safetensors", "no such object"],
        ),
        (&["config.json"][..], Fault::Status(403), 66, ["config.json", "access denied"]),
    ] {
        bench.server.fault(words, 0, usize::MAX, fault);
        bench.refused(code, &said);
        bench.server.reset();
    }
    bench.server.fault(&["GET", "b/model.safetensors"], 1, usize::MAX, Fault::Status(503));
    bench.refused(74, &["b/model.safetensors", "503", "no such luck"]);
}

#[test]
fn lengths_that_servers_tell_are_not_believed() {
    let bench = Bench::new();
    let file = bench.path("a/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    bytes[..8].copy_from_slice(&(1u64 << 62).to_le_bytes());
    fs::write(&file, bytes).unwrap();
    bench.refused(65, &["a/model.safetensors", "its header claims 4611686018427387904 bytes"]);
    let index = fs::File::create(bench.path("a/model.safetensors.index.json")).unwrap();
    index.set_len(65 << 20).unwrap();
    bench.refused(65, &["a/model.safetensors.index.json", "expected at most 67108864"]);
}

#[test]
fn no_secret_of_a_url_is_shown_or_kept() {
    let bench = Bench::new();
    let host = bench.server.url.strip_prefix("http://").unwrap();
    for url in [format!("http://user:geheim@{host}"), format!("http://{host}/x?X-Amz-Signature=geheim&a=")] {
        bench.recipe("secret.yml", &url, "task_arithmetic");
        for args in
            [&["merge", "secret.yml", "out", "-vv"][..], &["plan", "secret.yml", "--out", "run", "--partitions", "2"]]
        {
            let mut command = Command::cargo_bin("taskvec").unwrap();
            let output = command.current_dir(bench.folder.path()).args(args).env("TASKVEC_ALLOW_HTTP", "true");
            let output = output.output().unwrap();
            let message = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(2), "{message}");
            assert!(!message.contains("geheim") && message.contains("environment"), "{message}");
            assert!(!bench.path("out").exists() && !bench.path("run").exists());
        }
    }
    assert!(bench.server.reset().is_empty());
}

#[test]
fn what_is_not_encrypted_is_read_on_request_only() {
    let bench = Bench::new();
    bench.recipe("remote.yml", &bench.server.url, "task_arithmetic");
    let mut command = Command::cargo_bin("taskvec").unwrap();
    let output = command.current_dir(bench.folder.path()).args(["plan", "remote.yml"]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("TASKVEC_ALLOW_HTTP=true"), "{message}");
    assert!(bench.server.reset().is_empty());
}

#[test]
fn parts_of_remote_models_give_the_same_bytes_and_notice_a_change() {
    let bench = Bench::new();
    bench.recipe("remote.yml", &bench.server.url, "task_arithmetic\nlwptv: {eta: 0.5}");
    bench.recipe("local.yml", ".", "task_arithmetic\nlwptv: {eta: 0.5}");
    let done = |args: &[&str]| {
        let output = bench.taskvec(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let run = |args: &[&str]| {
        let output = bench.taskvec(&[args, &["--plan", "run"]].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    done(&["merge", "--no-delta", "local.yml", "out"]);
    let plan = ["plan", "remote.yml", "--out", "run", "--partitions", "2"];
    done(&plan);
    bench.server.fault(&["a/model.safetensors"], 0, usize::MAX, Fault::OtherTag);
    let (code, message) = run(&["part", "survey", "--part", "0"]);
    assert_eq!(code, Some(66), "{message}");
    assert!(message.contains("ETag \"first\" when it was planned, ETag \"second\" now"), "{message}");
    bench.server.reset();
    for stage in [
        &["part", "survey", "--part", "1"][..],
        &["part", "survey", "--part", "0"],
        &["reduce"],
        &["part", "merge", "--part", "0"],
        &["part", "merge", "--part", "1"],
        &["commit"],
    ] {
        let (code, message) = run(stage);
        assert_eq!(code, Some(0), "{stage:?}: {message}");
    }
    assert_same_output(&bench.path("run/model"), &bench.path("out"));
}

#[test]
fn adapters_under_urls_give_the_bytes_of_local_ones() {
    let case = fs::read_dir("fixtures/lora/peft").unwrap().map(|e| e.unwrap().path()).min().unwrap();
    let recipe = fs::read_to_string(case.join("recipe.yml")).unwrap();
    let server = Server::start(case.clone());
    let folder = tempfile::tempdir().unwrap();
    let merge = |text: &str, out: &str| {
        let path = folder.path().join("recipe.yml");
        fs::write(&path, text).unwrap();
        let output = Command::cargo_bin("taskvec")
            .unwrap()
            .env("TASKVEC_ALLOW_HTTP", "true")
            .args(["merge", "--quiet"])
            .arg(path)
            .arg(folder.path().join(out))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let here = case.canonicalize().unwrap().display().to_string();
    let absolute = |root: &str| {
        let mut text = recipe.clone();
        for name in fs::read_dir(&case).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()) {
            text = text.replace(&format!("./{name}"), &format!("{root}/{name}"));
        }
        text
    };
    assert!(absolute("X").contains("X/") && absolute("X").contains('+'), "{recipe}");
    merge(&absolute(&here), "local");
    merge(&absolute(&server.url), "remote");
    assert_same_output(&folder.path().join("remote"), &folder.path().join("local"));
}

#[test]
fn what_needs_files_says_so() {
    let bench = Bench::new();
    let url = format!("{}/base", bench.server.url);
    let other = format!("{}/a", bench.server.url);
    fs::write(
        bench.path("tokens.yml"),
        format!("merge_method: linear\ntokenizer_source: union\nmodels:\n- model: {url}\n- model: {other}\nparameters: {{weight: 1}}\n"),
    )
    .unwrap();
    fs::write(
        bench.path("delta.yml"),
        format!("merge_method: task_arithmetic\nbase_model: {url}\nmodels:\n- model: {other}.tvd\nparameters: {{weight: 1}}\n"),
    )
    .unwrap();
    for args in [
        &["diff", &url, &other, "-o", "x.tvd"][..],
        &["apply", &url, "x.tvd", "-o", "x"],
        &["merge", "delta.yml", "x"],
        &["merge", "tokens.yml", "x"],
        &["inspect", &format!("{other}.tvd")],
    ] {
        let mut command = Command::cargo_bin("taskvec").unwrap();
        let output = command.current_dir(bench.folder.path()).env("TASKVEC_ALLOW_HTTP", "true").args(args).output();
        let output = output.unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(66), "{args:?}: {message}");
        assert!(message.contains("is read from disks only; fetch it first"), "{args:?}: {message}");
    }
}

#[test]
fn buckets_are_read_at_their_endpoints_with_what_the_environment_says() {
    let bench = Bench::new();
    for (scheme, variables, signed) in [
        (
            "s3",
            &[
                ("AWS_ENDPOINT", ""),
                ("AWS_ALLOW_HTTP", "true"),
                ("AWS_REGION", "eu-central-1"),
                ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
                ("AWS_SECRET_ACCESS_KEY", "geheim"),
            ][..],
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/",
        ),
        ("s3", &[("AWS_ENDPOINT", ""), ("AWS_ALLOW_HTTP", "true"), ("AWS_SKIP_SIGNATURE", "true")][..], ""),
        ("gs", &[("GOOGLE_BASE_URL", ""), ("GOOGLE_ALLOW_HTTP", "true"), ("GOOGLE_SKIP_SIGNATURE", "true")][..], ""),
    ] {
        bench.recipe("bucket.yml", &format!("{scheme}:/"), "task_arithmetic");
        // The bucket is the first folder: base, a or b.
        let text = fs::read_to_string(bench.path("bucket.yml")).unwrap();
        fs::write(
            bench.path("bucket.yml"),
            text.replace("//base", "//base/model.safetensors.index.json")
                .replace("//a", "//a/model.safetensors")
                .replace("//b\n", "//b/model.safetensors\n"),
        )
        .unwrap();
        let mut command = Command::cargo_bin("taskvec").unwrap();
        command.current_dir(bench.folder.path()).args(["merge", "--quiet", "bucket.yml", "out"]);
        for (name, value) in variables {
            command.env(name, if value.is_empty() { bench.server.url.as_str() } else { value });
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{variables:?}: {}", String::from_utf8_lossy(&output.stderr));
        let asked = bench.server.reset();
        let authorized =
            |a: &common::server::Asked| a.headers.get("authorization").is_some_and(|h| h.starts_with(signed));
        assert!(asked.iter().all(|a| if signed.is_empty() {
            !a.headers.contains_key("authorization")
        } else {
            authorized(a)
        }));
        for (name, content) in tree(&bench.path("out")) {
            assert!(!content.windows(6).any(|w| w == b"geheim"), "{}", name.display());
        }
        assert_eq!(Model::read(&bench.path("out/model.safetensors")), expected(&bench));
        fs::remove_dir_all(bench.path("out")).unwrap();
    }
}

fn expected(bench: &Bench) -> Model {
    if !bench.path("expected").exists() {
        bench.recipe("local.yml", ".", "task_arithmetic");
        assert!(bench.merge("local.yml", "expected").status.success());
    }
    Model::read(&bench.path("expected/model.safetensors"))
}
