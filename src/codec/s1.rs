//! S1: the byte planes of the difference.

use super::Result;
use super::order::Word;
use super::planes;
use super::stream::{Reader, Streams};

/// Appends `z`.
pub fn encode<W: Word>(z: &[W], streams: &mut Streams, plane: &mut Vec<u8>, out: &mut Vec<u8>) {
    planes::write(z, W::BITS / 8, streams, plane, out);
}

/// Fills `z` from `block`.
pub fn decode<W: Word>(block: &[u8], streams: &mut Streams, plane: &mut Vec<u8>, z: &mut [W]) -> Result<()> {
    let mut reader = Reader::new(block);
    planes::read(&mut reader, W::BITS / 8, streams, plane, z)?;
    reader.finish()
}
