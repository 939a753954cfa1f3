//! What the hash of a file needs of one range: a file with the same bytes in the same place is hashed without reading them.

use super::piece_hash::{HashState, PieceHash};
use super::ranges::Ranges;
use blake3::Hash;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Of a range of a file. Chunks that lie in it by half are not known, but their bytes have a hash: they are read, and checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeHash {
    file_bytes: u64,
    range: Range<u64>,
    chunks: HashState,
    edges: String,
}

impl RangeHash {
    /// Of a range of which `hash` has been given every byte, and nothing else of the file.
    pub fn of(hash: &PieceHash, range: Range<u64>) -> Option<Self> {
        let state = hash.state();
        let given = state.covered == [(range.start, range.end)];
        let (chunks, edges) = state.whole_chunks().filter(|_| given)?;
        let edges = blake3::hash(&edges).to_hex().to_string();
        Some(Self { file_bytes: hash.bytes(), range, chunks, edges })
    }

    /// Whether it is of this range in a file of this length.
    pub fn is_at(&self, range: &Range<u64>, file_bytes: u64) -> bool {
        (&self.range, self.file_bytes) == (range, file_bytes)
    }

    /// What is to be read: less than a chunk at each end.
    pub fn edges(&self) -> Vec<Range<u64>> {
        let covered: Ranges = self.chunks.covered.iter().copied().collect();
        covered.gaps(self.range.start, self.range.end)
    }

    /// Tells `hash`, which knows nothing of the range, all of it. `false` if the bytes of the edges, one behind the other, are
    /// not those that they were.
    pub fn give(&self, edges: &[u8], hash: &PieceHash) -> bool {
        let ranges = self.edges();
        let bytes: u64 = ranges.iter().map(|r| r.end - r.start).sum();
        let same = bytes == edges.len() as u64 && Hash::from_hex(&self.edges).is_ok_and(|e| e == blake3::hash(edges));
        if !same || !hash.absorb(&self.chunks) {
            return false;
        }
        let mut rest = edges;
        for range in ranges {
            let (edge, behind) = rest.split_at((range.end - range.start) as usize);
            hash.update(range.start, edge);
            rest = behind;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_range_that_is_taken_over_gives_the_hash_of_the_file(
            bytes in prop_oneof![1usize..5000, Just(1024), Just(2048), 60_000usize..70_000],
            (a, b) in (0.0..1.0f64, 0.0..1.0f64),
            cut in 0.0..1.0f64,
            seed in any::<u64>(),
        ) {
            let data: Vec<u8> = (0..bytes).map(|i| (i as u64).wrapping_mul(seed | 1).to_le_bytes()[2]).collect();
            let place = |x: f64| (x * bytes as f64) as usize;
            let (start, end) = (place(a.min(b)), place(a.max(b)).max(place(a.min(b)) + 1));
            let first = PieceHash::new(bytes as u64);
            let middle = start + ((end - start) as f64 * cut) as usize;
            first.update(middle as u64, &data[middle..end]);
            first.update(start as u64, &data[start..middle]);
            let known = RangeHash::of(&first, start as u64..end as u64).unwrap();
            let text = serde_json::to_string(&known).unwrap();
            let known: RangeHash = serde_json::from_str(&text).unwrap();

            let again = PieceHash::new(bytes as u64);
            let mut edges: Vec<u8> =
                known.edges().iter().flat_map(|r| data[r.start as usize..r.end as usize].to_vec()).collect();
            prop_assert!(edges.len() < 2 * 1024);
            prop_assert!(known.give(&edges, &again));
            again.update(0, &data[..start]);
            again.update(end as u64, &data[end..]);
            prop_assert_eq!(again.finish(), blake3::hash(&data));

            if let Some(byte) = edges.first_mut() {
                *byte ^= 1;
                prop_assert!(!known.give(&edges, &PieceHash::new(bytes as u64)));
            }
        }
    }
}
