//! One tensor's payload: a header of 64 bytes, a table with one entry for each block, the blocks, and perhaps a histogram.

use crate::codec::lossy::Scheme;
use crate::codec::{BLOCK, BLOCK_LOG2, Corrupt};
use crate::tensor::Dtype;

/// Length of the header.
pub const HEADER_BYTES: usize = 64;
/// Length of a table entry.
pub const ENTRY_BYTES: usize = 17;
/// What payloads are padded to inside their U8 tensor.
pub const ALIGNMENT: u64 = 64;

const MAGIC: &[u8; 4] = b"TVDP";
const LAYOUT: u16 = 1;
/// Format version that a reader must know at least.
const MIN_READER: u32 = 1;
const NO_BASE: u8 = 255;
/// The scheme of payloads that are exact.
const EXACT: u8 = 0;

/// How all blocks of a payload are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How blocks that are not exact are coded; `None` where all are.
    pub scheme: Option<Scheme>,
    /// Dtype of the result.
    pub dtype: Dtype,
    /// Dtype of the base; `None` where the base has no such tensor.
    pub base: Option<Dtype>,
    /// Elements of the result.
    pub elements: u64,
    /// Leading elements of the result that the base has too.
    pub base_elements: u64,
    /// Bytes of the histogram behind the blocks.
    pub histogram_bytes: u32,
    /// Checksum of the histogram, 0 if there is none.
    pub histogram_checksum: u64,
}

/// Where a block lies and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// End of the block's bytes, counted from the end of the table.
    pub end: u64,
    /// Kind and transform.
    pub kind: u8,
    /// xxh3-64 of the block's bytes.
    pub checksum: u64,
}

/// Blocks of a tensor of so many elements.
pub fn block_count(elements: u64) -> u64 {
    elements.div_ceil(BLOCK as u64)
}

impl Head {
    /// Whether values are chosen between the base's and a shared model's.
    pub fn has_masks(&self) -> bool {
        self.scheme.is_some_and(Scheme::has_shared)
    }

    /// Bytes of header and table.
    pub fn front_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + block_count(self.elements) * ENTRY_BYTES as u64
    }

    /// The header of a payload of `bytes`, padding not counted.
    pub fn to_bytes(self, bytes: u64) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        let (scheme, parameter) = self.scheme.map_or((EXACT, 0), Scheme::to_code);
        put(MAGIC);
        put(&LAYOUT.to_le_bytes());
        put(&[scheme, BLOCK_LOG2 as u8]);
        put(&[code(self.dtype), self.base.map_or(NO_BASE, code)]);
        put(&[0, 0]);
        put(&parameter.to_le_bytes());
        put(&self.elements.to_le_bytes());
        put(&self.base_elements.to_le_bytes());
        put(&block_count(self.elements).to_le_bytes());
        put(&bytes.to_le_bytes());
        put(&MIN_READER.to_le_bytes());
        put(&self.histogram_bytes.to_le_bytes());
        put(&self.histogram_checksum.to_le_bytes());
        out
    }

    /// Reads a header; the second part is the payload's length without padding. The error says what is wrong.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u64), String> {
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if &bytes[..4] != MAGIC {
            return Err("does not begin with TVDP".into());
        }
        let layout = u16::from_le_bytes([bytes[4], bytes[5]]);
        if layout != LAYOUT || u32_at(48) > MIN_READER {
            return Err(format!("layout {layout} needs a newer taskvec"));
        }
        if u32::from(bytes[7]) != BLOCK_LOG2 || bytes[10..12] != [0, 0] {
            return Err("reserved bytes of the payload's header are set".into());
        }
        let dtype = |c: u8| decode(c).ok_or_else(|| format!("unknown dtype code {c}"));
        let head = Self {
            scheme: scheme(bytes[6], u32_at(12))?,
            dtype: dtype(bytes[8])?,
            base: if bytes[9] == NO_BASE { None } else { Some(dtype(bytes[9])?) },
            elements: u64_at(16),
            base_elements: u64_at(24),
            histogram_bytes: u32_at(52),
            histogram_checksum: u64_at(56),
        };
        if u64_at(32) != block_count(head.elements) {
            return Err(format!("{} blocks for {} elements", u64_at(32), head.elements));
        }
        if head.base_elements > head.elements || (head.base.is_none() && head.base_elements > 0) {
            return Err("more base elements than elements".into());
        }
        Ok((head, u64_at(40)))
    }
}

impl Entry {
    /// As stored.
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[..8].copy_from_slice(&self.end.to_le_bytes());
        out[8] = self.kind;
        out[9..].copy_from_slice(&self.checksum.to_le_bytes());
        out
    }

    /// Reads an entry.
    pub fn parse(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self { end: u64_at(0), kind: bytes[8], checksum: u64_at(9) }
    }
}

fn scheme(code: u8, parameter: u32) -> Result<Option<Scheme>, String> {
    if (code, parameter) == (EXACT, 0) {
        return Ok(None);
    }
    let unknown = |why: Corrupt| format!("{} (scheme {code}, parameter {parameter}); use a newer taskvec", why.0);
    Scheme::from_code(code, parameter).map(Some).map_err(unknown)
}

/// The codes of dtypes in a payload's header: positions in this list.
const DTYPES: [Dtype; 15] = [
    Dtype::F64,
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F8E4M3,
    Dtype::F8E5M2,
    Dtype::I64,
    Dtype::I32,
    Dtype::I16,
    Dtype::I8,
    Dtype::U64,
    Dtype::U32,
    Dtype::U16,
    Dtype::U8,
    Dtype::Bool,
];

fn code(dtype: Dtype) -> u8 {
    DTYPES.iter().position(|d| *d == dtype).unwrap_or(0) as u8
}

fn decode(code: u8) -> Option<Dtype> {
    DTYPES.get(usize::from(code)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was_and_no_changed_bit_of_its_fixed_parts_passes() {
        let head = Head {
            scheme: Some(Scheme::Ternary { density_per_mille: 7 }),
            dtype: Dtype::BF16,
            base: Some(Dtype::F32),
            elements: 1 << 40,
            base_elements: 12,
            histogram_bytes: 5,
            histogram_checksum: 6,
        };
        let bytes = head.to_bytes(99);
        assert_eq!(Head::parse(&bytes).unwrap(), (head, 99));
        for at in (0..8).chain([10, 11, 14, 15]).chain(32..40) {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(Head::parse(&bad).is_err(), "byte {at}");
        }
    }
}
