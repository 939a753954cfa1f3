//! TIES merging (arXiv 2306.01708), trimmed over the whole model.

use super::{Entry, Kind, Method, Model, Parameter, Scene, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::{Finding, Form, Majority, Ranks, Survey};

const MERGES: &[&str] = &["disjoint_mean", "disjoint_sum", "disjoint_max"];

pub const ENTRY: Entry = Entry {
    name: "ties",
    summary: "Trims task vectors over the whole model, elects a sign per element, merges what agrees.",
    formula: "t_k = r-th smallest of abs(tau_k), r = d - floor(density_k * d); tau_k := 0 where abs(tau_k) < t_k; \
              g = sign(sum_k tau_k), 0 := sign(sum_i g_i); theta = theta_0 + lambda * merge{weight_k * tau_k : sign(tau_k) = g}",
    source: "Yadav et al. 2023, arXiv 2306.01708, alg. 1; rank and zero rules as in the authors' code",
    form: Form::TaskVectors,
    passes: "4",
    parameters: &[
        Parameter {
            name: "weight",
            scope: Scope::Model,
            kind: Kind::NUMBER,
            default: Some(1.0),
            help: "Scale of this model's selected values, applied after the election.",
        },
        Parameter {
            name: "density",
            scope: Scope::Model,
            kind: Kind::FRACTION,
            default: Some(1.0),
            help: "Fraction of the model's values that the trim keeps, the same for all tensors; 1 trims nothing.",
        },
        Parameter {
            name: "lambda",
            scope: Scope::Global,
            kind: Kind::NUMBER,
            default: Some(1.0),
            help: "Scale of the merged task vector.",
        },
        Parameter {
            name: "scope",
            scope: Scope::Global,
            kind: Kind::Choice(&["model"]),
            default: None,
            help: "What the trim ranks over. mergekit's per-tensor trim is not there yet, so the choice must be written.",
        },
        Parameter {
            name: "merge",
            scope: Scope::Global,
            kind: Kind::Choice(MERGES),
            default: Some(0.0),
            help: "How agreeing values become one: their mean, their sum, or the largest.",
        },
    ],
    start: |model: &Model<'_>| {
        let density = model.uniform("density")?;
        Ok(Box::new(Ties { density }))
    },
};

struct Ties {
    density: Vec<f64>,
}

fn thresholds(done: &[Survey]) -> &[f32] {
    match done.first() {
        Some(Survey::Ranks(values)) => values,
        _ => panic!("TIES merges after its ranks are known"),
    }
}

impl Method for Ties {
    fn next_survey(&self, scene: Scene, done: &[Survey]) -> Option<Box<dyn Finding>> {
        match done.len() {
            0 => {
                let rank = |density: &f64| {
                    // Rank 0 (density 1) has no value; rank 1 is the smallest, which trims nothing either.
                    (scene.elements - (density * scene.elements as f64).floor() as u64).max(1)
                };
                let ranks = self.density.iter().map(rank).collect();
                Some(Box::new(Ranks::new(ranks, scene.hidden, scene.workers)))
            }
            1 => Some(Box::new(Majority::new(thresholds(done).to_vec()))),
            _ => None,
        }
    }

    fn resident_bytes(&self, workers: usize) -> usize {
        Ranks::resident_bytes(self.density.len(), workers + 1)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        for (x, &threshold) in tile.experts.iter_mut().zip(thresholds(done)) {
            kernel::trim(threshold, x);
        }
        let mut sign = vec![0.0; out.len()];
        kernel::elect_sum(tile.experts, &mut sign);
        let majority = match done {
            [_, Survey::Majority(sum)] => sum.signum() as f32,
            _ => panic!("TIES merges after the majority is known"),
        };
        sign.iter_mut().filter(|s| **s == 0.0).for_each(|s| *s = majority);
        out.fill(0.0);
        let mut count = vec![0.0; out.len()];
        let merge = MERGES[settings.choice("merge")];
        for (weight, x) in settings.per_model("weight").zip(&*tile.experts) {
            match merge {
                "disjoint_max" => kernel::select_max(weight, x, &sign, out),
                _ => kernel::select_sum(weight, x, &sign, out, &mut count),
            }
        }
        if merge == "disjoint_mean" {
            out.iter_mut().zip(&count).for_each(|(o, &n)| *o /= n.max(1.0));
        }
        kernel::add_scaled(tile.base, settings.number("lambda"), out);
    }
}
