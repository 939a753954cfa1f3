//! What is told about a merge: the report file, the picture of scores and masks, and the lines for a terminal.

mod json;
mod seal;
mod svg;
mod table;

pub use json::{
    InputFile, InputReport, LayerReport, OutputFile, Report, RunReport, StageReport, TensorAction, TensorReport,
};
pub use seal::{is_sealed, seal};
pub use svg::{Picture, svg};
pub use table::{Table, escape};
