//! Which bytes of the inputs each part hashes: every byte of a tensor once, by the first part that reads it.

use super::Parted;
use super::record::InputStates;
use crate::plan::{Place, PlannedTensor};
use crate::source::{PieceHash, Ranges};
use std::ops::Range;

/// The hashes of all inputs, each to be given what this part has of it, but for what is `known`.
pub fn hashes(parted: &Parted, part: usize, known: &InputStates) -> Vec<PieceHash> {
    let plan = &parted.plan;
    let hashes: Vec<PieceHash> = plan.files.iter().map(|f| PieceHash::new(f.bytes)).collect();
    for ((file, own), hash) in owned(parted, part).iter().enumerate().zip(&hashes) {
        hash.skip(own.gaps(0, plan.files[file].bytes));
    }
    for (file, state) in known {
        hashes[*file].skip(state.covered.iter().map(|&(start, end)| start..end));
    }
    hashes
}

/// By file what a part hashes.
fn owned(parted: &Parted, part: usize) -> Vec<Ranges> {
    let (plan, parts) = (&parted.plan, &parted.parts);
    let mut claimed = vec![Ranges::default(); plan.files.len()];
    let mut own = claimed.clone();
    for p in 0..=part {
        for (tensor, elements) in parts.tensors(plan, p) {
            let t = &plan.tensors[tensor];
            for (file, bytes) in t.places.iter().flat_map(|place| ranges(t, place, &elements)) {
                let fresh = claimed[file].claim(bytes.start, bytes.end);
                if p == part {
                    fresh.into_iter().for_each(|r| drop(own[file].claim(r.start, r.end)));
                }
            }
        }
    }
    own
}

/// The bytes of an input that elements are made of, as far as that is plain. Of a delta file's payload, which cannot be cut
/// by elements, the same share of its bytes. Nothing of adapters and gathered rows: `commit` reads them.
fn ranges(t: &PlannedTensor, place: &Place, elements: &Range<u64>) -> Vec<(usize, Range<u64>)> {
    if place.rows.is_some() || place.computed.is_some() {
        return Vec::new();
    }
    let Some(coded) = &place.coded else {
        let size = place.dtype.bytes() as u64;
        return vec![(place.file, place.offset + elements.start * size..place.offset + elements.end * size)];
    };
    let share = |bytes: u64, at: u64| (u128::from(bytes) * u128::from(at) / u128::from(t.elements.max(1))) as u64;
    let payloads = coded.links.iter().filter_map(|l| l.payload);
    payloads
        .map(|p| {
            let range = p.offset + share(p.bytes, elements.start)..p.offset + share(p.bytes, elements.end);
            (place.first_file + p.file, range)
        })
        .collect()
}
