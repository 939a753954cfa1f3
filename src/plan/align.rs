//! Tensors meet by name and shape. Whatever does not meet is told in one table.

use super::assemble::{Cell, Models, Row};
use super::{Place, PlannedTensor};
use crate::error::{Error, Result};
use crate::limits::{BLOCK_ELEMENTS, DIFFERENCES_SHOWN};
use crate::tensor::{Dtype, Entry, Factor, LowRank};
use std::fmt::Write;

/// The output's tensors: every row must be in every source, alike in shape.
pub fn align(rows: &[Row], labels: &[String], models: &Models<'_>, dtype: Option<Dtype>) -> Result<Vec<PlannedTensor>> {
    let differences = differences(rows, labels, models);
    if !differences.is_empty() {
        return Err(mismatch(&differences));
    }
    let first_file: Vec<usize> =
        models.inventories.iter().scan(0, |next, i| Some(std::mem::replace(next, *next + i.files.len()))).collect();
    let planned = |row: &Row| {
        let place = |cell: &Cell| {
            let (e, first_file) = (entry(models, cell), first_file[cell.model]);
            let (file, coded) = (first_file + e.file, e.coded.clone());
            let adapter = e.adapter.as_ref().map(|adapter| Box::new(from_file(adapter, first_file)));
            Place { file, dtype: e.dtype, offset: e.offset, coded, adapter, first_file }
        };
        let reference = row.cells[0].as_ref().expect("every source has every tensor");
        let t = entry(models, reference);
        PlannedTensor {
            name: row.name.clone(),
            shape: t.shape.clone(),
            elements: t.elements(),
            layer: None,
            taken: row.taken,
            settings: 0,
            block_elements: BLOCK_ELEMENTS,
            places: row.cells.iter().flatten().map(place).collect(),
            dtype: dtype.filter(|_| t.dtype.is_float()).unwrap_or(t.dtype),
            shard: 0,
            offset: 0,
        }
    };
    Ok(rows.iter().map(planned).collect())
}

/// The adapter with its files counted among all files of the plan.
fn from_file(adapter: &LowRank, first: usize) -> LowRank {
    let counted = |f: Factor| Factor { file: f.file + first, ..f };
    LowRank { a: counted(adapter.a), b: counted(adapter.b), ..adapter.clone() }
}

fn entry<'a>(models: &Models<'a>, cell: &Cell) -> &'a Entry {
    &models.inventories[cell.model].tensors[cell.tensor]
}

fn differences(rows: &[Row], labels: &[String], models: &Models<'_>) -> Vec<[String; 4]> {
    let mut found = Vec::new();
    for (source, label) in labels.iter().enumerate().skip(1) {
        for row in rows {
            let tell = |expected: String, got: String| [row.name.clone(), label.clone(), expected, got];
            let [a, b] = [0, source].map(|s| row.cells[s].as_ref().map(|c| entry(models, c)));
            let (a, b) = match (a, b) {
                (None, None) => continue,
                (None, Some(b)) => {
                    found.push(tell(format!("not in {}", labels[0]), format!("{} {:?}", b.dtype, b.shape)));
                    continue;
                }
                (Some(a), None) => {
                    found.push(tell(format!("{} {:?}", a.dtype, a.shape), "missing".into()));
                    continue;
                }
                (Some(a), Some(b)) => (a, b),
            };
            if a.shape != b.shape {
                found.push(tell(format!("{:?}", a.shape), format!("{:?}", b.shape)));
            } else if a.dtype != b.dtype && !(a.dtype.is_float() && b.dtype.is_float()) {
                found.push(tell(a.dtype.to_string(), b.dtype.to_string()));
            }
        }
    }
    found
}

fn mismatch(rows: &[[String; 4]]) -> Error {
    let header = ["tensor", "model", "expected", "got"].map(String::from);
    let shown: Vec<&[String; 4]> = std::iter::once(&header).chain(rows.iter().take(DIFFERENCES_SHOWN)).collect();
    let width = |c: usize| shown.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let mut table = String::new();
    for row in &shown {
        let _ = write!(table, "  {:<1$}", row[0], width(0));
        let _ = write!(table, "  {:<1$}", row[1], width(1));
        let _ = write!(table, "  {:<1$}", row[2], width(2));
        let _ = writeln!(table, "  {}", row[3]);
    }
    if rows.len() > DIFFERENCES_SHOWN {
        let _ = writeln!(table, "  and {} more", rows.len() - DIFFERENCES_SHOWN);
    }
    let hint = format!(
        "All models must be fine-tuned from the same base: same tensor names, same shapes, float for float. Remove the \
         model that differs, or fetch it again if it is incomplete. Tensors that need not be merged can be copied: write \
         `exclude: [\"{0}\"]` to take the first model's, or `copy_from: [{{filter: \"{0}\", model: MODEL}}]`.",
        rows[0][0]
    );
    Error::Mismatch { table: table.trim_end().to_owned(), hint }
}
