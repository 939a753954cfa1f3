//! The model card: front matter that model hubs read, and what was merged, without dates, hosts or paths.

use crate::plan::{Plan, PlannedModel};
use std::fmt::Write;
use std::path::Path;

/// The text of `README.md`.
pub fn card(plan: &Plan) -> String {
    let names: Vec<String> = plan.models.iter().map(display_name).collect();
    let mut text = String::from("---\nbase_model:\n");
    let mut listed: Vec<&String> = Vec::new();
    for name in &names {
        if !listed.contains(&name) {
            let _ = writeln!(text, "- {}", serde_json::json!(name));
            listed.push(name);
        }
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

/// A hub id as it is; of a path only the last part.
fn display_name(source: &PlannedModel) -> String {
    let from_hub = source.path.iter().any(|part| part.to_string_lossy().starts_with("models--"));
    if from_hub && !source.label.starts_with(['/', '.']) {
        return source.label.clone();
    }
    let path = Path::new(&source.label);
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    match name(path).as_deref() {
        Some("model.safetensors" | "model.safetensors.index.json") => path.parent().and_then(name),
        other => other.map(str::to_owned),
    }
    .unwrap_or_else(|| "model".to_owned())
}
