//! Which tokens the output has, and from which rows of which model each row of its embeddings is made.
//!
//! Reads `tokenizer.json` of each model, one after another; no tensor. What is left of them is one [`RowMap`] per model.

mod rows;
mod rule;
mod tokenizer;
mod unite;

pub use rows::{From, RowMap, Run};
pub use rule::is_vocabulary;
pub use tokenizer::TokenizerFile;
pub use unite::{Member, Vocabulary};
