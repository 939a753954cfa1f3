//! How deep each tensor stands, and the settings that follow from it.

use super::PlannedTensor;
use crate::error::Result;
use crate::method::Settings;
use crate::recipe::Recipe;
use crate::tensor::position;
use std::collections::BTreeMap;

/// Finds the distinct settings and tells each tensor its own.
pub fn settle(tensors: &mut [PlannedTensor], recipe: &Recipe) -> Result<Vec<Settings>> {
    let stacks = stack_heights(tensors);
    let mut distinct: Vec<Settings> = Vec::new();
    for t in tensors.iter_mut().filter(|t| t.layer.is_some()) {
        let settings = recipe.settings(&t.name, depth(&t.name, &stacks))?;
        // Neighbours mostly share their settings: search from the end.
        t.settings = distinct.iter().rposition(|s| *s == settings).unwrap_or_else(|| {
            distinct.push(settings);
            distinct.len() - 1
        });
    }
    Ok(distinct)
}

/// Blocks of each stack.
fn stack_heights(tensors: &[PlannedTensor]) -> BTreeMap<String, u32> {
    let mut heights = BTreeMap::new();
    for p in tensors.iter().filter_map(|t| position(&t.name)) {
        let height: &mut u32 = heights.entry(p.stack.to_owned()).or_default();
        *height = (*height).max(p.index.saturating_add(1));
    }
    heights
}

/// mergekit's `t`: index / (height - 1), 1 in a stack of one block, 0 outside stacks.
fn depth(name: &str, heights: &BTreeMap<String, u32>) -> f64 {
    match position(name) {
        None => 0.0,
        Some(p) if heights[p.stack] == 1 => 1.0,
        Some(p) => f64::from(p.index) / f64::from(heights[p.stack] - 1),
    }
}
