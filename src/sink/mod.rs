//! What is written: a staging folder beside the output, filled, synced, and given its final name in one step.

mod card;
mod chat_template;
mod config;
mod delta;
mod journal;
mod pieces;
mod shards;
mod side_files;
mod staging;

pub use card::card;
pub use chat_template::{NAME as CHAT_TEMPLATE, chat_template};
pub use config::ConfigEdits;
pub use delta::{DeltaSink, DeltaTensor, Extra, Hashes, Told, WrittenTensor, index as delta_index};
pub use journal::{Journal, Left};
pub use pieces::{Named, PieceRange, Pieces};
pub use shards::Shards;
pub use side_files::{
    SideFile, edited, find as find_side_files, find_all as find_all_files, is_of_tokenizer, is_of_words,
};
pub use staging::{Existing, Locked, StagedFile, Staging, Unfinished, free_bytes, stream_whole, write_whole};
