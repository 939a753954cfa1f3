//! A plan cut into parts for several machines: each a run of the plan's tensors, in order, of about as many bytes.
//!
//! A tensor is cut only between chunks, where sums can be put together again bit by bit.

use super::{Plan, PlannedTensor};
use crate::limits::{BLOCK_ELEMENTS, CHUNK_ELEMENTS};
use std::ops::Range;

/// A place in a plan's tensors: a tensor and an element of it.
pub type Border = (usize, u64);

/// The parts of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partitions {
    borders: Vec<Border>,
}

impl Partitions {
    /// Cuts the plan into so many parts. `whole` tells that the float tensors that are merged cannot be cut.
    pub fn balanced(plan: &Plan, parts: usize, whole: bool) -> Self {
        let mut before = Vec::with_capacity(plan.tensors.len());
        let mut total = 0;
        for t in &plan.tensors {
            before.push(total);
            total += cost(plan, t);
        }
        let border = |part: usize| match part {
            0 => (0, 0),
            p if p == parts => (plan.tensors.len(), 0),
            p => {
                let wanted = total * p as u128 / parts as u128;
                let tensor = before.partition_point(|b| *b <= wanted).saturating_sub(1);
                plan.tensors.get(tensor).map_or((0, 0), |t| near(plan, (tensor, t), wanted - before[tensor], whole))
            }
        };
        Self { borders: (0..=parts).map(border).collect() }
    }

    /// Parts with these borders; `None` if they do not cut this plan so.
    pub fn new(plan: &Plan, borders: Vec<Border>, whole: bool) -> Option<Self> {
        let ends = borders.first() == Some(&(0, 0)) && borders.last() == Some(&(plan.tensors.len(), 0));
        let allowed = |&(tensor, element): &Border| {
            element == 0
                || plan.tensors.get(tensor).is_some_and(|t| {
                    can_cut(t, whole) && element < t.elements && element.is_multiple_of(CHUNK_ELEMENTS)
                })
        };
        let fits = ends && borders.len() > 1 && borders.is_sorted() && borders.iter().all(allowed);
        fits.then_some(Self { borders })
    }

    /// Where the parts begin, and where the last one ends.
    pub fn borders(&self) -> &[Border] {
        &self.borders
    }

    /// Number of parts.
    pub fn count(&self) -> usize {
        self.borders.len() - 1
    }

    /// The elements of a tensor that are in a part.
    pub fn elements(&self, plan: &Plan, part: usize, tensor: usize) -> Range<u64> {
        let elements = plan.tensors[tensor].elements;
        let at = |border: Border| match border.0.cmp(&tensor) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => border.1,
            std::cmp::Ordering::Greater => elements,
        };
        at(self.borders[part])..at(self.borders[part + 1])
    }

    /// The tensors of which a part has elements, with these elements.
    pub fn tensors(&self, plan: &Plan, part: usize) -> impl Iterator<Item = (usize, Range<u64>)> {
        let last = self.borders[part + 1].0.min(plan.tensors.len().saturating_sub(1));
        let all = (self.borders[part].0..=last).filter(|t| *t < plan.tensors.len());
        all.map(move |t| (t, self.elements(plan, part, t))).filter(|(_, e)| !e.is_empty())
    }

    /// Bytes that a part reads and writes.
    pub fn bytes(&self, plan: &Plan, part: usize) -> u64 {
        let share = |(t, e): (usize, Range<u64>)| {
            let t = &plan.tensors[t];
            cost(plan, t) * u128::from(e.end - e.start) / u128::from(t.elements.max(1))
        };
        self.tensors(plan, part).map(share).sum::<u128>() as u64
    }
}

/// Bytes of a tensor over all sources and the output.
fn cost(plan: &Plan, t: &PlannedTensor) -> u128 {
    u128::from((0..plan.sources.len()).map(|s| t.source_bytes(s)).sum::<u64>() + t.bytes())
}

fn can_cut(t: &PlannedTensor, whole: bool) -> bool {
    t.block_elements == BLOCK_ELEMENTS && !(whole && t.layer.is_some())
}

/// The border that is nearest to so many bytes of a tensor.
fn near(plan: &Plan, (tensor, t): (usize, &PlannedTensor), bytes: u128, whole: bool) -> Border {
    let cost = cost(plan, t).max(1);
    let element = (bytes * u128::from(t.elements) / cost) as u64;
    let nearest = match can_cut(t, whole) {
        true => (element + CHUNK_ELEMENTS / 2) / CHUNK_ELEMENTS * CHUNK_ELEMENTS,
        false if bytes * 2 < cost => 0,
        false => t.elements,
    };
    if nearest == 0 {
        (tensor, 0)
    } else if nearest < t.elements {
        (tensor, nearest)
    } else {
        (tensor + 1, 0)
    }
}
