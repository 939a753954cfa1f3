//! Element conversions between little-endian bytes and `f32`.
//!
//! Plain loops of integer and float operations that every CPU rounds alike; `pulp` compiles each of them once per
//! instruction set and picks at run time, so the same binary runs everywhere and gives the same bits.

use pulp::Arch;

/// The layout of an 8-bit float.
#[derive(Clone, Copy)]
pub struct Float8 {
    mantissa_bits: u32,
    bias: i32,
    /// Codes at or above this one (sign cleared) are not finite.
    first_special: u8,
    infinity: bool,
}

/// OCP E4M3 ("FN"): no infinities, one NaN per sign.
pub const E4M3: Float8 = Float8 { mantissa_bits: 3, bias: 7, first_special: 0x7f, infinity: false };
/// OCP E5M2: infinities and NaNs as in IEEE 754.
pub const E5M2: Float8 = Float8 { mantissa_bits: 2, bias: 15, first_special: 0x7c, infinity: true };

pub fn f64_to_f32(bytes: &[u8], out: &mut [f32]) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *o = f64::from_le_bytes(*b) as f32;
    }
}

pub fn f32_to_f64(values: &[f32], bytes: &mut [u8]) {
    for (b, &v) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(values) {
        *b = f64::from(v).to_le_bytes();
    }
}

/// Bits of the largest magnitude: they order as magnitudes do, with infinity and then NaN above all finite ones.
pub fn largest(values: &[f32]) -> u32 {
    Arch::new().dispatch(
        #[inline(always)]
        || values.iter().fold(0, |m, &v| m.max(magnitude(v))),
    )
}

#[inline(always)]
fn magnitude(v: f32) -> u32 {
    v.to_bits() & 0x7fff_ffff
}

/// Returns what [`largest`] returns for `out`.
pub fn f32_to_f32(bytes: &[u8], out: &mut [f32]) -> u32 {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut largest = 0;
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
                largest = largest.max(magnitude(*o));
            }
            largest
        },
    )
}

/// Returns what [`largest`] returns for `values`.
pub fn f32_to_bytes(values: &[f32], bytes: &mut [u8]) -> u32 {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut largest = 0;
            for (b, &v) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *b = v.to_le_bytes();
                largest = largest.max(magnitude(v));
            }
            largest
        },
    )
}

/// Returns what [`largest`] returns for `out`.
pub fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) -> u32 {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut largest = 0;
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                largest = largest.max(magnitude(*o));
            }
            largest
        },
    )
}

/// Rounds and leaves the rounded values in `values`; returns what [`largest`] returned for them before.
pub fn round_to_bf16(values: &mut [f32], bytes: &mut [u8]) -> u32 {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut largest = 0;
            for (b, v) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                largest = largest.max(magnitude(*v));
                let rounded = round_bf16(*v);
                *b = rounded.to_le_bytes();
                *v = f32::from_bits(u32::from(rounded) << 16);
            }
            largest
        },
    )
}

pub fn f32_to_bf16(values: &[f32], bytes: &mut [u8]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (b, &v) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *b = round_bf16(v).to_le_bytes();
            }
        },
    );
}

pub fn f16_to_f32(bytes: &[u8], out: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = widen_f16(u16::from_le_bytes(*b));
            }
        },
    );
}

pub fn f32_to_f16(values: &[f32], bytes: &mut [u8]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (b, &v) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *b = round_f16(v).to_le_bytes();
            }
        },
    );
}

pub fn f8_to_f32(format: Float8, bytes: &[u8], out: &mut [f32]) {
    let table: [f32; 256] = std::array::from_fn(|code| widen_f8(format, code as u8));
    for (o, &b) in out.iter_mut().zip(bytes) {
        *o = table[usize::from(b)];
    }
}

pub fn f32_to_f8(format: Float8, values: &[f32], bytes: &mut [u8]) {
    for (b, &v) in bytes.iter_mut().zip(values) {
        *b = round_f8(format, v);
    }
}

/// Half up at the cut, minus one where the kept part is even: nearest, ties to even.
#[inline(always)]
fn round_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    (if (bits & 0x7fff_ffff) > 0x7f80_0000 { quiet } else { rounded }) as u16
}

