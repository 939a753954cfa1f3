//! TALL masks: where an element is nearer to a shared model than to the root, the shared one's value stands for it.

use super::super::simd;
use super::{Reader, Result, Streams, Work, bits};

/// Appends the mask; the values that it selects are in `values`.
#[allow(clippy::too_many_arguments, reason = "three models, three buffers")]
pub fn encode(
    lambda_per_mille: u16,
    root: &[f32],
    shared: &[f32],
    result: &[f32],
    work: &mut Work,
    streams: &mut Streams,
    out: &mut Vec<u8>,
    values: &mut [f32],
) {
    let Work { codes, bytes, .. } = work;
    let lambda = f32::from(lambda_per_mille) / 1000.0;
    codes.resize(result.len(), 0);
    simd(
        #[inline(always)]
        || {
            for (((c, x), root), shared) in codes.iter_mut().zip(result).zip(root).zip(shared) {
                *c = u8::from((root - x).abs() > lambda * (shared - x).abs());
            }
        },
    );
    bits::write(codes, 1, bytes, streams, out);
    select(root, shared, codes, values);
}

/// Fills `values`.
pub fn decode(
    root: &[f32],
    shared: &[f32],
    reader: &mut Reader<'_>,
    work: &mut Work,
    streams: &mut Streams,
    values: &mut [f32],
) -> Result<()> {
    let Work { codes, bytes, .. } = work;
    codes.resize(values.len(), 0);
    bits::read(reader, 1, bytes, streams, codes)?;
    select(root, shared, codes, values);
    Ok(())
}

/// `values = shared` where the code is 1, else `root`.
fn select(root: &[f32], shared: &[f32], codes: &[u8], values: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for (((v, &root), &shared), &c) in values.iter_mut().zip(root).zip(shared).zip(codes) {
                *v = if c == 1 { shared } else { root };
            }
        },
    );
}
