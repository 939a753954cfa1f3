//! TALL masks (arXiv 2405.07813): one expert rebuilt from the sum of all and a mask.

use super::consensus_ta::{MASK_LAMBDA, add_all, counts, mask_all};
use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::Survey;

pub const ENTRY: Entry = Entry {
    name: "tall_mask",
    summary: "Rebuilds one model from the sum of all task vectors, where the element counts as its own.",
    formula: "tau = sum_k tau_k; m = abs(tau_task) > mask_lambda_task * abs(tau - tau_task); theta = theta_0 + m * tau",
    source: "Wang et al. 2024, arXiv 2405.07813, eq. 5, on task vectors instead of rebuilt weights",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &["As consensus_ta."],
    parameters: &[
        MASK_LAMBDA,
        Parameter {
            name: "task",
            scope: Scope::Global,
            kind: Kind::Number { min: 1.0, max: 4096.0 },
            default: Some(1.0),
            help: "Which model is rebuilt: its place among the models, from 1.",
        },
    ],
    start: |model: &Model<'_>| {
        let task = model.uniform("task")?[0];
        if task.fract() != 0.0 || task as usize > model.experts {
            return Err(format!("`task` must be a whole number from 1 to {}, got {task}", model.experts));
        }
        Ok(Box::new(TallMask { task: task as usize - 1 }))
    },
};

struct TallMask {
    task: usize,
}

impl Method for TallMask {
    fn is_elementwise(&self) -> bool {
        true
    }

    fn has_masks(&self) -> bool {
        true
    }

    fn mask(&self, settings: &Settings, block: &Tile<'_>, masks: &mut [Vec<u8>]) {
        mask_all(settings, block, masks);
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        add_all(tile.experts, out);
        let mask_lambda = settings.get("mask_lambda")[self.task] as f32;
        for (sum, &own) in out.iter_mut().zip(&tile.experts[self.task]) {
            *sum = if counts(mask_lambda, own, *sum) { *sum } else { 0.0 };
        }
        kernel::add_scaled(tile.base, 1.0, out);
    }
}
