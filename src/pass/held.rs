//! Bytes of inputs that a first pass reads and a later one needs again, as far as memory is left for them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

/// What a range takes besides its bytes.
const RANGE_BYTES: usize = 128;

/// Ranges of files.
#[derive(Debug)]
pub struct Held {
    state: RwLock<State>,
    takes: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// By file and first byte.
    ranges: BTreeMap<(usize, u64), Vec<u8>>,
    room: usize,
}

impl Held {
    /// Of so many bytes, at most.
    pub fn new(room: usize) -> Self {
        Self { state: RwLock::new(State { ranges: BTreeMap::new(), room }), takes: AtomicBool::new(room > 0) }
    }

    /// Takes nothing in from now on.
    pub fn close(&self) {
        self.takes.store(false, Ordering::Relaxed);
    }

    /// Takes in a range that was read, if there is room.
    pub fn take(&self, file: usize, offset: u64, bytes: &[u8]) {
        if !self.takes.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let needed = bytes.len() + RANGE_BYTES;
        if state.ranges.contains_key(&(file, offset)) {
            return;
        }
        if state.room < needed {
            return self.close();
        }
        state.ranges.insert((file, offset), bytes.to_vec());
        state.room -= needed;
    }

    /// Puts a range into `out`; `false` if not all of it is here.
    pub fn put(&self, file: usize, range: Range<u64>, out: &mut Vec<u8>) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        out.clear();
        let mut at = range.start;
        while at < range.end {
            let before = state.ranges.range(..=(file, at)).next_back();
            let Some((&(in_file, start), bytes)) = before else { return false };
            let end = start + bytes.len() as u64;
            if in_file != file || end <= at {
                return false;
            }
            let until = end.min(range.end);
            out.extend_from_slice(&bytes[(at - start) as usize..(until - start) as usize]);
            at = until;
        }
        true
    }

    /// Whether all of a range is here.
    pub fn has(&self, file: usize, range: Range<u64>) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut at = range.start;
        while at < range.end {
            match state.ranges.range(..=(file, at)).next_back() {
                Some((&(in_file, start), bytes)) if in_file == file && start + bytes.len() as u64 > at => {
                    at = start + bytes.len() as u64;
                }
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_put_together_from_what_was_taken_and_nothing_is_taken_beyond_the_room() {
        let held = Held::new(20 + 2 * RANGE_BYTES);
        held.take(1, 100, &[1; 10]);
        held.take(1, 110, &[2; 10]);
        held.take(1, 110, &[4; 20]);
        held.take(1, 120, &[3; 10]);
        let mut out = Vec::new();
        assert!(held.put(1, 105..115, &mut out) && held.has(1, 105..115));
        assert_eq!(out, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
        for (file, range) in [(1, 115..121), (1, 99..101), (0, 100..101), (2, 100..101)] {
            assert!(!held.put(file, range.clone(), &mut out) && !held.has(file, range));
        }
    }
}
