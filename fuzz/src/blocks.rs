//! Targets of the block codecs.

use super::Outcome;
use std::cell::RefCell;
use taskvec::codec::lossy::{self, Known, Place, Scheme};
use taskvec::codec::{self, Codec, Kind, Permutation, Scratch};
use taskvec::tensor::Dtype;

const CODECS: [Codec; 4] = [Codec::Auto, Codec::S1, Codec::S2, Codec::Raw];
/// Bytes before the block, or before the values.
const LEAD: usize = 8;
const ELEMENTS_MAX: usize = 4096;

thread_local! {
    static SCRATCH: RefCell<(Scratch, lossy::Scratch)> = RefCell::new((Scratch::new(), lossy::Scratch::new()));
}

/// Bytes that look like weights: small steps around 0.
pub fn values(dtype: Dtype, count: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed);
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state >> 33
    };
    if dtype.is_float() && dtype != Dtype::F64 {
        let values: Vec<f32> = (0..count).map(|_| (next() as i32) as f32 * 1e-10).collect();
        let mut bytes = vec![0; count * dtype.bytes()];
        dtype.encode(&values, &mut bytes);
        return bytes;
    }
    (0..count * dtype.bytes()).map(|_| next() as u8).collect()
}

fn f32s(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / dtype.bytes()];
    dtype.decode(bytes, &mut values);
    values
}

/// `kind, dtype, count (2), seed, scheme, parameter (2), block`: any bytes as the block of so many elements.
pub fn decode(input: &[u8]) -> Outcome {
    let Some((lead, block)) = input.split_first_chunk::<LEAD>() else { return Err("short".into()) };
    let dtype = Dtype::ALL[usize::from(lead[1]) % Dtype::ALL.len()];
    let count = usize::from(u16::from_le_bytes([lead[2], lead[3]])) % (ELEMENTS_MAX + 1);
    let base = values(dtype, count, lead[4]);
    SCRATCH.with_borrow_mut(|(scratch, lossy)| {
        if lead[0] == Kind::LOSSY.byte() {
            return decode_lossy(*lead, dtype, &base, block, lossy);
        }
        let mut result = vec![0; base.len()];
        let with_base = (lead[4] != 0).then_some(base.as_slice());
        let done = codec::decode(lead[0], dtype, with_base, block, scratch, &mut result);
        if let Some(base) = with_base {
            let permuted = decode_permuted(lead[0], dtype, base, block, scratch);
            assert_eq!(permuted.as_ref().ok(), done.is_ok().then_some(&result), "the two orders differ");
        }
        done.map_err(|e| e.to_string())
    })
}

/// The same in the order of the base, brought back into its own.
fn decode_permuted(
    kind: u8,
    dtype: Dtype,
    base: &[u8],
    block: &[u8],
    scratch: &mut Scratch,
) -> Result<Vec<u8>, codec::Corrupt> {
    let mut order = Permutation::default();
    order.derive(dtype, base);
    let (mut permuted_base, mut permuted, mut result) = (vec![0; base.len()], vec![0; base.len()], vec![0; base.len()]);
    order.permute(base, &mut permuted_base);
    codec::decode_permuted(kind, dtype, &permuted_base, &order, block, scratch, &mut permuted)?;
    order.unpermute(&permuted, &mut result);
    Ok(result)
}

fn decode_lossy(lead: [u8; LEAD], dtype: Dtype, base: &[u8], block: &[u8], scratch: &mut lossy::Scratch) -> Outcome {
    if !dtype.is_float() || dtype == Dtype::F64 {
        return Err("not coded in f32".into());
    }
    let parameter = u32::from(u16::from_le_bytes([lead[6], lead[7]]));
    let scheme = Scheme::from_code(lead[5], parameter).map_err(|e| e.to_string())?;
    let base = f32s(dtype, base);
    let shared: Vec<f32> = base.iter().map(|v| v + 0.01).collect();
    let known = Known { base: &base, shared: Some(&shared) };
    let mut values = vec![0.0; base.len()];
    let place = Place { row: u64::from(lead[4] >> 4) + 1, first: 0 };
    lossy::decode(scheme, place, known, block, scratch, &mut values).map_err(|e| e.to_string())
}

/// `dtype, codec, base, repeats, scheme, 0, parameter (2), values`: what is coded comes back. The values' first half is the
/// base's, the second the result's, repeated.
pub fn round_trip(input: &[u8]) -> Outcome {
    let Some((lead, rest)) = input.split_first_chunk::<LEAD>() else { return Err("short".into()) };
    let dtype = Dtype::ALL[usize::from(lead[0]) % Dtype::ALL.len()];
    let half = rest.len() / 2 / dtype.bytes() * dtype.bytes();
    let repeats =
        (usize::from(lead[3]) % 32 + 1).min((ELEMENTS_MAX * dtype.bytes()).checked_div(half).unwrap_or(1)).max(1);
    let (base, result) = (rest[..half].repeat(repeats), rest[half..2 * half].repeat(repeats));
    SCRATCH.with_borrow_mut(|(scratch, lossy)| {
        if lead[4] != 0 && dtype.is_float() && dtype != Dtype::F64 {
            return lossy_round_trip(*lead, dtype, &base, &result, lossy);
        }
        let base = (lead[2] % 4 != 0).then_some(base.as_slice());
        let mut block = Vec::new();
        let kind = codec::encode(CODECS[usize::from(lead[1]) % 4], dtype, base, &result, scratch, &mut block);
        assert!(block.len() <= result.len(), "{} bytes for {}", block.len(), result.len());
        let mut back = vec![0; result.len()];
        codec::decode(kind.byte(), dtype, base, &block, scratch, &mut back)
            .unwrap_or_else(|e| panic!("{kind:?} of {dtype} does not decode: {e}"));
        assert!(back == result, "{kind:?} of {dtype} comes back as other bytes");
        Ok(())
    })
}

fn lossy_round_trip(
    lead: [u8; LEAD],
    dtype: Dtype,
    base: &[u8],
    result: &[u8],
    scratch: &mut lossy::Scratch,
) -> Outcome {
    let parameter = u32::from(u16::from_le_bytes([lead[6], lead[7]]));
    let scheme = Scheme::from_code(lead[4], parameter).map_err(|e| e.to_string())?;
    let (base, result) = (f32s(dtype, base), f32s(dtype, result));
    let shared: Vec<f32> = base.iter().map(|v| v * 1.5).collect();
    let known = Known { base: &base, shared: Some(&shared) };
    let place = Place { row: u64::from(lead[1]) + 1, first: u64::from(lead[2]) };
    let mut block = Vec::new();
    if lossy::encode(scheme, place, known, &result, scratch, &mut block).is_none() {
        assert!(block.is_empty(), "bytes of a block that is not coded");
        return Err("to be coded exactly".into());
    }
    let expected = scratch.reconstruction().to_vec();
    let mut values = vec![0.0; result.len()];
    lossy::decode(scheme, place, known, &block, scratch, &mut values)
        .unwrap_or_else(|e| panic!("{scheme:?} does not decode: {e}"));
    assert!(values.iter().map(|v| v.to_bits()).eq(expected.iter().map(|v| v.to_bits())), "{scheme:?} differs");
    Ok(())
}
