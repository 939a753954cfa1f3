//! The lossy block codecs: what is declared holds, and no bytes make them fail otherwise than with an error.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;
use taskvec::codec::BLOCK;
use taskvec::codec::lossy::{Bits, Group, Known, Loss, Place, Scheme, Scratch, decode, encode};

const BITS: [Bits; 4] = [Bits::Two, Bits::Three, Bits::Four, Bits::Eight];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) ^ x >> 31
    }

    /// In (0, 1).
    fn uniform(&mut self) -> f32 {
        ((self.next() >> 41) as f32 + 0.5) / (1u32 << 23) as f32
    }

    /// Of magnitude `mean` on average, of both signs.
    fn laplace(&mut self, mean: f32) -> f32 {
        let magnitude = -self.uniform().ln() * mean;
        if self.next() & 1 == 0 { magnitude } else { -magnitude }
    }
}

/// Base, shared and result: Laplace updates, of which `zeros` percent are 0.
struct Models {
    base: Vec<f32>,
    shared: Vec<f32>,
    result: Vec<f32>,
}

impl Models {
    fn new(elements: usize, mean: f32, zeros: u64, seed: u64) -> Self {
        let mut random = Random(seed);
        let base: Vec<f32> = (0..elements).map(|_| random.laplace(0.02)).collect();
        let mut update = |base: &f32| if random.next() % 100 < zeros { *base } else { base + random.laplace(mean) };
        let result = base.iter().map(&mut update).collect();
        let shared = base.iter().map(&mut update).collect();
        Self { base, shared, result }
    }

    fn known(&self) -> Known<'_> {
        Known { base: &self.base, shared: Some(&self.shared) }
    }
}

fn schemes() -> Vec<Scheme> {
    let tvq = BITS.into_iter().flat_map(|bits| [Group::Row, Group::Of128].map(|group| Scheme::Tvq { bits, group }));
    let ternary = [1, 10, 50, 500, 1000].map(|density_per_mille| Scheme::Ternary { density_per_mille });
    let tall = [1, 400, 10_000].map(|lambda_per_mille| Scheme::Tall { lambda_per_mille });
    tvq.chain([Scheme::Sign1]).chain(ternary).chain(tall).collect()
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    prop::sample::select(schemes())
}

fn any_place() -> impl Strategy<Value = Place> {
    let row = prop_oneof![Just(0), 1u64..300, 1000u64..300_000, Just(u64::MAX)];
    (row, 0u64..40).prop_map(|(row, block)| Place { row, first: block * BLOCK as u64 })
}

fn coded(scheme: Scheme, place: Place, models: &Models, scratch: &mut Scratch) -> (Option<Loss>, Vec<u8>) {
    let mut bytes = Vec::new();
    let loss = encode(scheme, place, models.known(), &models.result, scratch, &mut bytes);
    (loss, bytes)
}

