//! Merges that read delta files make the bytes of merges that read checkpoints.

use super::common::tree;
use super::{Bench, weights};
use std::fs;
use std::path::{Path, PathBuf};
use taskvec::tensor::Dtype;

/// A base, three experts and their deltas.
fn experts(base: [Dtype; 2], expert: [Dtype; 2]) -> Bench {
    let bench = Bench::new();
    bench.put_folder("base", &weights(base, 1, 0), 2);
    for (i, share) in [(1, 20), (2, 60), (3, 99)] {
        bench.put_folder(&format!("e{i}"), &weights(expert, 10 + i, share), 1);
        bench.ok(&format!("diff base e{i} -o e{i}.tvd"));
    }
    bench
}

const METHODS: [(&str, &str); 4] = [
    ("linear", "parameters: {weight: 0.4}\n"),
    ("task_arithmetic", "parameters: {weight: 0.4, lambda: 0.9}\n"),
    ("ties", "parameters: {weight: 0.4, density: 0.3, scope: model}\n"),
    ("ties", "parameters: {density: 0.7, scope: model, merge: disjoint_max}\n"),
];
const LWPTV: [&str; 3] = ["", "lwptv: {eta: 0.5}\n", "lwptv: {eta: 0.4, score: magnitude}\n"];

fn recipe(method: (&str, &str), lwptv: &str, models: [&str; 3]) -> String {
    let models = models.map(|m| format!("- model: ./{m}\n")).concat();
    format!("merge_method: {}\nbase_model: ./base\nmodels:\n{models}{}{lwptv}", method.0, method.1)
}

/// The weight files of a merge.
#[track_caller]
fn merged(bench: &Bench, name: &str, recipe: &str, flags: &str) -> Vec<(PathBuf, Vec<u8>)> {
    bench.write("recipe.yml", recipe.as_bytes());
    bench.ok(&format!("merge recipe.yml {name}{flags}"));
    let files = tree(&bench.path(name)).into_iter();
    let made: Vec<_> = files.filter(|(path, _)| path.to_string_lossy().contains(".safetensors")).collect();
    assert!(!made.is_empty());
    made
}

#[track_caller]
fn deltas_merge_as_checkpoints_do(bench: &Bench) {
    for (m, method) in METHODS.into_iter().enumerate() {
        for (l, lwptv) in LWPTV.into_iter().enumerate() {
            let name = |what: &str| format!("{m}_{l}_{what}");
            let want = merged(bench, &name("whole"), &recipe(method, lwptv, ["e1", "e2", "e3"]), "");
            let inputs: [([&str; 3], &str); 4] = [
                (["e1.tvd", "e2.tvd", "e3.tvd"], ""),
                (["e1.tvd", "e2", "e3.tvd"], " -j 1 --io pread"),
                (["e1", "e2", "e3.tvd"], " -j 3 --tile-elements 5000"),
                (["e1.tvd", "e2.tvd", "e3.tvd"], " -j 2 --tile-elements 200000 --no-delta"),
            ];
            for (i, (models, flags)) in inputs.into_iter().enumerate() {
                let got = merged(bench, &name(&i.to_string()), &recipe(method, lwptv, models), flags);
                assert!(got == want, "{method:?} {lwptv} {models:?} {flags}");
                fs::remove_dir_all(bench.path(&name(&i.to_string()))).unwrap();
            }
            fs::remove_dir_all(bench.path(&name("whole"))).unwrap();
        }
    }
}

#[test]
fn merging_deltas_gives_the_bytes_of_merging_checkpoints() {
    deltas_merge_as_checkpoints_do(&experts([Dtype::BF16, Dtype::F32], [Dtype::BF16, Dtype::F32]));
}

#[test]
fn merging_deltas_of_a_narrower_dtype_than_the_base_gives_the_bytes_of_merging_checkpoints() {
    deltas_merge_as_checkpoints_do(&experts([Dtype::F32, Dtype::F32], [Dtype::BF16, Dtype::F16]));
}

#[test]
fn a_merge_of_chained_deltas_gives_the_bytes_of_merging_checkpoints() {
    let bench = experts([Dtype::BF16, Dtype::BF16], [Dtype::BF16, Dtype::BF16]);
    bench.ok("diff base e3 --on e2.tvd -o on2.tvd");
    for (m, method) in METHODS.into_iter().enumerate() {
        let want = merged(&bench, &format!("{m}_whole"), &recipe(method, LWPTV[1], ["e1", "e2", "e3"]), "");
        let got = merged(&bench, &format!("{m}_chain"), &recipe(method, LWPTV[1], ["e1.tvd", "e2.tvd", "on2.tvd"]), "");
        assert!(got == want, "{method:?}");
    }
}

#[test]
fn a_merge_of_deltas_made_for_another_base_is_refused_with_76_and_leaves_nothing() {
    let bench = experts([Dtype::BF16, Dtype::F32], [Dtype::BF16, Dtype::F32]);
    let mut base = weights([Dtype::BF16, Dtype::F32], 1, 0);
    base.tensors[0].bytes[7] ^= 1;
    bench.put_folder("base", &base, 2);
    bench.write("recipe.yml", recipe(METHODS[1], "", ["e1.tvd", "e2.tvd", "e3.tvd"]).as_bytes());
    bench.refused("merge recipe.yml out", 76, &["embed.weight", "e1.tvd"]);
}

#[test]
fn the_delta_that_a_merge_writes_restores_its_output() {
    let bench = experts([Dtype::BF16, Dtype::F32], [Dtype::BF16, Dtype::F32]);
    bench.write("base/config.json", b"{\"torch_dtype\": \"bfloat16\"}\n");
    for (i, models) in [["e1", "e2", "e3"], ["e1.tvd", "e2.tvd", "e3.tvd"]].into_iter().enumerate() {
        for (m, method) in METHODS.into_iter().enumerate() {
            let (out, back) = (format!("out{i}{m}"), format!("back{i}{m}"));
            merged(&bench, &out, &recipe(method, LWPTV[m % 3], models), " --out-shard-size 300KB");
            bench.ok(&format!("verify {out}/merged.tvd --against base"));
            bench.ok(&format!("apply base {out}/merged.tvd -o {back}"));
            let mut made = tree(&bench.path(&out));
            made.retain(|path, _| path != Path::new("merged.tvd") && path != Path::new("taskvec.json"));
            assert!(made.len() > 4);
            assert!(made == tree(&bench.path(&back)), "{out}: {:?}", tree(&bench.path(&back)).keys());
            bench.ok(&format!("verify {out}"));
        }
    }
}
