//! Small or cheap inputs that ask for much: each is refused with a documented exit code under a limit of 400 MB of address
//! space (`ulimit -v`), beyond which every allocation fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::Model;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

const KILOBYTES: u64 = 400_000_000 / 1024;

const RECIPE: &str = "merge_method: task_arithmetic\n\
    base_model: ./base\n\
    models:\n\
    - {model: ./a, parameters: {weight: 0.5}}\n";

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let model = Model::default().f32("model.embed_tokens.weight", &[1.0, 2.0]);
        ["base", "a"].iter().for_each(|name| model.write(&bench.path(name).join("model.safetensors")));
        bench.write("recipe.yml", RECIPE);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    /// A file of so many bytes, most of them a hole.
    fn hole(&self, name: &str, bytes: u64) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        File::create(self.path(name)).unwrap().set_len(bytes).unwrap();
    }

    /// Expert `a` with this header, and data as long as it says.
    fn header(&self, json: &str, data: u64) {
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend(json.as_bytes());
        let path = self.path("a/model.safetensors");
        fs::write(&path, &file).unwrap();
        File::options().write(true).open(path).unwrap().set_len(file.len() as u64 + data).unwrap();
    }

    /// A merge under the limit ends with `code` and says all of `words`.
    #[track_caller]
    fn refused(&self, code: i32, words: &[&str]) {
        let (recipe, out) = (self.path("recipe.yml"), self.path("out"));
        self.refused_args(&["merge", recipe.to_str().unwrap(), out.to_str().unwrap(), "-j", "1"], code, words);
    }

    #[track_caller]
    fn refused_args(&self, args: &[&str], code: i32, words: &[&str]) {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -v {KILOBYTES}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_taskvec")]);
        let run = command.args(args).env("MALLOC_ARENA_MAX", "1").output().unwrap();
        let message = String::from_utf8_lossy(&run.stderr);
        let shown = message.chars().take(2000).collect::<String>();
        assert_eq!(run.status.code(), Some(code), "{shown}");
        assert!(message.len() < 20_000, "{} bytes of message: {shown}", message.len());
        words.iter().for_each(|w| assert!(message.contains(w), "`{w}` is not in the message:\n{shown}"));
        assert!(!self.path("out").exists());
    }
}

