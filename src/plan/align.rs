//! Tensors meet by name and shape. Whatever does not meet is told in one table.

use super::assemble::{Cell, Models, Row};
use super::{Place, PlannedTensor, Rows};
use crate::error::{Error, Result};
use crate::limits::{BLOCK_ELEMENTS, DIFFERENCES_SHOWN};
use crate::tensor::{Dtype, Entry, Factor, Inventory, LowRank};
use crate::vocabulary::{Vocabulary, is_vocabulary};
use std::fmt::Write;

/// The output's tensors: every row must be in every source, alike in shape. Embeddings and heads get the rows of `vocabulary`.
pub fn align(
    rows: &[Row<'_>],
    labels: &[String],
    models: &Models<'_>,
    dtype: Option<Dtype>,
    vocabulary: Option<&Vocabulary>,
) -> Result<Vec<PlannedTensor>> {
    let differences = differences(rows, labels, models, vocabulary.is_some());
    if differences.count > 0 {
        return Err(mismatch(&differences));
    }
    let first_file: Vec<usize> =
        models.inventories.iter().scan(0, |next, i| Some(std::mem::replace(next, *next + i.files.len()))).collect();
    let planned = |row: &Row<'_>| {
        let vocabulary = vocabulary.filter(|_| is_vocabulary(&row.name));
        let place = |(source, cell): (usize, &Cell)| {
            let (e, first_file) = (entry(models, cell), first_file[cell.model]);
            let (file, coded) = (first_file + e.file, e.coded.as_deref().cloned());
            let adapter = e.adapter.as_ref().map(|adapter| Box::new(from_file(adapter, first_file)));
            let rows = vocabulary.map(|v| gathered(v, source, row, e, &models.inventories[cell.model]));
            let rows = rows.transpose()?.flatten();
            let dtype = if rows.is_some() { Dtype::F32 } else { e.dtype };
            Ok(Place { file, dtype, offset: e.offset, coded, adapter, first_file, rows, computed: None })
        };
        let reference = row.cells[0].as_ref().expect("every source has every tensor");
        let t = entry(models, reference);
        let mut shape = t.shape.clone();
        if let (Some(v), Some(rows)) = (vocabulary, shape.first_mut()) {
            *rows = v.rows;
        }
        Ok(PlannedTensor {
            name: row.name.to_string(),
            elements: shape.iter().product(),
            shape,
            layer: None,
            taken: row.taken,
            settings: 0,
            block_elements: BLOCK_ELEMENTS,
            places: row.cells.iter().flatten().enumerate().map(place).collect::<Result<_>>()?,
            dtype: dtype.filter(|_| t.dtype.is_float()).unwrap_or(t.dtype),
            shard: 0,
            offset: 0,
            masks: None,
        })
    };
    rows.iter().map(planned).collect()
}

/// The adapter with its files counted among all files of the plan.
fn from_file(adapter: &LowRank, first: usize) -> LowRank {
    let counted = |f: Factor| Factor { file: f.file + first, ..f };
    LowRank { a: counted(adapter.a), b: counted(adapter.b), ..adapter.clone() }
}

fn entry<'a>(models: &Models<'a>, cell: &Cell) -> &'a Entry {
    &models.inventories[cell.model].tensors[cell.tensor]
}

