//! The output's tokens and their rows. What is expected comes from mergekit 0.1.5 (`fixtures/make_tokenizer.py`).

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Model, Tensor, apply_run, merge, merge_recipe, options, tree};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use taskvec::job;
use taskvec::plan::{Options, Plan};
use taskvec::recipe::Recipe;
use taskvec::source::{Io, Links};
use tempfile::TempDir;

const FIXTURES: &str = "fixtures/tokenizer";
const EMBEDDINGS: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];
const MODELS: &str = "models:\n- {model: ./a, parameters: {weight: 0.5}}\n- {model: ./b, parameters: {weight: 0.25}}\n";

fn recipe(tail: &str) -> String {
    format!("merge_method: task_arithmetic\nbase_model: ./base\n{MODELS}{tail}\n")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    assert_eq!(t.dtype, "F32");
    t.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The rows of an embedding.
fn rows(model: &Model, name: &str) -> Vec<Vec<f32>> {
    let t = model.tensors.iter().find(|t| t.name == name).unwrap();
    let width = usize::try_from(t.shape[1]).unwrap();
    values(t).chunks(width).map(<[f32]>::to_vec).collect()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs().max(1.0))
}

/// Ids by token.
fn ids(tokenizer: &Path) -> BTreeMap<String, usize> {
    let file = json(tokenizer);
    let words = file["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (t.clone(), id.clone()));
    let added = file["added_tokens"].as_array().unwrap();
    let added = added.iter().map(|t| (t["content"].as_str().unwrap().to_owned(), t["id"].clone()));
    words.chain(added).map(|(t, id)| (t, usize::try_from(id.as_u64().unwrap()).unwrap())).collect()
}

/// The added tokens of a file, without their ids.
fn added(tokens: &Value) -> BTreeSet<String> {
    let without_id = |t: &Value| {
        let mut t = t.as_object().unwrap().clone();
        t.remove("id");
        Value::Object(t.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()).to_string()
    };
    tokens.as_array().unwrap().iter().map(without_id).collect()
}

/// A folder with copies of the fixtures' models, to be changed.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["base", "a", "b"] {
            for (path, content) in tree(&Path::new(FIXTURES).join(name)) {
                let to = folder.path().join(name).join(path);
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::write(to, content).unwrap();
            }
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn plan(&self, text: &str) -> taskvec::Result<Plan> {
        job::plan(Recipe::parse(text)?, self.0.path(), Links::Inside, options())
    }

    fn merge(&self, text: &str, out: &str) -> Model {
        merge(Recipe::parse(text).unwrap(), self.0.path(), &self.path(out), options(), Io::Mmap).unwrap();
        Model::read(&self.path(out).join("model.safetensors"))
    }

    #[track_caller]
    fn refused(&self, text: &str, code: u8, parts: &[&str]) {
        let error = self.plan(text).map(|p| p.to_string()).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.exit_code(), code, "{message}");
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }

    fn edit_tokenizer(&self, model: &str, edit: impl Fn(&mut Value)) {
        let path = self.path(model).join("tokenizer.json");
        let mut file = json(&path);
        edit(&mut file);
        fs::write(path, file.to_string()).unwrap();
    }

    /// Gives embeddings rows of so many elements, so that tiles end inside of rows.
    fn widen_embeddings(&self, width: usize) {
        for (seed, model) in ["base", "a", "b"].into_iter().enumerate() {
            self.edit_weights(model, |t| {
                if EMBEDDINGS.contains(&t.name.as_str()) {
                    t.shape[1] = width as u64;
                    let count = usize::try_from(t.shape[0]).unwrap() * width;
                    let value = |i: usize| (i % 997) as f32 + seed as f32 * 1000.0;
                    t.bytes = (0..count).flat_map(|i| value(i).to_le_bytes()).collect();
                }
            });
        }
    }

    fn edit_weights(&self, model: &str, edit: impl Fn(&mut Tensor)) {
        let path = self.path(model).join("model.safetensors");
        let mut weights = Model::read(&path);
        weights.tensors.iter_mut().for_each(edit);
        weights.write(&path);
    }
}

/// Rows that are not the same from run to run in mergekit: those that dare draws for, and those whose variances tie.
fn decided_otherwise(case: &str, token: Option<&str>) -> bool {
    let untouched = ["w5", "w6", "zz", "<|pad|>"];
    match case {
        "document_3" => !token.is_some_and(|t| untouched.contains(&t)),
        "document_11" => token.is_none(),
        _ => false,
    }
}

