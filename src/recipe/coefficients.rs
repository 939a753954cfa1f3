//! Coefficients per tensor and expert from a file, as AdaMerging (arXiv 2310.02575) learns them: they become the experts'
//! `weight`, in any method that has one.
//!
//! `{layers: {TENSOR: [K numbers]}, default: [K numbers]}`, or a table: `{names: [TENSOR], rows: [[K numbers]]}` with a row
//! for each tensor, `{names: [TENSOR], columns: [[numbers]]}` with a column for each expert, or rows alone. Rows of K + 1
//! numbers start with the base's weight, which is 1. One row without names holds for all tensors.

use super::Setting;
use super::node::{Node, Value};
use super::suggest::unknown;
use crate::error::Result;
use std::collections::BTreeMap;

const KEYS: &[&str] = &["tasks", "base", "layers", "default", "names", "rows", "columns"];

/// For each tensor, and for those that are not named, a number for each expert.
#[derive(Debug, Default)]
pub struct Coefficients {
    by_name: BTreeMap<String, Vec<f64>>,
    default: Option<Vec<f64>>,
}

impl Coefficients {
    /// Reads a file's text; `place` is what messages call it.
    pub fn parse(text: &str, place: &str, experts: usize) -> Result<Self> {
        let value = Value::parse_long(text);
        let value = value.map_err(|e| crate::error::Error::recipe(place, format!("not valid JSON or YAML: {e}")))?;
        let root = Node { value: &value, place: place.into() };
        if let Value::List(_) = value {
            return Self::table(None, table(&root, experts)?, &root);
        }
        let fields = root.map()?;
        if let Some((key, node)) = fields.iter().find(|(key, _)| !KEYS.contains(key)) {
            return Err(node.error(unknown("key", key, KEYS)));
        }
        let field = |key: &str| fields.iter().find(|(k, _)| *k == key).map(|(_, node)| node);
        if let Some(base) = field("base").filter(|n| n.number().ok() != Some(1.0)) {
            return Err(base.error("the base's weight must be 1"));
        }
        if let Some(tasks) = field("tasks") {
            let count = tasks.list()?.len();
            if count != experts {
                return Err(tasks.error(format!("{count} tasks, but the recipe merges {experts} models")));
            }
        }
        let names = field("names").map(|n| n.list()?.iter().map(Node::text).collect::<Result<Vec<_>>>()).transpose()?;
        match (field("layers"), field("rows"), field("columns")) {
            (Some(layers), None, None) => {
                let layers = layers.map()?.into_iter();
                let by_name =
                    layers.map(|(name, node)| Ok((name.to_owned(), row(&node, experts)?))).collect::<Result<_>>()?;
                Ok(Self { by_name, default: field("default").map(|d| row(d, experts)).transpose()? })
            }
            (None, Some(rows), None) => Self::table(names, table(rows, experts)?, rows),
            (None, None, Some(columns)) => Self::table(names, turned(columns, experts)?, columns),
            _ => Err(root.error("expected one of `layers`, `rows` and `columns`")),
        }
    }

    fn table(names: Option<Vec<&str>>, rows: Vec<Vec<f64>>, node: &Node<'_>) -> Result<Self> {
        match names {
            None if rows.len() == 1 => Ok(Self { by_name: BTreeMap::new(), default: rows.into_iter().next() }),
            None => Err(node.error(format!("{} rows, but no `names`: the tensors that they belong to", rows.len()))),
            Some(names) if names.len() == rows.len() => {
                Ok(Self { by_name: names.into_iter().map(str::to_owned).zip(rows).collect(), default: None })
            }
            Some(names) => Err(node.error(format!("{} rows for {} names", rows.len(), names.len()))),
        }
    }

    /// The weight of one expert.
    pub fn of_expert(&self, k: usize) -> Setting {
        let by_name = self.by_name.iter().map(|(name, row)| (name.clone(), row[k])).collect();
        Setting::Table(by_name, self.default.as_ref().map(|d| d[k]))
    }
}

fn table(node: &Node<'_>, experts: usize) -> Result<Vec<Vec<f64>>> {
    node.list()?.iter().map(|n| row(n, experts)).collect()
}

