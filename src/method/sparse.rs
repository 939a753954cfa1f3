//! Task vectors made sparse, weighted and added: what mergekit's family of methods has in common.
//!
//! Per expert: sparsify, rescale, multiply by the weight. Then an election, or none; the sum; normalize; lambda; the base.

use super::largest::{keep_largest, magnitude_bars, magnitude_bars_of_model};
use super::parameters::RESCALES;
use super::rows::{Rows, row_elements};
use super::ties::MERGES;
use super::{Method, Model, Scene, Settings, Tile};
use crate::kernel::{self, Agreed};
use crate::survey::{Block, Finding, Form, Largest, Place, Sums, Survey};

/// Norms below this are not rescaled.
const SMALLEST_NORM: f64 = 1e-7;

/// Sums of weights below this count as 1.
const SMALLEST_DIVISOR: f64 = 1e-8;

/// A method of the family.
pub struct Sparse {
    sparsifier: Sparsifier,
    join: Join,
    seed: u64,
    experts: usize,
    /// Whether norms are kept anywhere.
    rescales: bool,
}

/// Which values of a task vector are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sparsifier {
    /// Each with probability `density`.
    Random,
    /// Each with a probability that grows with its rank in its row.
    RandomByRank,
    /// The fraction `density` of each tensor with the largest magnitudes.
    Magnitude,
    /// The same after the fraction `gamma` with the largest magnitudes is set aside.
    Inliers,
    /// The fraction `density` of the whole model with the largest magnitudes, and what ties with the last.
    MagnitudeOfModel,
}

impl Sparsifier {
    /// Counts that are asked of each expert's ranking; 0 if there is none.
    fn counts(self) -> usize {
        match self {
            Self::Random | Self::RandomByRank => 0,
            Self::Magnitude | Self::MagnitudeOfModel => 1,
            Self::Inliers => 2,
        }
    }
}

/// How weighted task vectors become one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// All are added.
    Sum,
    /// Those are added that have the sign of the sum.
    Elect,
}

/// What makes up for dropped values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rescale {
    No,
    Norm,
    Probability,
}

impl Rescale {
    fn of(settings: &Settings) -> Self {
        match settings.find("rescale") {
            Some([1.0]) => match settings.find("rescale_by").map_or("norm", |w| RESCALES[w[0] as usize]) {
                "norm" => Self::Norm,
                _ => Self::Probability,
            },
            _ => Self::No,
        }
    }
}

impl Sparse {
    /// The method for these settings, checked.
    pub fn start(sparsifier: Sparsifier, join: Join, model: &Model<'_>) -> Result<Box<dyn Method>, String> {
        if sparsifier == Sparsifier::RandomByRank {
            model.settings.iter().try_for_each(check_probabilities)?;
        }
        if sparsifier == Sparsifier::MagnitudeOfModel {
            model.uniform("density")?;
        }
        let rescales = model.settings.iter().any(|s| Rescale::of(s) == Rescale::Norm);
        Ok(Box::new(Self { sparsifier, join, seed: model.seed, experts: model.experts, rescales }))
    }

    /// Rankings that come before the norms.
    fn rankings(&self) -> usize {
        usize::from(self.sparsifier.counts() > 0)
    }

