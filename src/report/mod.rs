//! What is told about a merge or a comparison: the report file, pictures, pages, and the lines for a terminal.

mod charts;
mod colour;
mod comparison;
mod gist;
mod json;
mod kind;
mod lines;
mod merge_page;
mod page;
mod record;
mod rows;
mod seal;
mod svg;
mod sweep_page;
mod table;
mod vectors;
mod xml;

pub use comparison::{Apart, CompareCost, Comparison, Difference, ModelDifference, PairDifference, TensorDifference};
pub use json::{
    InputFile, InputReport, LayerReport, OutputFile, Report, RunReport, StageReport, TensorAction, TensorReport,
};
pub use merge_page::{Beside, merge_page};
pub use record::{File, Input, Record};
pub use seal::{LINE, Seal, is_sealed, seal};
pub use svg::{Picture, svg};
pub use sweep_page::{SweepRow, sweep_page};
pub use table::{Table, escape};
pub use vectors::compare_page;

/// Names as short as they can be told apart: the last part of each path, or more of it where two would be alike.
pub fn short_names(names: &[String]) -> Vec<String> {
    let shortened = |parts: usize| -> Vec<String> { names.iter().map(|n| last_parts(n, parts)).collect() };
    let distinct = |short: &Vec<String>| short.iter().collect::<std::collections::BTreeSet<_>>().len();
    let all = names.iter().collect::<std::collections::BTreeSet<_>>().len();
    (1..4).map(shortened).find(|short| distinct(short) == all).unwrap_or_else(|| names.to_vec())
}

fn last_parts(path: &str, parts: usize) -> String {
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/model.safetensors").unwrap_or(path);
    path.rmatch_indices('/').nth(parts - 1).map_or(path, |(at, _)| &path[at + 1..]).to_owned()
}
