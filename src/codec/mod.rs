//! The block codec of the delta format: one block of a tensor against the same block of its base, exactly.
//!
//! A block holds up to [`BLOCK`] elements, as little-endian bytes. Its [`Kind`] says how it is stored; `docs/format.md`
//! says so byte by byte. The same input gives the same bytes on every CPU.

mod block;
pub mod lossy;
mod order;
mod permutation;
mod planes;
mod s1;
mod s2;
mod solo;
mod sparse;
mod stream;
mod survey;

pub use block::{Scratch, decode, decode_permuted, encode};
pub use permutation::Permutation;

use std::fmt;

/// Binary logarithm of [`BLOCK`].
pub const BLOCK_LOG2: u32 = 17;
/// The elements of a block; the last one of a tensor has fewer.
pub const BLOCK: usize = 1 << BLOCK_LOG2;

/// How the user wants blocks to be coded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// The smallest of what is worth a trial; mostly [`Codec::S2`].
    Auto,
    /// The difference in its own order: faster, larger.
    S1,
    /// The difference, grouped by the exponent of the base.
    S2,
    /// The bytes as they are.
    Raw,
}

/// What a whole model is coded with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// Every bit of it.
    Exact(Codec),
    /// Lossily where that is smaller than exactly.
    Lossy(lossy::Scheme),
}

impl Coding {
    /// The coding of this name: `auto`, `s1`, `s2`, `raw`, or a name that [`lossy::Scheme::from_name`] knows.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Exact(Codec::Auto),
            "s1" => Self::Exact(Codec::S1),
            "s2" => Self::Exact(Codec::S2),
            "raw" => Self::Exact(Codec::Raw),
            _ => Self::Lossy(lossy::Scheme::from_name(name)?),
        })
    }
}

/// How a block is stored: the method in the low four bits, the transform in the high four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind(u8);

impl Kind {
    /// No bytes: the result is the base.
    pub const EQUAL: Self = Self(0);
    /// The bytes of the result.
    pub const RAW: Self = Self(1);
    /// Byte planes of the result, without the base.
    pub const SOLO: Self = Self(2);
    /// The difference, as one group.
    pub const S1: Self = Self(3);
    /// The difference, grouped by the exponent of the base.
    pub const S2: Self = Self(4);
    /// Places and differences of the few elements that changed.
    pub const SPARSE: Self = Self(5);
    /// By the payload's [`lossy::Scheme`]; not known to [`decode`].
    pub const LOSSY: Self = Self(6);

    const BF16_IN_F32: u8 = 1;
    const F16_IN_F32: u8 = 2;

    /// The byte that a block table stores.
    pub fn byte(self) -> u8 {
        self.0
    }

    /// The method alone: one of the constants.
    #[must_use]
    pub fn method(self) -> Self {
        Self(self.0 & 15)
    }

    fn transform(self) -> u8 {
        self.0 >> 4
    }

    fn with_transform(self, transform: u8) -> Self {
        Self(self.0 | transform << 4)
    }
}

/// What is wrong with the bytes of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt(pub &'static str);

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Corrupt {}

type Result<T> = std::result::Result<T, Corrupt>;

/// Whether encoder and decoder have a fault, for tests/fuzz to find.
const PLANTED: bool = cfg!(feature = "planted-faults");

/// Gives `buffer` the length `len`, and never more capacity than the longest block needs.
fn fit<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.capacity() < len {
        *buffer = Vec::new();
        buffer.reserve_exact(len);
    }
    buffer.resize(len, T::default());
}

/// Runs `body`, a loop to be compiled for the widest vectors of this CPU.
#[inline(always)]
fn simd<R>(body: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(body)
}
