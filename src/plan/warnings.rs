//! What the user should know before a merge.

use super::Plan;
use crate::survey::Form;
use crate::tensor::Dtype;

/// The notes of a plan, in the order in which they are told.
pub(super) fn warnings(plan: &Plan) -> Vec<String> {
    let mut warnings = plan.recipe.notes.clone();
    let floats = || plan.tensors.iter().filter(|t| t.layer.is_some());
    warnings.extend(plan.vocabulary.iter().flat_map(|v| v.notes.iter().cloned()));
    if plan.options.delta && plan.has_base && !plan.writes_delta() {
        warnings.push("no delta file is written: the output's embeddings have other rows than the base's".into());
    }
    if floats().any(|t| t.places.iter().any(|p| p.stored() == Dtype::F64)) {
        warnings.push("F64 tensors are rounded to f32 before they are merged (docs/numerics.md)".into());
    }
    let mixed = floats().filter(|t| t.places.iter().any(|p| p.stored() != t.places[0].stored())).count();
    if mixed > 0 {
        warnings.push(format!("{mixed} tensors differ in dtype between models; each is widened exactly"));
    }
    let cast = floats().filter(|t| t.dtype != t.places[0].stored()).count();
    if cast > 0 {
        let name = &plan.sources[plan.reference()].label;
        warnings.push(format!("{cast} tensors are written in another dtype than `{name}` has them"));
    }
    if plan.form() == Form::Weights && plan.has_base && plan.recipe.lwptv.is_none() {
        warnings.push(format!(
            "{} does not use base_model without lwptv; it gives the order and side files",
            plan.recipe.method.name
        ));
    }
    if plan.options.delta && plan.has_base && !plan.fits_base {
        warnings.push("no delta file is written: not every tensor is the base's of the same name".into());
    }
    if plan.layers.is_empty() {
        warnings.push("no float tensors are merged: everything is copied".into());
    }
    let lossy: Vec<f64> = plan.sources.iter().filter_map(|s| s.error_bound).collect();
    if !lossy.is_empty() {
        let largest = lossy.iter().fold(0.0, |m: f64, e| m.max(*e));
        let count = lossy.len();
        warnings.push(format!("{count} of the inputs are lossy deltas, their values off by up to {largest:e}"));
    }
    warnings
}
