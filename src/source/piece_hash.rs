//! blake3 of a file from pieces in any order, so that hashing rides on reads and writes that happen anyway.
//!
//! blake3 is a tree over chunks of 1024 bytes: the chaining value of an aligned run of 2^n chunks depends on nothing
//! but those chunks and their place. Pieces are cut into such runs, runs that meet are joined, and at most one chunk at
//! each end of a piece is kept until its other part arrives. Memory: a few values for each gap that is still open.

use super::ranges::Ranges;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use blake3::{CHUNK_LEN, Hash, Hasher};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

const CHUNK: u64 = CHUNK_LEN as u64;

/// The hash of a file of known length, fed from several threads.
#[derive(Debug)]
pub struct PieceHash {
    bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// First chunk of a finished subtree: its level (2^level chunks) and value.
    subtrees: BTreeMap<u64, (u32, ChainingValue)>,
    /// Chunks of which only a part has arrived.
    partial: BTreeMap<u64, Partial>,
    /// Byte ranges that need not be given (again).
    covered: Ranges,
    /// Those of them that others hash.
    skipped: Ranges,
    /// The hash, where it is all that is known.
    known: Option<Hash>,
}

#[derive(Debug)]
struct Partial {
    data: Vec<u8>,
    filled: usize,
}

/// A piece that is hashed, but not yet part of the file's hash.
#[derive(Clone, Debug)]
pub struct Hashed {
    start: u64,
    end: u64,
    subtrees: Vec<(u64, u32, ChainingValue)>,
    /// Parts of chunks: where they begin, and their bytes.
    parts: [(u64, Vec<u8>); 2],
}

/// All that a [`PieceHash`] knows, to be kept in a file. Equal for equal bytes in the same ranges, whatever pieces they
/// came in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashState {
    /// Ranges that were given: start and end.
    pub covered: Vec<(u64, u64)>,
    subtrees: Vec<(u64, u32, String)>,
    partial: Vec<(u64, usize, String)>,
}

impl HashState {
    /// What is known of whole chunks alone, and the bytes of the others, in order.
    pub(super) fn whole_chunks(mut self) -> Option<(Self, Vec<u8>)> {
        let (mut whole, mut others): (Ranges, Vec<u8>) = (self.covered.iter().copied().collect(), Vec::new());
        for (chunk, _, data) in std::mem::take(&mut self.partial) {
            let (first, data) = (chunk * CHUNK, unhex(&data)?);
            let covered: Ranges = self.covered.iter().copied().collect();
            let all: Ranges = [(first, first + data.len() as u64)].into_iter().collect();
            whole = whole.without(&all).into_iter().map(|r| (r.start, r.end)).collect();
            let gaps: Ranges = all.without(&covered).into_iter().map(|r| (r.start, r.end)).collect();
            for known in all.without(&gaps) {
                others.extend_from_slice(&data[(known.start - first) as usize..(known.end - first) as usize]);
            }
        }
        self.covered = whole.iter().collect();
        Some((self, others))
    }

    /// Chunks of which a part is known, with that part in its place; `None` if a file of `bytes` cannot have them.
    fn partials(&self, bytes: u64) -> Option<Vec<(u64, Vec<u8>)>> {
        let one = |(chunk, _, data): &(u64, usize, String)| {
            let length = CHUNK.min(bytes.checked_sub(chunk.checked_mul(CHUNK)?)?);
            Some((*chunk, unhex(data).filter(|d| d.len() as u64 == length)?))
        };
        self.partial.iter().map(one).collect()
    }

    /// The subtrees; `None` if a file of so many chunks cannot have them.
    fn subtrees(&self, chunks: u64) -> Option<Vec<(u64, u32, ChainingValue)>> {
        let one = |(chunk, level, value): &(u64, u32, String)| {
            let fits = *level < 54 && *chunk < chunks && chunk.is_multiple_of(1 << level);
            fits.then_some(())?;
            Some((*chunk, *level, *Hash::from_hex(value).ok()?.as_bytes()))
        };
        self.subtrees.iter().map(one).collect()
    }
}

