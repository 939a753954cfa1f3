//! YAML as a tree whose every node knows where it stands, so that messages can say it.

use crate::error::{Error, Result};
use crate::limits::COEFFICIENTS_MAX_VALUES;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;

/// A YAML value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

/// A value and its place, for instance `models[1].parameters.weight`.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    pub value: &'a Value,
    pub place: String,
}

impl Value {
    /// Parses one YAML document.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|e| e.to_string())
    }

    /// Parses JSON, or else one YAML document. As JSON a file may hold more: what reads YAML stops at a quarter of a million
    /// values.
    pub fn parse_long(text: &str) -> std::result::Result<Self, String> {
        let values = text.bytes().filter(|b| b",:[{".contains(b)).count();
        if values > COEFFICIENTS_MAX_VALUES {
            return Err(format!("more than {COEFFICIENTS_MAX_VALUES} values"));
        }
        serde_json::from_str(text).or_else(|_| Self::parse(text))
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Flag(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl<'a> Node<'a> {
    pub fn error(&self, problem: impl Into<String>) -> Error {
        Error::recipe(self.place.clone(), problem)
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        Err(self.error(format!("expected {what}, got {}", self.value.kind())))
    }

    pub fn text(&self) -> Result<&'a str> {
        match self.value {
            Value::Text(text) => Ok(text),
            _ => self.expected("text"),
        }
    }

    pub fn number(&self) -> Result<f64> {
        match self.value {
            Value::Number(n) if n.is_finite() => Ok(*n),
            Value::Number(n) => Err(self.error(format!("expected a finite number, got {n}"))),
            _ => self.expected("a number"),
        }
    }

    pub fn flag(&self) -> Result<bool> {
        match self.value {
            Value::Flag(flag) => Ok(*flag),
            Value::Number(n) if *n == 0.0 || *n == 1.0 => Ok(*n == 1.0),
            _ => self.expected("true or false"),
        }
    }

    pub fn list(&self) -> Result<Vec<Node<'a>>> {
        let Value::List(items) = self.value else { return self.expected("a list") };
        let node = |(i, value)| Node { value, place: format!("{}[{i}]", self.place) };
        Ok(items.iter().enumerate().map(node).collect())
    }

    pub fn map(&self) -> Result<Vec<(&'a str, Node<'a>)>> {
        let Value::Map(items) = self.value else { return self.expected("a mapping") };
        let node = |(key, value): &'a (String, Value)| (key.as_str(), self.child(key, value));
        Ok(items.iter().map(node).collect())
    }

    fn child(&self, key: &str, value: &'a Value) -> Node<'a> {
        let place = if self.place == "recipe" { key.to_owned() } else { format!("{}.{key}", self.place) };
        Node { value, place }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Value, D::Error> {
        Value::deserialize(d)
    }

    fn visit_bool<E>(self, v: bool) -> std::result::Result<Value, E> {
        Ok(Value::Flag(v))
    }

    fn visit_i64<E>(self, v: i64) -> std::result::Result<Value, E> {
        Ok(Value::Number(v as f64))
    }

    fn visit_u64<E>(self, v: u64) -> std::result::Result<Value, E> {
        Ok(Value::Number(v as f64))
    }

    fn visit_f64<E>(self, v: f64) -> std::result::Result<Value, E> {
        Ok(Value::Number(v))
    }

    fn visit_str<E>(self, v: &str) -> std::result::Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut items: Vec<(String, Value)> = Vec::new();
        let mut keys = BTreeSet::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if !keys.insert(key.clone()) {
                return Err(A::Error::custom(format!("key `{key}` is given twice")));
            }
            items.push((key, value));
        }
        Ok(Value::Map(items))
    }
}
