//! Checkpoints, on disk or under URLs: found, checked against the input gate, and read range by range.
//!
//! Nothing here knows about merging. Headers become an [`Inventory`](crate::tensor::Inventory); tensor bytes leave as
//! [`Span`]s, which release their pages when dropped.

mod adapter;
mod adapter_config;
mod ahead;
mod checkpoint;
mod delta;
mod files;
mod handle;
mod header;
mod hub;
mod index;
mod mmap;
mod piece_hash;
mod place;
mod range_hash;
mod ranges;
#[cfg(feature = "remote")]
mod remote;
#[cfg(not(feature = "remote"))]
#[path = "no_remote.rs"]
mod remote;

/// Whether each reader has a fault, for tests/fuzz to find.
const PLANTED: bool = cfg!(feature = "planted-faults");

pub use adapter_config::Config as AdapterConfig;
pub use ahead::Prepared;
pub use checkpoint::{Links, check_link, header_of, open, open_expert, read_whole, split_adapter};
pub use delta::{DeltaFile, chained, common_elements, histogram, is_delta, open_chain};
pub use files::{Counter, Files, Io, Mapped, Span};
pub use handle::Handle;
pub use header::{Header, parse_header};
pub use index::parse_index;
pub use piece_hash::{HashState, Hashed, PieceHash};
pub use place::{check_urls, folder_of, is_folder, listed, open_urls, read_small, refuse_url};
pub use range_hash::RangeHash;
pub use ranges::Ranges;
pub use remote::tag;
