//! Recipe text to [`Recipe`]: every key known, every value in range, every problem told with its place.

use super::lwptv::Lwptv;
use super::node::{Node, Value};
use super::setting::Setting;
use super::suggest::unknown;
use super::tokenizer::{ChatTemplate, Tokenizer};
use super::{Expert, Parameters, Recipe};
use crate::error::{Error, Result};
use crate::limits::MODELS_MAX;
use crate::method::{self, Basis, Entry, METHODS, Scope};
use crate::tensor::Dtype;

const KEYS: &[&str] = &[
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "coefficients",
    "lwptv",
];

/// Parameters that mergekit files carry whatever the method.
const CARRIED: &[&str] = &["int8_mask", "normalize", "rescale"];

pub fn parse(text: &str) -> Result<Recipe> {
    let value = Value::parse(text).map_err(|e| Error::recipe("recipe", format!("not valid YAML: {e}")))?;
    let root = Node { value: &value, place: "recipe".into() };
    let fields = root.map()?;
    if let Some((key, node)) = fields.iter().find(|(key, _)| !KEYS.contains(key)) {
        return Err(node.error(unknown("key", key, KEYS)));
    }
    let field =
        |key: &str| fields.iter().find(|(k, node)| *k == key && *node.value != Value::Null).map(|(_, node)| node);
    refuse_what_is_not_there_yet(&field)?;

    let name = field("merge_method").ok_or_else(|| root.error("`merge_method` is missing"))?;
    let method = find_method(name)?;
    let mut notes = Vec::new();
    let base = field("base_model").map(reference).transpose()?;
    let models = field("models").ok_or_else(|| root.error("`models` is missing: the list of models to merge"))?;
    let experts = experts(models, method, base.as_deref(), &mut notes)?;
    let parameters = match field("parameters") {
        Some(node) => parameters(node, method, &mut notes)?,
        None => Parameters::new(),
    };
    if base.is_none() && method.basis == Basis::TaskVectors {
        let problem = format!("missing: {} adds up task vectors, which are differences from the base", method.name);
        return Err(Error::recipe("base_model", problem));
    }
    let dtype = field("out_dtype").or(field("dtype")).map(dtype).transpose()?;
    field("dtype").map(self::dtype).transpose()?;
    let lwptv = fields.iter().find(|(key, _)| *key == "lwptv").map(|(_, node)| Lwptv::parse(node)).transpose()?;
    let coefficients = field("coefficients").map(|n| n.text().map(str::to_owned)).transpose()?;
    let tokenizer = Tokenizer::parse(field("tokenizer_source"), field("tokenizer"))?;
    let chat_template = field("chat_template").map(ChatTemplate::parse).transpose()?;
    notes.dedup();
    Ok(Recipe {
        text: text.to_owned(),
        method,
        base,
        experts,
        parameters,
        coefficients,
        lwptv,
        tokenizer,
        chat_template,
        dtype,
        notes,
    })
}

fn refuse_what_is_not_there_yet<'a, 'b: 'a>(field: &impl Fn(&str) -> Option<&'a Node<'b>>) -> Result<()> {
    for (key, advice) in [("slices", "use the `models` form"), ("modules", "use the `models` form")] {
        if let Some(node) = field(key) {
            return Err(node.error(format!("not in this version of taskvec; {advice}")));
        }
    }
    Ok(())
}