#[test]
fn every_token_has_the_row_that_mergekit_gives_it() {
    let cases = json(&Path::new(FIXTURES).join("golden/cases.json"));
    let out = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for (case, golden) in cases.as_object().unwrap() {
        let folder = out.path().join(case);
        merge_recipe(&Path::new(FIXTURES).join(format!("{case}.yml")), &folder).unwrap();
        let ours = Model::read(&folder.join("model.safetensors"));
        let theirs = Model::read(&Path::new(FIXTURES).join(format!("golden/{case}.safetensors")));
        let our_ids = ids(&folder.join("tokenizer.json"));
        let their_ids: BTreeMap<String, usize> = serde_json::from_value(golden["ids"].clone()).unwrap();
        assert_eq!(our_ids.keys().collect::<Vec<_>>(), their_ids.keys().collect::<Vec<_>>(), "{case}");
        assert_eq!(json(&folder.join("config.json"))["vocab_size"], golden["vocab_size"], "{case}");
        assert_eq!(
            added(&json(&folder.join("tokenizer.json"))["added_tokens"]),
            added(&golden["added_tokens"]),
            "{case}"
        );
        for name in EMBEDDINGS {
            let (ours, theirs) = (rows(&ours, name), rows(&theirs, name));
            assert_eq!(ours.len(), theirs.len(), "{case}");
            for (token, id) in our_ids.iter().filter(|(t, _)| !decided_otherwise(case, Some(t))) {
                let (a, b) = (&ours[*id], &theirs[their_ids[token]]);
                assert!(close(a, b), "{case}: {name}: {token}: {a:?} and {b:?}");
                compared += 1;
            }
            let padding = ours.iter().zip(&theirs).skip(our_ids.len());
            for (a, b) in padding.filter(|_| !decided_otherwise(case, None)) {
                assert!(close(a, b), "{case}: {name}: padding: {a:?} and {b:?}");
            }
        }
    }
    assert!(compared > 300, "{compared}");
}

#[test]
fn other_tensors_are_merged_as_without_the_key() {
    let bench = Bench::new();
    let ours = bench.merge(&recipe("tokenizer_source: union"), "out");
    let theirs = Model::read(&Path::new(FIXTURES).join("golden/union.safetensors"));
    for t in theirs.tensors.iter().filter(|t| !EMBEDDINGS.contains(&t.name.as_str())) {
        let mine = ours.tensors.iter().find(|o| o.name == t.name).unwrap();
        assert!(close(&values(mine), &values(t)), "{}", t.name);
    }
}

#[test]
fn ids_are_the_sources_own_and_new_ones_follow_in_the_order_of_models() {
    let bench = Bench::new();
    bench.merge(&recipe("tokenizer_source: ./a"), "a_out");
    assert_eq!(ids(&bench.path("a_out/tokenizer.json")), ids(&bench.path("a/tokenizer.json")));
    bench.merge(&recipe("tokenizer_source: union"), "out");
    let mut all: Vec<(usize, String)> =
        ids(&bench.path("out/tokenizer.json")).into_iter().map(|(t, i)| (i, t)).collect();
    all.sort();
    let order: Vec<&str> = all.iter().map(|(_, t)| t.as_str()).collect();
    let new = ["w5", "w6", "<|im_start|>", "<|pad|>", "zz"];
    assert_eq!(order[..8], ["<unk>", "<s>", "</s>", "w0", "w1", "w2", "w3", "w4"]);
    assert_eq!(order[8..], new);
    assert_eq!(all.iter().map(|(i, _)| *i).collect::<Vec<_>>(), (0..13).collect::<Vec<_>>());
}

#[test]
fn threads_tiles_and_kinds_of_reading_do_not_show() {
    let bench = Bench::new();
    bench.widen_embeddings(3001);
    for (name, tail) in [
        ("union", "tokenizer: {source: union, pad_to_multiple_of: 8}\nlwptv: {eta: 0.5}"),
        ("ties", "tokenizer: {source: ./a, pad_to_multiple_of: 64}\nparameters: {density: 0.5}"),
    ] {
        let text = recipe(tail).replace("task_arithmetic", if name == "ties" { "ties" } else { "task_arithmetic" });
        let run = |out: &str, options: Options, io: Io| {
            merge(Recipe::parse(&text).unwrap(), bench.0.path(), &bench.path(out), options, io).unwrap();
            fs::read(bench.path(out).join("model.safetensors")).unwrap()
        };
        let want = run(&format!("{name}_1"), Options { threads: 1, ..options() }, Io::Mmap);
        let small = Options { threads: 3, tile_elements: Some(1), wave_bytes: Some(1), ..options() };
        assert_eq!(run(&format!("{name}_2"), small, Io::Pread), want, "{name}");
        assert_eq!(run(&format!("{name}_3"), Options { memory_bytes: 128 << 20, ..small }, Io::Mmap), want, "{name}");
    }
}

