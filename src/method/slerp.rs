//! Spherical linear interpolation of two models.

use super::combination::{Combination, Gram, Vectors};
use super::{Basis, Entry, Kind, Model, Parameter, Scope};

/// Norms at or below this are not divided by.
const SMALLEST_NORM: f64 = 1e-8;

/// Above this cosine the arc is taken as straight.
const STRAIGHT: f64 = 0.9995;

pub const ENTRY: Entry = Entry {
    name: "slerp",
    summary: "Interpolates two models along the arc between them, tensor by tensor.",
    formula: "cos(phi) = <a, b> / (norm(a) norm(b)); theta = (sin((1 - t) phi) a + sin(t phi) b) / sin(phi); \
              (1 - t) a + t b where abs(cos(phi)) > 0.9995",
    source: "Shoemake 1985; thresholds as in mergekit",
    basis: Basis::Weights,
    experts: (2, 2),
    passes: "2",
    memory: "a few sums per tensor",
    differs: &["Inner products in f64 instead of f32."],
    parameters: &[Parameter {
        name: "t",
        scope: Scope::Global,
        kind: Kind::FRACTION,
        default: None,
        help: "0 gives the model that base_model names (else the first), 1 the other one.",
    }],
    start: |model: &Model<'_>| {
        let ends = model.ends();
        let coefficients = move |settings: &super::Settings, gram: &Gram| {
            let [a, b] = arc(gram, ends, settings.get("t")[0]);
            let mut coefficients = vec![0.0; 2];
            (coefficients[ends.0], coefficients[ends.1]) = (a, b);
            coefficients
        };
        Ok(Combination::start(model, Vectors::Tensor, Box::new(coefficients)))
    },
};

fn arc(gram: &Gram, ends: (usize, usize), t: f64) -> [f64; 2] {
    let length = |i| if gram.norm(i) > SMALLEST_NORM { gram.norm(i) } else { 1.0 };
    let cos = (gram.dot(ends.0, ends.1) / (length(ends.0) * length(ends.1))).clamp(-1.0, 1.0);
    if cos.abs() > STRAIGHT {
        return [1.0 - t, t];
    }
    let phi = libm::acos(cos);
    [libm::sin((1.0 - t) * phi) / libm::sin(phi), libm::sin(t * phi) / libm::sin(phi)]
}
