//! What the output is made of: modules of slices of sources. The `models` form is one slice of whole models.

use super::node::{Node, Value};
use super::parse::{Context, model_parameters, parameters, reference, same_path};
use super::suggest::unknown;
use super::{Expert, PLANTED, Parameters};
use crate::error::{Error, Result};
use crate::limits::MODELS_MAX;
use crate::method::Basis;
use std::ops::Range;

/// A part of the output that is put together by itself: all of it, or the tensors under a name.
#[derive(Clone, Debug)]
pub struct Module {
    /// The beginning of its tensors' names; `None` for all tensors that no other module takes.
    pub name: Option<String>,
    /// What it is put together from, in the output's order; one at least.
    pub slices: Vec<Slice>,
    /// Its parameters.
    pub parameters: Parameters,
}

/// Layers that are merged from the same models.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Where it stands in the recipe, for messages.
    pub place: String,
    /// The base of its task vectors.
    pub base: Option<Base>,
    /// The models to merge, the base not counted where it adds no task vector.
    pub experts: Vec<Expert>,
    /// Its parameters.
    pub parameters: Parameters,
}

/// The base of a slice.
#[derive(Clone, Debug)]
pub struct Base {
    /// The model as written.
    pub model: String,
    /// Its layers, if it is among the slice's sources.
    pub layers: Option<Range<u32>>,
}

impl Slice {
    /// Whether any of its sources is cut.
    pub fn has_layers(&self) -> bool {
        self.experts.iter().any(|e| e.layers.is_some()) || self.base.as_ref().is_some_and(|b| b.layers.is_some())
    }

    /// The base, if there is one, then the models to merge, each with its layers. A base that is not among the sources has
    /// the layers of the first.
    pub fn origins(&self) -> impl Iterator<Item = (&str, Option<&Range<u32>>)> {
        let first = self.experts.first().and_then(|e| e.layers.as_ref());
        let base = self.base.iter().map(move |b| (b.model.as_str(), b.layers.as_ref().or(first)));
        base.chain(self.experts.iter().map(|e| (e.model.as_str(), e.layers.as_ref())))
    }
}

/// Reads `models`, `slices` or `modules`, of which one must be there.
pub fn modules(root: &Node<'_>, base: Option<&str>, context: &mut Context) -> Result<Vec<Module>> {
    let given = given(root)?;
    let [(key, node)] = given.as_slice() else {
        return Err(root.error(match given.as_slice() {
            [] => "`models` is missing: the list of models to merge (or `slices`, or `modules`)".to_owned(),
            _ => "expected one of `models`, `slices` and `modules`".to_owned(),
        }));
    };
    let modules = match *key {
        "modules" => node.map()?.iter().map(|(name, n)| module(name, n, base, context)).collect::<Result<_>>()?,
        _ => vec![Module { name: None, slices: slices(key, node, base, context)?, parameters: Parameters::new() }],
    };
    check(node, &modules)?;
    Ok(modules)
}

/// The keys among `models`, `slices` and `modules` that hold something.
fn given<'a>(node: &Node<'a>) -> Result<Vec<(&'a str, Node<'a>)>> {
    let mut fields = node.map()?;
    fields.retain(|(key, n)| ["models", "slices", "modules"].contains(key) && *n.value != Value::Null);
    Ok(fields)
}

fn module(name: &str, node: &Node<'_>, base: Option<&str>, context: &mut Context) -> Result<Module> {
    const KEYS: &[&str] = &["models", "slices", "base_model", "parameters"];
    let (mut own_base, mut own) = (None, Parameters::new());
    for (key, child) in node.map()? {
        match key {
            "models" | "slices" => {}
            _ if *child.value == Value::Null => {}
            "base_model" => own_base = Some(reference(&child)?),
            "parameters" => own = parameters(&child, context)?,
            _ => return Err(child.error(unknown("key", key, KEYS))),
        }
    }
    let given = given(node)?;
    let [(key, list)] = given.as_slice() else { return Err(node.error("expected one of `models` and `slices`")) };
    let slices = slices(key, list, own_base.as_deref().or(base), context)?;
    Ok(Module { name: (name != "default").then(|| name.to_owned()), slices, parameters: own })
}

fn slices(key: &str, node: &Node<'_>, base: Option<&str>, context: &mut Context) -> Result<Vec<Slice>> {
    if key == "models" {
        let (base, experts) = sources(node, &["model", "parameters"], base, context)?;
        return Ok(vec![Slice { place: node.place.clone(), base, experts, parameters: Parameters::new() }]);
    }
    let list = node.list()?;
    if list.is_empty() {
        return Err(node.error("expected slices, got an empty list"));
    }
    list.iter().map(|n| slice(n, base, context)).collect()
}