/// How the output's rows are made from tensor `e` of a source; `None` if they are its rows as they are.
fn gathered(
    vocabulary: &Vocabulary,
    source: usize,
    row: &Row<'_>,
    e: &Entry,
    inventory: &Inventory,
) -> Result<Option<Rows>> {
    let map = &vocabulary.maps[source];
    if map.is_identity(source, e.shape[0]) {
        return Ok(None);
    }
    let problem = if row.taken.is_some() {
        "its rows must be put in another order, which copied tensors do not allow; leave it out of exclude and copy_from"
    } else if e.adapter.is_some() {
        "its rows must be put in another order, which an adapter on it does not allow; make a checkpoint of the model with its \
         adapter first (taskvec merge --method passthrough --model MODEL+ADAPTER OUT)"
    } else if e.coded.is_some() {
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

/// What does not meet: the first of it, and how much there is in all.
struct Differences {
    /// Tensor, model, expected, got.
    first: Vec<[String; 4]>,
    count: usize,
    /// Whether all are vocabularies of other size.
    only_vocabularies: bool,
}

fn differences(rows: &[Row<'_>], labels: &[String], models: &Models<'_>, any_rows: bool) -> Differences {
    let mut found = Differences { first: Vec::new(), count: 0, only_vocabularies: true };
    for (source, label) in labels.iter().enumerate().skip(1) {
        for row in rows {
            let [a, b] = [0, source].map(|s| row.cells[s].as_ref().map(|c| entry(models, c)));
            let Some([expected, got]) = difference(a, b, &labels[0], any_rows) else { continue };
            found.count += 1;
            found.only_vocabularies &= is_vocabulary(&row.name) && expected.starts_with('[') && got.starts_with('[');
            if found.first.len() < DIFFERENCES_SHOWN {
                found.first.push([row.name.to_string(), label.clone(), expected, got]);
            }
        }
    }
    found
}

/// Expected and got, where a tensor of the first source and one of another do not meet.
fn difference(a: Option<&Entry>, b: Option<&Entry>, first: &str, any_rows: bool) -> Option<[String; 2]> {
    let whole = |e: &Entry| format!("{} {:?}", e.dtype, e.shape);
    match (a, b) {
        (None, None) => None,
        (None, Some(b)) => Some([format!("not in {first}"), whole(b)]),
        (Some(a), None) => Some([whole(a), "missing".into()]),
        (Some(a), Some(b)) if !alike(a, b, any_rows) => Some([format!("{:?}", a.shape), format!("{:?}", b.shape)]),
        (Some(a), Some(b)) if a.dtype == b.dtype || a.dtype.is_float() && b.dtype.is_float() => None,
        (Some(a), Some(b)) => Some([a.dtype.to_string(), b.dtype.to_string()]),
    }
}

/// Whether two tensors have one shape, but for the rows of vocabularies if these do not matter.
fn alike(a: &Entry, b: &Entry, any_rows: bool) -> bool {
    let skip = usize::from(any_rows && is_vocabulary(&a.name) && !a.shape.is_empty());
    a.shape.len() == b.shape.len() && a.shape[skip..] == b.shape[skip..]
}

fn mismatch(differences: &Differences) -> Error {
    let header = ["tensor", "model", "expected", "got"].map(String::from);
    let shown: Vec<&[String; 4]> = std::iter::once(&header).chain(&differences.first).collect();
    let width = |c: usize| shown.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let mut table = String::new();
    for row in &shown {
        let _ = write!(table, "  {:<1$}", row[0], width(0));
        let _ = write!(table, "  {:<1$}", row[1], width(1));
        let _ = write!(table, "  {:<1$}", row[2], width(2));
        let _ = writeln!(table, "  {}", row[3]);
    }
    if differences.count > DIFFERENCES_SHOWN {
        let _ = writeln!(table, "  and {} more", differences.count - DIFFERENCES_SHOWN);
    }
    let cause = if differences.only_vocabularies {
        "The models have vocabularies of other size. Write `tokenizer_source: base` to keep the base's tokens, or \
         `tokenizer_source: union` to keep the tokens of all models."
    } else {
        "All models must be fine-tuned from the same base: same tensor names, same shapes, float for float. Remove the \
         model that differs, or fetch it again if it is incomplete."
    };
    let hint = format!(
        "{cause} Tensors that need not be merged can be copied: write `exclude: [\"{0}\"]` to take the first model's, or \
         `copy_from: [{{filter: \"{0}\", model: MODEL}}]`.",
        differences.first[0][0]
    );
    Error::Mismatch { table: table.trim_end().to_owned(), hint }
}
