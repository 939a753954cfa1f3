//! Values of parameters: precedence, filters, gradients, notes.

use crate::common::Model;
use crate::{Bench, TASK_ARITHMETIC, refused, weights};
use taskvec::recipe::Recipe;

#[test]
fn a_models_own_parameter_goes_before_the_top_level() {
    let models = "[{model: x, parameters: {weight: 0.9}}, {model: z}]";
    assert_eq!(weights(models, "weight: 0.1", "t", 0.0), [0.9, 0.1]);
    let models = "[{model: x, parameters: {weight: 0}}, {model: z, parameters: }]";
    assert_eq!(weights(models, "weight: 0.1", "t", 0.0), [0.0, 0.1], "0 is a value, not an absence");
}

#[test]
fn a_filter_list_without_a_match_falls_through_to_the_top_level() {
    let models = "[{model: x, parameters: {weight: [{filter: mlp, value: 0.9}]}}, {model: z}]";
    assert_eq!(weights(models, "weight: 0.1", "layers.0.mlp.up", 0.0), [0.9, 0.1]);
    assert_eq!(weights(models, "weight: 0.1", "layers.0.attn.q", 0.0), [0.1, 0.1]);
}

#[test]
fn a_parameter_without_a_value_at_any_level_is_refused_for_the_tensor_that_lacks_it() {
    let text = "merge_method: task_arithmetic\nbase_model: b\n\
                models: [{model: x, parameters: {weight: {filter: mlp, value: 0.9}}}]\n";
    let recipe = Recipe::parse(text).unwrap();
    assert_eq!(recipe.settings("mlp", 0.0).unwrap().get("weight"), [0.9]);
    let error = recipe.settings("norm", 0.0).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("`weight` has no value for tensor `norm`"), "{error}");
}

#[test]
fn the_first_filter_that_is_part_of_the_name_wins() {
    let models =
        "[{model: x, parameters: {weight: [{filter: mlp, value: 1}, {filter: layers, value: 2}, {value: 3}]}}]";
    let seen = ["layers.0.mlp", "layers.0.attn", "norm"].map(|name| weights(models, "", name, 0.0)[0]);
    assert_eq!(seen, [1.0, 2.0, 3.0]);
    let models = "[{model: x, parameters: {weight: [{filter: '*', value: 1}, {filter: mlp, value: 2}]}}]";
    assert_eq!(weights(models, "", "layers.0.mlp", 0.0), [1.0]);
}

#[test]
fn a_gradient_is_linear_over_the_depth_also_inside_a_filter() {
    let models = "[{model: x, parameters: {weight: [1, 0.7, 0.1]}}, {model: z, parameters: {weight: [5]}}]";
    let seen = [0.0, 0.25, 0.5, 1.0].map(|depth| weights(models, "", "t", depth));
    assert_eq!(seen, [[1.0, 5.0], [0.85, 5.0], [0.7, 5.0], [0.1, 5.0]]);
    let models = "[{model: x, parameters: {weight: [{filter: mlp, value: [0, 1]}, {value: 9}]}}]";
    assert_eq!([0.5, 1.0].map(|depth| weights(models, "", "mlp", depth)[0]), [0.5, 1.0]);
}

#[test]
fn a_list_of_flags_is_stepped_through_not_interpolated() {
    let normalize = |depth| {
        let text = format!("{TASK_ARITHMETIC}parameters: {{normalize: [false, true]}}\n");
        Recipe::parse(&text).unwrap().settings("t", depth).unwrap().get("normalize")[0]
    };
    assert_eq!([0.0, 0.5, 0.75, 1.0].map(normalize), [0.0, 0.0, 0.0, 1.0], "as mergekit 0.1.5 evaluates it");
}

