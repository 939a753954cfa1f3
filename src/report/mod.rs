//! What is told about a merge: the report file, the picture of scores and masks, and the lines for a terminal.

mod json;
mod svg;
mod table;

pub use json::{
    InputFile, InputReport, LayerReport, OutputFile, Report, RunReport, StageReport, TensorAction, TensorReport,
};
pub use svg::{Picture, svg};
pub use table::{Table, escape};
