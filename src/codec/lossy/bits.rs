//! Codes of 1, 2, 4 or 8 bits as a stream of bytes.
//!
//! Byte `j` holds the codes of elements `j`, `j + m`, `j + 2 m`, ..., lowest bits first, where m is the number of bytes:
//! an order for vector registers, and one in which a byte's codes are independent, as zstd's Huffman coder likes it.

use super::super::simd;
use super::{Reader, Result, Streams};

/// Appends the low `bits` of each code.
pub fn write(codes: &[u8], bits: u32, bytes: &mut Vec<u8>, streams: &mut Streams, out: &mut Vec<u8>) {
    let stride = stride(codes.len(), bits);
    bytes.clear();
    bytes.resize(stride, 0);
    let mask = mask(bits);
    simd(
        #[inline(always)]
        || {
            for (slot, codes) in codes.chunks(stride.max(1)).enumerate() {
                let up = slot as u32 * bits;
                for (b, &c) in bytes.iter_mut().zip(codes) {
                    *b |= (c & mask) << up;
                }
            }
        },
    );
    streams.write(bytes, out);
}

/// Fills `codes`; the bits above are 0.
pub fn read(
    reader: &mut Reader<'_>,
    bits: u32,
    bytes: &mut Vec<u8>,
    streams: &mut Streams,
    codes: &mut [u8],
) -> Result<()> {
    let stride = stride(codes.len(), bits);
    bytes.resize(stride, 0);
    streams.read(reader, bytes)?;
    let mask = mask(bits);
    simd(
        #[inline(always)]
        || {
            for (slot, codes) in codes.chunks_mut(stride.max(1)).enumerate() {
                let down = slot as u32 * bits;
                for (c, &b) in codes.iter_mut().zip(&*bytes) {
                    *c = b >> down & mask;
                }
            }
        },
    );
    Ok(())
}

fn stride(codes: usize, bits: u32) -> usize {
    codes.div_ceil(8 / bits as usize)
}

fn mask(bits: u32) -> u8 {
    (0xff_u32 >> (8 - bits)) as u8
}