#[test]
fn the_plan_spreads_a_gradient_over_the_blocks_and_gives_the_rest_its_first_entry() {
    let bench = Bench::new();
    let recipe = TASK_ARITHMETIC.replacen("weight: 0.5", "weight: [0, 1]", 1);
    let plan = bench.plan(&recipe).unwrap();
    let seen: Vec<f64> = plan.tensors.iter().map(|t| plan.settings[t.settings].get("weight")[0]).collect();
    assert_eq!(seen, [0.0, 0.0, 0.5, 1.0, 0.0]);
}

#[test]
fn a_stack_of_one_block_takes_the_last_entry_of_a_gradient() {
    let bench = Bench::new();
    let one = Model::default().f32("embed.weight", &[1.0]).f32("layers.0.weight", &[1.0]);
    ["base", "a", "c"].iter().for_each(|name| one.write(&bench.path(name).join("model.safetensors")));
    let plan = bench.plan(&TASK_ARITHMETIC.replacen("weight: 0.5", "weight: [0, 1]", 1)).unwrap();
    let seen: Vec<f64> = plan.tensors.iter().map(|t| plan.settings[t.settings].get("weight")[0]).collect();
    assert_eq!(seen, [0.0, 1.0]);
}

#[test]
fn a_global_parameter_under_a_model_is_refused_where_mergekit_ignores_it() {
    let recipe = TASK_ARITHMETIC.replacen("weight: 0.5", "weight: 0.5, lambda: 2", 1);
    refused(&recipe, &["models[0].parameters", "`lambda` is not per model", "top-level parameters"]);
}

#[test]
fn what_mergekit_files_carry_everywhere_is_accepted_with_a_note_each() {
    let cabs =
        TASK_ARITHMETIC.replace("task_arithmetic", "cabs").replacen("weight: 0.5", "weight: 0.5, int8_mask: true", 1);
    let carried = "{n: 1, m: 4, int8_mask: true, normalize: true, rescale: true}";
    let plan = Bench::new().plan(&format!("{cabs}parameters: {carried}\n")).unwrap();
    for name in ["int8_mask", "normalize", "rescale"] {
        let notes = plan.warnings.iter().filter(|w| w.contains(&format!("`{name}` has no effect on cabs"))).count();
        assert_eq!(notes, 1, "{name}: {:?}", plan.warnings);
    }
}

#[test]
fn a_removed_parameter_is_noted_and_one_that_nobody_reads_is_refused() {
    let old = format!("{TASK_ARITHMETIC}parameters: {{embed_slerp: true}}\n");
    let plan = Bench::new().plan(&old).unwrap();
    assert!(plan.warnings.iter().any(|w| w.contains("`embed_slerp` is gone from mergekit too")), "{:?}", plan.warnings);
    let nobodys = TASK_ARITHMETIC.replacen("weight: 0.5", "weight: 0.5, residual_weight: 1", 1);
    refused(&nobodys, &["residual_weight"]);
    refused(&format!("{TASK_ARITHMETIC}dtype: bfloat\n"), &["did you mean `bfloat16`"]);
}

#[test]
fn a_method_of_two_models_refuses_one_and_three() {
    let slerp = |names: &[&str]| {
        let models = names.iter().map(|n| format!("- {{model: ./{n}}}\n")).collect::<Vec<_>>().concat();
        format!("merge_method: slerp\nparameters: {{t: 0.5}}\nmodels:\n{models}")
    };
    for names in [&["a"][..], &["a", "c", "base"]] {
        let error = Bench::new().plan(&slerp(names)).unwrap_err().to_string();
        assert!(error.contains(&format!("slerp merges 2 models besides the base, got {}", names.len())), "{error}");
    }
    assert!(Bench::new().plan(&slerp(&["a", "c"])).is_ok());
}

#[test]
fn element_masks_have_no_random_score() {
    let recipe = format!("{TASK_ARITHMETIC}lwptv: {{eta: 0.5, layer: element, score: random}}\n");
    let error = Bench::new().plan(&recipe).unwrap_err().to_string();
    assert!(error.contains("lwptv.score") && error.contains("random_mask"), "{error}");
}
