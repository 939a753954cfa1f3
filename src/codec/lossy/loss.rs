//! What a lossy block lost, measured on the values that its decoder gives.

use super::super::simd;

/// Sums that run side by side: fixed, so that a sum does not depend on the CPU.
const LANES: usize = 8;

/// What a block lost.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Loss {
    /// No element of the reconstruction is farther from the result, in f32, before it is rounded to a dtype.
    pub bound: f32,
    /// The sum of (result - reconstruction)^2.
    pub error_squares: f64,
    /// The sum of tau^2.
    pub tau_squares: f64,
}

impl Loss {
    /// `None` where something is not finite.
    pub(super) fn measure(tau: &[f32], result: &[f32], reconstruction: &[f32]) -> Option<Self> {
        let mut found = Self::default();
        simd(
            #[inline(always)]
            || {
                let largest =
                    result.iter().zip(reconstruction).fold(0, |m: u32, (r, v)| m.max((r - v).abs().to_bits()));
                // The difference was rounded to nearest: the next value is above it.
                let largest = f32::from_bits(largest);
                found.bound = if largest > 0.0 { largest.next_up() } else { 0.0 };
                found.error_squares = sum_squares(result, reconstruction);
                found.tau_squares = sum_squares(tau, &[]);
            },
        );
        (found.bound.is_finite() && found.error_squares.is_finite()).then_some(found)
    }

    /// The loss of both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            bound: self.bound.max(other.bound),
            error_squares: self.error_squares + other.error_squares,
            tau_squares: self.tau_squares + other.tau_squares,
        }
    }

    /// |result - reconstruction| / |tau|, in the Euclidean norm; 0 where nothing was lost.
    pub fn relative(self) -> f64 {
        if self.error_squares > 0.0 { (self.error_squares / self.tau_squares).sqrt() } else { 0.0 }
    }
}

/// The sum of (x - y)^2, in f64; without `y`, of x^2.
#[inline(always)]
fn sum_squares(x: &[f32], y: &[f32]) -> f64 {
    let mut sums = [0.0; LANES];
    let (x, x_rest) = x.as_chunks::<LANES>();
    if y.is_empty() {
        for x in x {
            sums = std::array::from_fn(|i| sums[i] + f64::from(x[i]) * f64::from(x[i]));
        }
        x_rest.iter().zip(&mut sums).for_each(|(&x, s)| *s += f64::from(x) * f64::from(x));
    } else {
        let (y, y_rest) = y.as_chunks::<LANES>();
        let square = |x: f32, y: f32| {
            let e = f64::from(x) - f64::from(y);
            e * e
        };
        for (x, y) in x.iter().zip(y) {
            sums = std::array::from_fn(|i| sums[i] + square(x[i], y[i]));
        }
        x_rest.iter().zip(y_rest).zip(&mut sums).for_each(|((&x, &y), s)| *s += square(x, y));
    }
    sums.iter().sum()
}

/// `tau = result - base`; whether all of it is finite.
pub fn differences(base: &[f32], result: &[f32], tau: &mut Vec<f32>) -> bool {
    const INFINITE: u32 = 0x7f80_0000;
    tau.resize(result.len(), 0.0);
    simd(
        #[inline(always)]
        || {
            let mut largest = 0;
            for ((t, r), b) in tau.iter_mut().zip(result).zip(base) {
                *t = r - b;
                largest = largest.max(t.abs().to_bits());
            }
            largest < INFINITE
        },
    )
}
