//! The product of two thin matrices, added to a part of a large one.

use super::simd;

/// Columns that are summed up at once, in registers.
const LANES: usize = 64;

/// `w[i] += scale * sum_k u[row][k] * v[k][column]`, where `w[i]` is element `first + i` of a matrix of `columns` columns, row
/// by row. `u` has `rank` columns, `v` as many as the matrix. The sum begins with the first product and goes up in k.
pub fn add_low_rank(u: &[f32], v: &[f32], (rank, columns): (usize, usize), first: usize, scale: f32, w: &mut [f32]) {
    assert!(rank > 0 && v.len() == rank * columns);
    assert!(w.is_empty() || u.len() / rank > (first + w.len() - 1) / columns);
    simd(
        #[inline(always)]
        || {
            let mut at = 0;
            while at < w.len() {
                let (row, column) = ((first + at) / columns, (first + at) % columns);
                let end = w.len().min(at + columns - column);
                add_row(&u[row * rank..(row + 1) * rank], v, columns, column, scale, &mut w[at..end]);
                at = end;
            }
        },
    );
}

/// The same for elements of one row, the first of them in `column`.
#[inline(always)]
fn add_row(u: &[f32], v: &[f32], columns: usize, column: usize, scale: f32, w: &mut [f32]) {
    let (whole, rest) = w.as_chunks_mut::<LANES>();
    for (i, w) in whole.iter_mut().enumerate() {
        let mut sum = [0.0; LANES];
        let start = column + i * LANES;
        for (s, &v) in sum.iter_mut().zip(&v[start..start + LANES]) {
            *s = u[0] * v;
        }
        for (k, &u) in u.iter().enumerate().skip(1) {
            let start = start + k * columns;
            for (s, &v) in sum.iter_mut().zip(&v[start..start + LANES]) {
                *s += u * v;
            }
        }
        for (w, s) in w.iter_mut().zip(sum) {
            *w += scale * s;
        }
    }
    let start = column + whole.len() * LANES;
    let mut sum = [0.0; LANES];
    let sum = &mut sum[..rest.len()];
    for (s, &v) in sum.iter_mut().zip(&v[start..]) {
        *s = u[0] * v;
    }
    for (k, &u) in u.iter().enumerate().skip(1) {
        for (s, &v) in sum.iter_mut().zip(&v[start + k * columns..]) {
            *s += u * v;
        }
    }
    for (w, &s) in rest.iter_mut().zip(&*sum) {
        *w += scale * s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_gets_its_sum_of_products_in_order_wherever_a_block_begins() {
        let value = |i: usize| ((i * 7919 % 1000) as f32 - 500.0) / 300.0;
        for (rows, columns, rank) in [(5, 3, 1), (3, 64, 2), (4, 130, 7), (1, 300, 3), (9, 1, 2)] {
            let u: Vec<f32> = (0..rows * rank).map(value).collect();
            let v: Vec<f32> = (0..rank * columns).map(|i| value(i + 11)).collect();
            let expected = |i: usize| {
                let (row, column) = (i / columns, i % columns);
                let mut sum = u[row * rank] * v[column];
                for k in 1..rank {
                    sum += u[row * rank + k] * v[k * columns + column];
                }
                value(i + 3) + 0.3 * sum
            };
            for (first, end) in [(0, rows * columns), (2, rows * columns), (1, rows * columns - 1)] {
                let mut w: Vec<f32> = (first..end).map(|i| value(i + 3)).collect();
                add_low_rank(&u, &v, (rank, columns), first, 0.3, &mut w);
                for (i, w) in (first..end).zip(w) {
                    assert_eq!(w.to_bits(), expected(i).to_bits(), "{rows}x{columns} of rank {rank}: {i}");
                }
            }
        }
    }
}
