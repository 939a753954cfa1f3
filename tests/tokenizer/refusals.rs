//! What is refused or noted.

use crate::common::{Model, Tensor};
use crate::{Bench, EMBEDDINGS, FIXTURES, close, recipe, rows};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

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
