//! Tensors meet by name and shape. Whatever does not meet is told in one table.

use super::{Place, PlannedTensor};
use crate::error::{Error, Result};
use crate::limits::{BLOCK_ELEMENTS, DIFFERENCES_SHOWN};
use crate::tensor::{Dtype, Entry, Factor, Inventory, LowRank};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The output's tensors, in the order of the first inventory.
pub fn align(inventories: &[Inventory], dtype: Option<Dtype>) -> Result<Vec<PlannedTensor>> {
    let by_name: Vec<BTreeMap<&str, &Entry>> =
        inventories.iter().map(|i| i.tensors.iter().map(|t| (t.name.as_str(), t)).collect()).collect();
    let differences = differences(inventories, &by_name);
    if !differences.is_empty() {
        return Err(mismatch(&differences));
    }
    let first_file: Vec<usize> =
        inventories.iter().scan(0, |next, i| Some(std::mem::replace(next, *next + i.files.len()))).collect();
    let planned = |t: &Entry| {
        let place = |(names, first): (&BTreeMap<&str, &Entry>, &usize)| {
            let e = names[t.name.as_str()];
            let (file, coded) = (first + e.file, e.coded.clone());
            let adapter = e.adapter.as_ref().map(|adapter| Box::new(from_file(adapter, *first)));
            Place { file, dtype: e.dtype, offset: e.offset, coded, adapter, first_file: *first }
        };
        PlannedTensor {
            name: t.name.clone(),
            shape: t.shape.clone(),
            elements: t.elements(),
            layer: None,
            settings: 0,
            block_elements: BLOCK_ELEMENTS,
            places: by_name.iter().zip(&first_file).map(place).collect(),
            dtype: dtype.filter(|_| t.dtype.is_float()).unwrap_or(t.dtype),
            shard: 0,
            offset: 0,
        }
    };
    Ok(inventories[0].tensors.iter().map(planned).collect())
}

/// The adapter with its files counted among all files of the plan.
fn from_file(adapter: &LowRank, first: usize) -> LowRank {
    let counted = |f: Factor| Factor { file: f.file + first, ..f };
    LowRank { a: counted(adapter.a), b: counted(adapter.b), ..adapter.clone() }
}

fn differences(inventories: &[Inventory], by_name: &[BTreeMap<&str, &Entry>]) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    let first = &inventories[0];
    for (other, names) in inventories.iter().zip(by_name).skip(1) {
        for a in &first.tensors {
            let row = |expected: String, got: String| [a.name.clone(), other.label.clone(), expected, got];
            match names.get(a.name.as_str()) {
                None => rows.push(row(format!("{} {:?}", a.dtype, a.shape), "missing".into())),
                Some(b) if a.shape != b.shape => rows.push(row(format!("{:?}", a.shape), format!("{:?}", b.shape))),
                Some(b) if a.dtype != b.dtype && !(a.dtype.is_float() && b.dtype.is_float()) => {
                    rows.push(row(a.dtype.to_string(), b.dtype.to_string()));
                }
                Some(_) => {}
            }
        }
        for b in other.tensors.iter().filter(|b| !by_name[0].contains_key(b.name.as_str())) {
            let got = format!("{} {:?}", b.dtype, b.shape);
            rows.push([b.name.clone(), other.label.clone(), format!("not in {}", first.label), got]);
        }
    }
    rows
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
    let hint = "All models must be fine-tuned from the same base: same tensor names, same shapes, float for float. \
                Remove the model that differs, or fetch it again if it is incomplete.";
    Error::Mismatch { table: table.trim_end().to_owned(), hint: hint.to_owned() }
}
