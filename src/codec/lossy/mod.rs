//! The lossy block codecs: a block of f32 against the same block of its base, up to an error that is measured.
//!
//! tau is result - base. A block holds up to [`BLOCK`] elements, cut from the flattened tensor; nothing reaches from one
//! block to the next. `docs/format.md` says byte by byte how each [`Scheme`] is stored. The same input gives the same
//! bytes and the same values on every CPU: every operation is one correctly rounded f32 or f64 operation, in an order
//! that the code fixes.

mod bits;
mod groups;
mod loss;
mod scheme;
mod sign;
mod tall;
mod ternary;
mod tvq;

pub use groups::Place;
pub use loss::Loss;
pub use scheme::{Bits, Group, Scheme};

use super::stream::{Reader, Streams};
use super::{BLOCK, Corrupt, Result};

/// What both the encoder and the decoder have: as many elements as the block.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The base; for [`Scheme::Tall`] the root that all models come from.
    pub base: &'a [f32],
    /// The model that [`Scheme::Tall`] chooses from besides the base. The other schemes do not look at it.
    pub shared: Option<&'a [f32]>,
}

/// The buffers and zstd contexts of one worker.
pub struct Scratch {
    streams: Streams,
    work: Work,
    reconstruction: Vec<f32>,
}

/// What lies between values and bytes.
#[derive(Default)]
struct Work {
    tau: Vec<f32>,
    scales: Vec<f32>,
    /// One for each element; of ternary, the gaps.
    codes: Vec<u8>,
    bytes: Vec<u8>,
    keys: Vec<u32>,
    /// Of ternary, one for each element that is kept.
    signs: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Buffers that grow when they are first used.
    pub fn new() -> Self {
        Self { streams: Streams::new(), work: Work::default(), reconstruction: Vec::new() }
    }

    /// Bytes that a scratch holds at most, whatever blocks it meets; a vector may hold twice what it needs.
    pub const fn resident_bytes() -> u64 {
        let words = 4 * 4 * BLOCK;
        let bytes = 3 * BLOCK;
        (Streams::RESIDENT_BYTES + 2 * (words + bytes)) as u64
    }

    /// The values that [`decode`] will give for what [`encode`] wrote last.
    pub fn reconstruction(&self) -> &[f32] {
        &self.reconstruction
    }

    /// The loss of the block that [`encode`] wrote last, with its `result`, where `rounded` stands for the
    /// reconstruction: the same in the tensor's dtype. `None` where that made a value infinite.
    pub fn loss_of(&self, result: &[f32], rounded: &[f32]) -> Option<Loss> {
        Loss::measure(&self.work.tau, result, rounded)
    }
}

/// Appends the bytes of one block to `out` and says what was lost; [`Scratch::reconstruction`] is what remains.
///
/// `None`, and `out` as it was, where a value or a difference is not finite: such a block is to be coded exactly.
/// `known` holds as many elements as `result`, at most [`BLOCK`].
pub fn encode(
    scheme: Scheme,
    place: Place,
    known: Known<'_>,
    result: &[f32],
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Option<Loss> {
    let shared = check(scheme, known, result.len());
    let Scratch { streams, work, reconstruction } = scratch;
    let values = &mut *reconstruction;
    values.resize(result.len(), 0.0);
    let start = out.len();
    if !loss::differences(known.base, result, &mut work.tau) {
        return None;
    }
    match scheme {
        Scheme::Tvq { bits, group } => {
            tvq::encode(bits, group.of(place, result.len()), known.base, work, streams, out, values);
        }
        Scheme::Sign1 => sign::encode(sign::groups(place, result.len()), known.base, work, streams, out, values),
        Scheme::Ternary { density_per_mille } => {
            let groups = ternary::groups(place, result.len());
            ternary::encode(density_per_mille, groups, known.base, work, streams, out, values);
        }
        Scheme::Tall { lambda_per_mille } => {
            tall::encode(lambda_per_mille, known.base, shared, result, work, streams, out, values);
        }
    }
    let loss = Loss::measure(&work.tau, result, values);
    if loss.is_none() {
        out.truncate(start);
    }
    loss
}

/// Fills `values` from the bytes of one block, in f32: the caller rounds them to the tensor's dtype.
///
/// `known` holds as many elements as `values`, at most [`BLOCK`].
pub fn decode(
    scheme: Scheme,
    place: Place,
    known: Known<'_>,
    block: &[u8],
    scratch: &mut Scratch,
    values: &mut [f32],
) -> Result<()> {
    let shared = check(scheme, known, values.len());
    let Scratch { streams, work, .. } = scratch;
    let mut reader = Reader::new(block);
    match scheme {
        Scheme::Tvq { bits, group } => {
            tvq::decode(bits, group.of(place, values.len()), known.base, &mut reader, work, streams, values)?;
        }
        Scheme::Sign1 => {
            sign::decode(sign::groups(place, values.len()), known.base, &mut reader, work, streams, values)?;
        }
        Scheme::Ternary { .. } => {
            ternary::decode(ternary::groups(place, values.len()), known.base, &mut reader, work, streams, values)?;
        }
        Scheme::Tall { .. } => tall::decode(known.base, shared, &mut reader, work, streams, values)?,
    }
    reader.finish()
}

/// The shared model, empty where the scheme has none.
fn check(scheme: Scheme, known: Known<'_>, elements: usize) -> &[f32] {
    assert!(elements <= BLOCK, "a block is at most {BLOCK} elements");
    assert!(known.base.len() == elements, "a block has as many elements as its base");
    if !matches!(scheme, Scheme::Tall { .. }) {
        return &[];
    }
    let shared = known.shared.expect("TALL masks choose from a shared model");
    assert!(shared.len() == elements, "a block has as many elements as the shared model");
    shared
}