fn find_method(node: &Node<'_>) -> Result<&'static Entry> {
    let name = node.text()?;
    let names: Vec<&str> = METHODS.iter().map(|m| m.name).collect();
    method::find(name).ok_or_else(|| node.error(unknown("merge_method", name, &names)))
}

fn experts(
    node: &Node<'_>,
    method: &'static Entry,
    base: Option<&str>,
    notes: &mut Vec<String>,
) -> Result<Vec<Expert>> {
    let mut experts = Vec::new();
    for (index, item) in node.list()?.into_iter().enumerate() {
        let (mut model, mut own) = (None, Parameters::new());
        for (key, child) in item.map()? {
            match key {
                "model" => model = Some(reference(&child)?),
                "parameters" if *child.value == Value::Null => {}
                "parameters" => own = model_parameters(&child, method, notes)?,
                _ => return Err(child.error(unknown("key", key, &["model", "parameters"]))),
            }
        }
        let model = model.ok_or_else(|| item.error("`model` is missing"))?;
        // As in mergekit: a base that is listed among the models adds no task vector of its own.
        if method.basis != Basis::Weights && base.is_some_and(|b| same_path(b, &model)) {
            notes.push(format!("`{model}` is the base: listed under models, it adds no task vector"));
            continue;
        }
        experts.push(Expert { index, model, parameters: own });
    }
    if experts.is_empty() || experts.len() > MODELS_MAX {
        return Err(node.error(format!("expected 1 to {MODELS_MAX} models besides the base, got {}", experts.len())));
    }
    Ok(experts)
}

/// Whether two references are the same but for a trailing slash or a leading `./`.
pub(super) fn same_path(a: &str, b: &str) -> bool {
    let plain = |s: &str| s.trim_start_matches("./").trim_end_matches('/').to_owned();
    plain(a) == plain(b)
}

fn model_parameters(node: &Node<'_>, method: &'static Entry, notes: &mut Vec<String>) -> Result<Parameters> {
    let own = parameters(node, method, notes)?;
    let global = |name: &&str| method.parameters.iter().any(|p| p.name == *name && p.scope == Scope::Global);
    match own.keys().copied().find(global) {
        Some(name) => Err(node.error(format!("`{name}` is not per model; give it under the top-level parameters"))),
        None => Ok(own),
    }
}

fn parameters(node: &Node<'_>, method: &'static Entry, notes: &mut Vec<String>) -> Result<Parameters> {
    let mut parameters = Parameters::new();
    for (name, child) in node.map()? {
        match method.parameters.iter().find(|p| p.name == name) {
            Some(p) => {
                parameters.insert(p.name, Setting::parse(&child, p.kind)?);
            }
            None if CARRIED.contains(&name) => notes.push(format!("`{name}` has no effect on {}", method.name)),
            None => {
                let names: Vec<&str> = method.parameters.iter().map(|p| p.name).collect();
                let problem = unknown(&format!("parameter of {}", method.name), name, &names);
                return Err(child.error(problem));
            }
        }
    }
    Ok(parameters)
}

/// `path` or `{model: path}` or `{model: {path: path, revision: r}}`.
pub(super) fn reference(node: &Node<'_>) -> Result<String> {
    let Value::Map(_) = node.value else { return plain_reference(node) };
    let mut text = None;
    let mut revision = None;
    for (key, child) in node.map()? {
        match key {
            "model" | "path" => text = Some(reference(&child)?),
            "revision" | "lora" | "override_architecture" if *child.value == Value::Null => {}
            "revision" => revision = Some(child.text()?.to_owned()),
            "lora" => return Err(child.error(NO_LORA)),
            _ => return Err(child.error(unknown("key", key, &["model", "path", "revision"]))),
        }
    }
    let text = text.ok_or_else(|| node.error("`model` is missing"))?;
    Ok(revision.map_or(text.clone(), |r| format!("{text}@{r}")))
}

const NO_LORA: &str = "LoRA adapters are not in this version of taskvec; merge the adapter into its base first";

fn plain_reference(node: &Node<'_>) -> Result<String> {
    let text = node.text()?;
    let problem = match text {
        "" => "expected a model, got empty text",
        _ if text.chars().any(char::is_control) => "a model's name holds control characters",
        _ => return Ok(text.to_owned()),
    };
    Err(node.error(problem))
}

fn dtype(node: &Node<'_>) -> Result<Dtype> {
    let name = node.text()?;
    Dtype::from_recipe(name).ok_or_else(|| node.error(unknown("dtype", name, &["float32", "float16", "bfloat16"])))
}