    /// Drops values of expert `k`, and divides by probabilities where the settings say so.
    fn sparsify(&self, settings: &Settings, done: &[Survey], place: Place<'_>, k: usize, x: &mut [f32]) {
        let density = settings.get("density")[k];
        if density >= 1.0 {
            return;
        }
        let key = draw_key(self.seed, k, place.name);
        let divides = Rescale::of(settings) == Rescale::Probability;
        match self.sparsifier {
            Sparsifier::Random => {
                kernel::keep_at_random(key, place.first, density, x);
                if divides && density > 0.0 {
                    kernel::divide(density as f32, x);
                }
            }
            Sparsifier::RandomByRank => {
                let epsilon = settings.get("epsilon")[k];
                match Rows::of(place.shape).length_if_contiguous() {
                    Some(row) if !divides && density > 0.0 => {
                        let rows = x.chunks_mut(row).zip((place.first..).step_by(row));
                        rows.for_each(|(x, first)| kernel::keep_by_rank(key, first, density, epsilon, x));
                    }
                    _ => {
                        let probability = probabilities(settings, place.shape, k, x);
                        kernel::keep_each_at_random(key, place.first, &probability, x);
                        if divides && density > 0.0 {
                            x.iter_mut().zip(&probability).for_each(|(x, &p)| *x /= p as f32);
                        }
                    }
                }
            }
            Sparsifier::Magnitude | Sparsifier::MagnitudeOfModel => {
                keep_largest(done[0].bars().of(place.tensor)[k], place.first, x);
            }
            Sparsifier::Inliers => {
                let bars = &done[0].bars().of(place.tensor)[2 * k..][..2];
                let mut outliers = x.to_vec();
                keep_largest(bars[0], place.first, &mut outliers);
                keep_largest(bars[1], place.first, x);
                kernel::drop_where_set(&outliers, x);
            }
        }
    }

    fn ranking<'a>(&'a self, scene: Scene<'a>) -> Largest<'a> {
        let share = |fraction: f64, of: u64| (fraction * of as f64).floor() as u64;
        match self.sparsifier {
            Sparsifier::MagnitudeOfModel => {
                let density = scene.tensors[0].settings.get("density");
                magnitude_bars_of_model(scene, density.iter().map(|&d| share(d, scene.elements)).collect())
            }
            Sparsifier::Inliers => magnitude_bars(scene, |t, k| {
                let wanted = share(t.settings.get("density")[k], t.elements);
                let outliers = share(t.settings.get("gamma")[k], t.elements).min(t.elements - wanted);
                vec![outliers, wanted + outliers]
            }),
            _ => magnitude_bars(scene, |t, k| vec![share(t.settings.get("density")[k], t.elements)]),
        }
    }

    fn norms<'a>(&'a self, scene: Scene<'a>, done: &'a [Survey]) -> Sums<'a> {
        let measure = move |block: &Block<'_>, sums: &mut [f64]| {
            let settings = scene.of(block.place.tensor).settings;
            for (k, (x, sums)) in block.experts.iter().zip(sums.chunks_exact_mut(2)).enumerate() {
                let mut kept = x.clone();
                self.sparsify(settings, done, block.place, k, &mut kept);
                sums[0] = kernel::magnitudes(x);
                sums[1] = kernel::magnitudes(&kept);
            }
        };
        Sums::new("norms", Form::TaskVectors, 2 * scene.experts, Box::new(measure))
    }
}

impl Method for Sparse {
    fn next_survey<'a>(&'a self, scene: Scene<'a>, done: &'a [Survey]) -> Option<Box<dyn Finding + 'a>> {
        let rankings = self.rankings();
        match done.len() {
            _ if scene.tensors.is_empty() => None,
            n if n < rankings => Some(Box::new(self.ranking(scene))),
            n if n == rankings && self.rescales => Some(Box::new(self.norms(scene, done))),
            _ => None,
        }
    }

    fn surveys(&self, _settings: &[Settings]) -> u64 {
        let norms = u64::from(self.rescales);
        match self.sparsifier {
            Sparsifier::Random | Sparsifier::RandomByRank => norms,
            Sparsifier::Magnitude | Sparsifier::Inliers => 3 + norms,
            Sparsifier::MagnitudeOfModel => 2 + norms,
        }
    }

    fn resident_bytes(&self, workers: usize) -> usize {
        let counts = self.experts * self.sparsifier.counts();
        match self.sparsifier {
            Sparsifier::Random | Sparsifier::RandomByRank => 0,
            Sparsifier::Magnitude | Sparsifier::Inliers => Largest::local_bytes(counts, workers),
            Sparsifier::MagnitudeOfModel => Largest::resident_bytes(counts, workers),
        }
    }

    fn tensor_bytes(&self, elements: u64) -> Option<usize> {
        let counts = self.experts * self.sparsifier.counts();
        let norms = Sums::tensor_bytes(2 * self.experts);
        match self.sparsifier {
            Sparsifier::Random | Sparsifier::RandomByRank => self.rescales.then_some(norms),
            Sparsifier::Magnitude | Sparsifier::Inliers => Some(norms + Largest::tensor_bytes(elements, counts)),
            Sparsifier::MagnitudeOfModel => None,
        }
    }

    fn unit(&self, shape: &[u64]) -> u64 {
        if self.sparsifier == Sparsifier::RandomByRank { row_elements(shape) } else { 1 }
    }

    fn merge(&self, settings: &Settings, done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        for (k, (weight, x)) in settings.per_model("weight").zip(&mut *tile.experts).enumerate() {
            self.sparsify(settings, done, tile.place, k, x);
            if Rescale::of(settings) == Rescale::Norm {
                let sums = &done[self.rankings()].sums(tile.place.tensor)[2 * k..][..2];
                kernel::multiply(norm_ratio(sums[0], sums[1]), x);
            }
            kernel::multiply(weight, x);
        }
        join(self.join, settings, tile.experts, out);
        kernel::add_scaled(tile.base, settings.number("lambda"), out);
    }
}