impl PieceHash {
    /// For a file of `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self { bytes, state: Mutex::default() }
    }

    /// A hash that is known already.
    pub fn known(bytes: u64, hash: Hash) -> Self {
        let state = State { covered: [(0, bytes)].into_iter().collect(), known: Some(hash), ..State::default() };
        Self { bytes, state: Mutex::new(state) }
    }

    /// Takes the bytes at `offset`. What was given before is not looked at again: a file may be read for several tensors.
    pub fn update(&self, offset: u64, piece: &[u8]) {
        assert!(offset + piece.len() as u64 <= self.bytes, "piece beyond the end of the file");
        let fresh = self.lock().covered.gaps(offset, offset + piece.len() as u64);
        for range in fresh {
            let bytes = &piece[(range.start - offset) as usize..(range.end - offset) as usize];
            if !self.insert(self.hash_piece(range.start, bytes)) {
                // Another thread gave a part of it meanwhile.
                self.update(range.start, bytes);
            }
        }
    }

    /// Hashes the bytes at `offset`, as far as they were not given before, for [`PieceHash::give`].
    pub fn hash(&self, offset: u64, piece: &[u8]) -> Vec<Hashed> {
        assert!(offset + piece.len() as u64 <= self.bytes, "piece beyond the end of the file");
        let fresh = self.lock().covered.gaps(offset, offset + piece.len() as u64);
        let bytes = |r: &Range<u64>| &piece[(r.start - offset) as usize..(r.end - offset) as usize];
        fresh.iter().map(|range| self.hash_piece(range.start, bytes(range))).collect()
    }

    /// Takes what [`PieceHash::hash`] made of bytes that were not given since.
    pub fn give(&self, hashed: Vec<Hashed>) {
        for piece in hashed {
            assert!(self.insert(piece), "given twice");
        }
    }

    fn hash_piece(&self, offset: u64, piece: &[u8]) -> Hashed {
        let end = offset + piece.len() as u64;
        let first_whole = offset.next_multiple_of(CHUNK).min(end);
        let last_whole = if end == self.bytes { end } else { end / CHUNK * CHUNK }.max(first_whole);
        // A file of one chunk has no subtrees, only a root: it is kept as partial data.
        let (first_whole, last_whole) = if self.bytes <= CHUNK { (end, end) } else { (first_whole, last_whole) };
        let at = |o: u64| (o - offset) as usize;
        let subtrees = self.hash_subtrees(first_whole, &piece[at(first_whole)..at(last_whole)]);
        let parts = [(offset, piece[..at(first_whole)].to_vec()), (last_whole, piece[at(last_whole)..].to_vec())];
        Hashed { start: offset, end, subtrees, parts }
    }

    /// Adds a piece, in one step, so that what is covered is always what is known. `false` if a part of it is there already.
    fn insert(&self, hashed: Hashed) -> bool {
        let mut state = self.lock();
        let whole = hashed.start..hashed.end;
        if state.covered.gaps(hashed.start, hashed.end).first() != Some(&whole) {
            return false;
        }
        state.covered.cover(hashed.start, hashed.end);
        for (chunk, level, value) in hashed.subtrees {
            state.insert(self.chunks(), chunk, level, value);
        }
        for (offset, part) in hashed.parts {
            self.keep_partial(&mut state, offset, &part);
        }
        true
    }

    /// All that is known so far.
    pub fn state(&self) -> HashState {
        let state = self.lock();
        let subtree = |(&chunk, &(level, value)): (&u64, &(u32, ChainingValue))| {
            (chunk, level, Hash::from_bytes(value).to_hex().to_string())
        };
        HashState {
            covered: state.covered.without(&state.skipped).iter().map(|r| (r.start, r.end)).collect(),
            subtrees: state.subtrees.iter().map(subtree).collect(),
            partial: state.partial.iter().map(|(&chunk, p)| (chunk, p.filled, hex(&p.data))).collect(),
        }
    }

    /// For a file of `bytes` of which so much is known; `None` if that cannot be.
    pub fn restore(bytes: u64, known: &HashState) -> Option<Self> {
        let mut state = State::default();
        let mut last = 0;
        for &(start, end) in &known.covered {
            if start < last || end < start || end > bytes {
                return None;
            }
            state.covered.claim(start, end);
            last = end;
        }
        for (chunk, level, value) in &known.subtrees {
            state.subtrees.insert(*chunk, (*level, *Hash::from_hex(value).ok()?.as_bytes()));
        }
        for (chunk, filled, data) in &known.partial {
            state.partial.insert(*chunk, Partial { data: unhex(data)?, filled: *filled });
        }
        Some(Self { bytes, state: Mutex::new(state) })
    }

    /// Leaves these ranges to others: they are not hashed here, nor missing. Before anything is given.
    pub fn skip(&self, ranges: impl IntoIterator<Item = Range<u64>>) {
        let mut state = self.lock();
        for range in ranges {
            for part in state.covered.claim(range.start, range.end) {
                state.skipped.claim(part.start, part.end);
            }
        }
    }

    /// Takes over what another knows of the same file; `false` if that cannot be, or if both know of the same bytes.
    pub fn absorb(&self, other: &HashState) -> bool {
        let mut state = self.lock();
        let free = |state: &State, &(start, end): &(u64, u64)| {
            start < end && end <= self.bytes && state.covered.gaps(start, end).first() == Some(&(start..end))
        };
        let Some(partial) = other.partials(self.bytes) else { return false };
        let Some(subtrees) = other.subtrees(self.chunks()) else { return false };
        if !other.covered.iter().all(|range| free(&state, range)) {
            return false;
        }
        other.covered.iter().for_each(|&(start, end)| state.covered.cover(start, end));
        subtrees.into_iter().for_each(|(chunk, level, value)| state.insert(self.chunks(), chunk, level, value));
        for (chunk, data) in partial {
            let (first, end) = (chunk * CHUNK, chunk * CHUNK + data.len() as u64);
            for &(start, stop) in other.covered.iter().filter(|r| r.0 < end && first < r.1) {
                let (start, stop) = (start.max(first), stop.min(end));
                let bytes = &data[(start - first) as usize..(stop - first) as usize];
                self.keep_partial(&mut state, start, bytes);
            }
        }
        true
    }

    /// The ranges that have not been given yet, in order.
    pub fn missing(&self) -> Vec<Range<u64>> {
        self.missing_of(0..self.bytes)
    }

    /// Those of them inside a range.
    pub fn missing_of(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.lock().covered.gaps(range.start, range.end)
    }

    /// The length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hash. Panics if a byte is missing.
    pub fn finish(self) -> Hash {
        self.root().expect("hash asked for before every byte was given")
    }

    /// The hash, once every byte was given.
    pub fn root(&self) -> Option<Hash> {
        let state = self.lock();
        state.covered.gaps(0, self.bytes).is_empty().then(|| state.known.unwrap_or_else(|| self.root_of(&state)))
    }

    fn root_of(&self, state: &State) -> Hash {
        let chunks = self.chunks();
        if self.bytes <= CHUNK {
            let data = state.partial.get(&0).map_or(&[][..], |p| &p.data);
            return blake3::hash(data);
        }
        let left = left_chunks(chunks);
        let (l, r) = (state.value(0, left), state.value(left, chunks - left));
        merge_subtrees_root(&l, &r, Mode::Hash)
    }

    fn chunks(&self) -> u64 {
        self.bytes.div_ceil(CHUNK)
    }

    /// Cuts whole chunks (the file's last may be short) into aligned subtrees and hashes them.
    fn hash_subtrees(&self, offset: u64, mut piece: &[u8]) -> Vec<(u64, u32, ChainingValue)> {
        let mut hashed = Vec::new();
        let mut chunk = offset / CHUNK;
        while !piece.is_empty() {
            let available = (piece.len() as u64).div_ceil(CHUNK);
            let aligned = if chunk == 0 { 63 } else { chunk.trailing_zeros() };
            // The root itself is never a subtree: its value is made by `finish`.
            let level = aligned.min(available.ilog2()).min((self.chunks() - 1).ilog2());
            let bytes = ((CHUNK << level) as usize).min(piece.len());
            let mut hasher = Hasher::new();
            hasher.set_input_offset(chunk * CHUNK).update(&piece[..bytes]);
            hashed.push((chunk, level, hasher.finalize_non_root()));
            piece = &piece[bytes..];
            chunk += 1 << level;
        }
        hashed
    }

    fn keep_partial(&self, state: &mut State, offset: u64, part: &[u8]) {
        if part.is_empty() {
            return;
        }
        let chunk = offset / CHUNK;
        let length = CHUNK.min(self.bytes - chunk * CHUNK) as usize;
        let partial = state.partial.entry(chunk).or_insert_with(|| Partial { data: vec![0; length], filled: 0 });
        let start = (offset - chunk * CHUNK) as usize;
        partial.data[start..start + part.len()].copy_from_slice(part);
        partial.filled += part.len();
        if partial.filled == length && self.bytes > CHUNK {
            let data = state.partial.remove(&chunk).map(|p| p.data).unwrap_or_default();
            for (chunk, level, value) in self.hash_subtrees(chunk * CHUNK, &data) {
                state.insert(self.chunks(), chunk, level, value);
            }
        }
    }
}

