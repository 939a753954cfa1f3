//! The block codec: every byte comes back, and no bytes make it fail otherwise than with an error.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use taskvec::codec::{BLOCK, Codec, Kind, Permutation, Scratch, decode, decode_permuted, encode};
use taskvec::tensor::Dtype;

const CODECS: [Codec; 4] = [Codec::Auto, Codec::S1, Codec::S2, Codec::Raw];

/// How a result comes from its base.
#[derive(Clone, Copy, Debug)]
enum Relation {
    Equal,
    Unrelated,
    /// One element in so many differs, by a few units in the last place.
    Near(u64),
    /// Every element differs by about so many bits.
    Noisy(u32),
    /// F32 that hold 16-bit floats, if the dtype is F32.
    Widened(Dtype),
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) ^ x >> 31
    }
}

/// Base and result: weights of a few exponents, or any bits.
fn pair(dtype: Dtype, elements: usize, relation: Relation, weights: bool, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut random = Random(seed);
    if let Relation::Widened(half) = relation
        && dtype == Dtype::F32
    {
        let (base, result) = pair(half, elements, Relation::Near(3), weights, seed);
        return (widened(half, &base), widened(half, &result));
    }
    let width = dtype.bytes();
    let mut base = vec![0; elements * width];
    if weights && dtype.is_float() {
        let values: Vec<f32> = (0..elements).map(|_| (random.next() as i32) as f32 * 1e-11).collect();
        dtype.encode(&values, &mut base);
    } else {
        base.iter_mut().for_each(|b| *b = random.next() as u8);
    }
    let mut result = base.clone();
    for element in result.chunks_exact_mut(width) {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(element);
        let (x, r) = (u64::from_le_bytes(bytes), random.next());
        let x = match relation {
            Relation::Equal => x,
            Relation::Unrelated | Relation::Widened(_) => r,
            Relation::Near(rare) if r % rare != 0 => x,
            Relation::Near(_) => x.wrapping_add(random.next() % 9).wrapping_sub(4),
            Relation::Noisy(bits) => x.wrapping_add(r >> (64 - bits)),
        };
        element.copy_from_slice(&x.to_le_bytes()[..width]);
    }
    (base, result)
}

