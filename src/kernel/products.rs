//! Inner products in `f64` over a block of elements, in the widest vectors of this CPU.
//!
//! Element `i` goes to lane `i % LANES`, whatever vectors hold the lanes; lanes are added as a fixed tree. Values are
//! widened a strip at a time, once for all products that they enter. A strip is filled up with zeros, which change no sum.

use pulp::{Arch, Simd, WithSimd};

/// Partial sums of a product.
pub(super) const LANES: usize = 8;

/// Elements of all vectors that are held widened at a time.
pub(super) const STRIP: usize = 64;

/// Vectors whose strips are held at once.
const GROUP: usize = 8;

/// Pairs of these, each with itself too.
const PAIRS: usize = GROUP * (GROUP + 1) / 2;

pub(super) type Strip = [f64; STRIP];

/// The inner products of vectors of equal length with each other: the upper triangle, row by row. Each product of two
/// values is exact.
pub fn inner_products(x: &[&[f32]], products: &mut [f64]) {
    assert_eq!(products.len(), x.len() * (x.len() + 1) / 2);
    assert!(x.iter().all(|y| y.len() == x[0].len()), "vectors of equal length");
    if x.len() <= GROUP {
        return Arch::new().dispatch(InnerProducts { x, products });
    }
    let pairs = (0..x.len()).flat_map(|i| (i..x.len()).map(move |j| (i, j)));
    pairs.zip(products).for_each(|((i, j), product)| *product = dot(x[i], x[j]));
}

/// The sum over elements of `x * y`; each product is exact.
pub fn dot(x: &[f32], y: &[f32]) -> f64 {
    let mut products = [0.0; 3];
    inner_products(&[x, y], &mut products);
    products[1]
}

/// The sum of `x * x`; each square is exact.
pub fn squares(x: &[f32]) -> f64 {
    let mut square = [0.0];
    inner_products(&[x], &mut square);
    square[0]
}

struct InnerProducts<'a> {
    x: &'a [&'a [f32]],
    products: &'a mut [f64],
}

impl WithSimd for InnerProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, products } = self;
        let mut lanes = [[0.0; LANES]; PAIRS];
        let mut wide = [[0.0; STRIP]; GROUP];
        let elements = x.first().map_or(0, |x| x.len());
        for start in (0..elements).step_by(STRIP) {
            let strip = start..elements.min(start + STRIP);
            x.iter().zip(&mut wide).for_each(|(x, wide)| widen(&x[strip.clone()], wide));
            let mut lanes = lanes.iter_mut();
            for (i, a) in wide[..x.len()].iter().enumerate() {
                wide[i..x.len()].iter().zip(&mut lanes).for_each(|(b, lanes)| multiply(simd, a, b, lanes));
            }
        }
        products.iter_mut().zip(&lanes).for_each(|(product, lanes)| *product = tree(lanes));
    }
}

#[inline(always)]
pub(super) fn widen(x: &[f32], wide: &mut Strip) {
    if let Ok(x) = <&[f32; STRIP]>::try_from(x) {
        wide.iter_mut().zip(x).for_each(|(w, &x)| *w = f64::from(x));
    } else {
        wide.fill(0.0);
        wide.iter_mut().zip(x).for_each(|(w, &x)| *w = f64::from(x));
    }
}

/// `lanes += a * b`. The products are exact, so that it does not matter whether they are fused with the sums.
#[inline(always)]
fn multiply<S: Simd>(simd: S, a: &Strip, b: &Strip, lanes: &mut [f64; LANES]) {
    let (lanes, _) = S::as_mut_simd_f64s(lanes);
    let ((a, _), (b, _)) = (S::as_simd_f64s(a), S::as_simd_f64s(b));
    let vectors = lanes.len();
    for (first, lane) in lanes.iter_mut().enumerate() {
        for i in (first..a.len()).step_by(vectors) {
            *lane = simd.mul_add_e_f64s(a[i], b[i], *lane);
        }
    }
}

#[inline(always)]
pub(super) fn tree([a, b, c, d, e, f, g, h]: &[f64; LANES]) -> f64 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use super::super::InstructionSet;
    use super::*;

    #[test]
    fn inner_products_are_exact_where_f64_holds_them() {
        let x: Vec<f32> = (0..19).map(|i| i as f32 - 7.5).collect();
        assert_eq!(dot(&x, &x), (0..19).map(|i| (f64::from(i) - 7.5).powi(2)).sum::<f64>());
        assert_eq!(dot(&x, &[1.0; 19]), 19.0 * 1.5);
        assert_eq!(squares(&x), dot(&x, &x));
    }

    /// What the documents say, element by element: lanes by place, products and sums each rounded.
    fn by_lanes(x: &[f32], y: &[f32]) -> f64 {
        let mut lanes = [0.0; LANES];
        for (i, (&x, &y)) in x.iter().zip(y).enumerate() {
            lanes[i % LANES] += f64::from(x) * f64::from(y);
        }
        tree(&lanes)
    }

    #[test]
    fn products_are_the_same_bits_alone_in_groups_and_lane_by_lane() {
        for (vectors, elements) in [(1, 5), (2, 2048), (3, 1), (8, 200), (9, 130), (4, 0)] {
            let value = |i: usize| ((i * 2_654_435_761) as u32 as f32 / 4e9 - 0.5) * 0.3;
            let x: Vec<Vec<f32>> = (0..vectors).map(|k| (0..elements).map(|i| value(i * 11 + k)).collect()).collect();
            let x: Vec<&[f32]> = x.iter().map(Vec::as_slice).collect();
            let mut products = vec![1.0; vectors * (vectors + 1) / 2];
            inner_products(&x, &mut products);
            for set in InstructionSet::all().filter(|_| vectors <= GROUP) {
                let mut same = vec![1.0; products.len()];
                set.run(InnerProducts { x: &x, products: &mut same });
                assert_eq!(same, products, "{set:?}");
            }
            let pairs = (0..vectors).flat_map(|i| (i..vectors).map(move |j| (i, j)));
            for ((i, j), product) in pairs.zip(products) {
                assert_eq!(product.to_bits(), by_lanes(x[i], x[j]).to_bits(), "{i} {j} of {vectors}");
                assert_eq!(product.to_bits(), dot(x[i], x[j]).to_bits(), "{i} {j} of {vectors}");
            }
        }
    }
}
