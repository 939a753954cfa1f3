//! Models under URLs, read in ranges: `s3://`, `gs://` and `https://`, through the `object_store` crate.
//!
//! Two threads wait for servers; to the rest of the program an object is one more thing that ranges are read from. Nothing
//! is written and nothing is listed. `no_remote.rs` is in the place of this where the feature is off.

mod client;
mod failure;
mod fetch;
mod object;

pub use bytes::Bytes as Fetched;
pub use client::check;
pub use fetch::Pending;
pub use object::{Object, check_unchanged, open_all, opened, sizes, small, tag};
