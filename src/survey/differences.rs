//! How models differ from their base, and their task vectors from each other: what `taskvec compare` gathers.

use super::{Block, BlockSum, Form, Statistic};
use crate::kernel;
use std::collections::BTreeMap;

/// Gathers [`Totals`] for each tensor in one pass.
#[derive(Debug)]
pub struct Differences {
    models: usize,
    tensors: BTreeMap<usize, (Vec<BlockSum>, Vec<f32>)>,
}

/// What was found for one tensor, or for all together. A difference that is not finite is counted, and else taken as 0, as
/// is an element of the base.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Sum of the base's squares.
    pub base_squares: f64,
    /// Of each model.
    pub models: Vec<OfModel>,
    /// Of each pair (i, j) with i < j: (0, 1), (0, 2), ..., (1, 2), ...
    pub pairs: Vec<OfPair>,
}

/// A model against the base.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OfModel {
    /// Elements whose value is another.
    pub changed: u64,
    /// Elements that are not finite.
    pub non_finite: u64,
    /// The task vector's largest magnitude.
    pub max_abs: f32,
    /// Sum of its squares.
    pub squares: f64,
    /// Its inner product with the base.
    pub with_base: f64,
}

/// Two task vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OfPair {
    /// Inner product.
    pub product: f64,
    /// Elements at which neither is zero.
    pub both: u64,
    /// Of them, those at which both have one sign.
    pub same_sign: u64,
}

const OF_MODEL: usize = 4;
const OF_PAIR: usize = 3;

impl Differences {
    /// For so many models besides the base.
    pub fn new(models: usize) -> Self {
        Self { models, tensors: BTreeMap::new() }
    }

    /// Bytes that it keeps for so many tensors.
    pub fn resident_bytes(models: usize, tensors: usize) -> usize {
        let (sums, pairs) = (sums(models), models * models.saturating_sub(1) / 2);
        let kept = sums * size_of::<BlockSum>() + models * size_of::<f32>() + 128;
        let told = models * size_of::<OfModel>() + pairs * size_of::<OfPair>() + 128;
        // Told twice: as totals, and as the report that is made of them.
        tensors * (kept + 2 * told)
    }

    /// What was found, by tensor.
    pub fn finish(self) -> BTreeMap<usize, Totals> {
        let models = self.models;
        self.tensors.into_iter().map(|(t, (sums, max))| (t, Totals::from_sums(models, &sums, &max))).collect()
    }
}

/// Sums of a block: the base's squares, four of each model, three of each pair.
fn sums(models: usize) -> usize {
    1 + OF_MODEL * models + OF_PAIR * models * models.saturating_sub(1) / 2
}

impl Totals {
    /// Nothing seen yet.
    pub fn new(models: usize) -> Self {
        let pairs = vec![OfPair::default(); models * models.saturating_sub(1) / 2];
        Self { base_squares: 0.0, models: vec![OfModel::default(); models], pairs }
    }

    fn from_sums(models: usize, sums: &[BlockSum], max: &[f32]) -> Self {
        let sums: Vec<f64> = sums.iter().map(|s| s.get()).collect();
        let (own, pairs) = sums[1..].split_at(OF_MODEL * models);
        let model = |(s, max): (&[f64], &f32)| OfModel {
            changed: s[0] as u64,
            non_finite: s[1] as u64,
            max_abs: *max,
            squares: s[2],
            with_base: s[3],
        };
        let pair = |s: &[f64]| OfPair { product: s[0], both: s[1] as u64, same_sign: s[2] as u64 };
        Self {
            base_squares: sums[0],
            models: own.chunks_exact(OF_MODEL).zip(max).map(model).collect(),
            pairs: pairs.chunks_exact(OF_PAIR).map(pair).collect(),
        }
    }

    /// Adds what was found for the next tensor.
    pub fn add(&mut self, more: &Self) {
        self.base_squares += more.base_squares;
        for (a, b) in self.models.iter_mut().zip(&more.models) {
            a.changed += b.changed;
            a.non_finite += b.non_finite;
            a.max_abs = a.max_abs.max(b.max_abs);
            a.squares += b.squares;
            a.with_base += b.with_base;
        }
        for (a, b) in self.pairs.iter_mut().zip(&more.pairs) {
            a.product += b.product;
            a.both += b.both;
            a.same_sign += b.same_sign;
        }
    }
}

impl Statistic for Differences {
    fn name(&self) -> &'static str {
        "compare"
    }

    fn form(&self) -> Form {
        Form::TaskVectors
    }

    fn observe(&self, _worker: usize, block: Block<'_>, sums: &mut Vec<f64>) {
        let finite = |x: &[f32]| kernel::first_non_finite(x).is_none();
        if finite(block.base) && block.experts.iter().all(|x| finite(x)) {
            measure(block.base, block.experts, &vec![0; self.models], sums);
            return;
        }
        let (mut base, mut models) = (block.base.to_vec(), block.experts.to_vec());
        let bad: Vec<u64> = models.iter_mut().map(|x| drop_non_finite(x)).collect();
        drop_non_finite(&mut base);
        measure(&base, &models, &bad, sums);
    }

    fn fold(&mut self, tensor: usize, sums: &[f64]) {
        let (models, width) = (self.models, self::sums(self.models));
        let (mine, max) =
            self.tensors.entry(tensor).or_insert_with(|| (vec![BlockSum::default(); width], vec![0.0; models]));
        for block in sums.chunks_exact(width + models) {
            mine.iter_mut().zip(block).for_each(|(sum, &b)| sum.add(b));
            max.iter_mut().zip(&block[width..]).for_each(|(m, &b)| *m = m.max(b as f32));
        }
    }
}

/// Sets what is not finite to zero, and counts it.
fn drop_non_finite(x: &mut [f32]) -> u64 {
    let bad = x.iter_mut().filter(|v| !v.is_finite());
    bad.map(|v| *v = 0.0).count() as u64
}

/// One block's sums, and behind them the largest magnitude of each task vector.
fn measure(base: &[f32], models: &[Vec<f32>], non_finite: &[u64], out: &mut Vec<f64>) {
    out.push(kernel::squares(base));
    for (x, bad) in models.iter().zip(non_finite) {
        out.extend([kernel::nonzero(x) as f64, *bad as f64, kernel::squares(x), kernel::dot(base, x)]);
    }
    for (i, x) in models.iter().enumerate() {
        for y in &models[i + 1..] {
            let (both, same) = kernel::signs(x, y);
            out.extend([kernel::dot(x, y), both as f64, same as f64]);
        }
    }
    out.extend(models.iter().map(|x| f64::from(kernel::largest_magnitude(x))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::Place;

    #[test]
    fn what_is_not_finite_is_counted_and_left_out() {
        let mut d = Differences::new(2);
        let experts = [vec![f32::NAN, 2.0, 0.0], vec![1.0, -1.0, f32::INFINITY]];
        let place = Place { tensor: 7, name: "t", shape: &[3], first: 0 };
        let mut sums = Vec::new();
        d.observe(0, Block { place, base: &[3.0, 4.0, f32::NAN], experts: &experts }, &mut sums);
        d.fold(7, &sums);
        let found = &d.finish()[&7];
        assert_eq!(found.base_squares, 25.0);
        let model =
            |changed, squares, with_base, max_abs| OfModel { changed, non_finite: 1, max_abs, squares, with_base };
        assert_eq!(found.models, [model(1, 4.0, 8.0, 2.0), model(2, 2.0, -1.0, 1.0)]);
        assert_eq!(found.pairs, [OfPair { product: -2.0, both: 1, same_sign: 0 }]);
    }
}
