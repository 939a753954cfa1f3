//! Sums of experts whose coefficients follow from the experts' inner products.

use super::{Method, Model, Scene, Settings, Tile};
use crate::kernel;
use crate::survey::{Block, Finding, Form, Sums, Survey};

/// Inner products of vectors with each other.
pub struct Gram {
    /// The upper triangle, row by row.
    products: Vec<f64>,
    vectors: usize,
}

impl Gram {
    /// The number of vectors.
    pub fn vectors(&self) -> usize {
        self.vectors
    }

    /// The inner product of vectors `i` and `j`.
    pub fn dot(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.min(j), i.max(j));
        self.products[i * self.vectors - i * (i + 1) / 2 + j]
    }

    /// The length of vector `i`.
    pub fn norm(&self, i: usize) -> f64 {
        self.dot(i, i).sqrt()
    }

    /// The inner product of two sums of vectors, given by their coefficients.
    pub fn dot_of(&self, a: &[f64], b: &[f64]) -> f64 {
        let row = |i: usize| (0..self.vectors).map(|j| b[j] * self.dot(i, j)).sum::<f64>();
        (0..self.vectors).map(|i| a[i] * row(i)).sum()
    }

    /// The length of a sum of vectors.
    pub fn norm_of(&self, a: &[f64]) -> f64 {
        self.dot_of(a, a).max(0.0).sqrt()
    }
}

/// The number of inner products of so many vectors.
fn pairs(vectors: usize) -> usize {
    vectors * (vectors + 1) / 2
}

/// What counts as one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// A whole tensor.
    Tensor,
    /// Each run along the last dimension.
    Rows,
    /// Each run along the first dimension.
    Columns,
}

/// From the settings of a tensor and the inner products of its vectors to a coefficient for each expert.
pub type Coefficients = Box<dyn Fn(&Settings, &Gram) -> Vec<f64> + Send + Sync>;

/// A method that adds experts (weights or task vectors) times coefficients.
pub struct Combination {
    form: Form,
    experts: usize,
    vectors: Vectors,
    coefficients: Coefficients,
}

impl Combination {
    pub fn start(model: &Model<'_>, vectors: Vectors, coefficients: Coefficients) -> Box<dyn Method> {
        Box::new(Self { form: model.form, experts: model.experts, vectors, coefficients })
    }

    fn merge_lines(&self, settings: &Settings, shape: &[u64], experts: &[Vec<f32>], out: &mut [f32]) {
        let (length, stride) = match self.vectors {
            Vectors::Columns => (shape.first(), shape.get(1..).unwrap_or(&[]).iter().product::<u64>() as usize),
            Vectors::Tensor | Vectors::Rows => (shape.last(), 1),
        };
        let length = length.map_or(1, |&l| l as usize);
        let mut line = vec![Vec::with_capacity(length); experts.len()];
        for start in (0..out.len()).step_by(length * stride).flat_map(|s| s..s + stride) {
            let places = || (start..).step_by(stride).take(length);
            for (line, x) in line.iter_mut().zip(experts) {
                line.clear();
                line.extend(places().map(|i| x[i]));
            }
            let mut products = vec![0.0; pairs(experts.len())];
            kernel::inner_products(&line.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut products);
            let coefficients = (self.coefficients)(settings, &Gram { products, vectors: experts.len() });
            let mut sum = vec![0.0; length];
            add(&coefficients, &line, &mut sum);
            places().zip(sum).for_each(|(i, v)| out[i] = v);
        }
    }
}

/// `out = c_1 x_1`, then `out += c_k x_k` in order.
fn add(coefficients: &[f64], x: &[Vec<f32>], out: &mut [f32]) {
    out.fill(0.0);
    coefficients.iter().zip(x).for_each(|(&c, x)| kernel::axpy(c as f32, x, out));
}

impl Method for Combination {
    fn next_survey<'a>(&'a self, _scene: Scene<'a>, done: &'a [Survey]) -> Option<Box<dyn Finding + 'a>> {
        let measure = |block: &Block<'_>, sums: &mut [f64]| {
            kernel::inner_products(&block.experts.iter().map(Vec::as_slice).collect::<Vec<_>>(), sums);
        };
        let wanted = done.is_empty() && self.vectors == Vectors::Tensor;
        wanted.then(|| {
            Box::new(Sums::new("inner products", self.form, pairs(self.experts), Box::new(measure))) as Box<dyn Finding>
        })
    }

    fn surveys(&self, _settings: &[Settings]) -> u64 {
        u64::from(self.vectors == Vectors::Tensor)
    }

    fn unit(&self, shape: &[u64]) -> u64 {
        match self.vectors {
            Vectors::Tensor => 1,
            Vectors::Rows => shape.last().copied().unwrap_or(1),
            Vectors::Columns => shape.iter().product(),
        }
    }

    fn tensor_bytes(&self, _elements: u64) -> Option<usize> {
        (self.vectors == Vectors::Tensor).then(|| Sums::tensor_bytes(pairs(self.experts)))
    }

    fn is_elementwise(&self) -> bool {
        self.vectors == Vectors::Tensor
    }

    fn merge(&self, settings: &Settings, done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        if self.vectors == Vectors::Tensor {
            let products = done[0].sums(tile.place.tensor).to_vec();
            let coefficients = (self.coefficients)(settings, &Gram { products, vectors: self.experts });
            add(&coefficients, tile.experts, out);
        } else {
            self.merge_lines(settings, tile.place.shape, tile.experts, out);
        }
        if self.form == Form::TaskVectors {
            kernel::add_scaled(tile.base, 1.0, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_sums_are_those_of_their_vectors() {
        let x: [&[f32]; 3] = [&[1.0, 2.0, 0.0], &[0.0, 3.0, -1.0], &[4.0, 0.0, 2.0]];
        let mut products = vec![0.0; pairs(3)];
        kernel::inner_products(&x, &mut products);
        let gram = Gram { products, vectors: 3 };
        assert_eq!([gram.dot(0, 1), gram.dot(2, 0), gram.dot(2, 1), gram.dot(2, 2)], [6.0, 4.0, -2.0, 20.0]);
        // x_1 - x_2 = [1, -1, 1]; x_1 + 2 x_3 = [9, 2, 4].
        assert_eq!(gram.dot_of(&[1.0, -1.0, 0.0], &[1.0, 0.0, 2.0]), 11.0);
        assert_eq!(gram.norm_of(&[1.0, -1.0, 0.0]), 3f64.sqrt());
    }
}
