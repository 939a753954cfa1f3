//! The rows of embeddings and heads.

use crate::common::{Model, merge, merge_recipe, options};
use crate::{Bench, EMBEDDINGS, FIXTURES, added, close, decided_otherwise, ids, json, recipe, rows, values};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use taskvec::plan::Options;
use taskvec::recipe::Recipe;
use taskvec::source::Io;

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
