//! Words as byte planes: all lowest bytes, then all second ones, and so on.

use super::order::Word;
use super::stream::{Reader, Streams};
use super::{Result, fit, simd};

/// Appends the low `planes` bytes of each word, one stream for each plane.
pub fn write<W: Word>(words: &[W], planes: u32, streams: &mut Streams, plane: &mut Vec<u8>, out: &mut Vec<u8>) {
    fit(plane, words.len());
    for p in 0..planes {
        split(words, p, plane);
        streams.write(plane, out);
    }
}

/// Fills `words` from `planes` streams; the bytes above are 0.
pub fn read<W: Word>(
    reader: &mut Reader<'_>,
    planes: u32,
    streams: &mut Streams,
    plane: &mut Vec<u8>,
    words: &mut [W],
) -> Result<()> {
    fit(plane, words.len());
    words.fill(W::default());
    for p in 0..planes {
        streams.read(reader, plane)?;
        join(plane, p, words);
    }
    Ok(())
}

/// Byte `plane` of each word.
pub fn split<W: Word>(words: &[W], plane: u32, bytes: &mut [u8]) {
    simd(
        #[inline(always)]
        || {
            for (b, &w) in bytes.iter_mut().zip(words) {
                *b = (w >> (8 * plane)).low();
            }
        },
    );
}

/// Sets byte `plane` of each word, which is 0 before.
pub fn join<W: Word>(bytes: &[u8], plane: u32, words: &mut [W]) {
    simd(
        #[inline(always)]
        || {
            for (w, &b) in words.iter_mut().zip(bytes) {
                *w = *w | W::from(b) << (8 * plane);
            }
        },
    );
}
