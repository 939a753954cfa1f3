//! A merge described by flags instead of a file: written out as the equivalent recipe, then parsed like any other.

use super::Recipe;
use crate::error::{Error, Result};
use std::fmt::Write;

/// The flags that make a recipe.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--method`.
    pub method: String,
    /// `--base`.
    pub base: Option<String>,
    /// `--model PATH[=WEIGHT]`, in order.
    pub models: Vec<String>,
    /// `--set NAME=VALUE`, in order.
    pub parameters: Vec<String>,
    /// `--dtype`.
    pub dtype: Option<String>,
    /// `--eta`.
    pub eta: Option<f64>,
}

impl Flags {
    /// The recipe, whose text is the YAML that says the same.
    pub fn recipe(&self) -> Result<Recipe> {
        let mut yaml = format!("merge_method: {}\n", quote(&self.method));
        if let Some(base) = &self.base {
            let _ = writeln!(yaml, "base_model: {}", quote(base));
        }
        yaml.push_str("models:\n");
        for model in &self.models {
            match split(model) {
                (path, Some(weight)) => {
                    let _ = writeln!(yaml, "- model: {}\n  parameters: {{weight: {weight}}}", quote(path));
                }
                (path, None) => {
                    let _ = writeln!(yaml, "- model: {}", quote(path));
                }
            }
        }
        if !self.parameters.is_empty() {
            yaml.push_str("parameters:\n");
        }
        for p in &self.parameters {
            let (name, value) =
                p.split_once('=').ok_or_else(|| Error::Usage(format!("--set {p}: expected NAME=VALUE")))?;
            let _ = writeln!(yaml, "  {}: {value}", quote(name));
        }
        if let Some(dtype) = &self.dtype {
            let _ = writeln!(yaml, "dtype: {}", quote(dtype));
        }
        if let Some(eta) = self.eta {
            let _ = writeln!(yaml, "lwptv: {{eta: {eta}}}");
        }
        Recipe::parse(&yaml)
    }
}

/// `PATH=WEIGHT`, where the weight is a number; a path may hold `=` itself.
fn split(model: &str) -> (&str, Option<f64>) {
    match model.rsplit_once('=') {
        Some((path, weight)) if weight.parse::<f64>().is_ok() => (path, weight.parse().ok()),
        _ => (model, None),
    }
}

/// A plain word or path as it is; anything else as JSON text, which YAML reads.
fn quote(text: &str) -> String {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'/' | b'.' | b'-'));
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        || text.starts_with("./")
        || text.starts_with("../");
    let reserved =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str());
    if plain && begins && !reserved { text.to_owned() } else { serde_json::json!(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_make_the_recipe_that_a_person_would_write() {
        let flags = Flags {
            method: "task_arithmetic".into(),
            base: Some("B".into()),
            models: vec!["A=0.3".into(), "x=y/C=-1".into()],
            eta: Some(0.7),
            ..Flags::default()
        };
        let recipe = flags.recipe().unwrap();
        assert_eq!(
            recipe.text,
            "merge_method: task_arithmetic\nbase_model: B\nmodels:\n- model: A\n  parameters: {weight: 0.3}\n\
             - model: \"x=y/C\"\n  parameters: {weight: -1}\nlwptv: {eta: 0.7}\n"
        );
        assert_eq!(recipe.settings("t", 0.0).unwrap().get("weight"), [0.3, -1.0]);
    }

    #[test]
    fn words_that_yaml_would_read_otherwise_are_quoted() {
        assert_eq!(["no", "0.5", "a b", "1e5", "./a"].map(quote), ["\"no\"", "\"0.5\"", "\"a b\"", "\"1e5\"", "./a"]);
    }
}
