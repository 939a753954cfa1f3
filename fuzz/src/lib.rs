//! What is fuzzed: for each reader of untrusted bytes a function that takes any bytes, and checks what it accepts.
//!
//! A target returns `Ok` for an input that was accepted, `Err` with the message for one that was refused, and panics if
//! something is wrong. `tests/fuzz` runs them on stable Rust, `fuzz_targets` with libFuzzer.

mod blocks;
mod delta_index;
mod texts;

pub use blocks::values;

/// Accepted, or refused with this message.
pub type Outcome = Result<(), String>;

/// One target.
pub struct Target {
    /// Also the name of its folder of seeds.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]) -> Outcome,
    /// Longer inputs are not tried.
    pub max_bytes: usize,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "header", run: texts::header, max_bytes: 4096 },
    Target { name: "shard_index", run: texts::shard_index, max_bytes: 2048 },
    Target { name: "recipe", run: texts::recipe, max_bytes: 2048 },
    Target { name: "coefficients", run: texts::coefficients, max_bytes: 2048 },
    Target { name: "adapter_config", run: texts::adapter_config, max_bytes: 2048 },
    Target { name: "tokenizer", run: texts::tokenizer, max_bytes: 2048 },
    Target { name: "config", run: texts::config, max_bytes: 2048 },
    Target { name: "delta_index", run: delta_index::delta_index, max_bytes: 4096 },
    Target { name: "delta_block", run: blocks::decode, max_bytes: 4096 },
    Target { name: "delta_round_trip", run: blocks::round_trip, max_bytes: 2048 },
];

/// The target of this name.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no target `{name}`"))
}