/// A number for each expert; a leading 1 for the base is dropped.
fn row(node: &Node<'_>, experts: usize) -> Result<Vec<f64>> {
    let mut numbers = numbers(node)?;
    if numbers.len() == experts + 1 && numbers[0] == 1.0 {
        numbers.remove(0);
    }
    if numbers.len() != experts && !super::PLANTED {
        return Err(node.error(format!("expected {experts} numbers, one for each model, got {}", numbers.len())));
    }
    Ok(numbers)
}

fn turned(node: &Node<'_>, experts: usize) -> Result<Vec<Vec<f64>>> {
    let columns = node.list()?.iter().map(numbers).collect::<Result<Vec<_>>>()?;
    let rows = columns.first().map_or(0, Vec::len);
    if columns.len() != experts || columns.iter().any(|c| c.len() != rows) {
        return Err(node.error(format!("expected {experts} columns of equal length, one for each model")));
    }
    Ok((0..rows).map(|r| columns.iter().map(|c| c[r]).collect()).collect())
}

fn numbers(node: &Node<'_>) -> Result<Vec<f64>> {
    node.list()?.iter().map(Node::number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(text: &str, name: &str) -> std::result::Result<[Option<f64>; 2], String> {
        let c = Coefficients::parse(text, "f", 2).map_err(|e| e.to_string())?;
        Ok([0, 1].map(|k| c.of_expert(k).at(name, 0.0)))
    }

    #[test]
    fn every_published_form_gives_the_same_coefficients() {
        for text in [
            r#"{"tasks": ["x", "y"], "base": 1.0, "layers": {"a": [0.25, 0.5], "b": [0, 1]}}"#,
            r#"{"names": ["a", "b"], "rows": [[1.0, 0.25, 0.5], [1.0, 0, 1]]}"#,
            r#"{"names": ["a", "b"], "rows": [[0.25, 0.5], [0, 1]]}"#,
            r#"{"names": ["a", "b"], "columns": [[0.25, 0], [0.5, 1]]}"#,
        ] {
            assert_eq!(weights(text, "a").unwrap(), [Some(0.25), Some(0.5)], "{text}");
            assert_eq!(weights(text, "b").unwrap(), [Some(0.0), Some(1.0)], "{text}");
            assert_eq!(weights(text, "c").unwrap(), [None, None], "{text}");
        }
        assert_eq!(weights("[[1.0, 0.3, 0.4]]", "any").unwrap(), [Some(0.3), Some(0.4)]);
        assert_eq!(weights("{layers: {a: [1, 2]}, default: [3, 4]}", "c").unwrap(), [Some(3.0), Some(4.0)]);
    }

    #[test]
    fn eight_coefficients_for_each_of_sixty_thousand_tensors_are_read_and_more_than_two_million_refused() {
        let row = |i: usize| format!("\"layers.{i}.weight\": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, {i}]");
        let rows: Vec<String> = (0..60_000).map(row).collect();
        let read = Coefficients::parse(&format!("{{\"layers\": {{{}}}}}", rows.join(",\n")), "f", 8).unwrap();
        assert_eq!(read.of_expert(7).at("layers.59999.weight", 0.0), Some(59_999.0));
        let many = Coefficients::parse(&format!("[[{}0]]", "0,".repeat(2_000_000)), "f", 8).unwrap_err();
        assert!(many.to_string().contains("more than 2000000 values"), "{many}");
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused_with_its_place() {
        for (text, want) in [
            ("[[1, 2], [3, 4]]", "2 rows, but no `names`"),
            ("{layers: {a: [1]}}", "f.layers.a: expected 2 numbers, one for each model, got 1"),
            ("{names: [a], rows: [[1, 2], [3, 4]]}", "2 rows for 1 names"),
            ("{names: [a], columns: [[1]]}", "expected 2 columns"),
            ("{tasks: [x], layers: {}}", "1 tasks, but the recipe merges 2 models"),
            ("{base: 0.5, layers: {}}", "the base's weight must be 1"),
            ("{layres: {}}", "did you mean `layers`"),
            ("{tasks: [x, y]}", "expected one of `layers`"),
            ("{layers: {a: [0.5, x]}}", "expected a number, got text"),
        ] {
            let message = weights(text, "a").unwrap_err();
            assert!(message.contains(want), "{text}: {message}");
        }
    }
}
