//! S1: the difference in natural order, coded as one group of S2.

use super::Result;
use super::order::Word;
use super::permutation::Starts;
use super::s2::{self, Buffers};
use super::stream::Streams;
use super::survey::Prices;

/// Appends `z`.
pub fn encode<W: Word>(z: &[W], buffers: &mut Buffers<W>, streams: &mut Streams, out: &mut Vec<u8>) {
    s2::encode(Prices::FAST, &Starts::of_one_key(z.len()), z, buffers, streams, out);
}

/// Fills `z` from `block`.
pub fn decode<W: Word>(block: &[u8], buffers: &mut Buffers<W>, streams: &mut Streams, z: &mut [W]) -> Result<()> {
    s2::decode(&Starts::of_one_key(z.len()), block, buffers, streams, z)
}
