//! Which values are the m largest: exactly, per tensor or over the whole model, by counting digits.
//!
//! Values are ranked by 32-bit keys. The first pass counts upper digits, which tells the bucket of the m-th largest; the
//! second counts lower digits inside that bucket. Where more values tie with the m-th than there is room for, the place up to
//! which they are taken must be found. Values of 16 bits tie most, and their differences mostly have lower digit 0: so the
//! second pass notes how many of these each block has. For other ties a third pass over these tensors counts. Tensors of few
//! elements are kept and sorted instead: one pass. Memory: [`Largest::tensor_bytes`] for each tensor and [`Largest::local_bytes`] for the threads, or [`Largest::resident_bytes`].

mod bars;
mod digits;
mod group;

pub use bars::{Bar, Bars};

use super::{Block, Finding, Form, Progress, Statistic, Survey};
use crate::kernel;
use crate::limits::BLOCK_ELEMENTS;
use digits::{DIGITS, TABLE, count_digits, gather_spare, locate, table_bytes};
use group::{Data, Goal, Group, SMALL_ELEMENTS, Ties};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Elements of a block, at least.
const BLOCK_LEAST: usize = BLOCK_ELEMENTS / 2;

/// Writes the keys of a block's elements, row by row.
pub type View<'a> = Box<dyn Fn(&Block<'_>, &mut [Vec<u32>]) + Send + Sync + 'a>;

/// Pass names of a ranking by magnitude.
pub const MAGNITUDES: [&str; 3] = ["magnitudes, upper digit", "magnitudes, lower digit", "magnitudes, ties"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Upper,
    Lower,
    Equal,
}

#[derive(Debug, Default)]
struct Local {
    keys: Vec<Vec<u32>>,
    /// `[row][goal][digit]`, of one group.
    counts: Vec<u64>,
    group: usize,
}

/// Finds the bars of the m largest values of each row, for some m.
pub struct Largest<'a> {
    names: [&'static str; 3],
    form: Form,
    view: View<'a>,
    rows: usize,
    ties: Ties,
    /// The key of elements that are not shown, and how many there are.
    hidden: (u32, u64),
    group_of: BTreeMap<usize, usize>,
    groups: Vec<Group>,
    locals: Vec<Mutex<Local>>,
    stage: Stage,
    /// Whether row `k` is the magnitudes of task vector `k`, and nothing else.
    of_magnitudes: bool,
    /// Whether some upper digits were not counted but told.
    told: bool,
}

/// What is asked of one tensor: its index, its elements, and the counts m for each row.
pub type Asked = (usize, u64, Vec<Vec<u64>>);