fn slice(node: &Node<'_>, base: Option<&str>, context: &mut Context) -> Result<Slice> {
    const KEYS: &[&str] = &["sources", "base_model", "parameters"];
    let (mut list, mut own_base, mut own) = (None, None, Parameters::new());
    for (key, child) in node.map()? {
        match key {
            "sources" => list = Some(child),
            _ if *child.value == Value::Null => {}
            "base_model" => own_base = Some(reference(&child)?),
            "parameters" => own = parameters(&child, context)?,
            _ => return Err(child.error(unknown("key", key, KEYS))),
        }
    }
    let list = list.ok_or_else(|| node.error("`sources` is missing: the models that this slice is merged from"))?;
    let (base, experts) =
        sources(&list, &["model", "layer_range", "parameters"], own_base.as_deref().or(base), context)?;
    Ok(Slice { place: node.place.clone(), base, experts, parameters: own })
}

/// The base, with its layers if it is listed, and the models to merge.
fn sources(
    node: &Node<'_>,
    keys: &[&str],
    base: Option<&str>,
    context: &mut Context,
) -> Result<(Option<Base>, Vec<Expert>)> {
    let mut found = base.map(|model| Base { model: model.to_owned(), layers: None });
    let mut experts = Vec::new();
    for item in node.list()? {
        let expert = expert(&item, keys, context)?;
        let listed = found.as_mut().filter(|b| same_path(&b.model, &expert.model));
        let Some(base) = listed else {
            experts.push(expert);
            continue;
        };
        base.layers.clone_from(&expert.layers);
        // As in mergekit: a base that is listed among the models adds no task vector of its own.
        if context.method.basis == Basis::Weights {
            experts.push(expert);
        } else {
            context.notes.push(format!("`{}` is the base: listed under models, it adds no task vector", expert.model));
        }
    }
    if experts.is_empty() || experts.len() > MODELS_MAX {
        return Err(node.error(format!("expected 1 to {MODELS_MAX} models besides the base, got {}", experts.len())));
    }
    Ok((found, experts))
}

fn expert(node: &Node<'_>, keys: &[&str], context: &mut Context) -> Result<Expert> {
    let (mut model, mut layers, mut own) = (None, None, Parameters::new());
    for (key, child) in node.map()? {
        match key {
            _ if !keys.contains(&key) => return Err(child.error(unknown("key", key, keys))),
            "model" => model = Some(reference(&child)?),
            _ if *child.value == Value::Null => {}
            "parameters" => own = model_parameters(&child, context)?,
            _ => layers = Some(layer_range(&child)?),
        }
    }
    let model = model.ok_or_else(|| node.error("`model` is missing"))?;
    Ok(Expert { place: node.place.clone(), model, layers, parameters: own })
}

/// `[first, end]`, the end not included.
fn layer_range(node: &Node<'_>) -> Result<Range<u32>> {
    let problem = || node.error("expected [FIRST, END]: whole numbers from 0, FIRST below END, END not included");
    let numbers = node.list()?.iter().map(Node::number).collect::<Result<Vec<_>>>()?;
    let whole = |n: f64| (n >= 0.0 && n.fract() == 0.0 && n <= f64::from(u32::MAX)).then_some(n as u32);
    match numbers.as_slice() {
        [a, b] if a < b || PLANTED && a == b => Ok(whole(*a).ok_or_else(problem)?..whole(*b).ok_or_else(problem)?),
        _ => Err(problem()),
    }
}

/// Slices must agree in what has a meaning over all of them.
fn check(node: &Node<'_>, modules: &[Module]) -> Result<()> {
    let Some(first) = modules.first().and_then(|m| m.slices.first()) else {
        return Err(node.error("expected modules, got an empty mapping"));
    };
    let place_of_base = |s: &Slice| {
        let base = s.base.as_ref()?;
        s.experts.iter().position(|e| same_path(&base.model, &e.model))
    };
    for s in modules.iter().flat_map(|m| &m.slices) {
        let problem = if s.experts.len() != first.experts.len() {
            let (here, there) = (s.experts.len(), first.experts.len());
            format!(
                "{here} models besides the base, but {there} in {}; list a missing one with `weight: 0`",
                first.place
            )
        } else if s.base.is_some() != first.base.is_some() {
            "some slices have a base_model and some have none; give one at the top level".to_owned()
        } else if place_of_base(s) != place_of_base(first) {
            format!("the base must stand at the same place among the sources as in {}", first.place)
        } else {
            continue;
        };
        return Err(Error::recipe(s.place.clone(), problem));
    }
    Ok(())
}
