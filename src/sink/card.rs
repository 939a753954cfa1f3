//! The model card: front matter that model hubs read, and what was merged, without dates, hosts or paths.

use crate::plan::{Plan, Source};
use std::fmt::Write;
use std::path::Path;

/// The text of `README.md`.
pub fn card(plan: &Plan) -> String {
    let names: Vec<String> = plan.sources.iter().map(display_name).collect();
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
    if let Some(base) = plan.base() {
        let _ = writeln!(text, "Base: {}\n", names[base]);
    }
    text.push_str("Merged:\n\n");
    for expert in plan.experts() {
        let _ = writeln!(text, "* {}", names[expert]);
    }
    let _ = write!(text, "\nThe recipe (`mergekit_config.yml`):\n\n```yaml\n{}\n```\n", plan.recipe.text.trim_end());
    text
}

/// A hub id as it is; of a path only the last part.
fn display_name(source: &Source) -> String {
    let from_hub = source.path.iter().any(|part| part.to_string_lossy().starts_with("models--"));
    // A model and its adapter are named alike.
    let names: Vec<String> = source.label.split('+').map(|part| part_name(part, from_hub)).collect();
    names.join("+")
}

fn part_name(label: &str, from_hub: bool) -> String {
    if from_hub && !label.starts_with(['/', '.']) {
        return label.to_owned();
    }
    let path = Path::new(label);
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    match name(path).as_deref() {
        Some("model.safetensors" | "model.safetensors.index.json") => path.parent().and_then(name),
        other => other.map(str::to_owned),
    }
    .unwrap_or_else(|| "model".to_owned())
}
