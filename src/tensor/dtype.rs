//! The element types of safetensors files, and the one place that chooses by them.

use super::convert;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};
use std::fmt;

/// An element type that taskvec reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

const NAMES: [(Dtype, &str); 15] = [
    (Dtype::F64, "F64"),
    (Dtype::F32, "F32"),
    (Dtype::F16, "F16"),
    (Dtype::BF16, "BF16"),
    (Dtype::F8E4M3, "F8_E4M3"),
    (Dtype::F8E5M2, "F8_E5M2"),
    (Dtype::I64, "I64"),
    (Dtype::I32, "I32"),
    (Dtype::I16, "I16"),
    (Dtype::I8, "I8"),
    (Dtype::U64, "U64"),
    (Dtype::U32, "U32"),
    (Dtype::U16, "U16"),
    (Dtype::U8, "U8"),
    (Dtype::Bool, "BOOL"),
];

impl Dtype {
    /// Every dtype.
    pub const ALL: [Self; 15] = {
        let (mut all, mut i) = ([Self::F64; 15], 0);
        while i < all.len() {
            all[i] = NAMES[i].0;
            i += 1;
        }
        all
    };

    /// The dtype with this name in a safetensors header.
    pub fn from_header(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(d, _)| *d)
    }

    /// The dtype that a recipe calls by this (torch) name: `float32`, `float16` or `bfloat16`.
    pub fn from_recipe(name: &str) -> Option<Self> {
        match name {
            "float32" => Some(Self::F32),
            "float16" => Some(Self::F16),
            "bfloat16" => Some(Self::BF16),
            _ => None,
        }
    }

    /// torch's name, for `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::F8E4M3 => "float8_e4m3fn",
            Self::F8E5M2 => "float8_e5m2",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U64 => "uint64",
            Self::U32 => "uint32",
            Self::U16 => "uint16",
            Self::U8 => "uint8",
            Self::Bool => "bool",
        }
    }

    /// The name in a safetensors header.
    pub fn header_name(self) -> &'static str {
        NAMES.iter().find(|(d, _)| *d == self).map_or("", |(_, n)| n)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether tensors of this dtype are merged; the others are copied and must be equal in all models.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 | Self::F8E5M2)
    }

    /// Widens `bytes` to `f32`: exactly for every float dtype but F64, which is rounded to nearest, ties to even. Tells
    /// whether all values are finite.
    ///
    /// `bytes` holds `out.len()` little-endian elements. Panics for dtypes that are not float.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) -> bool {
        assert_eq!(bytes.len(), out.len() * self.bytes());
        let largest = match self {
            Self::F32 => convert::f32_to_f32(bytes, out),
            Self::BF16 => convert::bf16_to_f32(bytes, out),
            _ => {
                match self {
                    Self::F64 => convert::f64_to_f32(bytes, out),
                    Self::F16 => convert::f16_to_f32(bytes, out),
                    Self::F8E4M3 => convert::f8_to_f32(convert::E4M3, bytes, out),
                    Self::F8E5M2 => convert::f8_to_f32(convert::E5M2, bytes, out),
                    _ => panic!("{self} is copied, never decoded"),
                }
                convert::largest(out)
            }
        };
        largest < f32::INFINITY.to_bits()
    }

    /// Rounds `values` to this dtype, to nearest, ties to even; NaN stays NaN.
    ///
    /// `bytes` receives `values.len()` little-endian elements. Panics for dtypes that are not float.
    pub fn encode(self, values: &[f32], bytes: &mut [u8]) {
        assert_eq!(bytes.len(), values.len() * self.bytes());
        match self {
            Self::F64 => convert::f32_to_f64(values, bytes),
            Self::F32 => {
                convert::f32_to_bytes(values, bytes);
            }
            Self::F16 => convert::f32_to_f16(values, bytes),
            Self::BF16 => convert::f32_to_bf16(values, bytes),
            Self::F8E4M3 => convert::f32_to_f8(convert::E4M3, values, bytes),
            Self::F8E5M2 => convert::f32_to_f8(convert::E5M2, values, bytes),
            _ => panic!("{self} is copied, never encoded"),
        }
    }

    /// Encodes `values`, which become what was stored. Tells whether their magnitudes were all at most `limit` before.
    pub fn store(self, values: &mut [f32], bytes: &mut [u8], limit: f32) -> bool {
        assert_eq!(bytes.len(), values.len() * self.bytes());
        let largest = match self {
            Self::F32 => convert::f32_to_bytes(values, bytes),
            Self::BF16 => convert::round_to_bf16(values, bytes),
            _ => {
                let largest = convert::largest(values);
                self.encode(values, bytes);
                self.decode(bytes, values);
                largest
            }
        };
        largest <= limit.to_bits()
    }

    /// The largest magnitude that does not round to infinity (or, for F8_E4M3, to NaN).
    pub fn largest_finite(self) -> f32 {
        match self {
            Self::F16 => 65_519.996,
            Self::BF16 => f32::from_bits(0x7f7f_7fff),
            // Half an ulp beyond 448 and 57344 ties to even: to 448 in E4M3 (mantissa 110), to infinity in E5M2.
            Self::F8E4M3 => 464.0,
            Self::F8E5M2 => 61_439.996,
            _ => f32::MAX,
        }
    }
}

impl Serialize for Dtype {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.header_name())
    }
}

impl<'de> Deserialize<'de> for Dtype {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Self::from_header(&name).ok_or_else(|| D::Error::custom(format!("unknown dtype `{name}`")))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.header_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_is_found_by_its_header_name_and_agrees_with_the_safetensors_crate() {
        for (dtype, name) in NAMES {
            assert_eq!(Dtype::from_header(name), Some(dtype));
            let theirs: safetensors::Dtype = serde_json::from_str(&format!("\"{name}\"")).unwrap();
            assert_eq!(theirs.bitsize(), dtype.bytes() * 8);
        }
        assert_eq!(Dtype::from_header("F4"), None);
    }

    #[test]
    fn the_largest_finite_value_is_the_last_one_that_does_not_overflow() {
        for dtype in [Dtype::F16, Dtype::BF16, Dtype::F8E4M3, Dtype::F8E5M2] {
            let last = dtype.largest_finite();
            let (mut bytes, mut back) = (vec![0; 2 * dtype.bytes()], [0.0; 2]);
            dtype.encode(&[last, last.next_up()], &mut bytes);
            dtype.decode(&bytes, &mut back);
            assert!(back[0].is_finite(), "{dtype}: {last} gives {}", back[0]);
            assert!(!back[1].is_finite(), "{dtype}: {} gives {}", last.next_up(), back[1]);
        }
    }
}