#[test]
fn embeddings_of_many_tiles_are_gathered_whole() {
    let bench = Bench::new();
    bench.widen_embeddings(3001);
    let only_a = recipe("tokenizer_source: ./a").replace("0.5", "1").replace("0.25", "0");
    let text = Recipe::parse(&only_a).unwrap();
    let small = Options { threads: 3, tile_elements: Some(2048), ..options() };
    merge(text, bench.0.path(), &bench.path("out"), small, Io::Pread).unwrap();
    let got = Model::read(&bench.path("out/model.safetensors"));
    let a = Model::read(&bench.path("a/model.safetensors"));
    for name in EMBEDDINGS {
        assert!(rows(&got, name) == rows(&a, name)[..11], "{name}");
    }
}

#[test]
fn pruned_embeddings_are_the_bases_rows_in_the_new_order() {
    let bench = Bench::new();
    // So much that copies would be left to the kernel.
    bench.widen_embeddings(20_011);
    let got = bench.merge(&recipe("tokenizer_source: ./a\nlwptv: {eta: 1}"), "out");
    let base = Model::read(&bench.path("base/model.safetensors"));
    let (old, new) = (ids(&bench.path("base/tokenizer.json")), ids(&bench.path("out/tokenizer.json")));
    for name in EMBEDDINGS {
        let (got, base) = (rows(&got, name), rows(&base, name));
        for (token, id) in new.iter().filter(|(t, _)| old.contains_key(*t)) {
            assert!(got[*id] == base[old[token]], "{name}: {token}");
        }
    }
}

#[test]
fn rows_of_other_dtypes_are_widened_exactly_and_the_output_has_the_bases_dtype() {
    let bench = Bench::new();
    let want = {
        // Values that bfloat16 holds, so that both runs see the same numbers.
        bench.edit_weights("a", |t| t.bytes.chunks_exact_mut(4).for_each(|b| b[..2].fill(0)));
        bench.merge(&recipe("tokenizer_source: union"), "f32")
    };
    bench.edit_weights("a", |t| {
        t.dtype = "BF16".into();
        t.bytes = t.bytes.chunks_exact(4).flat_map(|b| [b[2], b[3]]).collect();
    });
    let got = bench.merge(&recipe("tokenizer_source: union"), "mixed");
    assert!(got.tensors.iter().all(|t| t.dtype == "F32"));
    assert_eq!(got, want);
    let narrow = bench.merge(&recipe("tokenizer_source: union\nout_dtype: bfloat16"), "bf16");
    assert!(narrow.tensors.iter().all(|t| t.dtype == "BF16"));
    assert_eq!(json(&bench.path("bf16/config.json"))["torch_dtype"], "bfloat16");
}

#[test]
fn documents_3_and_11_of_the_dialect_run_as_they_stand() {
    for (name, count) in [("document_3", 13), ("document_11", 64)] {
        let bench = Bench::new();
        let text = fs::read_to_string(Path::new(FIXTURES).join(format!("{name}.yml"))).unwrap();
        let got = bench.merge(&text.replace("float32", "bfloat16"), "out");
        for t in got.tensors.iter().filter(|t| EMBEDDINGS.contains(&t.name.as_str())) {
            assert_eq!((t.shape.as_slice(), t.dtype.as_str()), ([count, 8].as_slice(), "BF16"));
        }
    }
}

// Files.

#[test]
fn tokenizer_files_are_those_of_the_source_byte_for_byte() {
    let bench = Bench::new();
    fs::write(bench.path("a/special_tokens_map.json"), "{}").unwrap();
    fs::write(bench.path("base/vocab.json"), "{}").unwrap();
    bench.merge(&recipe("tokenizer_source: ./a"), "out");
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        assert_eq!(fs::read(bench.path("out").join(name)).unwrap(), fs::read(bench.path("a").join(name)).unwrap());
    }
    assert!(!bench.path("out/vocab.json").exists(), "the base's words are not those of `a`");
    assert_eq!(json(&bench.path("out/config.json"))["bos_token_id"], 1);
}