impl State {
    /// Adds a subtree and joins it with its sibling as long as there is one and the whole file is not reached.
    fn insert(&mut self, chunks: u64, mut chunk: u64, mut level: u32, mut value: ChainingValue) {
        loop {
            let sibling = chunk ^ (1 << level);
            let joined = chunk.min(sibling);
            let whole_file = joined == 0 && (2 << level) >= chunks;
            match self.subtrees.get(&sibling) {
                Some(&(l, other)) if l == level && !whole_file => {
                    self.subtrees.remove(&sibling);
                    let (left, right) = if chunk < sibling { (&value, &other) } else { (&other, &value) };
                    value = merge_subtrees_non_root(left, right, Mode::Hash);
                    (chunk, level) = (joined, level + 1);
                }
                _ => break,
            }
        }
        self.subtrees.insert(chunk, (level, value));
    }

    fn value(&self, chunk: u64, chunks: u64) -> ChainingValue {
        if chunks.is_power_of_two()
            && let Some(&(level, value)) = self.subtrees.get(&chunk)
            && 1 << level == chunks
        {
            return value;
        }
        let left = left_chunks(chunks);
        merge_subtrees_non_root(&self.value(chunk, left), &self.value(chunk + left, chunks - left), Mode::Hash)
    }
}

fn hex(data: &[u8]) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or_default();
    data.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    Some(digits?.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect())
}

