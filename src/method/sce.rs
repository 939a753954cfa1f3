//! SCE (arXiv 2408.07990): select what varies, weigh by energy, erase what disagrees.

use super::{Basis, Entry, Kind, Method, Model, Parameter, Scene, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::{Bar, Block, Finding, Form, Largest, MAGNITUDES, Place, Sums, Survey};

/// Mean squares that sum to less give equal weights.
const SMALLEST_ENERGY: f64 = 1e-6;

/// Sums of agreeing weights below this count as this.
const SMALLEST_DIVISOR: f32 = 1e-6;

pub const ENTRY: Entry = Entry {
    name: "sce",
    summary: "Keeps the elements that vary most between task vectors, weighs experts by energy, drops minority signs.",
    formula: "D_k = tau_k at the floor(select_topk * v) elements of largest variance over k, else 0, v of them varying at all; \
              w_k = mean(D_k^2) / sum_j mean(D_j^2); g = sign(sum_k D_k), 0 := +; \
              theta = theta_0 + sum_k{w_k D_k : sign(D_k) = g} / sum_k{w_k}",
    source: "Wan et al. 2024, arXiv 2408.07990, sec. 3.3; thresholds as in mergekit",
    basis: Basis::TaskVectors,
    experts: (2, usize::MAX),
    passes: "5 (6 for tensors with tied variances); with select_topk 1: 2",
    memory: "a few sums per tensor; with select_topk below 1: 512 KiB per large tensor of a wave (4 bytes per element of small ones), and per thread",
    differs: &[],
    parameters: &[Parameter {
        name: "select_topk",
        scope: Scope::Global,
        kind: Kind::FRACTION,
        default: Some(1.0),
        help: "Fraction of the varying elements of each tensor that is kept; 1 keeps all.",
    }],
    start: |model: &Model<'_>| {
        let selects = model.settings.iter().any(selects);
        Ok(Box::new(Sce { experts: model.experts, selects }))
    },
};

struct Sce {
    experts: usize,
    /// Whether any tensor selects.
    selects: bool,
}

fn selects(settings: &Settings) -> bool {
    settings.get("select_topk")[0] < 1.0
}

/// The population variance of each element over the experts.
fn variances(experts: &[Vec<f32>]) -> impl Iterator<Item = f32> {
    let models = experts.len() as f64;
    (0..experts[0].len()).map(move |i| {
        let mean = experts.iter().map(|x| f64::from(x[i])).sum::<f64>() / models;
        let squares = experts.iter().map(|x| (f64::from(x[i]) - mean) * (f64::from(x[i]) - mean));
        (squares.sum::<f64>() / models) as f32
    })
}

/// Makes elements zero whose variance does not clear the bar.
fn select(bar: Bar, place: Place<'_>, experts: &mut [Vec<f32>]) {
    let mut variance: Vec<f32> = variances(experts).collect();
    kernel::keep_above(kernel::magnitude_of_key(bar.key), bar.equals_in(place.first), &mut variance);
    for x in experts {
        x.iter_mut().zip(&variance).filter(|(_, v)| **v == 0.0).for_each(|(x, _)| *x = 0.0);
    }
}

impl Sce {
    /// Selects in a copy, or in place.
    fn apply(&self, settings: &Settings, done: &[Survey], place: Place<'_>, experts: &mut [Vec<f32>]) {
        if self.selects && selects(settings) {
            select(done[1].bars().of(place.tensor)[0], place, experts);
        }
    }

    fn ranking<'a>(scene: Scene<'a>, done: &'a [Survey]) -> Largest<'a> {
        let wanted = |t: &super::Shown<'a>| {
            let varying = if t.elements == 0 { 0.0 } else { done[0].sums(t.tensor)[0] };
            let share = t.settings.get("select_topk")[0];
            let count = if share < 1.0 { (share * varying).floor() as u64 } else { t.elements };
            (t.tensor, t.elements, vec![vec![count]])
        };
        let view = |block: &Block<'_>, keys: &mut [Vec<u32>]| {
            keys[0].clear();
            keys[0].extend(variances(block.experts).map(kernel::magnitude_key));
        };
        Largest::per_tensor(MAGNITUDES, Box::new(view), scene.tensors.iter().map(wanted).collect(), scene.workers)
    }

    fn energies<'a>(&'a self, scene: Scene<'a>, done: &'a [Survey]) -> Sums<'a> {
        let measure = move |block: &Block<'_>, sums: &mut [f64]| {
            let mut experts = block.experts.to_vec();
            self.apply(scene.of(block.place.tensor).settings, done, block.place, &mut experts);
            experts.iter().zip(sums).for_each(|(x, sum)| *sum = kernel::squares(x));
        };
        Sums::new("energies", Form::TaskVectors, self.experts, Box::new(measure))
    }
}

impl Method for Sce {
    fn next_survey<'a>(&'a self, scene: Scene<'a>, done: &'a [Survey]) -> Option<Box<dyn Finding + 'a>> {
        let varying = |block: &Block<'_>, sums: &mut [f64]| {
            sums[0] = variances(block.experts).filter(|&v| v != 0.0).count() as f64;
        };
        match (done.len(), self.selects) {
            _ if scene.tensors.is_empty() => None,
            (0, true) => Some(Box::new(Sums::new("varying elements", Form::TaskVectors, 1, Box::new(varying)))),
            (1, true) => Some(Box::new(Self::ranking(scene, done))),
            (0, false) | (2, true) => Some(Box::new(self.energies(scene, done))),
            _ => None,
        }
    }

    fn surveys(&self, _settings: &[Settings]) -> u64 {
        if self.selects { 5 } else { 1 }
    }

    fn resident_bytes(&self, workers: usize) -> usize {
        Largest::local_bytes(usize::from(self.selects), workers)
    }

    fn tensor_bytes(&self, elements: u64) -> Option<usize> {
        let sums = Sums::tensor_bytes(self.experts) + Sums::tensor_bytes(1);
        Some(sums + if self.selects { Largest::tensor_bytes(elements, 1) } else { 0 })
    }

    fn merge(&self, settings: &Settings, done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        self.apply(settings, done, tile.place, tile.experts);
        let elements = tile.place.shape.iter().product::<u64>() as f64;
        let squares = done[done.len() - 1].sums(tile.place.tensor);
        let all: f64 = squares.iter().map(|s| s / elements).sum();
        let weight = |s: &f64| if all < SMALLEST_ENERGY { 1.0 / self.experts as f64 } else { s / elements / all };
        let mut sign = vec![0.0; out.len()];
        let mut divisor = vec![0.0; out.len()];
        kernel::elect_sum(tile.experts, &mut sign);
        sign.iter_mut().filter(|s| **s == 0.0).for_each(|s| *s = 1.0);
        out.fill(0.0);
        for (square, x) in squares.iter().zip(&mut *tile.experts) {
            let weight = weight(square) as f32;
            kernel::multiply(weight, x);
            kernel::select_weighted(weight, x, &sign, out, &mut divisor);
        }
        out.iter_mut().zip(&divisor).for_each(|(o, d)| *o /= d.max(SMALLEST_DIVISOR));
        kernel::add_scaled(tile.base, 1.0, out);
    }
}
