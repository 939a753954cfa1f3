//! PCB-Merging (arXiv 2410.02396): each value competes within its task and with the other tasks.

use super::parameters::WEIGHT;
use super::{Basis, Entry, Kind, Method, Model, Parameter, Scene, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::{Bar, Bars, Block, Finding, Largest, MAGNITUDES, Survey};

const VARIANTS: &[&str] = &["v", "p", "e"];

const NAMES: [&str; 3] = ["scores, upper digit", "scores, lower digit", "scores"];

/// Sums of scales below this count as this.
const SMALLEST_SCALE: f32 = 1e-12;

pub const ENTRY: Entry = Entry {
    name: "pcb",
    summary: "Scores every value by its size and by its agreement with other tasks, keeps the best, averages by score.",
    formula: "N_k = norm(clamp_q(abs(tau_k))) in [0, 1]; self = exp(K N_k^2); cross = v: tanh(tau_k * sum_j sign(tau_j) N_j), \
              p: tanh(tau_k * sum_j tau_j), e: sum_j tanh(sign N_k * sign N_j); B = self * cross; \
              scale_k = norm(clamp(B, its (1 - density) quantile, max)); \
              theta = theta_0 + lambda * sum_k weight_k sign(tau_k) clamp_q(abs(tau_k)) scale_k / max(sum_k scale_k, 1e-12)",
    source: "Du et al. 2024, arXiv 2410.02396; variants of the authors' code: v vision_source_code/pcb.py, p pcb-merging.py (with \
             q 0.0001) and the NLP code (with q 0.01), e pcb_ES.py",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "5",
    memory: "2 x 512 KiB per expert, once and per thread",
    differs: &[
        "exp and tanh are taken in f64 by one portable implementation, so that passes and machines agree.",
        "A task whose values are all equal scores 0; the authors' code divides by zero.",
    ],
    parameters: &[
        Parameter { default: Some(1.0), ..WEIGHT },
        Parameter {
            name: "density",
            scope: Scope::Model,
            kind: Kind::FRACTION,
            default: Some(0.05),
            help: "Fraction of the model's values whose score counts (the paper's r), the same for all tensors.",
        },
        Parameter {
            name: "variant",
            scope: Scope::Global,
            kind: Kind::Choice(VARIANTS),
            default: Some(0.0),
            help: "Which of the authors' formulas for agreement.",
        },
        Parameter {
            name: "q",
            scope: Scope::Global,
            kind: Kind::Number { min: 0.0, max: 0.5 },
            default: Some(0.01),
            help: "Magnitudes are clamped to their q and 1 - q quantiles over the whole model.",
        },
        Parameter {
            name: "lambda",
            scope: Scope::Global,
            kind: Kind::NUMBER,
            default: Some(1.2),
            help: "Scale of the merged task vector.",
        },
    ],
    start: |model: &Model<'_>| {
        let (density, q) = (model.uniform("density")?, model.uniform("q")?[0]);
        let variant = VARIANTS[model.uniform("variant")?[0] as usize];
        Ok(Box::new(Pcb { density, q, variant }))
    },
};

struct Pcb {
    density: Vec<f64>,
    q: f64,
    variant: &'static str,
}

/// The values between which something is clamped and normalised.
#[derive(Clone, Copy)]
struct Range {
    low: f32,
    high: f32,
}

impl Range {
    /// From bars of two counts for each expert: the larger count first.
    fn of(bars: &Bars, value: fn(u32) -> f32) -> Vec<Self> {
        let range = |b: &[Bar]| Self { low: value(b[0].key), high: value(b[1].key) };
        bars.model().chunks_exact(2).map(range).collect()
    }

    fn clamp(self, x: f32) -> f32 {
        if x < self.low { self.low } else { x.min(self.high) }
    }

    /// The place in the range, from 0 to 1; 0 in a range of one value.
    fn norm(self, x: f32) -> f32 {
        if self.high > self.low { (self.clamp(x) - self.low) / (self.high - self.low) } else { 0.0 }
    }
}

/// The place counted from the largest, from 1, of the place counted from the smallest, from 0.
fn from_largest(place: f64, elements: u64) -> u64 {
    (elements - (place.max(0.0) as u64).min(elements)).max(1)
}

