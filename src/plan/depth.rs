//! How deep each tensor stands, and the settings that follow from it.

use super::PlannedTensor;
use super::assemble::{Cell, Models, Row};
use super::stack::heights;
use crate::error::Result;
use crate::method::Settings;
use crate::recipe::{Recipe, Spot};
use crate::tensor::position;
use std::collections::BTreeMap;

/// Finds the distinct settings and tells each tensor, of which `rows` says where it comes from, its own.
pub fn settle(
    tensors: &mut [PlannedTensor],
    rows: &[Row<'_>],
    recipe: &Recipe,
    models: &Models<'_>,
) -> Result<Vec<Settings>> {
    let stacks = heights(rows.iter().map(|r| &*r.name));
    let base = usize::from(recipe.base.is_some());
    let (mut distinct, mut known) = (Vec::new(), BTreeMap::new());
    for (t, row) in tensors.iter_mut().zip(rows).filter(|(t, _)| t.layer.is_some()) {
        let module = &recipe.modules[row.module];
        let inputs: Vec<&str> = row.cells[base..].iter().flatten().map(|c| input_name(models, c, &row.name)).collect();
        let depth = row.depth.unwrap_or_else(|| depth(&row.name, &stacks));
        let spot = Spot { module, slice: &module.slices[row.slice], name: &row.name, inputs: &inputs, depth };
        let settings = recipe.settings_at(&spot)?;
        t.settings = *known.entry(settings.bits()).or_insert_with(|| {
            distinct.push(settings);
            distinct.len() - 1
        });
    }
    Ok(distinct)
}

/// What filters of model parameters test: the input's name, but the head's where an embedding stands in for it.
fn input_name<'a>(models: &Models<'a>, cell: &Cell, output: &'a str) -> &'a str {
    let name = &models.inventories[cell.model].tensors[cell.tensor].name;
    if position(name).is_none() { output } else { name }
}

/// mergekit's `t`: index / (height - 1), 1 in a stack of one block, 0 outside stacks.
fn depth(name: &str, heights: &BTreeMap<&str, u32>) -> f64 {
    match position(name) {
        None => 0.0,
        Some(p) if heights[p.stack] == 1 => 1.0,
        Some(p) => f64::from(p.index) / f64::from(heights[p.stack] - 1),
    }
}