fn bits_of(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_block_decodes_to_what_the_encoder_promised_within_the_declared_bound(
        scheme in any_scheme(),
        place in any_place(),
        elements in prop_oneof![0usize..40, 0usize..20_000, Just(BLOCK)],
        mean in prop::sample::select(vec![1e-42, 1e-30, 1e-4, 1e3, 1e36]),
        zeros in prop::sample::select(vec![0, 50, 99, 100]),
        seed in any::<u64>(),
    ) {
        let models = Models::new(elements, mean, zeros, seed);
        let mut scratch = Scratch::new();
        let (loss, bytes) = coded(scheme, place, &models, &mut scratch);
        let Some(loss) = loss else {
            prop_assert!(bytes.is_empty() && mean > 1.0, "only updates near the largest f32 cannot be coded");
            return Ok(());
        };
        let mut values = vec![f32::NAN; elements];
        prop_assert_eq!(decode(scheme, place, models.known(), &bytes, &mut Scratch::new(), &mut values), Ok(()));
        prop_assert_eq!(bits_of(&values), bits_of(scratch.reconstruction()));
        for (r, v) in models.result.iter().zip(&values) {
            prop_assert!((f64::from(*r) - f64::from(*v)).abs() <= f64::from(loss.bound), "{} for {}", v, r);
        }
        prop_assert_eq!(&coded(scheme, place, &models, &mut scratch).1, &bytes, "the same bytes again");
    }

    #[test]
    fn quantising_errs_by_at_most_half_a_step_of_the_largest_group(
        bits in prop::sample::select(BITS.to_vec()),
        group in prop::sample::select(vec![Group::Row, Group::Of128]),
        place in any_place(),
        elements in 1usize..5000,
        mean in prop::sample::select(vec![1e-36, 1e-4, 1e3]),
        shift in prop::sample::select(vec![0.0, 1.0, -5.0]),
        seed in any::<u64>(),
    ) {
        let mut models = Models::new(elements, mean, 20, seed);
        // Without a base, tau is exact. The shift makes all of it of one sign, nearly.
        models.base.fill(0.0);
        models.result.iter_mut().zip(&models.shared).for_each(|(r, s)| *r = (s + shift) * mean);
        let (loss, _) = coded(Scheme::Tvq { bits, group }, place, &models, &mut Scratch::new());
        let largest = models.result.iter().fold(0.0, |m: f32, t| m.max(t.abs()));
        // The step is at most large / (half - 0.5), and its scale was rounded up by at most 2^-7.
        let half = f64::from(1 << (bits.count() - 1));
        let bound = f64::from(largest) / (half - 0.5) / 2.0 * (1.0 + 2f64.powi(-7)) + 1e-40;
        prop_assert!(f64::from(loss.unwrap().bound) <= bound * (1.0 + 1e-6), "{} > {bound}", loss.unwrap().bound);
    }

    #[test]
    fn any_bytes_decode_or_are_an_error(
        scheme in any_scheme(),
        place in any_place(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        elements in prop_oneof![0usize..2000, Just(BLOCK)],
    ) {
        let models = Models::new(elements, 1e-4, 0, 1);
        let _ = decode(scheme, place, models.known(), &bytes, &mut Scratch::new(), &mut vec![0.0; elements]);
    }

    #[test]
    fn damaged_bytes_decode_or_are_an_error_and_none_too_few_or_too_many_pass(
        scheme in any_scheme(),
        place in any_place(),
        elements in 1usize..5000,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let models = Models::new(elements, 1e-4, 30, 7);
        let mut scratch = Scratch::new();
        let (_, bytes) = coded(scheme, place, &models, &mut scratch);
        let mut values = vec![0.0; elements];
        let mut decodes = |bytes: &[u8]| decode(scheme, place, models.known(), bytes, &mut scratch, &mut values).is_ok();
        prop_assert!(decodes(&bytes));
        prop_assert!(!decodes(&bytes[..cut.index(bytes.len())]));
        prop_assert!(!decodes(&[bytes.as_slice(), &[0]].concat()));
        let mut damaged = bytes;
        for (at, byte) in damage {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        decodes(&damaged);
    }
}

#[test]
fn every_scheme_comes_back_from_its_code_and_from_its_name() {
    for scheme in schemes() {
        let (code, parameter) = scheme.to_code();
        assert_eq!(Scheme::from_code(code, parameter), Ok(scheme));
        assert_eq!(Scheme::from_name(&scheme.to_string()), Some(scheme), "{scheme}");
    }
    for name in Scheme::NAMES {
        assert_eq!(Scheme::from_name(name).unwrap().to_string(), name);
    }
    let tvq4_g128 = Scheme::Tvq { bits: Bits::Four, group: Group::Of128 };
    assert_eq!(Scheme::from_name("tvq4-g128").unwrap(), tvq4_g128);
    assert_eq!(tvq4_g128.to_code(), (1, 0x8004), "as docs/format.md says");
    assert_eq!(Scheme::from_name("ternary-0.1"), Some(Scheme::Ternary { density_per_mille: 100 }));
    assert_eq!(Scheme::from_name("tall-1"), Some(Scheme::Tall { lambda_per_mille: 1000 }));
}

#[test]
fn names_and_codes_that_mean_nothing_are_refused() {
    let bad = ["", "tvq", "tvq5", "tvq04", "tvq4-g64", "sign", "sign2", "ternary-0", "ternary-1.001", "ternary-0.0001"];
    for name in bad.into_iter().chain(["ternary-", "ternary-.1", "ternary-+1", "ternary0.1", "tall-0", "tall-11"]) {
        assert_eq!(Scheme::from_name(name), None, "{name}");
    }
    for (code, parameter) in [(0, 0), (5, 0), (255, 4), (1, 0), (1, 5), (1, 0x4004), (1, 0x1_0004), (2, 1)] {
        assert!(Scheme::from_code(code, parameter).is_err(), "{code} {parameter}");
    }
    for (code, parameter) in [(3, 0), (3, 1001), (3, 65_536 + 50), (4, 0), (4, 10_001)] {
        assert!(Scheme::from_code(code, parameter).is_err(), "{code} {parameter}");
    }
}

#[test]
fn what_is_not_finite_is_left_to_the_exact_codec() {
    let finite = Models::new(1000, 1e-4, 0, 3);
    for scheme in schemes() {
        for (base, result) in [(0.0, f32::NAN), (f32::INFINITY, 0.0), (f32::INFINITY, f32::INFINITY), (-3e38, 3e38)] {
            let mut models = Models { base: finite.base.clone(), shared: finite.shared.clone(), result: Vec::new() };
            models.result.clone_from(&finite.result);
            (models.base[500], models.result[500]) = (base, result);
            let mut out = vec![1, 2, 3];
            let loss = encode(
                scheme,
                Place { row: 100, first: 0 },
                models.known(),
                &models.result,
                &mut Scratch::new(),
                &mut out,
            );
            assert_eq!((loss, out), (None, vec![1, 2, 3]), "{scheme}");
        }
    }
}

fn values_of(scheme: &str, row: u64, base: &[f32], shared: Option<&[f32]>, result: &[f32]) -> Vec<f32> {
    let mut scratch = Scratch::new();
    let known = Known { base, shared };
    let scheme = Scheme::from_name(scheme).unwrap();
    encode(scheme, Place { row, first: 0 }, known, result, &mut scratch, &mut Vec::new()).unwrap();
    scratch.reconstruction().to_vec()
}

#[test]
fn tvq2_uses_all_four_codes_and_turns_them_to_the_larger_extreme() {
    // The step is max(5 / 2.5, 2.5 / 1.5) = 2: codes -2, -1, 0, 1 of it; halves go to even.
    let tau = [-5.0, -3.5, -1.0, -0.5, 0.0, 1.0, 1.5, 2.5];
    let want = [-4.0, -4.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0];
    assert_eq!(values_of("tvq2", 8, &[0.0; 8], None, &tau), want);
    assert_eq!(values_of("tvq2", 8, &[0.0; 8], None, &tau.map(|t| -t)), want.map(|t| 0.0 - t));
}

#[test]
fn sign1_moves_each_row_by_its_mean_magnitude() {
    let mut result = vec![1.0; 256];
    (result[0], result[1]) = (-3.0, 0.0);
    result[128..].fill(-0.5);
    let mut want = vec![1.007_812_5; 256]; // 129 / 128
    want[0] = -1.007_812_5;
    want[128..].fill(-0.5);
    assert_eq!(values_of("sign1", 128, &[0.0; 256], None, &result), want);
}

#[test]
fn ternary_keeps_the_largest_and_of_equal_ones_the_first() {
    let tau = [1.0, -4.0, 2.0, 0.0, -2.0, 2.0, 0.5, 0.0];
    // 2.5 of 8, rounded up: 3, whose mean magnitude is 8 / 3, as BF16 2.671875.
    let mean = 2.671_875;
    assert_eq!(values_of("ternary-0.3", 8, &[0.0; 8], None, &tau), [0.0, -mean, mean, 0.0, -mean, 0.0, 0.0, 0.0]);
    assert_eq!(values_of("ternary-1", 4, &[7.0; 4], None, &[7.0, 8.0, 7.0, 7.0]), [7.0, 8.0, 7.0, 7.0]);
}

#[test]
fn tall_takes_the_shared_value_where_the_root_is_far_and_never_for_an_untouched_weight() {
    let (root, shared) = ([0.0; 4], [1.0, 1.0, 1.0, 0.0]);
    // |tau| > 0.4 |shared - x|: 0.3 > 0.28, 0.28 > 0.288 not, 0 > 0 not, 0.1 > 0.04.
    let result = [0.3, 0.28, 0.0, 0.1];
    assert_eq!(values_of("tall", 4, &root, Some(&shared), &result), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(values_of("tall", 1, &[2.0], Some(&[2.0]), &[2.0]), [2.0]);
}

#[test]
fn a_row_keeps_its_scale_wherever_blocks_cut_it() {
    // Rows of 3 are joined to 129; the second block begins 8 elements into such a group: 131072 % 129.
    let first = BLOCK as u64;
    let phase = (first % 129) as usize;
    let mut result = vec![1.0; 300];
    result[129 - phase..258 - phase].fill(2.0);
    let mut scratch = Scratch::new();
    let known = Known { base: &[0.0; 300], shared: None };
    let loss = encode(Scheme::Sign1, Place { row: 3, first }, known, &result, &mut scratch, &mut Vec::new());
    assert_eq!(loss.unwrap().bound, 0.0, "each group is of one magnitude");
    assert_eq!(scratch.reconstruction(), result);
}

#[test]
fn the_bytes_of_small_blocks_are_as_docs_format_md_says() {
    let bytes_of = |scheme: &str, shared: Option<&[f32]>, result: &[f32]| {
        let known = Known { base: &vec![0.0; result.len()], shared };
        let (scheme, place) = (Scheme::from_name(scheme).unwrap(), Place { row: 8, first: 0 });
        let mut out = Vec::new();
        encode(scheme, place, known, result, &mut Scratch::new(), &mut out).unwrap();
        out
    };
    // Scale 2, 0x4000; codes -2 0 0 1 of the even elements, -2 0 0 1 of the odd ones.
    let tau = [-5.0, -3.5, -1.0, -0.5, 0.0, 1.0, 1.5, 2.5];
    assert_eq!(bytes_of("tvq2", None, &tau), [1, 0, 0, 0, 1, 0, 0, 0x40, 2, 0, 0, 0x42, 0x42]);
    // Scale 1, 0x3f80; the second is negative.
    assert_eq!(bytes_of("sign1", None, &[1.0, -1.0]), [1, 0, 0, 0x80, 1, 0, 0, 0x3f, 1, 0, 0, 2]);
    // Scale 0x402b; gaps 1 0 1; the first and the third are negative.
    let tau = [1.0, -4.0, 2.0, 0.0, -2.0, 2.0, 0.5, 0.0];
    let ternary = [1, 0, 0, 0x2b, 1, 0, 0, 0x40, 3, 0, 0, 3, 0, 0, 1, 0, 1, 1, 0, 0, 5];
    assert_eq!(bytes_of("ternary-0.3", None, &tau), ternary);
    assert_eq!(bytes_of("tall", Some(&[1.0; 3]), &[0.1, 0.9, 0.0]), [1, 0, 0, 2]);
}

#[test]
fn the_loss_is_also_told_for_rounded_values() {
    let result = [1.0, -1.0, 0.25];
    let (mut scratch, known) = (Scratch::new(), Known { base: &[0.0; 3], shared: None });
    let scheme = Scheme::from_name("tvq8").unwrap();
    encode(scheme, Place { row: 3, first: 0 }, known, &result, &mut scratch, &mut Vec::new()).unwrap();
    let loss = scratch.loss_of(&result, &[1.0, -0.5, 0.25]).unwrap();
    assert_eq!((loss.bound, loss.error_squares, loss.tau_squares), (0.5f32.next_up(), 0.25, 2.0625));
    assert_eq!(scratch.loss_of(&result, &[1.0, f32::NEG_INFINITY, 0.25]), None);
}

/// Bits per parameter and relative error on Laplace updates of rows whose sizes differ.
fn measured(scheme: Scheme, row: usize) -> (f64, f64) {
    let mut random = Random(11);
    let (mut bytes, mut loss, mut scratch) = (Vec::new(), Loss::default(), Scratch::new());
    for block in 0..4 {
        let base: Vec<f32> = (0..BLOCK).map(|_| random.laplace(0.02)).collect();
        let shared: Vec<f32> = base.iter().map(|b| b + random.laplace(1e-3)).collect();
        let mut result = base.clone();
        for row in result.chunks_mut(row) {
            let mean = (random.uniform() * 2.0).exp() * 2e-4;
            row.iter_mut().for_each(|r| *r += random.laplace(mean));
        }
        let place = Place { row: row as u64, first: block * BLOCK as u64 };
        let known = Known { base: &base, shared: Some(&shared) };
        loss = loss.join(encode(scheme, place, known, &result, &mut scratch, &mut bytes).unwrap());
    }
    (bytes.len() as f64 * 8.0 / (4 * BLOCK) as f64, loss.relative())
}

#[test]
fn sizes_and_errors_on_laplace_updates_are_as_documented() {
    for (name, most_bits, most_error) in [
        ("tvq8", 6.5, 0.016),
        ("tvq4", 2.6, 0.23),
        ("tvq4-g128", 3.3, 0.14),
        ("tvq2-g128", 1.3, 0.53),
        ("sign1", 1.01, 0.71),
        ("ternary", 0.32, 0.71),
    ] {
        let (bits, error) = measured(Scheme::from_name(name).unwrap(), 4096);
        assert!(bits < most_bits && error < most_error, "{name}: {bits:.3} bits, error {error:.3}");
    }
}
