//! Names, shapes and dtypes of tensors, and what a checkpoint's headers say of them. No bytes are moved here, except
//! between a dtype and `f32`.

mod convert;
mod dtype;
mod inventory;
mod name;
mod size;

pub use dtype::Dtype;
pub use inventory::{
    Coded, Entry, Expected, Factor, FileEntry, Identity, Inventory, Link, Lossy, LowRank, Payload, Statistics, is_url,
};
pub use name::{Position, position};
pub use size::{Bytes, parse_size};
