//! A byte string as a zstd frame, or as it is where a frame saves too little.
//!
//! Stored as three bytes, little-endian: the stored length, with bit 23 set for a frame. Of the frame, the six bytes
//! before its first block are left out: they are always [`FRAME_START`], so no stored byte can ask for a larger window,
//! a dictionary or a checksum.

use super::{BLOCK, Corrupt, Result, fit};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, ParamSwitch, Strategy, compress_bound};

/// zstd's magic number, no flags, a window of 128 KiB.
const FRAME_START: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
const FRAME_FLAG: usize = 1 << 23;
/// A frame is stored when it saves more than one byte in this many.
const LEAST_SAVING: usize = 64;

/// Whether the encoder looks for repetitions, by the steps that zstd's fast search takes.
#[derive(Clone, Copy)]
pub enum Search {
    /// Hardly: a frame is a Huffman code.
    Off = 100_000,
    /// Repetitions of seven bytes.
    On = 0,
}

/// The zstd contexts of one worker.
pub struct Streams {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
    frame: Vec<u8>,
}

impl Streams {
    /// Bytes that one value holds at most: both contexts (599 KiB with zstd 1.5.7) and the frame.
    pub const RESIDENT_BYTES: usize = (1 << 20) + BLOCK + 1024;

    pub fn new() -> Self {
        // Symbols of differences repeat by chance alone: a search for matches costs time and makes frames larger.
        let parameters = [
            CParameter::WindowLog(super::BLOCK_LOG2),
            CParameter::HashLog(6),
            CParameter::MinMatch(7),
            CParameter::TargetLength(Search::Off as u32),
            CParameter::Strategy(Strategy::ZSTD_fast),
            CParameter::LiteralCompressionMode(ParamSwitch::Enable),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ];
        let mut compressor = Compressor::new(1).expect("zstd makes a context");
        for parameter in parameters {
            compressor.set_parameter(parameter).expect("zstd knows its parameters");
        }
        let decompressor = Decompressor::new().expect("zstd makes a context");
        Self { compressor, decompressor, frame: Vec::new() }
    }

    /// Whether frames that are written from now on look for matches.
    pub fn search(&mut self, search: Search) {
        let parameter = CParameter::TargetLength(search as u32);
        self.compressor.set_parameter(parameter).expect("zstd knows its parameters");
    }

    /// Appends `bytes`, at most [`BLOCK`] of them. Nothing is stored for none.
    pub fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        assert!(bytes.len() <= BLOCK);
        if bytes.is_empty() {
            return;
        }
        let (stored, flag) = self.compress(bytes).map_or((bytes, 0), |frame| (frame, FRAME_FLAG));
        write_u24(stored.len() | flag, out);
        out.extend_from_slice(stored);
    }

    /// The frame without its start, if it saves enough.
    fn compress(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        fit(&mut self.frame, compress_bound(bytes.len()));
        let len = self.compressor.compress_to_buffer(bytes, self.frame.as_mut_slice()).ok()?;
        let (start, rest) = self.frame[..len].split_first_chunk::<6>()?;
        let ours = start[..5] == FRAME_START[..5] && start[5] <= FRAME_START[5];
        (ours && rest.len() + bytes.len() / LEAST_SAVING < bytes.len()).then_some(rest)
    }

    /// Fills `bytes` with the next stream of `reader`.
    pub fn read(&mut self, reader: &mut Reader<'_>, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let header = reader.u24()?;
        let stored = reader.take(header & (FRAME_FLAG - 1))?;
        if header & FRAME_FLAG != 0 {
            self.decompress(stored, bytes)
        } else if stored.len() == bytes.len() {
            bytes.copy_from_slice(stored);
            Ok(())
        } else {
            Err(Corrupt("a stream has another length than its elements need"))
        }
    }

    fn decompress(&mut self, stored: &[u8], bytes: &mut [u8]) -> Result<()> {
        if stored.len() >= bytes.len() {
            return Err(Corrupt("a compressed stream is longer than its content"));
        }
        fit(&mut self.frame, FRAME_START.len() + stored.len());
        let (start, rest) = self.frame.split_at_mut(FRAME_START.len());
        start.copy_from_slice(&FRAME_START);
        rest.copy_from_slice(stored);
        match self.decompressor.decompress_to_buffer(&self.frame, bytes) {
            Ok(len) if len == bytes.len() => Ok(()),
            Ok(_) => Err(Corrupt("a stream has another length than its elements need")),
            Err(_) => Err(Corrupt("a stream cannot be decompressed")),
        }
    }
}

/// Appends `value`, below 2^24, as three bytes.
pub fn write_u24(value: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(value as u32).to_le_bytes()[..3]);
}

/// The bytes of a block that are not read yet.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(block: &'a [u8]) -> Self {
        Self { rest: block }
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Corrupt("the block ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub fn u24(&mut self) -> Result<usize> {
        Ok(self.take(3)?.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    }

    /// Checks that every byte was read.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Corrupt("the block has bytes after its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_and_frame_stay_below_the_stated_bytes() {
        let bytes: Vec<u8> = (0..BLOCK).map(|i| ((i * i) >> 7) as u8 & 31).collect();
        let (mut streams, mut stored, mut back) = (Streams::new(), Vec::new(), vec![0; BLOCK]);
        streams.write(&bytes, &mut stored);
        streams.read(&mut Reader::new(&stored), &mut back).unwrap();
        assert!(stored.len() < bytes.len() && back == bytes);
        // A decompressor that is given the whole output at once holds its context alone.
        let contexts = streams.compressor.context_mut().sizeof() + zstd::zstd_safe::DCtx::create().sizeof();
        println!("{contexts} bytes");
        assert!(contexts <= 1 << 20 && streams.frame.capacity() <= BLOCK + 1024, "{contexts} bytes of contexts");
    }
}