impl<'a> Largest<'a> {
    /// Per tensor, exactly m values: of those that tie with the m-th, the ones that stand first.
    pub fn per_tensor(names: [&'static str; 3], view: View<'a>, asked: Vec<Asked>, workers: usize) -> Self {
        let group_of = asked.iter().map(|a| a.0).zip(0..).collect();
        let groups = asked.into_iter().map(|(_, elements, counts)| Group::new(elements, &counts)).collect();
        Self::new(names, view, (0, 0), Ties::Cut, group_of, groups, workers)
    }

    /// Over all these tensors and `hidden.1` elements of key `hidden.0` that are not shown; ties with the m-th are taken.
    pub fn of_model(
        names: [&'static str; 3],
        view: View<'a>,
        tensors: impl Iterator<Item = usize>,
        (elements, counts): (u64, &[Vec<u64>]),
        hidden: (u32, u64),
        workers: usize,
    ) -> Self {
        let group = Group { small: false, ..Group::new(elements, counts) };
        Self::new(names, view, hidden, Ties::Stay, tensors.map(|t| (t, 0)).collect(), vec![group], workers)
    }

    fn new(
        names: [&'static str; 3],
        view: View<'a>,
        hidden: (u32, u64),
        ties: Ties,
        group_of: BTreeMap<usize, usize>,
        groups: Vec<Group>,
        workers: usize,
    ) -> Self {
        let rows = groups.first().map_or(0, |g| g.rows);
        let local = || Mutex::new(Local { keys: vec![Vec::new(); rows], ..Local::default() });
        let locals = (0..workers).map(|_| local()).collect();
        let (form, stage) = (Form::TaskVectors, Stage::Upper);
        let (of_magnitudes, told) = (false, false);
        Self { names, form, view, rows, ties, hidden, group_of, groups, locals, stage, of_magnitudes, told }
    }

    /// Asks for the values of the m-th largest alone: what ties with them does not matter.
    #[must_use]
    pub fn values_only(mut self) -> Self {
        self.ties = Ties::Stay;
        for group in self.groups.iter_mut().filter(|g| g.elements > 0) {
            group
                .goals
                .iter_mut()
                .filter(|g| g.count > 0)
                .for_each(|g| (g.count, g.bar) = (g.count.min(group.elements), None));
        }
        self
    }

    /// Says that row `k` is ranked by [`magnitude_key`](crate::kernel::magnitude_key) of task vector `k`: over a whole model
    /// histograms can then stand in for the first pass.
    #[must_use]
    pub fn of_magnitudes(self) -> Self {
        Self { of_magnitudes: true, ..self }
    }

    /// The same over weights instead of task vectors.
    #[must_use]
    pub fn over(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// Bytes that one tensor of so many elements takes, for so many counts over all rows.
    pub fn tensor_bytes(elements: u64, counts: usize) -> usize {
        let of_count = if elements <= SMALL_ELEMENTS { elements as usize * size_of::<u32>() } else { table_bytes() };
        let notes = elements as usize / BLOCK_LEAST * size_of::<u32>();
        counts * (of_count + notes + size_of::<Goal>()) + 256
    }

    /// Bytes that the whole model and threads take.
    pub fn resident_bytes(counts: usize, workers: usize) -> usize {
        counts * table_bytes() + Self::local_bytes(counts, workers)
    }

    /// Bytes that threads take.
    pub fn local_bytes(counts: usize, workers: usize) -> usize {
        (workers + 1) * counts * table_bytes()
    }

    /// Adds what a thread has counted to its group.
    fn flush(&self, local: &mut Local) {
        if local.counts.is_empty() {
            return;
        }
        let mut data = lock(&self.groups[local.group].data);
        if data.counts.is_empty() {
            std::mem::swap(&mut data.counts, &mut local.counts);
        } else {
            data.counts.iter_mut().zip(&local.counts).for_each(|(t, w)| *t += w);
            local.counts.fill(0);
        }
    }

    /// Adds what all threads have counted.
    fn flush_all(&mut self) {
        for worker in 0..self.locals.len() {
            let mut local = std::mem::take(&mut *lock(&self.locals[worker]));
            self.flush(&mut local);
            local.counts = Vec::new();
            *lock(&self.locals[worker]) = local;
        }
    }

    /// The counts of a thread, for this group.
    fn counts_of<'l>(&self, local: &'l mut Local, group: usize) -> (&'l [Vec<u32>], &'l mut [u64]) {
        if local.group != group {
            self.flush(local);
            local.group = group;
        }
        if local.counts.is_empty() {
            local.counts = vec![0; self.groups[group].goals.len() * TABLE];
        }
        (&local.keys, &mut local.counts)
    }

    fn count_upper(&self, group: usize, local: &mut Local, first: u64) {
        let g = &self.groups[group];
        if g.small {
            let mut data = lock(&g.data);
            data.keep(g.elements as usize, first as usize, &local.keys);
            return;
        }
        let goals = g.goals.len() / self.rows;
        let (keys, counts) = self.counts_of(local, group);
        for (keys, counts) in keys.iter().zip(counts.chunks_exact_mut(goals * TABLE)) {
            let (counts, _) = counts.split_first_chunk_mut::<TABLE>().expect("a table for each goal");
            count_digits(keys, counts);
        }
    }

    fn count_lower(&self, group: usize, local: &mut Local, first: u64, sums: &mut Vec<f64>) {
        let goals = &self.groups[group].goals;
        let per_row = goals.len() / self.rows;
        let (keys, counts) = self.counts_of(local, group);
        sums.push(first as f64);
        for (i, (goal, counts)) in goals.iter().zip(counts.chunks_exact_mut(TABLE)).enumerate() {
            let mut zeros = 0;
            if goal.bar.is_none() {
                let keys = &keys[i / per_row];
                zeros = kernel::count_in_bucket(keys, goal.bucket, |digit| counts[usize::from(digit)] += 1);
                counts[0] += zeros;
                if self.told {
                    let above = keys.iter().filter(|&k| k >> 16 > goal.bucket).count();
                    goal.seen_above.fetch_add(above as u64, Ordering::Relaxed);
                }
            }
            sums.push(zeros as f64);
        }
    }

    fn count_equal(&self, group: usize, local: &Local, first: u64, sums: &mut Vec<f64>) {
        let goals = &self.groups[group].goals;
        let per_row = goals.len() / self.rows;
        sums.push(first as f64);
        for (i, goal) in goals.iter().enumerate() {
            let equal = local.keys[i / per_row].iter().filter(|&&k| k == goal.key).count();
            sums.push(equal as f64);
        }
    }

    fn end_upper(&mut self) {
        let (hidden, rows, ties) = (self.hidden, self.rows, self.ties);
        for group in &mut self.groups {
            let data = group.data.get_mut().unwrap_or_else(PoisonError::into_inner);
            if group.small {
                data.sort_out(rows, ties, &mut group.goals);
                *data = Data::default();
            } else if !data.counts.is_empty() {
                let per_row = group.goals.len() / rows;
                for (i, goal) in group.goals.iter_mut().enumerate().filter(|(_, g)| g.bar.is_none()) {
                    let counts = &mut data.counts[i / per_row * per_row * TABLE..][..TABLE];
                    let hide = (hidden.0 >> 16) as usize;
                    gather_spare(counts);
                    counts[hide] += hidden.1;
                    (goal.bucket, goal.above, goal.inside) = locate(&counts[..DIGITS], goal.count);
                    counts[hide] -= hidden.1;
                }
                data.counts.fill(0);
            } else {
                // Nothing was shown: everything is hidden.
                group.goals.iter_mut().filter(|g| g.bar.is_none()).for_each(|g| g.stay(hidden.0));
            }
        }
    }

    /// Whether the second pass has seen other values than the first was told of.
    fn was_deceived(&mut self) -> bool {
        let hidden = self.hidden;
        let hides = |here: bool| if here { hidden.1 } else { 0 };
        self.told
            && self.groups.iter_mut().any(|group| {
                let data = group.data.get_mut().unwrap_or_else(PoisonError::into_inner);
                let mut goals = group.goals.iter_mut().enumerate().filter(|(_, g)| g.bar.is_none());
                goals.any(|(i, goal)| {
                    let inside: u64 = data.counts.get(i * TABLE..(i + 1) * TABLE).map_or(0, |c| c.iter().sum());
                    goal.inside != inside + hides(hidden.0 >> 16 == goal.bucket)
                        || goal.above != *goal.seen_above.get_mut() + hides(hidden.0 >> 16 > goal.bucket)
                })
            })
    }

    /// Forgets what was told and what was seen.
    fn start_again(&mut self) {
        self.told = false;
        for group in &mut self.groups {
            *group.data.get_mut().unwrap_or_else(PoisonError::into_inner) = Data::default();
            for goal in &mut group.goals {
                (goal.bucket, goal.above, goal.inside) = (0, 0, 0);
            }
        }
    }

    fn end_lower(&mut self) {
        let (hidden, ties) = (self.hidden, self.ties);
        for group in self.groups.iter_mut().filter(|g| g.goals.iter().any(|g| g.bar.is_none())) {
            let data = group.data.get_mut().unwrap_or_else(PoisonError::into_inner);
            data.counts.resize(group.goals.len() * TABLE, 0);
            for (goal, counts) in group.goals.iter_mut().zip(data.counts.chunks_exact_mut(TABLE)) {
                if goal.bar.is_some() {
                    continue;
                }
                if hidden.0 >> 16 == goal.bucket {
                    counts[(hidden.0 & 0xffff) as usize] += hidden.1;
                }
                let (digit, above, equal) = locate(&counts[..DIGITS], goal.count - goal.above);
                goal.above += above;
                goal.key = goal.bucket << 16 | digit;
                let zeros = std::mem::take(&mut goal.zeros);
                if ties == Ties::Stay || goal.count - goal.above == equal {
                    goal.stay(goal.key);
                } else if digit == 0 {
                    zeros.iter().zip(0..).for_each(|(&n, i)| goal.see(i * group.block, u64::from(n)));
                }
            }
            *data = Data::default();
        }
    }

    fn is_open(&self) -> bool {
        self.groups.iter().any(Group::is_open)
    }

    /// The one group of a ranking over a whole model.
    fn of_all_tensors(&mut self) -> &mut Group {
        assert!(self.groups.len() == 1 && self.ties == Ties::Stay, "rankings per tensor are not shared");
        &mut self.groups[0]
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Statistic for Largest<'_> {
    fn name(&self) -> &'static str {
        self.names[self.stage as usize]
    }

    fn form(&self) -> Form {
        self.form
    }

    fn wants(&self, tensor: usize) -> bool {
        self.groups[self.group_of[&tensor]].is_open()
    }

    fn observe(&self, worker: usize, block: Block<'_>, sums: &mut Vec<f64>) {
        let group = self.group_of[&block.place.tensor];
        let local = &mut *lock(&self.locals[worker]);
        (self.view)(&block, &mut local.keys);
        match self.stage {
            Stage::Upper => self.count_upper(group, local, block.place.first),
            Stage::Lower => self.count_lower(group, local, block.place.first, sums),
            Stage::Equal => self.count_equal(group, local, block.place.first, sums),
        }
    }

    fn fold(&mut self, tensor: usize, sums: &[f64]) {
        let group = &mut self.groups[self.group_of[&tensor]];
        for block in sums.chunks_exact(1 + group.goals.len()) {
            let first = block[0] as u64;
            let goals = group.goals.iter_mut().zip(&block[1..]);
            if self.stage == Stage::Equal {
                goals.for_each(|(g, &equal)| g.see(first, equal as u64));
            } else if self.ties == Ties::Cut {
                group.block = if group.block == 0 { first } else { group.block };
                goals.filter(|(g, _)| g.bar.is_none()).for_each(|(g, &zeros)| g.zeros.push(zeros as u32));
            }
        }
    }

    fn takes_histograms(&self) -> bool {
        let of_model = self.groups.len() == 1 && !self.groups[0].small && self.ties == Ties::Stay;
        self.of_magnitudes && self.form == Form::TaskVectors && of_model && self.stage == Stage::Upper && self.is_open()
    }

    fn know(&mut self, task: usize, histogram: &[(u16, u64)]) {
        assert!(self.takes_histograms(), "only upper digits of magnitudes over the whole model can be told");
        self.told = true;
        let group = &mut self.groups[0];
        let data = group.data.get_mut().unwrap_or_else(PoisonError::into_inner);
        data.counts.resize(group.goals.len() * TABLE, 0);
        let per_row = group.goals.len() / self.rows;
        for &(bin, count) in histogram {
            data.counts[task * per_row * TABLE + usize::from(bin)] += count;
        }
    }

    fn counts(&mut self) -> Vec<(usize, u64)> {
        self.flush_all();
        let group = self.of_all_tensors();
        let data = group.data.get_mut().unwrap_or_else(PoisonError::into_inner);
        data.counts.iter().copied().enumerate().filter(|(_, n)| *n > 0).collect()
    }

    fn add_counts(&mut self, counts: &[(usize, u64)]) -> bool {
        let group = self.of_all_tensors();
        let places = group.goals.len() * TABLE;
        if counts.iter().any(|(place, _)| *place >= places) {
            return false;
        }
        // Without counts nothing was shown, and that is another thing than zeros.
        if !counts.is_empty() {
            let data = group.data.get_mut().unwrap_or_else(PoisonError::into_inner);
            data.counts.resize(places, 0);
            counts.iter().for_each(|&(place, n)| data.counts[place] += n);
        }
        true
    }

    fn end_pass(&mut self) -> Progress {
        self.flush_all();
        if self.stage == Stage::Lower && self.was_deceived() {
            // A histogram that was taken on trust did not tell the truth: count everything.
            self.start_again();
            self.stage = Stage::Upper;
            return Progress::Again;
        }
        match self.stage {
            Stage::Upper => self.end_upper(),
            Stage::Lower => self.end_lower(),
            Stage::Equal => assert!(!self.is_open(), "every block was shown"),
        }
        self.stage = if self.stage == Stage::Upper { Stage::Lower } else { Stage::Equal };
        if self.is_open() { Progress::Again } else { Progress::Complete }
    }
}

impl Finding for Largest<'_> {
    fn finish(self: Box<Self>) -> Survey {
        // A goal is open still if its tensor has no elements.
        let bars = |g: Group| g.goals.into_iter().map(|g| g.bar.unwrap_or(Bar::ALL)).collect();
        Survey::Bars(Bars { group_of: self.group_of, bars: self.groups.into_iter().map(bars).collect() })
    }
}

#[cfg(test)]
mod tests;
