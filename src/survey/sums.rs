//! Sums per tensor: a few numbers of each block, added in block order.

use super::{Block, BlockSum, Finding, Form, Statistic, Survey};
use std::collections::BTreeMap;

/// Writes a block's share of each sum.
pub type Measure<'a> = Box<dyn Fn(&Block<'_>, &mut [f64]) + Send + Sync + 'a>;

/// Gathers `width` sums for each tensor.
pub struct Sums<'a> {
    name: &'static str,
    form: Form,
    width: usize,
    measure: Measure<'a>,
    sums: BTreeMap<usize, Vec<BlockSum>>,
}

impl<'a> Sums<'a> {
    /// `name` is for progress lines; `measure` sees the experts in this form.
    pub fn new(name: &'static str, form: Form, width: usize, measure: Measure<'a>) -> Self {
        Self { name, form, width, measure, sums: BTreeMap::new() }
    }

    /// Bytes that one tensor's sums take.
    pub fn tensor_bytes(width: usize) -> usize {
        width * size_of::<BlockSum>() + 64
    }
}

impl Statistic for Sums<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn form(&self) -> Form {
        self.form
    }

    fn observe(&self, _worker: usize, block: Block<'_>, sums: &mut Vec<f64>) {
        let start = sums.len();
        sums.resize(start + self.width, 0.0);
        (self.measure)(&block, &mut sums[start..]);
    }

    fn fold(&mut self, tensor: usize, sums: &[f64]) {
        let mine = self.sums.entry(tensor).or_insert_with(|| vec![BlockSum::default(); self.width]);
        for block in sums.chunks_exact(self.width) {
            mine.iter_mut().zip(block).for_each(|(sum, &b)| sum.add(b));
        }
    }

    fn width(&self) -> usize {
        self.width
    }

    fn fold_chunks(&mut self, tensor: usize, sums: &[f64]) {
        let mine = self.sums.entry(tensor).or_insert_with(|| vec![BlockSum::default(); self.width]);
        for chunk in sums.chunks_exact(self.width) {
            mine.iter_mut().zip(chunk).for_each(|(sum, &c)| sum.add_chunks(c));
        }
    }
}

impl Finding for Sums<'_> {
    fn finish(self: Box<Self>) -> Survey {
        let of_tensor = |sums: Vec<BlockSum>| sums.into_iter().map(BlockSum::get).collect();
        Survey::Sums(self.sums.into_iter().map(|(tensor, sums)| (tensor, of_tensor(sums))).collect())
    }
}
