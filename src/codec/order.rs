//! Elements as integers of their width, in the order of the numbers that they stand for, and differences of these.

use crate::tensor::Dtype;
use std::ops::{BitAnd, BitOr, Shl, Shr};

/// An element as the unsigned integer of its width.
pub trait Word:
    Copy
    + Ord
    + Default
    + From<u8>
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + Shl<u32, Output = Self>
    + Shr<u32, Output = Self>
{
    /// Little-endian bytes.
    type Bytes: Copy;
    /// Bits of an element.
    const BITS: u32;

    fn split(bytes: &[u8]) -> &[Self::Bytes];
    fn split_mut(bytes: &mut [u8]) -> &mut [Self::Bytes];
    fn load(bytes: Self::Bytes) -> Self;
    fn store(self) -> Self::Bytes;
    /// The low eight bits.
    fn low(self) -> u8;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    fn rotate(self, left: u32) -> Self;
    /// 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
    fn zigzag(self) -> Self;
    fn unzigzag(self) -> Self;
    /// The bits of a float as an integer that grows with the float: -0 lies directly below +0.
    fn ordered(self) -> Self;
    fn unordered(self) -> Self;
    fn bit_length(self) -> u32;
}

macro_rules! word {
    ($unsigned:ty) => {
        impl Word for $unsigned {
            type Bytes = [u8; size_of::<$unsigned>()];
            const BITS: u32 = <$unsigned>::BITS;

            #[inline(always)]
            fn split(bytes: &[u8]) -> &[Self::Bytes] {
                bytes.as_chunks().0
            }
            #[inline(always)]
            fn split_mut(bytes: &mut [u8]) -> &mut [Self::Bytes] {
                bytes.as_chunks_mut().0
            }
            #[inline(always)]
            fn load(bytes: Self::Bytes) -> Self {
                Self::from_le_bytes(bytes)
            }
            #[inline(always)]
            fn store(self) -> Self::Bytes {
                self.to_le_bytes()
            }
            #[inline(always)]
            fn low(self) -> u8 {
                self as u8
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
            #[inline(always)]
            fn rotate(self, left: u32) -> Self {
                self.rotate_left(left)
            }
            #[inline(always)]
            fn zigzag(self) -> Self {
                (self << 1) ^ (self >> (Self::BITS - 1)).wrapping_neg()
            }
            #[inline(always)]
            fn unzigzag(self) -> Self {
                (self >> 1) ^ (self & 1).wrapping_neg()
            }
            #[inline(always)]
            fn ordered(self) -> Self {
                let sign = (self >> (Self::BITS - 1)).wrapping_neg();
                self ^ (sign | 1 << (Self::BITS - 1))
            }
            #[inline(always)]
            fn unordered(self) -> Self {
                let sign = !(self >> (Self::BITS - 1)).wrapping_neg();
                self ^ (sign | 1 << (Self::BITS - 1))
            }
            #[inline(always)]
            fn bit_length(self) -> u32 {
                Self::BITS - self.leading_zeros()
            }
        }
    };
}

word!(u8);
word!(u16);
word!(u32);
word!(u64);

/// What the difference of two elements is, as an unsigned integer that is small when they are close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arithmetic {
    /// Floats: steps between them in their order.
    Ordered,
    /// Integers: the wrapped difference.
    Wrapping,
    /// Booleans: the bits that differ.
    Bits,
}

impl Arithmetic {
    pub fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bool => Self::Bits,
            _ if dtype.is_float() => Self::Ordered,
            _ => Self::Wrapping,
        }
    }

    /// `z[i] = zigzag(result[i] - base[i])`.
    pub fn difference<W: Word>(self, base: &[u8], result: &[u8], z: &mut [W]) {
        match self {
            Self::Ordered => pairs(base, result, z, |b, r| r.ordered().sub(b.ordered()).zigzag()),
            Self::Wrapping => pairs(base, result, z, |b, r| r.sub(b).zigzag()),
            Self::Bits => pairs(base, result, z, Word::xor),
        }
    }

    /// `result[i] = base[i] + unzigzag(z[i])`.
    pub fn apply<W: Word>(self, base: &[u8], z: &[W], result: &mut [u8]) {
        match self {
            Self::Ordered => sums(base, z, result, |b, z| b.ordered().add(z.unzigzag()).unordered()),
            Self::Wrapping => sums(base, z, result, |b, z| b.add(z.unzigzag())),
            Self::Bits => sums(base, z, result, Word::xor),
        }
    }
}

#[inline(always)]
fn pairs<W: Word>(base: &[u8], result: &[u8], z: &mut [W], difference: impl Fn(W, W) -> W) {
    super::simd(
        #[inline(always)]
        || {
            for ((z, &b), &r) in z.iter_mut().zip(W::split(base)).zip(W::split(result)) {
                *z = difference(W::load(b), W::load(r));
            }
        },
    );
}

#[inline(always)]
fn sums<W: Word>(base: &[u8], z: &[W], result: &mut [u8], sum: impl Fn(W, W) -> W) {
    super::simd(
        #[inline(always)]
        || {
            for ((r, &b), &z) in W::split_mut(result).iter_mut().zip(W::split(base)).zip(z) {
                *r = sum(W::load(b), z).store();
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_16_bit_word_returns_from_order_and_from_zigzag() {
        for x in 0..=u16::MAX {
            assert_eq!(x.ordered().unordered(), x);
            assert_eq!(x.zigzag().unzigzag(), x);
        }
    }

    #[test]
    fn the_order_of_words_is_the_order_of_the_floats() {
        let floats = [f32::NEG_INFINITY, -1.5, -1e-40, -0.0, 0.0, 1e-40, 0.02, 3.0, f32::INFINITY];
        let words: Vec<u32> = floats.iter().map(|f| f.to_bits().ordered()).collect();
        assert!(words.is_sorted_by(|a, b| a < b));
        assert_eq!(words[4] - words[3], 1);
    }

    #[test]
    fn small_differences_of_either_sign_are_small_numbers() {
        let steps: Vec<u8> = [0i8, -1, 1, -2, 2].iter().map(|&d| (d as u8).zigzag()).collect();
        assert_eq!(steps, [0, 1, 2, 3, 4]);
    }
}
