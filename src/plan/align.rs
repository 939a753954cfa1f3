//! Tensors meet by name and shape. Whatever does not meet is told in one table.

use super::{Place, PlannedTensor, Rows};
use crate::error::{Error, Result};
use crate::limits::{BLOCK_ELEMENTS, DIFFERENCES_SHOWN};
use crate::tensor::{Dtype, Entry, Inventory};
use crate::vocabulary::{Vocabulary, is_vocabulary};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The output's tensors, in the order of the first inventory; embeddings and heads with the rows of `vocabulary`.
pub fn align(
    inventories: &[Inventory],
    dtype: Option<Dtype>,
    vocabulary: Option<&Vocabulary>,
) -> Result<Vec<PlannedTensor>> {
    let by_name: Vec<BTreeMap<&str, &Entry>> =
        inventories.iter().map(|i| i.tensors.iter().map(|t| (t.name.as_str(), t)).collect()).collect();
    let differences = differences(inventories, &by_name, vocabulary.is_some());
    if !differences.is_empty() {
        return Err(mismatch(&differences));
    }
    let first_file: Vec<usize> =
        inventories.iter().scan(0, |next, i| Some(std::mem::replace(next, *next + i.files.len()))).collect();
    let planned = |t: &Entry| {
        let vocabulary = vocabulary.filter(|_| is_vocabulary(&t.name));
        let place = |(source, (names, first)): (usize, (&BTreeMap<&str, &Entry>, &usize))| {
            let e = names[t.name.as_str()];
            let (file, coded) = (first + e.file, e.coded.clone());
            let rows = vocabulary.map(|v| gathered(v, source, e, &inventories[source])).transpose()?.flatten();
            let dtype = if rows.is_some() { Dtype::F32 } else { e.dtype };
            Ok(Place { file, dtype, offset: e.offset, coded, first_file: *first, rows })
        };
        let mut shape = t.shape.clone();
        if let (Some(v), Some(rows)) = (vocabulary, shape.first_mut()) {
            *rows = v.rows;
        }
        Ok(PlannedTensor {
            name: t.name.clone(),
            elements: shape.iter().product(),
            shape,
            layer: None,
            settings: 0,
            block_elements: BLOCK_ELEMENTS,
            places: by_name.iter().zip(&first_file).enumerate().map(place).collect::<Result<_>>()?,
            dtype: dtype.filter(|_| t.dtype.is_float()).unwrap_or(t.dtype),
            shard: 0,
            offset: 0,
        })
    };
    inventories[0].tensors.iter().map(planned).collect()
}

/// How the output's rows are made from tensor `e` of a source; `None` if they are its rows as they are.
fn gathered(vocabulary: &Vocabulary, source: usize, e: &Entry, inventory: &Inventory) -> Result<Option<Rows>> {
    let map = &vocabulary.maps[source];
    if map.is_identity(source, e.shape[0]) {
        return Ok(None);
    }
    let problem = if e.coded.is_some() {
        "its rows must be put in another order, which a delta file does not allow; restore the model with taskvec apply"
    } else if e.dtype.is_float() {
        let width = e.shape[1..].iter().product();
        return Ok(Some(Rows { map: map.clone(), width, stored: e.dtype }));
    } else {
        "its rows must be put in another order, which only float tensors allow; give models that are not quantized"
    };
    Err(Error::BadTensor { path: inventory.path.clone(), tensor: e.name.clone(), problem: problem.into() })
}

/// The rows of a model's embeddings and heads.
pub fn vocabulary_rows(inventory: &Inventory) -> Result<u64> {
    let bad = |tensor: &str, problem: String| {
        Err(Error::BadTensor { path: inventory.path.clone(), tensor: tensor.to_owned(), problem })
    };
    let mut found: Option<(&str, u64)> = None;
    for t in inventory.tensors.iter().filter(|t| is_vocabulary(&t.name)) {
        match (t.shape.first(), found) {
            (None, _) => return bad(&t.name, "expected one row for each token, got a scalar".into()),
            (Some(rows), Some((other, expected))) if *rows != expected => {
                return bad(
                    &t.name,
                    format!("{rows} rows, but `{other}` has {expected}; expected a row for each token"),
                );
            }
            (Some(rows), _) => found = Some((&t.name, *rows)),
        }
    }
    let none = || {
        let problem = "has no tensor that is known as an embedding or a head by its name (docs/recipe.md lists them); \
                       remove the tokenizer key";
        Error::recipe("tokenizer", format!("`{}` {problem}", inventory.label))
    };
    found.map(|(_, rows)| rows).ok_or_else(none)
}

fn differences(inventories: &[Inventory], by_name: &[BTreeMap<&str, &Entry>], any_rows: bool) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    let first = &inventories[0];
    for (other, names) in inventories.iter().zip(by_name).skip(1) {
        for a in &first.tensors {
            let row = |expected: String, got: String| [a.name.clone(), other.label.clone(), expected, got];
            match names.get(a.name.as_str()) {
                None => rows.push(row(format!("{} {:?}", a.dtype, a.shape), "missing".into())),
                Some(b) if !alike(a, b, any_rows) => rows.push(row(format!("{:?}", a.shape), format!("{:?}", b.shape))),
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

/// Whether two tensors have one shape, but for the rows of vocabularies if these do not matter.
fn alike(a: &Entry, b: &Entry, any_rows: bool) -> bool {
    let skip = usize::from(any_rows && is_vocabulary(&a.name) && !a.shape.is_empty());
    a.shape.len() == b.shape.len() && a.shape[skip..] == b.shape[skip..]
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
    let vocabularies = "The models have vocabularies of other size. Write `tokenizer_source: base` to keep the base's \
                        tokens, or `tokenizer_source: union` to keep the tokens of all models.";
    let hint =
        if rows.iter().all(|[name, .., got]| is_vocabulary(name) && got != "missing") { vocabularies } else { hint };
    Error::Mismatch { table: table.trim_end().to_owned(), hint: hint.to_owned() }
}
