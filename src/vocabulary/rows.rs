//! A model's rows in the order of the output's tokens.

/// Where the output's rows come from, as one model has or would have them: runs that leave nothing out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowMap {
    /// By first row, without gaps.
    pub runs: Vec<Run>,
}

/// Neighbouring rows that come from one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first row in the output.
    pub start: u64,
    /// How many rows.
    pub count: u64,
    /// Where they come from.
    pub from: From,
}

/// Where rows come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// Rows of a source that follow each other, from this one on.
    Source(usize, u64),
    /// The mean of one row of each of these sources.
    Mean(Vec<(usize, u64)>),
    /// Zeros.
    Zero,
    /// The mean of all rows before the padding.
    Padding,
}

impl RowMap {
    /// Appends one row, joined with those before it where they touch.
    pub fn push(&mut self, from: From) {
        let start = self.rows();
        if let Some(last) = self.runs.last_mut() {
            let follows = match (&last.from, &from) {
                (From::Source(a, first), From::Source(b, row)) => a == b && first + last.count == *row,
                (From::Zero, From::Zero) | (From::Padding, From::Padding) => true,
                _ => false,
            };
            if follows {
                last.count += 1;
                return;
            }
        }
        self.runs.push(Run { start, count: 1, from });
    }

    /// Rows of the output.
    pub fn rows(&self) -> u64 {
        self.runs.last().map_or(0, |r| r.start + r.count)
    }

    /// Rows before the padding.
    pub fn tokens(&self) -> u64 {
        match self.runs.last() {
            Some(Run { start, from: From::Padding, .. }) => *start,
            _ => self.rows(),
        }
    }

    /// Whether the output's rows are the `rows` rows of `source`, as they are.
    pub fn is_identity(&self, source: usize, rows: u64) -> bool {
        self.rows() == rows && self.runs.len() == 1 && self.runs[0].from == From::Source(source, 0)
    }

    /// The runs that hold rows `first` to `last`.
    pub fn covering(&self, first: u64, last: u64) -> &[Run] {
        let begin = self.runs.partition_point(|r| r.start + r.count <= first);
        let end = self.runs.partition_point(|r| r.start <= last);
        &self.runs[begin..end]
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        let mean = |r: &Run| if let From::Mean(of) = &r.from { of.capacity() * 16 + 16 } else { 0 };
        self.runs.capacity() * size_of::<Run>() + self.runs.iter().map(mean).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_follow_each_other_make_one_run() {
        let mut map = RowMap::default();
        let rows = [From::Source(1, 4), From::Source(1, 5), From::Source(1, 7), From::Zero, From::Zero, From::Padding];
        rows.into_iter().for_each(|r| map.push(r));
        assert_eq!(map.runs.iter().map(|r| (r.start, r.count)).collect::<Vec<_>>(), [(0, 2), (2, 1), (3, 2), (5, 1)]);
        assert_eq!((map.rows(), map.tokens()), (6, 5));
        assert_eq!(map.covering(1, 3).iter().map(|r| r.start).collect::<Vec<_>>(), [0, 2, 3]);
    }

    #[test]
    fn a_model_that_has_the_outputs_rows_needs_no_gathering() {
        let mut map = RowMap::default();
        (0..3).for_each(|i| map.push(From::Source(1, i)));
        assert!(map.is_identity(1, 3));
        assert!(!map.is_identity(1, 4) && !map.is_identity(0, 3));
    }
}
