//! Recipe text to [`Recipe`]: every key known, every value in range, every problem told with its place.

use super::lwptv::Lwptv;
use super::node::{Node, Value};
use super::setting::Setting;
use super::suggest::unknown;
use super::tokenizer::{ChatTemplate, Tokenizer};
use super::{CopyFrom, Parameters, Recipe, structure};
use crate::error::{Error, Result};
use crate::method::{self, Basis, Entry, METHODS, Scope};
use crate::tensor::Dtype;
use std::collections::BTreeSet;

const KEYS: &[&str] = &[
    "name",
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "exclude",
    "copy_from",
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

/// Parameters of old mergekit files.
const REMOVED: &[&str] = &["embed_slerp"];

/// What is needed to read parameters, and what is noted meanwhile.
pub(super) struct Context {
    pub method: &'static Entry,
    pub notes: Vec<String>,
}

pub fn parse(text: &str) -> Result<Recipe> {
    let value = Value::parse(text).map_err(|e| Error::recipe("recipe", format!("not valid YAML: {e}")))?;
    let root = Node { value: &value, place: "recipe".into() };
    let fields = root.map()?;
    if let Some((key, node)) = fields.iter().find(|(key, _)| !KEYS.contains(key)) {
        return Err(node.error(unknown("key", key, KEYS)));
    }
    let field =
        |key: &str| fields.iter().find(|(k, node)| *k == key && *node.value != Value::Null).map(|(_, node)| node);

    let name = field("merge_method").ok_or_else(|| root.error("`merge_method` is missing"))?;
    let method = find_method(name)?;
    let base = field("base_model").map(reference).transpose()?;
    let mut context = Context { method, notes: Vec::new() };
    let modules = structure::modules(&root, base.as_deref(), &mut context)?;
    let parameters = match field("parameters") {
        Some(node) => parameters(node, &mut context)?,
        None => Parameters::new(),
    };
    let base = base.or_else(|| modules[0].slices[0].base.as_ref().map(|b| b.model.clone()));
    if base.is_none() && method.basis == Basis::TaskVectors {
        let problem = format!("missing: {} adds up task vectors, which are differences from the base", method.name);
        return Err(Error::recipe("base_model", problem));
    }
    let dtype = field("out_dtype").or(field("dtype")).map(dtype).transpose()?;
    field("dtype").map(self::dtype).transpose()?;
    let lwptv = fields.iter().find(|(key, _)| *key == "lwptv").map(|(_, node)| Lwptv::parse(node)).transpose()?;
    let coefficients = field("coefficients").map(|n| n.text().map(str::to_owned)).transpose()?;
    let exclude = field("exclude").map_or(Ok(Vec::new()), patterns)?;
    let copy_from = field("copy_from").map_or(Ok(Vec::new()), copies)?;
    let tokenizer = Tokenizer::parse(field("tokenizer_source"), field("tokenizer"))?;
    let chat_template = field("chat_template").map(ChatTemplate::parse).transpose()?;
    let mut notes = context.notes;
    let mut told = BTreeSet::new();
    notes.retain(|n| told.insert(n.clone()));
    let text = text.to_owned();
    Ok(Recipe {
        text,
        method,
        base,
        modules,
        parameters,
        exclude,
        copy_from,
        coefficients,
        lwptv,
        tokenizer,
        chat_template,
        dtype,
        notes,
    })
}

fn find_method(node: &Node<'_>) -> Result<&'static Entry> {
    let name = node.text()?;
    let names: Vec<&str> = METHODS.iter().map(|m| m.name).collect();
    method::find(name).ok_or_else(|| node.error(unknown("merge_method", name, &names)))
}

/// Whether two references are the same but for a trailing slash or a leading `./`.
pub fn same_path(a: &str, b: &str) -> bool {
    fn plain(s: &str) -> &str {
        s.trim_start_matches("./").trim_end_matches('/')
    }
    plain(a) == plain(b)
}

/// What stands under a model: mergekit ignores global parameters there.
pub(super) fn model_parameters(node: &Node<'_>, context: &mut Context) -> Result<Parameters> {
    let own = parameters(node, context)?;
    let global = |name: &&str| context.method.parameters.iter().any(|p| p.name == *name && p.scope == Scope::Global);
    match own.keys().copied().find(global) {
        Some(name) => Err(node.error(format!("`{name}` is not per model; give it under the top-level parameters"))),
        None => Ok(own),
    }
}

pub(super) fn parameters(node: &Node<'_>, context: &mut Context) -> Result<Parameters> {
    let Context { method, notes } = context;
    let mut parameters = Parameters::new();
    for (name, child) in node.map()? {
        match method.parameters.iter().find(|p| p.name == name) {
            Some(p) => {
                parameters.insert(p.name, Setting::parse(&child, p.kind)?);
            }
            None if REMOVED.contains(&name) => notes.push(format!("`{name}` is gone from mergekit too: no effect")),
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

/// `path` or `{model: path}` or `{model: {path: path, revision: r}}`, each perhaps with `lora`: what `path+lora` says.
pub(super) fn reference(node: &Node<'_>) -> Result<String> {
    let Value::Map(_) = node.value else { return plain_reference(node) };
    let mut text = None;
    let (mut revision, mut lora) = (None, None);
    for (key, child) in node.map()? {
        match key {
            "model" | "path" => text = Some(reference(&child)?),
            "revision" | "lora" | "override_architecture" if *child.value == Value::Null => {}
            "revision" => revision = Some(child.text()?.to_owned()),
            "lora" => lora = Some(reference(&child)?),
            _ => return Err(child.error(unknown("key", key, &["model", "path", "revision", "lora"]))),
        }
    }
    let mut text = text.ok_or_else(|| node.error("`model` is missing"))?;
    if let Some(revision) = revision {
        if text.contains('+') {
            return Err(node.error("a revision belongs to a model or to its adapter: write PATH@REV+LORA@REV"));
        }
        text = format!("{text}@{revision}");
    }
    Ok(lora.map_or(text.clone(), |l| format!("{text}+{l}")))
}

/// A pattern or a list of them.
fn patterns(node: &Node<'_>) -> Result<Vec<String>> {
    let one = |n: &Node<'_>| match n.text()? {
        "" => Err(n.error("expected a part of tensor names, got empty text")),
        text => Ok(text.to_owned()),
    };
    match node.value {
        Value::List(_) => node.list()?.iter().map(one).collect(),
        _ => one(node).map(|p| vec![p]),
    }
}

fn copies(node: &Node<'_>) -> Result<Vec<CopyFrom>> {
    let copy = |item: &Node<'_>| {
        let (mut filter, mut model) = (None, None);
        for (key, child) in item.map()? {
            match key {
                "filter" => filter = patterns(&child)?.pop(),
                "model" => model = Some(reference(&child)?),
                _ => return Err(child.error(unknown("key", key, &["filter", "model"]))),
            }
        }
        let filter = filter.ok_or_else(|| item.error("`filter` is missing: a part of tensor names"))?;
        let model = model.ok_or_else(|| item.error("`model` is missing"))?;
        Ok(CopyFrom { place: item.place.clone(), filter, model })
    };
    node.list()?.iter().map(copy).collect()
}

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