fn widened(half: Dtype, bytes: &[u8]) -> Vec<u8> {
    let mut values = vec![0.0; bytes.len() / 2];
    half.decode(bytes, &mut values);
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Encodes, checks both decoders, and returns the kind and the bytes.
fn round_trip(
    codec: Codec,
    dtype: Dtype,
    base: Option<&[u8]>,
    result: &[u8],
    scratch: &mut Scratch,
) -> (Kind, Vec<u8>) {
    let mut block = vec![1, 2, 3];
    let kind = encode(codec, dtype, base, result, scratch, &mut block);
    let block = block.split_off(3);
    assert!(block.len() <= result.len(), "{dtype} {codec:?}: {} > {}", block.len(), result.len());
    let mut back = vec![0xaa; result.len()];
    decode(kind.byte(), dtype, base, &block, scratch, &mut back).unwrap();
    assert!(back == result, "{dtype} {codec:?} {kind:?}: other bytes came back");
    if let Some(base) = base {
        let permutation = Permutation::of(dtype, base);
        let (mut permuted_base, mut permuted) = (vec![0; base.len()], vec![0xaa; base.len()]);
        permutation.permute(base, &mut permuted_base);
        decode_permuted(kind.byte(), dtype, &permuted_base, &permutation, &block, scratch, &mut permuted).unwrap();
        permutation.unpermute(&permuted, &mut back);
        assert!(back == result, "{dtype} {codec:?} {kind:?}: the permuted decoder gives other bytes");
    }
    (kind, block)
}

fn relations() -> impl Strategy<Value = Relation> {
    prop_oneof![
        Just(Relation::Equal),
        Just(Relation::Unrelated),
        (1u64..3000).prop_map(Relation::Near),
        (1u32..64).prop_map(Relation::Noisy),
        prop_oneof![Just(Dtype::F16), Just(Dtype::BF16)].prop_map(Relation::Widened),
    ]
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![0..70usize, 0..5000usize, Just(BLOCK), BLOCK - 9..BLOCK, 0..BLOCK]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_pair_of_blocks_comes_back_bit_for_bit(
        dtype in prop::sample::select(&Dtype::ALL[..]),
        codec in prop::sample::select(&CODECS[..]),
        relation in relations(),
        elements in sizes(),
        weights: bool,
        seed: u64,
    ) {
        let (base, result) = pair(dtype, elements, relation, weights, seed);
        let mut scratch = Scratch::new();
        let first = round_trip(codec, dtype, Some(&base), &result, &mut scratch);
        // A used scratch and a fresh one give the same bytes.
        prop_assert_eq!(&first, &round_trip(codec, dtype, Some(&base), &result, &mut scratch));
        round_trip(codec, dtype, None, &result, &mut scratch);
        prop_assert_eq!(&first, &round_trip(codec, dtype, Some(&base), &result, &mut scratch));
    }

    #[test]
    fn a_tensor_of_any_size_comes_back_block_by_block(elements in 0..200_000usize, seed: u64) {
        let (base, result) = pair(Dtype::BF16, elements, Relation::Near(2), true, seed);
        let mut scratch = Scratch::new();
        for (base, result) in base.chunks(2 * BLOCK).zip(result.chunks(2 * BLOCK)) {
            round_trip(Codec::Auto, Dtype::BF16, Some(base), result, &mut scratch);
        }
    }

    #[test]
    fn broken_bytes_give_an_error_or_some_result_but_no_panic(
        dtype in prop::sample::select(&Dtype::ALL[..]),
        codec in prop::sample::select(&CODECS[..]),
        relation in relations(),
        elements in 0..9000usize,
        damage in prop::collection::vec((0.0..1.0f64, any::<u8>()), 1..4),
        cut in 0.0..1.3f64,
        kind: Option<u8>,
        seed: u64,
    ) {
        let (base, result) = pair(dtype, elements, relation, true, seed);
        let mut scratch = Scratch::new();
        let (stored, mut block) = round_trip(codec, dtype, Some(&base), &result, &mut scratch);
        for (place, value) in damage {
            // Near the start, where lengths and groups are, as often as anywhere.
            let reach = if value % 2 == 0 { block.len() } else { block.len().min(40) };
            if let Some(byte) = block.get_mut((place * reach as f64) as usize) {
                *byte ^= value;
            }
        }
        block.truncate((cut * elements as f64) as usize);
        let kind = kind.unwrap_or(stored.byte());
        let mut back = vec![0; result.len()];
        let natural = decode(kind, dtype, Some(&base), &block, &mut scratch, &mut back);
        let permutation = Permutation::of(dtype, &base);
        let mut permuted_base = vec![0; base.len()];
        permutation.permute(&base, &mut permuted_base);
        let mut permuted = vec![0; base.len()];
        let other = decode_permuted(kind, dtype, &permuted_base, &permutation, &block, &mut scratch, &mut permuted);
        prop_assert_eq!(natural, other);
        let _ = decode(kind, dtype, None, &block, &mut scratch, &mut back);
        // The scratch is as good as before.
        round_trip(codec, dtype, Some(&base), &result, &mut scratch);
    }

    #[test]
    fn random_bytes_are_never_a_panic(
        dtype in prop::sample::select(&Dtype::ALL[..]),
        elements in 0..3000usize,
        method in 0..8u8,
        transform in 0..4u8,
        block in prop::collection::vec(prop_oneof![0..6u8, any::<u8>()], 0..200),
        seed: u64,
    ) {
        let (base, mut result) = pair(dtype, elements, Relation::Equal, true, seed);
        let _ = decode(method | transform << 4, dtype, Some(&base), &block, &mut Scratch::new(), &mut result);
    }
}

/// The kind that `Auto` chooses for 100,000 elements.
fn kind_of(dtype: Dtype, relation: Relation) -> (Kind, f64) {
    let (base, result) = pair(dtype, 100_000, relation, true, 5);
    let (kind, block) = round_trip(Codec::Auto, dtype, Some(&base), &result, &mut Scratch::new());
    (kind, block.len() as f64 / result.len() as f64)
}

#[test]
fn an_equal_block_takes_no_bytes() {
    for dtype in Dtype::ALL {
        assert_eq!(kind_of(dtype, Relation::Equal), (Kind::EQUAL, 0.0));
    }
}

#[test]
fn a_block_with_few_changes_is_sparse() {
    assert_eq!(kind_of(Dtype::BF16, Relation::Near(5000)).0, Kind::SPARSE);
}

#[test]
fn a_block_that_its_base_does_not_help_is_coded_alone() {
    let (_, unrelated) = pair(Dtype::BF16, 100_000, Relation::Equal, false, 1);
    let (_, weights) = pair(Dtype::BF16, 100_000, Relation::Equal, true, 2);
    let (kind, block) = round_trip(Codec::Auto, Dtype::BF16, Some(&unrelated), &weights, &mut Scratch::new());
    assert_eq!(kind, Kind::SOLO);
    assert!(block.len() < weights.len() * 3 / 4);
}

#[test]
fn noise_is_stored_as_it_is() {
    assert_eq!(kind_of(Dtype::I16, Relation::Unrelated).0, Kind::RAW);
}

#[test]
fn a_widened_checkpoint_costs_what_the_16_bit_one_costs() {
    for half in [Dtype::BF16, Dtype::F16] {
        let (wide_kind, wide) = kind_of(Dtype::F32, Relation::Widened(half));
        let (kind, narrow) = kind_of(half, Relation::Near(3));
        assert_eq!(wide_kind.method(), kind);
        assert!((wide * 2.0 - narrow).abs() < 0.01, "{half}: {wide} for {narrow}");
    }
}

#[test]
fn a_block_without_a_base_refuses_to_be_read_as_a_difference() {
    let (base, result) = pair(Dtype::BF16, 5000, Relation::Near(2), true, 1);
    let mut scratch = Scratch::new();
    let (kind, block) = round_trip(Codec::S2, Dtype::BF16, Some(&base), &result, &mut scratch);
    let mut back = vec![0; result.len()];
    assert!(decode(kind.byte(), Dtype::BF16, None, &block, &mut scratch, &mut back).is_err());
}

#[test]
fn bytes_after_the_end_of_a_block_are_refused() {
    let (base, result) = pair(Dtype::BF16, 5000, Relation::Near(2), true, 1);
    let mut scratch = Scratch::new();
    for codec in CODECS {
        let (kind, mut block) = round_trip(codec, Dtype::BF16, Some(&base), &result, &mut scratch);
        block.push(0);
        let mut back = vec![0; result.len()];
        assert!(decode(kind.byte(), Dtype::BF16, Some(&base), &block, &mut scratch, &mut back).is_err());
    }
}
