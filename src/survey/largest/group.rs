//! The tensors that are ranked together, and how far each of their m-th largest values is found.

use super::bars::Bar;
use super::digits::DIGITS;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

/// Tensors of at most this many elements are kept: they take no more memory than the counts would.
pub(super) const SMALL_ELEMENTS: u64 = (DIGITS * size_of::<u64>() / size_of::<u32>()) as u64;

/// What happens to values that tie with the m-th largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ties {
    /// As many are taken as there is room for, in order of their place.
    Cut,
    /// All are taken.
    Stay,
}

/// One m-th largest value.
#[derive(Debug)]
pub(super) struct Goal {
    pub(super) count: u64,
    pub(super) bucket: u32,
    /// Keys above the bucket; later, above the bar.
    pub(super) above: u64,
    /// Keys in the bucket.
    pub(super) inside: u64,
    /// Keys above the bucket that the second pass has seen; counted only where the first was told.
    pub(super) seen_above: AtomicU64,
    pub(super) key: u32,
    /// Keys of the bucket whose lower digit is 0, by block.
    pub(super) zeros: Vec<u32>,
    /// Equal keys seen in blocks so far.
    pub(super) seen: u64,
    pub(super) bar: Option<Bar>,
}

#[derive(Debug, Default)]
pub(super) struct Data {
    /// `[row][goal][digit]`.
    pub(super) counts: Vec<u64>,
    /// `[row][element]`, of small tensors.
    pub(super) keys: Vec<u32>,
    /// Elements of the blocks that small tensors came in.
    pub(super) block: usize,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) rows: usize,
    pub(super) elements: u64,
    pub(super) small: bool,
    /// Elements of its blocks, but for the last.
    pub(super) block: u64,
    /// `[row][goal]`.
    pub(super) goals: Vec<Goal>,
    pub(super) data: Mutex<Data>,
}

impl Group {
    pub(super) fn new(elements: u64, counts: &[Vec<u64>]) -> Self {
        let goal = |&count: &u64| {
            let bar = match count {
                0 => Some(Bar::NONE),
                n if n >= elements => Some(Bar::ALL),
                _ => None,
            };
            Goal {
                count,
                bucket: 0,
                above: 0,
                inside: 0,
                seen_above: AtomicU64::new(0),
                key: 0,
                zeros: Vec::new(),
                seen: 0,
                bar,
            }
        };
        let goals: Vec<Goal> = counts.iter().flatten().map(goal).collect();
        assert!(counts.iter().all(|c| c.len() == counts[0].len()), "rows ask for equally many counts");
        let small = elements <= SMALL_ELEMENTS;
        Self { rows: counts.len(), elements, small, block: 0, goals, data: Mutex::default() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.goals.iter().any(|g| g.bar.is_none())
    }
}

impl Goal {
    /// All keys equal to the bar's are taken.
    pub(super) fn stay(&mut self, key: u32) {
        self.bar = Some(Bar { key, first: u64::MAX, quota: 0 });
    }

    /// Takes in the next block's number of equal keys.
    pub(super) fn see(&mut self, first: u64, equal: u64) {
        let room = self.count - self.above;
        if self.bar.is_none() && self.seen + equal >= room {
            self.bar = Some(Bar { key: self.key, first, quota: (room - self.seen) as usize });
        }
        self.seen += equal;
    }
}

impl Data {
    pub(super) fn keep(&mut self, elements: usize, first: usize, keys: &[Vec<u32>]) {
        self.keys.resize(elements * keys.len(), 0);
        if first == 0 {
            self.block = keys[0].len();
        }
        for (row, keys) in self.keys.chunks_exact_mut(elements).zip(keys) {
            row[first..first + keys.len()].copy_from_slice(keys);
        }
    }

    /// Finds the bars of a small tensor.
    pub(super) fn sort_out(&self, rows: usize, ties: Ties, goals: &mut [Goal]) {
        if self.keys.is_empty() {
            return;
        }
        let per_row = goals.len() / rows;
        for (keys, goals) in self.keys.chunks_exact(self.keys.len() / rows).zip(goals.chunks_exact_mut(per_row)) {
            let mut sorted = keys.to_vec();
            sorted.sort_unstable();
            for goal in goals.iter_mut().filter(|g| g.bar.is_none()) {
                goal.key = sorted[sorted.len() - goal.count as usize];
                goal.above = (sorted.len() - sorted.partition_point(|&k| k <= goal.key)) as u64;
                let equal = sorted.len() as u64 - goal.above - sorted.partition_point(|&k| k < goal.key) as u64;
                if ties == Ties::Stay || goal.count - goal.above == equal {
                    goal.stay(goal.key);
                } else {
                    for (i, block) in keys.chunks(self.block).enumerate() {
                        let equal = block.iter().filter(|&&k| k == goal.key).count();
                        goal.see((i * self.block) as u64, equal as u64);
                    }
                }
            }
        }
    }
}