/// What brings the L1 norm of what was kept back to that of the whole.
fn norm_ratio(whole: f64, kept: f64) -> f32 {
    if whole < SMALLEST_NORM || kept < SMALLEST_NORM { 1.0 } else { (whole / kept) as f32 }
}

/// Adds weighted task vectors, and normalizes where the settings say so.
fn join(join: Join, settings: &Settings, weighted: &[Vec<f32>], out: &mut [f32]) {
    let normalize = settings.find("normalize") == Some(&[1.0]);
    match join {
        Join::Sum => {
            out.fill(0.0);
            weighted.iter().for_each(|x| kernel::axpy(1.0, x, out));
            if normalize {
                let sum: f64 = settings.get("weight").iter().sum();
                kernel::divide(if sum.abs() < SMALLEST_DIVISOR { 1.0 } else { sum as f32 }, out);
            }
        }
        Join::Elect => {
            let merge = settings.find("merge").map_or("disjoint_mean", |w| MERGES[w[0] as usize]);
            let weights: Vec<f32> = settings.per_model("weight").collect();
            let agreed = match merge {
                "disjoint_max" => Agreed::Max,
                "disjoint_mean" if normalize => Agreed::Mean(&weights),
                _ => Agreed::Sum,
            };
            kernel::elect(weighted, true, &vec![1.0; weighted.len()], agreed, out);
        }
    }
}

/// One key per tensor and expert.
fn draw_key(seed: u64, expert: usize, tensor: &str) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("taskvec 2026 random element");
    hasher.update(&seed.to_le_bytes()).update(&(expert as u64).to_le_bytes()).update(tensor.as_bytes());
    let mut key = [0; 8];
    hasher.finalize_xof().fill(&mut key);
    u64::from_le_bytes(key)
}

/// The probability of each value of whole rows: it rises with the rank of its magnitude from density - epsilon to
/// density + epsilon.
fn probabilities(settings: &Settings, shape: &[u64], k: usize, x: &[f32]) -> Vec<f64> {
    let (density, epsilon) = (settings.get("density")[k], settings.get("epsilon")[k]);
    if density == 0.0 {
        return vec![0.0; x.len()];
    }
    let mut probability = vec![density; x.len()];
    Rows::of(shape).for_each_rank(x, |element, rank, row| {
        if row > 1 {
            probability[element] = (density - epsilon) + 2.0 * epsilon * rank as f64 / (row - 1) as f64;
        }
    });
    probability
}

fn check_probabilities(settings: &Settings) -> Result<(), String> {
    for (density, epsilon) in settings.get("density").iter().zip(settings.get("epsilon")) {
        let random = *density > 0.0 && *density < 1.0;
        if random && (density - epsilon <= 0.0 || density + epsilon >= 1.0) {
            return Err(format!(
                "density {density} and epsilon {epsilon} give probabilities from {} to {}; they must lie inside (0, 1): \
                 set a smaller epsilon",
                density - epsilon,
                density + epsilon
            ));
        }
    }
    Ok(())
}
