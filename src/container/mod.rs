//! The delta file (`.tvd`): a safetensors file of `U8` payloads, byte by byte in docs/format.md.
//!
//! Nothing here knows what a model is: payloads of coded blocks get their places, their index and their hashes.

mod index;
mod metadata;
mod payload;
mod section;
mod statistics;
mod writer;

pub use index::{BaseTensor, Identity, Index, Kept, RestoredFile, Tensor, root};
pub use metadata::Metadata;
pub use payload::{ENTRY_BYTES, Entry, HEADER_BYTES, Head, block_count};
pub use section::unpack as unpack_section;
pub use statistics::{BINS, Histogram, LOW_BITS, parse as parse_histogram, put as put_histogram};
pub use writer::{Writer, WrittenPayload};

/// Version of the format that this code writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Payload of the index.
pub const INDEX: &str = "#index";
/// Payload of headers and side files.
pub const FILES: &str = "#files";

/// What a tensor's payload is called.
pub fn payload_name(tensor: &str) -> String {
    format!("{tensor}#d0")
}

/// Checksum of a histogram as it is stored; 0 for none.
pub fn histogram_checksum(bytes: &[u8]) -> u64 {
    if bytes.is_empty() { 0 } else { checksum(0, bytes) }
}

/// xxh3-64 of a block, seeded with its kind.
pub fn checksum(kind: u8, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, u64::from(kind))
}
