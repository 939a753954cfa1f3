//! The layers of one model, as its tensors' names tell them.

use crate::tensor::position;
use std::collections::BTreeMap;

/// Parts of names of tensors that belong before the layers: embeddings of tokens and positions. Whatever else stands
/// outside the layers belongs after them.
const BEFORE_LAYERS: &[&str] = &["embed", "wte", "wpe", "tok", "position"];

/// Whether a tensor outside the layers belongs before them.
pub fn is_before_layers(name: &str) -> bool {
    BEFORE_LAYERS.iter().any(|part| name.contains(part))
}

/// Layers of each stack that these names place tensors in.
pub fn heights<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
    let mut heights = BTreeMap::new();
    for p in names.filter_map(position) {
        let height: &mut u32 = heights.entry(p.stack).or_default();
        *height = (*height).max(p.index.saturating_add(1));
    }
    heights
}

/// A stack of layers.
#[derive(Debug)]
pub struct Stack<'a> {
    /// What stands before the layer's number.
    pub name: String,
    /// Number of layers.
    pub height: u32,
    /// Of each layer, in file order, what stands after its number, and the tensor.
    layers: BTreeMap<u32, Vec<(&'a str, usize)>>,
    by_suffix: BTreeMap<(u32, &'a str), usize>,
}

impl<'a> Stack<'a> {
    /// The stack among `tensors` (index and name): if there are several, the one that has `end` layers.
    pub fn find(tensors: impl Iterator<Item = (usize, &'a str)>, end: u32) -> Result<Self, String> {
        let mut stacks: BTreeMap<&str, Self> = BTreeMap::new();
        for (tensor, name) in tensors {
            let Some(p) = position(name) else { continue };
            let number = name[p.stack.len() + 1..].split('.').next().unwrap_or_default();
            let suffix = &name[p.stack.len() + 1 + number.len()..];
            let stack = stacks.entry(p.stack).or_insert_with(|| Self {
                name: p.stack.to_owned(),
                height: 0,
                layers: BTreeMap::new(),
                by_suffix: BTreeMap::new(),
            });
            stack.height = stack.height.max(p.index.saturating_add(1));
            stack.layers.entry(p.index).or_default().push((suffix, tensor));
            stack.by_suffix.insert((p.index, suffix), tensor);
        }
        let all: Vec<String> = stacks.values().map(|s| format!("`{}` of {}", s.name, s.height)).collect();
        if stacks.len() > 1 {
            stacks.retain(|_, s| s.height >= end);
        }
        let several = format!("has several stacks of layers: {}", all.join(", "));
        match (all.len(), stacks.len()) {
            (0, _) => Err("has no layers that a layer_range could mean; leave it out".into()),
            (_, 0) => Err(format!("{several}; none has {end} layers")),
            (_, 1) => Ok(stacks.into_values().next().expect("there is one")),
            _ => Err(format!("{several}; name the one to slice under `modules`")),
        }
    }

    /// Whether a tensor is in it.
    pub fn holds(&self, name: &str) -> bool {
        position(name).is_some_and(|p| p.stack == self.name)
    }

    /// The tensors of a layer, in file order.
    pub fn layer(&self, layer: u32) -> &[(&'a str, usize)] {
        self.layers.get(&layer).map_or(&[], Vec::as_slice)
    }

    /// The tensor of a layer whose name ends so.
    pub fn find_in(&self, layer: u32, suffix: &str) -> Option<usize> {
        self.by_suffix.get(&(layer, suffix)).copied()
    }
}
