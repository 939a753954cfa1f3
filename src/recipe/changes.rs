//! Changes to a recipe's text, as a batch makes them.

use super::node::{Node, Value};
use super::{Stages, parse};
use crate::error::{Error, Result};

/// One change.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// `lwptv.eta`; `None` takes the block away.
    Eta(Option<Value>),
    /// `merge_method`.
    Method(Value),
    /// The experts that stay, by name.
    Models(Vec<String>),
    /// `dtype` and no `out_dtype`.
    Dtype(Value),
    /// A top-level parameter.
    Parameter(String, Value),
}

impl Change {
    /// `eta`, `method`, `models`, `dtype`, or the name of a parameter.
    pub fn parse(key: &str, node: &Node<'_>) -> Result<Self> {
        Ok(match (key, node.value) {
            ("eta", Value::Null) => Self::Eta(None),
            ("eta", _) => Self::Eta(Some(Value::Number(node.number()?))),
            ("method", _) => Self::Method(Value::Text(node.text()?.to_owned())),
            ("dtype", _) => Self::Dtype(Value::Text(node.text()?.to_owned())),
            ("models", _) => {
                let names = node.list()?.iter().map(|n| Ok(n.text()?.to_owned())).collect::<Result<Vec<_>>>()?;
                Self::Models(names)
            }
            (name, value) => Self::Parameter(name.to_owned(), value.clone()),
        })
    }

    fn apply(&self, root: &mut Vec<(String, Value)>) -> Result<()> {
        match self {
            Self::Eta(None) => root.retain(|(key, _)| key != "lwptv"),
            Self::Eta(Some(eta)) => set(entry(root, "lwptv")?, "eta", eta.clone()),
            Self::Method(name) => set(root, "merge_method", name.clone()),
            Self::Dtype(dtype) => {
                root.retain(|(key, _)| key != "out_dtype");
                set(root, "dtype", dtype.clone());
            }
            Self::Parameter(name, value) => set(entry(root, "parameters")?, name, value.clone()),
            Self::Models(names) => keep_models(root, names)?,
        }
        Ok(())
    }
}

/// The recipe's text with these changes, as JSON, which is YAML too.
pub(super) fn changed(recipe: &str, changes: &[Change]) -> Result<String> {
    let value = Value::parse(recipe).map_err(|e| {
        let problem = format!("overrides and matrices are for recipes of one document: {e}");
        Error::recipe("recipe", problem)
    })?;
    let Value::Map(mut root) = value else { return Err(Error::recipe("recipe", "expected a mapping")) };
    for change in changes {
        change.apply(&mut root)?;
    }
    Ok(text(&Value::Map(root)))
}

/// A value as text that parses to the same.
pub(super) fn text(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(&json(value)).unwrap_or_default();
    text.push('\n');
    text
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Flag(flag) => (*flag).into(),
        // Whole numbers as people write them.
        Value::Number(n) if n.fract() == 0.0 && n.abs() < 1e15 => (*n as i64).into(),
        Value::Number(n) => (*n).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(items) => {
            items.iter().map(|(key, value)| (key.clone(), json(value))).collect::<serde_json::Map<_, _>>().into()
        }
    }
}

fn set(map: &mut Vec<(String, Value)>, key: &str, value: Value) {
    match map.iter_mut().find(|(k, _)| k == key) {
        Some((_, old)) => *old = value,
        None => map.push((key.to_owned(), value)),
    }
}

/// The mapping called `key`; made if it is not there.
fn entry<'a>(map: &'a mut Vec<(String, Value)>, key: &str) -> Result<&'a mut Vec<(String, Value)>> {
    map.retain(|(k, value)| k != key || *value != Value::Null);
    let index = map.iter().position(|(k, _)| k == key).unwrap_or(map.len());
    if index == map.len() {
        map.push((key.to_owned(), Value::Map(Vec::new())));
    }
    match &mut map[index].1 {
        Value::Map(items) => Ok(items),
        _ => Err(Error::recipe(key, "expected a mapping")),
    }
}

fn keep_models(root: &mut [(String, Value)], names: &[String]) -> Result<()> {
    let Some((_, Value::List(models))) = root.iter_mut().find(|(key, _)| key == "models") else {
        return Err(Error::recipe("models", "a choice of models is for recipes with a `models` list"));
    };
    let known: Vec<String> = models.iter().map(|m| reference(m).unwrap_or_default()).collect();
    let mut kept = vec![false; known.len()];
    for name in names {
        let found: Vec<usize> = (0..known.len()).filter(|&i| is_called(&known[i], name)).collect();
        match found.as_slice() {
            [one] => kept[*one] = true,
            [] => {
                let problem = format!("no model is called `{name}`; the recipe has {}", known.join(", "));
                return Err(Error::recipe("models", problem));
            }
            _ => {
                return Err(Error::recipe(
                    "models",
                    format!("several models are called `{name}`; give the whole path"),
                ));
            }
        }
    }
    let mut kept = kept.into_iter();
    models.retain(|_| kept.next() == Some(true));
    Ok(())
}

/// What an entry of `models` names.
fn reference(entry: &Value) -> Option<String> {
    let Value::Map(fields) = entry else { return None };
    let (_, value) = fields.iter().find(|(key, _)| key == "model")?;
    parse::reference(&Node { value, place: "models".into() }).ok()
}

/// Whether a model is called so: by its reference, or the last part of it.
fn is_called(reference: &str, name: &str) -> bool {
    let plain = reference.trim_end_matches('/');
    plain == name.trim_end_matches('/') || plain.rsplit('/').next() == Some(name)
}

/// The recipe with another eta, and another lambda where one is given.
pub fn swept(recipe: &str, eta: f64, lambda: Option<f64>) -> Result<Stages> {
    let lambda = lambda.map(|l| Change::Parameter("lambda".into(), Value::Number(l)));
    let changes: Vec<Change> = [Change::Eta(Some(Value::Number(eta)))].into_iter().chain(lambda).collect();
    Stages::parse(&changed(recipe, &changes)?)
}