fn sign(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

impl Pcb {
    fn ranges(done: &[Survey]) -> Vec<Range> {
        Range::of(done[0].bars(), kernel::magnitude_of_key)
    }

    /// The score of each value of each expert.
    fn scores(&self, ranges: &[Range], experts: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let models = experts.len() as f64;
        let signed = |k: usize, i: usize| f64::from(sign(experts[k][i]) * ranges[k].norm(experts[k][i].abs()));
        let mut scores = vec![vec![0.0; experts[0].len()]; experts.len()];
        for i in 0..experts[0].len() {
            let own = |k: usize| f64::from(experts[k][i]);
            let total: f64 = match self.variant {
                "v" => (0..experts.len()).map(|j| signed(j, i)).sum(),
                _ => (0..experts.len()).map(own).sum(),
            };
            for k in 0..experts.len() {
                let n = signed(k, i);
                let cross = match self.variant {
                    "e" => (0..experts.len()).map(|j| libm::tanh(n * signed(j, i))).sum(),
                    _ => libm::tanh(own(k) * total),
                };
                scores[k][i] = (libm::exp(models * n * n) * cross) as f32;
            }
        }
        scores
    }

    fn magnitudes<'a>(&self, scene: Scene<'a>) -> Largest<'a> {
        let d = scene.elements as f64;
        let (low, high) = ((d * self.q).trunc(), (d * (1.0 - self.q) - 1.0).trunc());
        let row = vec![from_largest(low, scene.elements), from_largest(high, scene.elements)];
        let rows = vec![row; scene.experts];
        let view = |block: &Block<'_>, keys: &mut [Vec<u32>]| {
            for (x, keys) in block.experts.iter().zip(keys) {
                keys.clear();
                keys.extend(x.iter().map(|&x| kernel::magnitude_key(x)));
            }
        };
        let hidden = (kernel::magnitude_key(0.0), scene.hidden);
        let tensors = scene.tensors.iter().map(|t| t.tensor);
        Largest::of_model(MAGNITUDES, Box::new(view), tensors, (scene.elements, &rows), hidden, scene.workers)
            .values_only()
            .of_magnitudes()
    }

    fn quantiles<'a>(&'a self, scene: Scene<'a>, done: &'a [Survey]) -> Largest<'a> {
        let ranges = Self::ranges(done);
        let d = scene.elements as f64;
        let row = |density: &f64| vec![from_largest((d * (1.0 - density)).trunc(), scene.elements), 1];
        let rows: Vec<Vec<u64>> = self.density.iter().map(row).collect();
        let view = move |block: &Block<'_>, keys: &mut [Vec<u32>]| {
            for (scores, keys) in self.scores(&ranges, block.experts).iter().zip(keys) {
                keys.clear();
                keys.extend(scores.iter().map(|&s| kernel::signed_key(s)));
            }
        };
        // Elements of pruned layers score 0.
        let hidden = (kernel::signed_key(0.0), scene.hidden);
        let tensors = scene.tensors.iter().map(|t| t.tensor);
        Largest::of_model(NAMES, Box::new(view), tensors, (scene.elements, &rows), hidden, scene.workers).values_only()
    }
}

impl Method for Pcb {
    fn next_survey<'a>(&'a self, scene: Scene<'a>, done: &'a [Survey]) -> Option<Box<dyn Finding + 'a>> {
        match done.len() {
            0 => Some(Box::new(self.magnitudes(scene))),
            1 => Some(Box::new(self.quantiles(scene, done))),
            _ => None,
        }
    }

    fn surveys(&self, _settings: &[Settings]) -> u64 {
        4
    }

    fn resident_bytes(&self, workers: usize) -> usize {
        Largest::resident_bytes(2 * self.density.len(), workers)
    }

    fn is_elementwise(&self) -> bool {
        true
    }

    fn merge(&self, settings: &Settings, done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        let ranges = Self::ranges(done);
        let scores = self.scores(&ranges, tile.experts);
        let scales = Range::of(done[1].bars(), kernel::number_of_key);
        let mut sum = vec![0.0; out.len()];
        out.fill(0.0);
        for (k, weight) in settings.per_model("weight").enumerate() {
            for (i, &x) in tile.experts[k].iter().enumerate() {
                let scale = scales[k].norm(scores[k][i]);
                out[i] += weight * (sign(x) * ranges[k].clamp(x.abs())) * scale;
                sum[i] += scale;
            }
        }
        out.iter_mut().zip(&sum).for_each(|(o, s)| *o /= s.max(SMALLEST_SCALE));
        kernel::add_scaled(tile.base, settings.number("lambda"), out);
    }
}
