//! Values of parameters as recipes write them, and their value for one tensor.
//!
//! The semantics are mergekit's (docs/mergekit.md): a scalar; a list, spread over the depth of the model; or a list of
//! `{filter, value}`, of which the first whose filter is a part of the tensor's name holds.

use super::node::{Node, Value};
use crate::error::Result;
use crate::method::Kind;
use std::collections::BTreeMap;

/// A parameter's value as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// The same everywhere.
    Scalar(f64),
    /// Linear between the entries, over the depth.
    Gradient(Vec<f64>),
    /// The entry at or below the depth: for words and flags.
    Steps(Vec<f64>),
    /// The first whose filter (a part of the name; `None` matches all) holds.
    Filters(Vec<(Option<String>, Setting)>),
    /// By the tensor's whole name, and for tensors that are not named.
    Table(BTreeMap<String, f64>, Option<f64>),
}

impl Setting {
    /// Reads a value of `kind`.
    pub fn parse(node: &Node<'_>, kind: Kind) -> Result<Self> {
        match node.value {
            Value::List(items) if items.is_empty() => Err(node.error("expected values, got an empty list")),
            Value::List(items) if items.iter().all(|i| matches!(i, Value::Map(_))) => {
                node.list()?.iter().map(|n| conditional(n, kind)).collect::<Result<_>>().map(Self::Filters)
            }
            Value::List(_) => {
                let values = node.list()?.iter().map(|n| scalar(n, kind)).collect::<Result<Vec<_>>>()?;
                let numeric = matches!(kind, Kind::Number { .. });
                Ok(if numeric { Self::Gradient(values) } else { Self::Steps(values) })
            }
            Value::Map(_) => Ok(Self::Filters(vec![conditional(node, kind)?])),
            _ => scalar(node, kind).map(Self::Scalar),
        }
    }

    /// The value for tensor `name` at depth `t` in [0, 1]; `None` if no filter matches.
    pub fn at(&self, name: &str, t: f64) -> Option<f64> {
        match self {
            Self::Scalar(value) => Some(*value),
            Self::Gradient(values) => Some(interpolate(values, t)),
            Self::Steps(values) => Some(values[(t * (values.len() - 1) as f64) as usize]),
            Self::Filters(list) => {
                let holds =
                    |filter: &Option<String>| filter.as_ref().is_none_or(|f| f == "*" || name.contains(f.as_str()));
                list.iter().find(|(filter, _)| holds(filter)).and_then(|(_, setting)| setting.at(name, t))
            }
            Self::Table(by_name, default) => by_name.get(name).copied().or(*default),
        }
    }

    /// The same as JSON, for the report and the plan's identity.
    pub fn canonical(&self, kind: Kind) -> serde_json::Value {
        let value = |v: &f64| match kind {
            Kind::Number { .. } => serde_json::json!(v),
            Kind::Flag => serde_json::json!(*v != 0.0),
            Kind::Choice(_) => serde_json::json!(kind.show(*v)),
        };
        let values = |list: &[f64]| list.iter().map(value).collect::<Vec<_>>();
        match self {
            Self::Scalar(v) => value(v),
            Self::Gradient(list) => serde_json::json!({ "gradient": values(list) }),
            Self::Steps(list) => serde_json::json!({ "steps": values(list) }),
            Self::Filters(list) => {
                let entries: Vec<_> = list.iter().map(|(f, s)| serde_json::json!([f, s.canonical(kind)])).collect();
                serde_json::json!({ "filters": entries })
            }
            Self::Table(by_name, default) => serde_json::json!({ "tensors": by_name, "default": default }),
        }
    }
}

fn interpolate(values: &[f64], t: f64) -> f64 {
    let at = t * (values.len() - 1) as f64;
    let low = (at as usize).min(values.len() - 1);
    let high = (low + 1).min(values.len() - 1);
    let fraction = at - low as f64;
    (1.0 - fraction) * values[low] + fraction * values[high]
}

fn conditional(node: &Node<'_>, kind: Kind) -> Result<(Option<String>, Setting)> {
    let (mut filter, mut value) = (None, None);
    for (key, child) in node.map()? {
        match key {
            "filter" if *child.value == Value::Null => {}
            "filter" => filter = Some(child.text()?.to_owned()),
            "value" => value = Some(Setting::parse(&child, kind)?),
            _ => return Err(child.error(super::suggest::unknown("key", key, &["filter", "value"]))),
        }
    }
    let value = value.ok_or_else(|| node.error("`value` is missing"))?;
    if matches!(value, Setting::Filters(_)) {
        return Err(node.error("a filter's value cannot hold filters"));
    }
    Ok((filter, value))
}

fn scalar(node: &Node<'_>, kind: Kind) -> Result<f64> {
    match kind {
        Kind::Flag => node.flag().map(|f| f64::from(u8::from(f))),
        Kind::Choice(words) => {
            let word = node.text()?;
            let place = words.iter().position(|w| *w == word);
            place.map(|p| p as f64).ok_or_else(|| node.error(super::suggest::unknown("value", word, words)))
        }
        Kind::Number { min, max } => {
            let number = node.number()?;
            if (min..=max).contains(&number) {
                Ok(number)
            } else {
                Err(node.error(format!("expected {}, got {number}", kind.describe())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(yaml: &str) -> Setting {
        let value = Value::parse(yaml).unwrap();
        Setting::parse(&Node { value: &value, place: "p".into() }, Kind::NUMBER).unwrap()
    }

    #[test]
    fn a_list_is_linear_between_its_entries() {
        let s = setting("[1, 0.7, 0.1]");
        let seen = [0.0, 0.25, 0.5, 1.0].map(|t| s.at("x", t).unwrap());
        assert_eq!(seen, [1.0, 0.85, 0.7, 0.1]);
    }

    #[test]
    fn the_first_filter_that_is_part_of_the_name_holds() {
        let s = setting("[{filter: self_attn, value: [0, 1]}, {filter: mlp, value: 3}, {value: 0.5}]");
        let seen = ["l.self_attn.q", "l.mlp.up", "norm"].map(|n| s.at(n, 0.5).unwrap());
        assert_eq!(seen, [0.5, 3.0, 0.5]);
        assert_eq!(setting("{filter: mlp, value: 3}").at("norm", 0.0), None);
        assert_eq!(setting("[{filter: '*', value: 2}]").at("norm", 0.0), Some(2.0));
    }

    #[test]
    fn values_of_the_wrong_kind_or_out_of_range_are_refused_with_their_place() {
        for (yaml, kind, want) in [
            ("x", Kind::NUMBER, "p: expected a number, got text"),
            ("1.5", Kind::FRACTION, "p: expected a number from 0 to 1, got 1.5"),
            ("[]", Kind::NUMBER, "p: expected values"),
            ("[{filter: a}]", Kind::NUMBER, "p[0]: `value` is missing"),
            ("[{valeu: 1}]", Kind::NUMBER, "did you mean `value`"),
            ("maen", Kind::Choice(&["mean", "sum"]), "did you mean `mean`"),
            ("[0, [1]]", Kind::NUMBER, "p[1]: expected a number, got a list"),
        ] {
            let value = Value::parse(yaml).unwrap();
            let message = Setting::parse(&Node { value: &value, place: "p".into() }, kind).unwrap_err().to_string();
            assert!(message.contains(want), "{yaml}: {message}");
        }
    }
}