/// Entries without elements, `count` of them.
fn entries(count: usize, name: impl Fn(usize) -> String) -> String {
    let mut json = String::from("{");
    for i in 0..count {
        let comma = if i == 0 { "" } else { "," };
        write!(json, r#"{comma}"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, name(i)).unwrap();
    }
    json + "}"
}

#[test]
fn a_header_of_100_mb_of_tiny_entries_is_refused() {
    let bench = Bench::new();
    bench.header(&entries(1_700_000, |i| format!("{i:x}")), 0);
    bench.refused(65, &["a/model.safetensors", "3 times its length"]);
}

#[test]
fn a_million_names_are_a_table_of_ten_differences_and_a_count() {
    let bench = Bench::new();
    bench.header(&entries(1_000_000, |i| format!("layers.{i}.weight")), 0);
    bench.refused(65, &["model.embed_tokens.weight", "and 999991 more"]);
}

#[test]
fn a_name_of_100_mb_and_a_header_that_is_longer_are_refused() {
    let bench = Bench::new();
    bench.header(&entries(1, |_| "n".repeat(99_000_000)), 0);
    bench.refused(65, &["a/model.safetensors", "99000000 bytes long; expected 1 to 1024"]);
    bench.header(&entries(1, |_| "\\n".repeat(40_000_000)), 0);
    bench.refused(65, &["a/model.safetensors", "expected 1 to 1024"]);
    bench.header(&(entries(1, |_| "w".into()) + &" ".repeat(100_000_001)), 0);
    bench.refused(65, &["a/model.safetensors", "expected 2 to 100000000"]);
}

#[test]
fn a_rank_of_a_million_is_refused() {
    let bench = Bench::new();
    let shape = vec!["1"; 1_000_000].join(",");
    bench.header(&format!(r#"{{"w":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,1]}}}}"#), 1);
    bench.refused(65, &["a/model.safetensors", "at most 64"]);
}

#[test]
fn shapes_and_offsets_that_add_up_beyond_64_bits_are_refused() {
    let bench = Bench::new();
    let (half, eighth, most) = (1u64 << 63, 1u64 << 61, u64::MAX);
    for json in [
        format!(r#"{{"w":{{"dtype":"F64","shape":[{eighth}],"data_offsets":[0,0]}}}}"#),
        format!(r#"{{"w":{{"dtype":"U8","shape":[{eighth},8],"data_offsets":[0,0]}}}}"#),
        format!(r#"{{"w":{{"dtype":"U8","shape":[0,{most},{most}],"data_offsets":[0,0]}}}}"#),
        format!(
            r#"{{"v":{{"dtype":"U8","shape":[{half}],"data_offsets":[0,{half}]}},"w":{{"dtype":"U8","shape":[{half}],"data_offsets":[{half},0]}}}}"#
        ),
        format!(
            r#"{{"v":{{"dtype":"U8","shape":[{most}],"data_offsets":[0,{most}]}},"w":{{"dtype":"U8","shape":[0],"data_offsets":[{most},{most}]}}}}"#
        ),
    ] {
        bench.header(&json, 0);
        let taken = json.contains(&format!("[0,{most},{most}]"));
        bench.refused(65, if taken { &["fit together"] } else { &["a/model.safetensors"] });
    }
}

#[test]
fn deep_nesting_in_json_is_refused() {
    let bench = Bench::new();
    let deep = "[".repeat(5_000_000);
    bench.header(&format!(r#"{{"w":{{"dtype":"U8","shape":{deep}"#), 0);
    bench.refused(65, &["a/model.safetensors", "bad safetensors header"]);
    bench.header(&format!(r#"{{"w":{{"x":{deep}"#), 0);
    bench.refused(65, &["a/model.safetensors", "bad safetensors header"]);
    fs::remove_file(bench.path("a/model.safetensors")).unwrap();
    bench.write("a/model.safetensors.index.json", &format!(r#"{{"metadata":{deep}"#));
    bench.refused(65, &["a/model.safetensors.index.json", "bad shard index"]);
}

#[test]
fn every_small_file_has_a_largest_length() {
    let adapter = RECIPE.replace("./a", "./a+./lora");
    let tokens = format!("{RECIPE}tokenizer_source: union\n");
    let coefficients = format!("{RECIPE}coefficients: c.json\n");
    for (recipe, file, bytes) in [
        (RECIPE, "a/model.safetensors.index.json", (64 << 20) + 1),
        (RECIPE, "a/config.json", (16 << 20) + 1),
        (&adapter, "lora/adapter_config.json", (1 << 20) + 1),
        (&tokens, "a/tokenizer.json", (64 << 20) + 1),
        (&coefficients, "c.json", (64 << 20) + 1),
    ] {
        let bench = Bench::new();
        bench.write("recipe.yml", recipe);
        bench.hole(file, bytes);
        bench.write("base/tokenizer.json", r#"{"model": {"vocab": {"a": 0, "b": 1}}}"#);
        bench.refused(65, &[file, &format!("{bytes} bytes long; expected at most {}", bytes - 1)]);
    }
    let bench = Bench::new();
    bench.hole("recipe.yml", (4 << 20) + 1);
    bench.refused(65, &["recipe.yml", "4.19 MB long; a recipe has at most 4.19 MB"]);
    let bench = Bench::new();
    bench.hole("made/taskvec.json", (64 << 20) + 1);
    bench.refused_args(&["verify", bench.path("made").to_str().unwrap()], 66, &["made/taskvec.json"]);
}

#[test]
fn recipes_that_grow_when_they_are_read_are_refused() {
    let bench = Bench::new();
    let aliases = fs::read_to_string("fixtures/broken/alias_bomb.yml").unwrap();
    let many_keys: String = (0..300_000).fold(String::new(), |text, i| text + &format!("k{i}: 1\n"));
    let patterns: String = (0..100_000).fold(String::new(), |text, _| text + "- {filter: mlp, value: 1}\n");
    for recipe in [
        aliases,
        "k".repeat(4_000_000) + ": 1\n",
        many_keys,
        format!("merge_method: linear\nmodels: {}", "[".repeat(4_000_000)),
        format!("merge_method: linear\nparameters:\n  weight:\n{patterns}  nonsense: 1\nmodels: []\n"),
        "---\na: &a [1]\n".repeat(200_000),
    ] {
        bench.write("recipe.yml", &recipe);
        bench.refused(2, &["recipe.yml"]);
    }
}

#[test]
fn coefficients_for_fifty_thousand_tensors_are_read_and_those_that_do_not_fit_refused() {
    let bench = Bench::new();
    bench.write("recipe.yml", &format!("{RECIPE}coefficients: c.json\n"));
    let rows = |last: &str| {
        let rows = (0..50_000).fold(String::new(), |text, i| text + &format!("\"layers.{i}.weight\": [0.5],\n"));
        format!("{{\"layers\": {{{rows} \"last\": {last}}}}}")
    };
    bench.write("c.json", &rows("[0.5, 0.25, 1]"));
    bench.refused(2, &["c.json", "expected 1 numbers"]);
}

#[test]
fn adapters_with_expressions_that_grow_when_compiled_are_refused() {
    let bench = Bench::new();
    bench.write("recipe.yml", &RECIPE.replace("./a", "./a+./lora"));
    let config = |patterns: &str| {
        format!(r#"{{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "rank_pattern": {{{patterns}}}}}"#)
    };
    bench.write("lora/adapter_config.json", &config(r#""(\\w{1000}){1000}": 1"#));
    bench.refused(65, &["lora/adapter_config.json", "too large together"]);
    let many: Vec<String> = (0..20_000).map(|i| format!(r#""{i}\\w{{50}}": 1"#)).collect();
    bench.write("lora/adapter_config.json", &config(&many.join(",")));
    bench.refused(65, &["lora/adapter_config.json", "too large together"]);
}

#[test]
fn a_tokenizer_with_a_million_words_of_one_id_is_refused() {
    let bench = Bench::new();
    bench.write("recipe.yml", &format!("{RECIPE}tokenizer_source: union\n"));
    bench.write("base/tokenizer.json", r#"{"model": {"vocab": {"a": 0, "b": 1}}}"#);
    let words = (0..1_000_000).fold(String::new(), |text, i| text + &format!("\"w{i}\": 7,"));
    bench.write("a/tokenizer.json", &format!(r#"{{"model": {{"vocab": {{{words} "last": 7}}}}}}"#));
    bench.refused(65, &["a/tokenizer.json", "two tokens have id 7"]);
}
