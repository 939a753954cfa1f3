//! What is written: a staging folder beside the output, filled, synced, and given its final name in one step.

mod card;
mod config;
mod delta;
mod shards;
mod side_files;
mod staging;

pub use card::card;
pub use config::ConfigEdits;
pub use delta::{DeltaSink, DeltaTensor, Extra, Hashes};
pub use shards::Shards;
pub use side_files::{SideFile, find as find_side_files, find_all as find_all_files};
pub use staging::{Existing, Locked, StagedFile, Staging, free_bytes, stream_whole, write_whole};
