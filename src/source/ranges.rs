//! Byte ranges of a file of which something is known.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges, start to end, joined where they touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// The parts of a range that are not covered, in order.
    pub fn gaps(&self, start: u64, end: u64) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = start;
        let before = self.0.range(..=start).next_back();
        let inside = self.0.range(start..end.max(start)).filter(|(s, _)| **s > start);
        for (&covered, &covered_end) in before.into_iter().chain(inside) {
            if at < covered {
                gaps.push(at..covered);
            }
            at = at.max(covered_end);
        }
        if at < end {
            gaps.push(at..end);
        }
        gaps
    }

    /// Covers a range of which nothing is covered.
    pub fn cover(&mut self, mut start: u64, mut end: u64) {
        if let Some((&before, &before_end)) = self.0.range(..start).next_back()
            && before_end == start
        {
            start = before;
        }
        if let Some(after_end) = self.0.remove(&end) {
            end = after_end;
        }
        self.0.insert(start, end);
    }

    /// Covers what is not covered yet of a range, and tells what that was.
    pub fn claim(&mut self, start: u64, end: u64) -> Vec<Range<u64>> {
        let gaps = self.gaps(start, end);
        gaps.iter().for_each(|gap| self.cover(gap.start, gap.end));
        gaps
    }

    /// What is covered here and not in `other`.
    pub fn without(&self, other: &Self) -> Vec<Range<u64>> {
        self.iter().flat_map(|(start, end)| other.gaps(start, end)).collect()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(&start, &end)| (start, end))
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(ranges: T) -> Self {
        let mut all = Self::default();
        ranges.into_iter().for_each(|(start, end)| {
            all.claim(start, end);
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_twice_is_given_once() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.claim(10, 20).first(), Some(&(10..20)));
        assert_eq!(ranges.claim(0, 30), [0..10, 20..30]);
        assert_eq!(ranges.claim(5, 25), []);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, 30)]);
        let hole: Ranges = [(5, 7), (29, 40)].into_iter().collect();
        assert_eq!(ranges.without(&hole), [0..5, 7..29]);
    }
}
