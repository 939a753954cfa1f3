//! The product of two thin matrices, for a run of elements of the large one.

use super::simd;

/// Columns of a panel: they are summed up at once, in registers.
pub const PANEL_COLUMNS: usize = 64;

/// `out[i] = scale * sum_k u[row][k] * v[k][column]`, for element `first + i` of a matrix of `columns` columns, row by row.
/// The sum begins with its first product and goes up in k.
///
/// `u` has `rank` columns. `v` is cut into panels of [`PANEL_COLUMNS`] columns, the last one padded, each with its `rank`
/// rows one after another: a panel stays in the cache while it meets all rows of the run.
pub fn low_rank(u: &[f32], v: &[f32], (rank, columns): (usize, usize), first: usize, scale: f32, out: &mut [f32]) {
    let rows = first / columns..(first + out.len()).div_ceil(columns);
    assert!(rank > 0 && u.len() >= rows.end * rank);
    assert_eq!(v.len(), rank * columns.next_multiple_of(PANEL_COLUMNS));
    simd(
        #[inline(always)]
        || {
            for (i, panel) in v.chunks_exact(rank * PANEL_COLUMNS).enumerate() {
                let panel = panel.as_chunks().0;
                let width = PANEL_COLUMNS.min(columns - i * PANEL_COLUMNS);
                for row in rows.clone() {
                    let start = row * columns + i * PANEL_COLUMNS;
                    let (from, to) = (start.max(first), (start + width).min(first + out.len()));
                    if from < to {
                        let sums = sums(&u[row * rank..(row + 1) * rank], panel);
                        for (out, sum) in out[from - first..to - first].iter_mut().zip(&sums[from - start..]) {
                            *out = scale * sum;
                        }
                    }
                }
            }
        },
    );
}

/// One row of `u` times a panel.
#[inline(always)]
fn sums(u: &[f32], panel: &[[f32; PANEL_COLUMNS]]) -> [f32; PANEL_COLUMNS] {
    let mut sums = panel[0].map(|v| u[0] * v);
    for (&u, v) in u.iter().zip(panel).skip(1) {
        for (sum, &v) in sums.iter_mut().zip(v) {
            *sum += u * v;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_its_sum_of_products_in_order_wherever_a_run_begins() {
        let value = |i: usize| ((i * 7919 % 1000) as f32 - 500.0) / 300.0;
        for (rows, columns, rank) in [(5, 3, 1), (3, 64, 2), (4, 130, 7), (1, 300, 3), (9, 1, 2)] {
            let u: Vec<f32> = (0..rows * rank).map(value).collect();
            let v = |k: usize, column: usize| value(k * columns + column + 11);
            let mut panels = vec![f32::NAN; rank * columns.next_multiple_of(PANEL_COLUMNS)];
            for (k, column) in (0..rank).flat_map(|k| (0..columns).map(move |c| (k, c))) {
                let panel = column / PANEL_COLUMNS * rank * PANEL_COLUMNS;
                panels[panel + k * PANEL_COLUMNS + column % PANEL_COLUMNS] = v(k, column);
            }
            let expected = |i: usize| {
                let (row, column) = (i / columns, i % columns);
                let first = u[row * rank] * v(0, column);
                0.3 * (1..rank).fold(first, |sum, k| sum + u[row * rank + k] * v(k, column))
            };
            for (first, end) in [(0, rows * columns), (2, rows * columns), (1, rows * columns - 1)] {
                let mut out = vec![0.0; end - first];
                low_rank(&u, &panels, (rank, columns), first, 0.3, &mut out);
                for (i, out) in (first..end).zip(out) {
                    assert_eq!(out.to_bits(), expected(i).to_bits(), "{rows}x{columns} of rank {rank}: {i}");
                }
            }
        }
    }
}
