//! Element-by-element sums: the arithmetic of task vectors.

use super::simd;

/// `theta[i] -= base[i]`: weights become a task vector.
pub fn delta(base: &[f32], theta: &mut [f32]) {
    assert_eq!(base.len(), theta.len());
    simd(
        #[inline(always)]
        || {
            for (t, &b) in theta.iter_mut().zip(base) {
                *t -= b;
            }
        },
    );
}

/// `acc[i] = scale * x[i]`.
pub fn scale(scale: f32, x: &[f32], acc: &mut [f32]) {
    assert_eq!(x.len(), acc.len());
    simd(
        #[inline(always)]
        || {
            for (a, &x) in acc.iter_mut().zip(x) {
                *a = scale * x;
            }
        },
    );
}

/// `x[i] *= factor`.
pub fn multiply(factor: f32, x: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for x in x.iter_mut() {
                *x *= factor;
            }
        },
    );
}

/// `acc[i] += scale * x[i]`.
pub fn axpy(scale: f32, x: &[f32], acc: &mut [f32]) {
    assert_eq!(x.len(), acc.len());
    simd(
        #[inline(always)]
        || {
            for (a, &x) in acc.iter_mut().zip(x) {
                *a += scale * x;
            }
        },
    );
}

/// `acc[i] /= divisor`.
pub fn divide(divisor: f32, acc: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for a in acc.iter_mut() {
                *a /= divisor;
            }
        },
    );
}

/// `acc[i] = base[i] + lambda * acc[i]`; where the product is zero, the base's bits (its sign of zero) stay.
pub fn add_scaled(base: &[f32], lambda: f32, acc: &mut [f32]) {
    assert_eq!(base.len(), acc.len());
    simd(
        #[inline(always)]
        || {
            for (a, &b) in acc.iter_mut().zip(base) {
                let step = lambda * *a;
                *a = if step == 0.0 { b } else { b + step };
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_product_and_each_sum_is_rounded_by_itself() {
        // 1 + 2^-12 squared is 1 + 2^-11 + 2^-24; rounded alone it loses 2^-24, fused with the sum it would not.
        let x = 1.0 + 2f32.powi(-12);
        let mut acc = [-1.0];
        axpy(x, &[x], &mut acc);
        assert_eq!(acc, [2f32.powi(-11)]);
    }

    #[test]
    fn a_zero_task_vector_keeps_the_sign_of_a_zero_base() {
        let mut acc = [0.0, -0.0, 0.0, 2.0];
        add_scaled(&[-0.0, -0.0, 0.0, 1.0], 0.5, &mut acc);
        assert_eq!(acc.map(f32::to_bits), [-0.0, -0.0, 0.0f32, 2.0].map(f32::to_bits));
    }
}
