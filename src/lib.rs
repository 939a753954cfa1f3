//! taskvec merges fine-tuned checkpoints of one base model, out of core, with layer-wise pruning of task vectors
//! (LwPTV, arXiv 2506.09093).
//!
//! The modules stand in the order in which data flows; `docs/architecture.md` draws the house.

pub mod limits;

pub mod tensor;

pub mod error;

pub mod disk;

pub mod codec;

pub mod container;

pub mod source;

pub mod kernel;

pub mod survey;

pub mod mask;

pub mod method;

pub mod recipe;

pub mod vocabulary;

pub mod plan;

pub mod pass;

pub mod sink;

pub mod report;

pub mod job;

pub mod demo;

pub use error::{Error, Result};