/// Chunks of the left subtree: the largest power of two below `chunks`.
fn left_chunks(chunks: u64) -> u64 {
    1 << (chunks - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_in_any_order_and_given_again_give_the_hash_of_the_file(
            bytes in prop_oneof![0usize..5000, Just(1024), Just(2048), Just(8192), 60_000usize..70_000],
            cuts in prop::collection::vec(0.0..1.0f64, 0..9),
            seed in any::<u64>(),
            again in 0usize..3000,
        ) {
            let data: Vec<u8> = (0..bytes).map(|i| (i as u64).wrapping_mul(seed | 1).to_le_bytes()[2]).collect();
            let mut at: Vec<usize> = cuts.iter().map(|c| (c * bytes as f64) as usize).chain([0, bytes]).collect();
            at.sort_unstable();
            let mut pieces: Vec<_> = at.windows(2).map(|w| w[0]..w[1]).collect();
            pieces.sort_by_key(|p| (p.start as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let hash = PieceHash::new(bytes as u64);
            for piece in pieces {
                hash.update(piece.start as u64, &data[piece.clone()]);
                // Again, and with what lies around it: as where a tensor is read for several places.
                let around = piece.start / 3..(piece.end + again).min(bytes);
                if again.is_multiple_of(3) {
                    hash.update(around.start as u64, &data[around]);
                }
            }
            prop_assert_eq!(hash.finish(), blake3::hash(&data));
        }
    }

    proptest! {
        #[test]
        fn a_state_that_was_kept_goes_on_to_the_same_hash(
            bytes in prop_oneof![0usize..5000, Just(1024), Just(2048), 60_000usize..70_000],
            cuts in prop::collection::vec(0.0..1.0f64, 0..9),
            kept in 0usize..9,
            ahead in prop::bool::ANY,
        ) {
            let data: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
            let mut at: Vec<usize> = cuts.iter().map(|c| (c * bytes as f64) as usize).chain([0, bytes]).collect();
            at.sort_unstable();
            let mut hash = PieceHash::new(bytes as u64);
            for (i, piece) in at.windows(2).map(|w| w[0]..w[1]).enumerate() {
                let text = serde_json::to_string(&hash.state()).unwrap();
                let state: HashState = serde_json::from_str(&text).unwrap();
                let again = PieceHash::new(bytes as u64);
                again.update(0, &data[..piece.start]);
                prop_assert_eq!(&again.state(), &state);
                if i == kept {
                    hash = PieceHash::restore(bytes as u64, &state).unwrap();
                }
                if ahead {
                    hash.give(hash.hash(piece.start as u64 / 2, &data[piece.start / 2..piece.end]));
                } else {
                    hash.update(piece.start as u64, &data[piece]);
                }
            }
            prop_assert_eq!(hash.root(), Some(blake3::hash(&data)));
        }
    }

    proptest! {
        #[test]
        fn parts_hashed_apart_join_to_the_hash_of_the_file(
            bytes in prop_oneof![1usize..5000, Just(1024), Just(8192), 60_000usize..70_000],
            cuts in prop::collection::vec(0.0..1.0f64, 0..9),
            turn in 0usize..9,
        ) {
            let data: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
            let mut at: Vec<usize> = cuts.iter().map(|c| (c * bytes as f64) as usize).chain([0, bytes]).collect();
            at.sort_unstable();
            at.dedup();
            let mut states: Vec<HashState> = Vec::new();
            for own in at.windows(2).map(|w| w[0] as u64..w[1] as u64) {
                let part = PieceHash::new(bytes as u64);
                part.skip([0..own.start, own.end..bytes as u64]);
                prop_assert_eq!(part.missing(), std::slice::from_ref(&own));
                // What others hash may be read here too.
                part.update(0, &data);
                states.push(part.state());
            }
            let turn = turn % states.len();
            states.rotate_left(turn);
            let whole = PieceHash::new(bytes as u64);
            for state in &states {
                prop_assert!(whole.absorb(state));
                prop_assert!(!whole.absorb(state), "twice");
            }
            prop_assert_eq!(whole.root(), Some(blake3::hash(&data)));
        }
    }

    #[test]
    fn what_was_not_given_is_listed() {
        let hash = PieceHash::new(10_000);
        hash.update(0, &[0; 100]);
        hash.update(5000, &[0; 1000]);
        hash.update(100, &[0; 50]);
        assert_eq!(hash.missing(), [150..5000, 6000..10_000]);
    }
}
