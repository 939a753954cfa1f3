//! CABS (arXiv 2503.01874): n:m pruning, each expert on the places that those before it left free.

use super::parameters::{LAMBDA, WEIGHT};
use super::{Basis, Entry, Kind, Method, Model, Parameter, Scope, Settings, Tile};
use crate::kernel;
use crate::survey::Survey;

/// Elements that `m` may span.
const SPAN: Kind = Kind::Number { min: 1.0, max: 65536.0 };

pub const ENTRY: Entry = Entry {
    name: "cabs",
    summary: "Keeps n of every m values of each task vector, on places that no earlier task vector took, and adds them.",
    formula: "tau_k := 0 where any tau_j, j < k, is kept; of each m in a row the n largest by magnitude are kept, of an \
              incomplete run at the end none; theta = theta_0 + lambda * sum_k weight_k * tau_k",
    source: "Yang et al. 2025, arXiv 2503.01874, sec. 3; more than two models in recipe order, masks disjoint",
    basis: Basis::TaskVectors,
    experts: (1, usize::MAX),
    passes: "1",
    memory: "nothing beyond the tiles under way",
    differs: &[
        "The authors' code merges two models; more follow the same rule here. Its 7 B variant lets masks overlap where n is at least m / 2; here they never do.",
        "Zeros are not kept, so they take no place from later models.",
    ],
    parameters: &[
        WEIGHT,
        Parameter {
            name: "n",
            scope: Scope::Global,
            kind: SPAN,
            default: Some(64.0),
            help: "Values kept of every m; a whole number.",
        },
        Parameter {
            name: "m",
            scope: Scope::Global,
            kind: SPAN,
            default: Some(256.0),
            help: "Elements in a row, in the order of the file, that compete; a whole number, at least n.",
        },
        LAMBDA,
    ],
    start: |model: &Model<'_>| {
        let (n, m) = (model.uniform("n")?[0], model.uniform("m")?[0]);
        if n.fract() != 0.0 || m.fract() != 0.0 || n > m {
            return Err(format!("n and m must be whole numbers with n at most m, got n = {n} and m = {m}"));
        }
        Ok(Box::new(Cabs { n: n as usize, m: m as usize }))
    },
};

struct Cabs {
    n: usize,
    m: usize,
}

impl Method for Cabs {
    fn unit(&self, _shape: &[u64]) -> u64 {
        self.m as u64
    }

    fn merge(&self, settings: &Settings, _done: &[Survey], tile: Tile<'_>, out: &mut [f32]) {
        let mut taken = vec![false; out.len()];
        out.fill(0.0);
        for (weight, x) in settings.per_model("weight").zip(&mut *tile.experts) {
            x.iter_mut().zip(&taken).filter(|(_, t)| **t).for_each(|(x, _)| *x = 0.0);
            x.chunks_mut(self.m).for_each(|run| keep_largest(if run.len() == self.m { self.n } else { 0 }, run));
            taken.iter_mut().zip(&*x).for_each(|(t, &x)| *t |= x != 0.0);
            kernel::axpy(weight, x, out);
        }
        kernel::add_scaled(tile.base, settings.number("lambda"), out);
    }
}

/// Keeps the `n` largest magnitudes, of equal ones those that stand first, and makes the others 0.
fn keep_largest(n: usize, x: &mut [f32]) {
    let mut order: Vec<u64> = x.iter().zip(0..).map(|(v, i)| u64::from(!kernel::magnitude_key(*v)) << 32 | i).collect();
    if n < order.len() {
        order.select_nth_unstable(n);
        order[n..].iter().for_each(|&o| x[(o as u32) as usize] = 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_vectors_of_g4() {
        // methods.md, section 12: 2:4; the ninth element is an incomplete run.
        let mut first = [3.0, -1.0, 2.0, 5.0, 0.0, 7.0, -6.0, 1.0, 4.0];
        let mut second = [0.0, -2.0, 8.0, 0.0, 9.0, 0.0, 0.0, 6.0, 5.0];
        for x in [&mut first, &mut second] {
            x.chunks_mut(4).for_each(|run| keep_largest(if run.len() == 4 { 2 } else { 0 }, run));
        }
        assert_eq!(first, [3.0, 0.0, 0.0, 5.0, 0.0, 7.0, -6.0, 0.0, 0.0]);
        assert_eq!(second, [0.0, -2.0, 8.0, 0.0, 9.0, 0.0, 0.0, 6.0, 0.0]);
    }
}
