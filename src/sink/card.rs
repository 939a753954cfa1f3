//! The model card: front matter that model hubs read, and what was merged, without dates, hosts or paths.

use crate::plan::{Plan, PlannedModel};
use std::fmt::Write;

/// The text of `README.md`.
pub fn card(plan: &Plan) -> String {
    let names: Vec<String> = plan.models.iter().map(PlannedModel::display_name).collect();
    let mut text = String::from("---\nbase_model:\n");
    for name in plan.origins() {
        let _ = writeln!(text, "- {}", serde_json::json!(name));
    }
    text.push_str("library_name: transformers\ntags:\n- mergekit\n- merge\n- taskvec\n---\n\n# Merged model\n\n");
    let method = plan.recipe.method;
    let _ = writeln!(text, "Made with taskvec by `{}` ({}).\n", method.name, method.source);
    let _ = writeln!(text, "    {}\n", method.formula);
    if let Some(lwptv) = &plan.recipe.lwptv {
        let _ = writeln!(
            text,
            "Task vectors were pruned layer-wise (LwPTV, arXiv 2506.09093) with eta = {}; pruned layers are the base's.\n",
            lwptv.eta
        );
    }
    let of_source = |s: usize| plan.sources[s].models.iter().map(|&m| names[m].as_str()).collect::<Vec<_>>().join(", ");
    if let Some(base) = plan.base() {
        let _ = writeln!(text, "Base: {}\n", of_source(base));
    }
    text.push_str("Merged:\n\n");
    for expert in plan.experts() {
        let _ = writeln!(text, "* {}", of_source(expert));
    }
    let _ = write!(text, "\nThe recipe (`mergekit_config.yml`):\n\n```yaml\n{}\n```\n", plan.recipe.text.trim_end());
    text
}