#[test]
fn files_that_would_miss_the_new_tokens_are_left_out() {
    let bench = Bench::new();
    fs::write(bench.path("base/vocab.json"), "{}").unwrap();
    fs::write(bench.path("base/special_tokens_map.json"), "{}").unwrap();
    bench.merge(&recipe("tokenizer_source: union"), "out");
    assert!(!bench.path("out/vocab.json").exists());
    assert!(bench.path("out/special_tokens_map.json").exists());
}

#[test]
fn a_chat_template_goes_to_the_file_that_transformers_reads_and_to_no_other() {
    let bench = Bench::new();
    let config = bench.path("base/tokenizer_config.json");
    fs::write(&config, r#"{"chat_template": "old", "eos_token": "</s>"}"#).unwrap();
    let shape = recipe("tokenizer_source: base\nchat_template: '{{ messages }}'");
    bench.merge(&shape, "out");
    assert_eq!(fs::read_to_string(bench.path("out/chat_template.jinja")).unwrap(), "{{ messages }}");
    assert_eq!(json(&bench.path("out/tokenizer_config.json")), serde_json::json!({"eos_token": "</s>"}));
}

#[test]
fn auto_takes_the_chat_template_that_most_models_have() {
    let bench = Bench::new();
    fs::write(bench.path("base/chat_template.jinja"), "{{ 'one' }}").unwrap();
    fs::write(bench.path("a/chat_template.jinja"), "{{ 'two' }}").unwrap();
    let config = bench.path("b/tokenizer_config.json");
    fs::write(config, r#"{"chat_template": [{"name": "default", "template": "{{ 'two' }}"}]}"#).unwrap();
    bench.merge(&recipe("tokenizer_source: base\nchat_template: auto"), "out");
    assert_eq!(fs::read_to_string(bench.path("out/chat_template.jinja")).unwrap(), "{{ 'two' }}");
}

#[test]
fn mergekits_flags_leave_out_the_tokenizer_and_the_card() {
    let bench = Bench::new();
    let plain = "merge_method: linear\nmodels: [{model: ./a, parameters: {weight: 1}}]\n";
    let run = |text: &str, out: &str| {
        fs::write(bench.path("r.yml"), text).unwrap();
        let mut command = assert_cmd::Command::cargo_bin("taskvec").unwrap();
        let flags = ["--no-copy-tokenizer", "--no-write-model-card", "--quiet"];
        command.arg("merge").args([bench.path("r.yml"), bench.path(out)]).args(flags).assert().success();
        tree(&bench.path(out)).into_keys().map(|p| p.display().to_string()).collect::<Vec<_>>()
    };
    let files = ["config.json", "mergekit_config.yml", "model.safetensors", "taskvec.json"];
    assert_eq!(run(plain, "plain"), files);
    let settled = run(&format!("{plain}tokenizer_source: base\n"), "settled");
    assert!(settled.contains(&"tokenizer.json".to_owned()), "{settled:?}");
}

// Delta files.

#[test]
fn a_delta_is_written_where_the_base_keeps_its_rows() {
    let bench = Bench::new();
    let plan = bench.plan(&recipe("tokenizer_source: base")).unwrap();
    assert!(plan.writes_delta());
    bench.merge(&recipe("tokenizer_source: base"), "out");
    let restored = bench.path("restored");
    let base = bench.path("base");
    job::apply(base.to_str().unwrap(), &bench.path("out/merged.tvd"), &restored, &apply_run()).unwrap();
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        assert_same_file(&bench.path("out").join(name), &restored.join(name));
    }
    let plan = bench.plan(&recipe("tokenizer_source: union")).unwrap();
    assert!(!plan.writes_delta());
    assert!(plan.to_string().contains("no delta file is written"), "{plan}");
}

#[track_caller]
fn assert_same_file(a: &Path, b: &Path) {
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
}

#[test]
fn a_delta_file_has_its_bases_tokens_and_cannot_be_put_in_another_order() {
    let bench = Bench::new();
    fs::create_dir(bench.path("tuned")).unwrap();
    for (path, content) in tree(&bench.path("base")) {
        fs::write(bench.path("tuned").join(path), content).unwrap();
    }
    bench.edit_weights("tuned", |t| t.bytes.iter_mut().step_by(4).for_each(|b| *b ^= 1));
    let delta = bench.path("tuned.tvd");
    let codec = common::diff_run(taskvec::codec::Codec::Auto);
    let [base, tuned] = ["base", "tuned"].map(|name| bench.path(name).display().to_string());
    job::diff(&base, None, &tuned, &delta, &codec).unwrap();
    let from_delta = recipe("tokenizer_source: base").replace("./a", "./tuned.tvd");
    let from_model = recipe("tokenizer_source: base").replace("./a", "./tuned");
    assert_eq!(bench.merge(&from_delta, "one"), bench.merge(&from_model, "two"));
    let union = from_delta.replace("source: base", "source: union");
    bench.refused(&union, 65, &["tuned.tvd", "restore the model with taskvec apply"]);
}

// Refusals and notes.

#[test]
fn vocabularies_of_other_size_are_refused_with_the_keys_to_write() {
    let parts = ["lm_head.weight", "[8, 8]", "[16, 8]", "tokenizer_source: base", "tokenizer_source: union"];
    Bench::new().refused(&recipe(""), 65, &parts);
}

#[test]
fn other_ids_without_a_tokenizer_key_are_noted() {
    let bench = Bench::new();
    let cut = |t: &mut Tensor| {
        if EMBEDDINGS.contains(&t.name.as_str()) {
            t.shape[0] = 8;
            t.bytes.truncate(8 * 8 * 4);
        }
    };
    bench.edit_weights("a", cut);
    let one = recipe("").replace("- {model: ./b, parameters: {weight: 0.25}}\n", "");
    let note = "`./a` gives 4 tokens other ids than `./base` does";
    let plan = bench.plan(&one).unwrap();
    assert!(plan.to_string().contains(note), "{plan}");
    fs::copy(bench.path("base/tokenizer.json"), bench.path("a/tokenizer.json")).unwrap();
    assert!(!bench.plan(&one).unwrap().to_string().contains("other ids"));
}

#[test]
fn a_model_without_tokenizer_json_is_refused_with_the_way_to_make_one() {
    let bench = Bench::new();
    fs::remove_file(bench.path("b/tokenizer.json")).unwrap();
    bench.refused(&recipe("tokenizer_source: base"), 66, &["b/tokenizer.json", "save_pretrained"]);
}

#[test]
fn a_tokenizer_key_that_cannot_be_followed_is_refused_with_2() {
    let bench = Bench::new();
    let block = |inside: &str| recipe(&format!("tokenizer: {{source: ./a, {inside}}}"));
    let rule = |inside: &str| block(&format!("tokens: {{w5: {inside}}}"));
    for (text, parts) in [
        (recipe("tokenizer_source: base\ntokenizer: {source: union}"), &["tokenizer_source is given too"] as &[&str]),
        (recipe("tokenizer_source: ./c"), &["`./c` is not a model of this merge", "./base, ./a, ./b"]),
        (block("pad_to_multiple_off: 8"), &["did you mean `pad_to_multiple_of`"]),
        (block("pad_to_multiple_of: 0"), &["expected a whole number, at least 1"]),
        (rule("{source: ./b}"), &["tokenizer.tokens.w5", "`./b` has no token \"w5\""]),
        (rule("{force: true}"), &["`source` is missing"]),
        (rule("{source: {kind: zeros}}"), &["did you mean `zero`"]),
        (rule("{source: {kind: model_token, model: ./b}}"), &["expected either `token` or `token_id`"]),
        (rule("{source: {kind: model_token, model: ./b, token: w6, token_id: 5}}"), &["either `token` or `token_id`"]),
        (rule("{source: {kind: model_token, model: ./b, token_id: 10}}"), &["`./b` has no row 10", "have 10"]),
        (rule("{source: {kind: model_token, model: ./b, token: w4}}"), &["`./b` has no token \"w4\""]),
        (recipe("chat_template: chatlm"), &["did you mean `chatml`", "Jinja"]),
    ] {
        bench.refused(&text, 2, parts);
    }
}

#[test]
fn a_tokenizer_file_that_contradicts_itself_is_refused_with_65() {
    let text = recipe("tokenizer_source: base");
    let refused = |edit: &dyn Fn(&mut Value), part: &str| {
        let bench = Bench::new();
        bench.edit_tokenizer("a", edit);
        bench.refused(&text, 65, &["a/tokenizer.json", part]);
    };
    refused(&|f| f["model"]["vocab"]["w5"] = 3.into(), "two tokens have id 3");
    refused(&|f| f["added_tokens"][4]["id"] = 12.into(), "has id 12, but the tokenizers library gives it 10");
    refused(&|f| f["model"]["vocab"] = 5.into(), "not a tokenizer: invalid type");
    refused(&|f| *f = serde_json::json!({}), "missing field `model`");
    let bench = Bench::new();
    let path = bench.path("a/tokenizer.json");
    let broken = fs::read_to_string(&path).unwrap().replacen("\"w1\"", "\"w0\"", 1);
    fs::write(&path, broken).unwrap();
    bench.refused(&text, 65, &["token \"w0\" stands twice"]);
    fs::File::options().write(true).open(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    bench.refused(&text, 65, &["expected at most 67108864"]);
}

#[test]
fn tokens_cannot_be_added_where_ids_have_gaps() {
    let bench = Bench::new();
    bench.edit_weights("base", |t| {
        if EMBEDDINGS.contains(&t.name.as_str()) {
            t.shape[0] = 12;
            t.bytes.resize(12 * 8 * 4, 0);
        }
    });
    bench.edit_tokenizer("base", |f| f["model"]["vocab"]["h10"] = 10.into());
    bench.refused(&recipe("tokenizer_source: union"), 65, &["base/tokenizer.json", "its ids have gaps"]);
    let got = bench.merge(&recipe("tokenizer_source: base"), "out");
    assert_eq!(rows(&got, "lm_head.weight").len(), 11);
    assert_eq!(rows(&got, "lm_head.weight")[8], [0.0; 8], "no token has this id");
}

#[test]
fn tokens_beyond_a_models_rows_are_left_out_and_noted() {
    let bench = Bench::new();
    bench.edit_tokenizer("base", |f| f["model"]["vocab"]["w9"] = 8.into());
    let plan = bench.plan(&recipe("tokenizer_source: base")).unwrap();
    assert!(plan.to_string().contains("`./base`: beyond its 8 rows, so left out: token \"w9\""), "{plan}");
    assert_eq!(plan.vocabulary.as_ref().unwrap().rows, 8);
}

#[test]
fn a_merge_without_embeddings_refuses_the_key() {
    let bench = Bench::new();
    bench.edit_weights("base", |t| t.name = t.name.replace("embed_tokens", "words").replace("lm_head", "out"));
    bench.refused(&recipe("tokenizer_source: base"), 2, &["`./base` has no tensor that is known as an embedding"]);
}

#[test]
fn a_merge_that_has_no_embeddings_at_all_takes_the_base_and_says_so() {
    let bench = Bench::new();
    let one = recipe("tokenizer_source: base").replace("- {model: ./b, parameters: {weight: 0.25}}\n", "");
    for model in ["base", "a"] {
        bench.edit_weights(model, |t| {
            if EMBEDDINGS.contains(&t.name.as_str()) {
                t.name = t.name.replace("embed_tokens", "words").replace("lm_head", "out");
                t.shape[0] = 8;
                t.bytes.truncate(8 * 8 * 4);
            }
        });
    }
    assert!(bench.plan(&one).unwrap().to_string().contains("tokenizer_source: base changes nothing"));
    bench.refused(&one.replace("source: base", "source: union"), 2, &["`./base` has no tensor"]);
}

#[test]
fn special_ids_that_the_new_tokens_shift_are_noted() {
    let bench = Bench::new();
    bench.edit_tokenizer("a", |f| {
        f["model"]["vocab"]["w1"] = 2.into();
        f["model"]["vocab"]["</s>"] = 3.into();
        f["added_tokens"][2]["id"] = 3.into();
    });
    let plan = bench.plan(&recipe("tokenizer_source: ./a")).unwrap();
    assert!(plan.to_string().contains("config.json: eos_token_id is 2 as in the base"), "{plan}");
    assert!(!plan.to_string().contains("bos_token_id"), "{plan}");
}

#[test]
fn unigram_vocabularies_count_their_ids() {
    let bench = Bench::new();
    bench.edit_tokenizer("a", |f| {
        let by_id: BTreeMap<u64, String> =
            f["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (id.as_u64().unwrap(), t.clone())).collect();
        let list: Vec<Value> = by_id.into_values().map(|t| serde_json::json!([t, -1.5])).collect();
        f["model"] = serde_json::json!({"type": "Unigram", "unk_id": 0, "vocab": list});
    });
    let got = bench.merge(&recipe("tokenizer_source: base"), "out");
    let theirs = Model::read(&Path::new(FIXTURES).join("golden/base.safetensors"));
    for name in EMBEDDINGS {
        assert!(rows(&got, name).iter().zip(rows(&theirs, name)).all(|(a, b)| close(a, &b)), "{name}");
    }
}
