//! Lossy blocks between bytes of any float dtype and the f32 of their codecs.

use super::decode::convert;
use crate::codec::lossy::{self, Known, Loss, Place, Scheme};
use crate::codec::{BLOCK, Corrupt};
use crate::limits::LOSSY_BYTES;
use crate::tensor::Dtype;
use std::ops::Range;

/// One compute thread's means of coding and decoding lossy blocks.
pub struct LossyBlocks {
    scratch: lossy::Scratch,
    base: Vec<f32>,
    shared: Vec<f32>,
    result: Vec<f32>,
    values: Vec<f32>,
}

const _: () = assert!(LossyBlocks::RESIDENT_BYTES <= LOSSY_BYTES as u64);

/// What encoder and decoder know of a block, or of a run of blocks: bytes of the result's dtype.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    pub dtype: Dtype,
    /// The same elements of the base.
    pub base: &'a [u8],
    /// The same elements of the checkpoint under the base, for TALL masks.
    pub root: Option<&'a [u8]>,
    pub place: Place,
}

impl<'a> Given<'a> {
    /// The block at these bytes of a run.
    pub fn block(self, bytes: &Range<usize>) -> Given<'a> {
        let first = self.place.first + (bytes.start / self.dtype.bytes()) as u64;
        let part = |run: &'a [u8]| &run[bytes.clone()];
        Given { base: part(self.base), root: self.root.map(part), place: Place { first, ..self.place }, ..self }
    }
}

/// Whether values of these dtypes, the base's and the result's, can be coded lossily: the codecs compute in f32.
pub fn codes(base: Dtype, result: Dtype) -> bool {
    base.is_float() && result.is_float() && result != Dtype::F64
}

/// The root's bytes in the result's dtype, if they cover `bytes`.
pub fn convert_root<'a>(
    root: Option<(Dtype, &'a [u8])>,
    to: Dtype,
    bytes: usize,
    converted: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    let elements = bytes / to.bytes();
    let (dtype, root) = root.filter(|(d, root)| codes(*d, to) && root.len() >= elements * d.bytes())?;
    Some(convert(Some(dtype), to, root, elements, converted))
}

impl LossyBlocks {
    const RESIDENT_BYTES: u64 = lossy::Scratch::resident_bytes() + (4 * 4 * BLOCK) as u64;

    /// With empty buffers.
    pub fn new() -> Self {
        let scratch = lossy::Scratch::new();
        Self { scratch, base: Vec::new(), shared: Vec::new(), result: Vec::new(), values: Vec::new() }
    }

    /// Appends one block to `out`, fills `restored` with the bytes that it decodes to, and says what those have lost.
    ///
    /// `None`, and `out` as it was, where the block is to be coded exactly: something is not finite, or there is no root.
    pub fn encode(
        &mut self,
        scheme: Scheme,
        given: Given<'_>,
        result: &[u8],
        restored: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Option<Loss> {
        widen(given.dtype, result, &mut self.result);
        let known = known(scheme, given, &mut self.base, &mut self.shared).ok()?;
        let start = out.len();
        lossy::encode(scheme, given.place, known, &self.result, &mut self.scratch, out)?;
        given.dtype.encode(self.scratch.reconstruction(), restored);
        widen(given.dtype, restored, &mut self.values);
        let rounded = self.scratch.loss_of(&self.result, &self.values);
        if rounded.is_none() {
            out.truncate(start);
        }
        rounded
    }

    /// Fills `out` with the bytes that one block decodes to.
    pub fn decode(&mut self, scheme: Scheme, given: Given<'_>, block: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
        let known = known(scheme, given, &mut self.base, &mut self.shared)?;
        self.values.resize(known.base.len(), 0.0);
        lossy::decode(scheme, given.place, known, block, &mut self.scratch, &mut self.values)?;
        given.dtype.encode(&self.values, out);
        Ok(())
    }
}

/// The base in f32; for TALL masks the root, and the base as the shared model.
fn known<'a>(
    scheme: Scheme,
    given: Given<'_>,
    base: &'a mut Vec<f32>,
    shared: &'a mut Vec<f32>,
) -> Result<Known<'a>, Corrupt> {
    if !scheme.has_shared() {
        widen(given.dtype, given.base, base);
        return Ok(Known { base, shared: None });
    }
    let root = given.root.ok_or(Corrupt("TALL masks need the model that the shared one is made from"))?;
    widen(given.dtype, root, base);
    widen(given.dtype, given.base, shared);
    Ok(Known { base, shared: Some(shared) })
}

fn widen(dtype: Dtype, bytes: &[u8], values: &mut Vec<f32>) {
    values.resize(bytes.len() / dtype.bytes(), 0.0);
    dtype.decode(bytes, values);
}
