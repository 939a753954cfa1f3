//! Rows of a tensor: what runs along its second dimension. A tensor of one dimension is one row.

/// How the elements of a run of whole rows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Elements of a row.
    length: usize,
    /// From one element of a row to the next: the product of the dimensions after the second.
    stride: usize,
}

/// Elements that hold whole rows.
pub fn row_elements(shape: &[u64]) -> u64 {
    let from = usize::from(shape.len() > 1);
    shape[from..].iter().product()
}

impl Rows {
    /// The rows of a tensor of this shape.
    pub fn of(shape: &[u64]) -> Self {
        let stride = shape.get(2..).unwrap_or(&[]).iter().product::<u64>() as usize;
        Self { length: row_elements(shape) as usize / stride.max(1), stride }
    }

    /// Elements of a row, where they lie side by side and there are any.
    pub fn length_if_contiguous(self) -> Option<usize> {
        (self.stride == 1 && self.length > 0).then_some(self.length)
    }

    /// Calls `f(element, rank, length)` for each element of `x`, which holds whole rows: ranks from 0, by magnitude, equal
    /// ones in order of their place.
    pub fn for_each_rank(self, x: &[f32], mut f: impl FnMut(usize, usize, usize)) {
        let mut order: Vec<u64> = Vec::with_capacity(self.length);
        for (start, x) in x.chunks(self.length * self.stride).enumerate() {
            for column in 0..self.stride {
                let values = x[column..].iter().step_by(self.stride);
                order.clear();
                order.extend(values.zip(0..).map(|(v, i)| u64::from(v.to_bits() & 0x7fff_ffff) << 32 | i));
                order.sort_unstable();
                for (rank, &entry) in order.iter().enumerate() {
                    let element = (entry as u32) as usize * self.stride + column;
                    f(start * self.length * self.stride + element, rank, self.length);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(shape: &[u64], x: &[f32]) -> Vec<usize> {
        let mut ranks = vec![usize::MAX; x.len()];
        Rows::of(shape).for_each_rank(x, |element, rank, _| ranks[element] = rank);
        ranks
    }

    #[test]
    fn ranks_run_along_the_second_dimension() {
        assert_eq!(ranks(&[4], &[3.0, -1.0, 0.0, 2.0]), [3, 1, 0, 2]);
        assert_eq!(ranks(&[2, 2], &[3.0, -1.0, 0.0, 2.0]), [1, 0, 0, 1]);
        assert_eq!(ranks(&[1, 3, 2], &[5.0, 1.0, 3.0, 1.0, 4.0, -9.0]), [2, 0, 0, 1, 1, 2]);
        assert_eq!(ranks(&[], &[7.0]), [0]);
        assert_eq!([row_elements(&[]), row_elements(&[5]), row_elements(&[2, 3, 4])], [1, 5, 12]);
    }
}