/// The exponent is re-biased by a multiplication, which also normalises subnormals exactly.
#[inline(always)]
fn widen_f16(h: u16) -> f32 {
    let h = u32::from(h);
    let magnitude = (h & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits(); // 2^112
    let special = magnitude | 0x7f80_0000;
    let bits = if (h & 0x7c00) == 0x7c00 { special } else { finite };
    f32::from_bits(bits | ((h & 0x8000) << 16))
}

#[inline(always)]
fn round_f16(v: f32) -> u16 {
    let bits = v.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Normal results: round to even at bit 13 and re-bias the exponent.
    let normal = magnitude.wrapping_add(0x0fff + ((magnitude >> 13) & 1)).wrapping_sub(0x3800_0000) >> 13;
    // Subnormal results: adding 0.5 leaves the mantissa of the half in the low bits, rounded by the float adder.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let nan = 0x7e00 | (magnitude >> 13 & 0x3ff);
    let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
    let finite = if magnitude >= 0x477f_f000 { 0x7c00 } else { finite };
    (sign | if magnitude > 0x7f80_0000 { nan } else { finite }) as u16
}

fn widen_f8(format: Float8, code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let magnitude = code & 0x7f;
    if magnitude >= format.first_special {
        return if format.infinity && magnitude == format.first_special { sign * f32::INFINITY } else { f32::NAN };
    }
    let mantissa = f32::from(magnitude & ((1 << format.mantissa_bits) - 1));
    let exponent = i32::from(magnitude >> format.mantissa_bits);
    let unit = (-(format.mantissa_bits as f32)).exp2();
    let value = if exponent == 0 {
        mantissa * unit * ((1 - format.bias) as f32).exp2()
    } else {
        (1.0 + mantissa * unit) * ((exponent - format.bias) as f32).exp2()
    };
    sign * value
}

fn round_f8(format: Float8, v: f32) -> u8 {
    let bits = v.to_bits();
    let sign = (bits >> 24) as u8 & 0x80;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7f;
    }
    let cut = 23 - format.mantissa_bits;
    let smallest_normal = ((127 + 1 - format.bias) as u32) << 23;
    let code = if magnitude < smallest_normal {
        // Counted in units of the smallest subnormal; the product is exact, so one rounding.
        let units = f32::from_bits(magnitude) * ((format.bias - 1) as f32 + format.mantissa_bits as f32).exp2();
        units.round_ties_even() as u32
    } else {
        let rounded = magnitude + (1 << (cut - 1)) - 1 + ((magnitude >> cut) & 1);
        (rounded >> cut) - (((127 - format.bias) as u32) << format.mantissa_bits)
    };
    let overflow = if format.infinity { format.first_special } else { 0x7f };
    sign | code.min(u32::from(overflow)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_16_bit_code_widens_as_half_widens_it() {
        for code in 0..=u16::MAX {
            for (ours, theirs) in [
                (f32::from_bits(u32::from(code) << 16), bf16::from_bits(code).to_f32()),
                (widen_f16(code), f16::from_bits(code).to_f32()),
            ] {
                let same = if theirs.is_nan() { ours.is_nan() } else { ours.to_bits() == theirs.to_bits() };
                assert!(same, "{code:#06x}: {ours} for {theirs}");
            }
        }
    }

    #[test]
    fn rounding_to_16_bits_agrees_with_half_on_every_256th_f32_and_around_every_16_bit_value() {
        let near = (0..=u16::MAX).flat_map(|code| {
            let wide = [u32::from(code) << 16, widen_f16(code).to_bits()];
            let spread = [0, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1_7fff, 0x1_8000];
            wide.into_iter().flat_map(move |w| spread.map(|s| w.wrapping_add(s)))
        });
        for bits in (0..=u32::MAX).step_by(251).chain(near) {
            check_16(bits);
        }
    }

    #[test]
    #[ignore = "half a minute: every f32 there is; run by .ci/run"]
    fn rounding_to_16_bits_agrees_with_half_on_every_f32() {
        (0..=u32::MAX).for_each(check_16);
    }

    fn check_16(bits: u32) {
        let v = f32::from_bits(bits);
        if v.is_nan() {
            assert!(bf16::from_bits(round_bf16(v)).is_nan() && f16::from_bits(round_f16(v)).is_nan(), "{bits:#x}");
        } else {
            assert_eq!(round_bf16(v), bf16::from_f32(v).to_bits(), "bf16 of {bits:#x}");
            assert_eq!(round_f16(v), f16::from_f32(v).to_bits(), "f16 of {bits:#x}");
        }
    }

    #[test]
    fn every_8_bit_code_widens_as_float8_widens_it() {
        for code in 0..=u8::MAX {
            for (format, theirs) in
                [(E4M3, float8::F8E4M3::from_bits(code).to_f32()), (E5M2, float8::F8E5M2::from_bits(code).to_f32())]
            {
                let ours = widen_f8(format, code);
                let same = if theirs.is_nan() { ours.is_nan() } else { ours.to_bits() == theirs.to_bits() };
                assert!(same, "{code:#04x}: {ours} for {theirs}");
            }
        }
    }

    #[test]
    fn rounding_to_8_bits_takes_the_nearest_code_and_the_even_one_of_two() {
        for format in [E4M3, E5M2] {
            for code in 0..format.first_special - 1 {
                let (low, high) = (widen_f8(format, code), widen_f8(format, code + 1));
                let middle = low + (high - low) / 2.0;
                let even = if code % 2 == 0 { code } else { code + 1 };
                for (v, want) in [(low, code), (middle.next_down(), code), (middle, even), (middle.next_up(), code + 1)]
                {
                    assert_eq!(round_f8(format, v), want, "{v}");
                    assert_eq!(round_f8(format, -v), want | 0x80, "{}", -v);
                }
            }
            assert!(widen_f8(format, round_f8(format, f32::NAN)).is_nan());
            assert!(!widen_f8(format, round_f8(format, f32::INFINITY)).is_finite());
            assert!(!widen_f8(format, round_f8(format, f32::MAX)).is_finite());
        }
    }

    #[test]
    fn f64_rounds_to_nearest_once() {
        let mut out = [0.0; 2];
        let bytes: Vec<u8> = [1.0 + 2f64.powi(-24), -1e300].iter().flat_map(|v| v.to_le_bytes()).collect();
        f64_to_f32(&bytes, &mut out);
        assert_eq!(out, [1.0, f32::NEG_INFINITY]);
    }
}
