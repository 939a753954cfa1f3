//! Which tensors form a layer, the unit that LwPTV scores and prunes.

use super::PlannedTensor;
use crate::recipe::LayerRule;
use crate::tensor::position;
use std::collections::BTreeMap;

/// A layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The tensor's name, or what the rule calls the group.
    pub name: String,
    /// Indices of its tensors, ascending.
    pub tensors: Vec<usize>,
    /// Their elements together.
    pub elements: u64,
}

/// Groups the float tensors that are merged, in the order of their first tensors, and tells each tensor its layer.
pub fn build(tensors: &mut [PlannedTensor], rule: Option<&LayerRule>) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
    for (i, t) in tensors.iter_mut().enumerate().filter(|(_, t)| t.taken.is_none() && t.places[0].dtype.is_float()) {
        let name = rule.and_then(|rule| group(rule, &t.name));
        let layer = match name {
            Some(name) => *by_name.entry(name.clone()).or_insert_with(|| push(&mut layers, name)),
            None => push(&mut layers, t.name.clone()),
        };
        layers[layer].tensors.push(i);
        layers[layer].elements += t.elements;
        t.layer = Some(layer);
    }
    layers
}

fn push(layers: &mut Vec<Layer>, name: String) -> usize {
    layers.push(Layer { name, tensors: Vec::new(), elements: 0 });
    layers.len() - 1
}

fn group(rule: &LayerRule, name: &str) -> Option<String> {
    match rule {
        LayerRule::Tensor | LayerRule::Element => None,
        LayerRule::Block => position(name).map(|p| format!("{}.{}", p.stack, p.index)),
        LayerRule::Pattern(regex) => regex.captures(name).and_then(|c| c.get(1)).map(|m| m.as_str().to_owned()),
    }
}
