//! Tokenizer files, configurations and delta files of the output.

use crate::common::{apply_run, diff_run, tree};
use crate::{Bench, json, recipe};
use std::fs;
use std::path::Path;
use taskvec::job;

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
    let codec = diff_run(taskvec::codec::Codec::Auto);
    let [base, tuned] = ["base", "tuned"].map(|name| bench.path(name).display().to_string());
    job::diff(&base, None, &tuned, &delta, &codec).unwrap();
    let from_delta = recipe("tokenizer_source: base").replace("./a", "./tuned.tvd");
    let from_model = recipe("tokenizer_source: base").replace("./a", "./tuned");
    assert_eq!(bench.merge(&from_delta, "one"), bench.merge(&from_model, "two"));
    let union = from_delta.replace("source: base", "source: union");
    bench.refused(&union, 65, &["tuned.tvd", "restore the model with taskvec apply"]);
}
