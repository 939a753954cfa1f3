//! Which models a recipe names.

use crate::common::Model;
use crate::{Bench, TASK_ARITHMETIC, model, refused};
use std::fs;
use std::os::unix::fs::symlink;
use taskvec::recipe::Recipe;

#[test]
fn a_base_listed_among_the_models_is_dropped_with_a_note() {
    let bench = Bench::new();
    let listed = TASK_ARITHMETIC.replace("models:\n", "models:\n- model: ./base\n  # no parameters\n");
    let recipe = Recipe::parse(&listed).unwrap();
    assert_eq!(recipe.experts().iter().map(|e| e.model.as_str()).collect::<Vec<_>>(), ["./a", "./c"]);
    let plan = bench.plan(&listed).unwrap();
    assert!(plan.warnings.iter().any(|w| w.contains("`./base` is the base")), "{:?}", plan.warnings);
    assert_eq!(bench.weights(&listed, "listed"), bench.weights(TASK_ARITHMETIC, "plain"));
}

#[test]
fn a_base_listed_among_the_models_of_a_method_on_weights_is_an_expert() {
    let linear = TASK_ARITHMETIC.replace("task_arithmetic", "linear");
    let listed = linear.replace("models:\n", "models:\n- {model: ./base, parameters: {weight: 1}}\n");
    assert_eq!(Recipe::parse(&listed).unwrap().experts().len(), 3);
}

#[test]
fn references_may_be_mappings() {
    let text = "merge_method: task_arithmetic\n\
                base_model: {model: {path: org/base, revision: v1.1}}\n\
                models:\n\
                - {model: {model: {path: org/x, revision: null}}, parameters: {weight: 1}}\n\
                - {model: {path: ./y, lora: null}, parameters: {weight: 1}}\n\
                - {model: {model: {path: org/x, revision: v2}, lora: {path: org/l, revision: v3}}}\n\
                - model: {path: ./y, lora: ./l}\n\
                parameters: {weight: 1}\n";
    let recipe = Recipe::parse(text).unwrap();
    assert_eq!(recipe.base.as_deref(), Some("org/base@v1.1"));
    assert_eq!(
        recipe.experts().iter().map(|e| e.model.as_str()).collect::<Vec<_>>(),
        ["org/x", "./y", "org/x@v2+org/l@v3", "./y+./l"]
    );
    let both = TASK_ARITHMETIC.replace("./a", "{path: ./a+./l, revision: v2}");
    refused(&both, &["write PATH@REV+LORA@REV"]);
}

#[test]
fn a_folder_beside_the_recipe_may_have_a_plus_in_its_name() {
    let bench = Bench::new();
    fs::rename(bench.path("a"), bench.path("a+tuned")).unwrap();
    bench.weights(&TASK_ARITHMETIC.replace("./a", "./a+tuned"), "out");
}

#[test]
fn a_hub_id_is_resolved_in_the_local_cache_through_links_into_blobs() {
    let bench = Bench::new();
    let plain = bench.weights(TASK_ARITHMETIC, "plain");
    for name in ["base", "a"] {
        let repo = bench.path("hub").join(format!("models--org--{name}"));
        ["refs", "blobs", "snapshots/abc123"].iter().for_each(|f| fs::create_dir_all(repo.join(f)).unwrap());
        fs::write(repo.join("refs/main"), "abc123").unwrap();
        fs::rename(bench.path(name).join("model.safetensors"), repo.join("blobs/f00d")).unwrap();
        fs::write(repo.join("blobs/beef"), "{}").unwrap();
        symlink("../../blobs/f00d", repo.join("snapshots/abc123/model.safetensors")).unwrap();
        symlink("../../blobs/beef", repo.join("snapshots/abc123/config.json")).unwrap();
    }
    let by_id = TASK_ARITHMETIC.replace("./base", "org/base").replace("./a", "org/a");
    assert_eq!(bench.weights(&by_id, "by_id"), plain);
    assert_eq!(fs::read_to_string(bench.path("by_id/config.json")).unwrap(), "{}");
    assert!(fs::symlink_metadata(bench.path("by_id/config.json")).unwrap().is_file());
    let card = fs::read_to_string(bench.path("by_id/README.md")).unwrap();
    assert!(card.starts_with("---\nbase_model:\n- \"org/base\"\n- \"org/a\"\n- \"c\"\n"), "{card}");
    assert_eq!(bench.weights(&by_id.replace("org/a", "org/a@abc123"), "by_commit"), plain);
    let by_map = by_id.replace("org/base", "{model: {path: org/base, revision: main}}");
    assert_eq!(bench.weights(&by_map, "by_map"), plain);
}

#[test]
fn how_a_model_is_sharded_and_ordered_does_not_reach_the_output() {
    let bench = Bench::new();
    let recipe = format!("{TASK_ARITHMETIC}lwptv: {{eta: 0.4}}\n");
    bench.merge(&recipe, "plain", &[]);
    let whole = model(1.0).tensors;
    // Order 4, 2 | 0, 3, 1.
    let parts = [("z.safetensors", vec![4, 2]), ("b.safetensors", vec![0, 3, 1])];
    let mut map = serde_json::Map::new();
    for (name, tensors) in parts {
        tensors.iter().for_each(|&i| drop(map.insert(whole[i].name.clone(), name.into())));
        let part = Model { tensors: tensors.iter().map(|&i| whole[i].clone()).collect() };
        part.write(&bench.path("a").join(name));
    }
    fs::remove_file(bench.path("a/model.safetensors")).unwrap();
    bench.write("a/model.safetensors.index.json", &serde_json::json!({"weight_map": map}).to_string());
    Model { tensors: model(2.0).tensors.into_iter().rev().collect() }.write(&bench.path("c/model.safetensors"));
    bench.merge(&recipe, "sharded", &[]);
    let file = |out: &str| fs::read(bench.path(out).join("model.safetensors")).unwrap();
    assert_eq!(file("sharded"), file("plain"));
    let by_index = recipe.replace("./a", "./a/model.safetensors.index.json").replace("./c", "c/model.safetensors");
    bench.merge(&by_index, "by_index", &[]);
    assert_eq!(file("by_index"), file("plain"));
}
