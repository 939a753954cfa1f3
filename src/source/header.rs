//! The strict reader of safetensors headers.
//!
//! Accepts what the format allows and nothing that two readers could understand differently: no duplicate names or
//! keys, no holes, no overlaps, no trailing bytes, no length that is not derived from dtype and shape.
//! Memory stays below three times the header's length: names and shapes are kept once, no tree is built, and a header whose
//! entries are so short that their table would take more is refused.

use crate::error::{Error, Result};
use crate::limits::{HEADER_MAX_BYTES, HEADER_MEMORY_BYTES, HEADER_MEMORY_FACTOR, NAME_MAX_BYTES, RANK_MAX};
use crate::tensor::{Dtype, Entry};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::path::Path;

/// A header that has been checked against its file's length.
#[derive(Debug)]
pub struct Header {
    /// The tensors by offset, with offsets counted from the start of the file and `file` 0.
    pub tensors: Vec<Entry>,
    /// Bytes before the first tensor's data: 8 and the header itself.
    pub data_start: u64,
    /// The pairs of `__metadata__`.
    pub metadata: Vec<(String, String)>,
}

/// The header's length, from the first eight bytes of a file of `file_bytes`.
pub fn header_bytes(path: &Path, first: [u8; 8], file_bytes: u64) -> Result<u64> {
    let length = u64::from_le_bytes(first);
    let most = HEADER_MAX_BYTES.min(file_bytes.saturating_sub(8));
    if length < 2 || length > most {
        let problem = format!(
            "not a whole safetensors file: its header claims {length} bytes, expected 2 to {most} in a file of {file_bytes} bytes; fetch the file again"
        );
        return Err(Error::malformed(path, problem));
    }
    Ok(length)
}

/// Parses `json`, the header of the file at `path`, which is `file_bytes` long.
pub fn parse_header(path: &Path, json: &[u8], file_bytes: u64) -> Result<Header> {
    if json.first() != Some(&b'{') {
        return Err(Error::malformed(path, "not a safetensors file: the header does not begin with `{`"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let memory = Memory(HEADER_MEMORY_BYTES.max((HEADER_MEMORY_FACTOR - 1) * json.len()));
    let table = deserializer.deserialize_map(HeaderVisitor(memory)).and_then(|t| deserializer.end().map(|()| t));
    let (tensors, metadata) = table.map_err(|e| Error::malformed(path, format!("bad safetensors header: {e}")))?;
    let data_start = 8 + json.len() as u64;
    let tensors = check(path, tensors, data_start, file_bytes.saturating_sub(data_start))?;
    Ok(Header { tensors, data_start, metadata })
}

/// Puts the tensors in the order of their data, which must fill `data_bytes` without holes.
fn check(path: &Path, mut tensors: Vec<Entry>, data_start: u64, data_bytes: u64) -> Result<Vec<Entry>> {
    refuse_duplicates(path, &tensors)?;
    tensors.sort_by_key(|t| (t.offset, t.bytes));
    let mut expected = 0;
    for t in &tensors {
        if t.offset != expected {
            let problem =
                format!("data begins at {}, expected {expected}: holes and overlaps are not allowed", t.offset);
            return Err(bad(path, &t.name, problem));
        }
        expected += t.bytes;
    }
    if expected != data_bytes {
        let state = if data_bytes < expected { "truncated" } else { "longer than its header says" };
        let problem = format!(
            "the file is {state}: expected {expected} bytes of tensors, got {data_bytes}; fetch the file again"
        );
        return Err(Error::malformed(path, problem));
    }
    tensors.iter_mut().for_each(|t| t.offset += data_start);
    Ok(tensors)
}

fn refuse_duplicates(path: &Path, tensors: &[Entry]) -> Result<()> {
    let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(bad(path, twice[0], "listed twice; expected one entry for each tensor")),
        None => Ok(()),
    }
}

fn bad(path: &Path, tensor: &str, problem: impl Into<String>) -> Error {
    Error::BadTensor { path: path.to_owned(), tensor: tensor.to_owned(), problem: problem.into() }
}

fn unknown_dtype(name: &str) -> String {
    let hint = match name {
        "F4" | "F6_E2M3" | "F6_E3M2" | "F8_E8M0" => {
            "; it belongs to a block-scaled format: dequantise the checkpoint first"
        }
        _ => "",
    };
    format!("dtype `{name}` is not one that taskvec reads{hint}")
}

/// Elements times element size, if it fits.
fn byte_length(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    if super::PLANTED {
        return Some(shape.iter().fold(dtype.bytes() as u64, |n, &d| n.wrapping_mul(d)));
    }
    // A zero dimension makes the tensor empty, but the others must still multiply without overflow.
    let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
    elements.checked_mul(dtype.bytes() as u64)
}

/// Bytes that the table may still take.
struct Memory(usize);

impl Memory {
    fn take<E: serde::de::Error>(&mut self, bytes: usize) -> std::result::Result<(), E> {
        let left = self.0.checked_sub(bytes);
        self.0 = left.ok_or_else(|| {
            E::custom(format!("its entries would take more than {HEADER_MEMORY_FACTOR} times its length in memory"))
        })?;
        Ok(())
    }
}

/// What an entry takes: itself, and a reference to its name while names are compared.
const ENTRY_BYTES: usize = size_of::<Entry>() + size_of::<&str>();

struct HeaderVisitor(Memory);

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = (Vec<Entry>, Vec<(String, String)>);

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if metadata.is_some() {
                    return Err(A::Error::custom("`__metadata__` is listed twice"));
                }
                metadata = Some(map.next_value_seed(MetadataSeed(&mut self.0))?);
            } else {
                check_name(&name).map_err(A::Error::custom)?;
                let tensor = map.next_value_seed(TensorSeed(name))?;
                self.0.take(ENTRY_BYTES + tensor.name.len() + size_of_val(tensor.shape.as_slice()))?;
                if tensors.len() == tensors.capacity() {
                    // Doubling would take more than is counted.
                    tensors.reserve_exact(tensors.len() / 4 + 64);
                }
                tensors.push(tensor);
            }
        }
        tensors.shrink_to_fit();
        Ok((tensors, metadata.unwrap_or_default()))
    }
}

fn check_name(name: &str) -> std::result::Result<(), String> {
    if name.is_empty() || name.len() > NAME_MAX_BYTES {
        return Err(format!("a tensor's name is {} bytes long; expected 1 to {NAME_MAX_BYTES}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("tensor name {name:?} holds control characters"));
    }
    Ok(())
}

/// `__metadata__`: strings only.
struct MetadataSeed<'a>(&'a mut Memory);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = Vec<(String, String)>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of strings in `__metadata__`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry::<String, String>()? {
            self.0.take(size_of_val(&pair) + pair.0.len() + pair.1.len())?;
            pairs.push(pair);
        }
        pairs.sort_unstable();
        match pairs.windows(2).find(|w| w[0].0 == w[1].0) {
            Some(twice) => Err(A::Error::custom(format!("`__metadata__` lists `{}` twice", twice[0].0))),
            None => Ok(pairs),
        }
    }
}

struct TensorSeed(String);

impl<'de> DeserializeSeed<'de> for TensorSeed {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Entry, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorSeed {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object with dtype, shape and data_offsets for tensor `{}`", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entry, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let twice = match key.as_str() {
                "dtype" => dtype.replace(map.next_value::<String>()?).is_some(),
                "shape" => shape.replace(map.next_value_seed(Numbers(RANK_MAX))?).is_some(),
                "data_offsets" => offsets.replace(map.next_value_seed(Numbers(2))?).is_some(),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    return Err(A::Error::custom(format!("tensor `{}`: unknown key `{key}`", self.0)));
                }
            };
            if twice {
                return Err(A::Error::custom(format!("tensor `{}`: key `{key}` is given twice", self.0)));
            }
        }
        let missing = |key| A::Error::custom(format!("tensor `{}`: `{key}` is missing", self.0));
        let dtype = dtype.ok_or_else(|| missing("dtype"))?;
        let shape = shape.ok_or_else(|| missing("shape"))?;
        let offsets: Vec<u64> = offsets.ok_or_else(|| missing("data_offsets"))?;
        let &[begin, end] = offsets.as_slice() else {
            return Err(A::Error::custom(format!("tensor `{}`: data_offsets must be two numbers", self.0)));
        };
        let problem = |problem: String| A::Error::custom(format!("tensor `{}`: {problem}", self.0));
        let dtype = Dtype::from_header(&dtype).ok_or_else(|| problem(unknown_dtype(&dtype)))?;
        let bytes = byte_length(dtype, &shape)
            .ok_or_else(|| problem(format!("shape {shape:?} of {dtype} overflows 64 bits")))?;
        if end.checked_sub(begin) != Some(bytes) {
            return Err(problem(format!(
                "data_offsets [{begin}, {end}] do not match shape {shape:?} of {dtype}, which takes {bytes} bytes"
            )));
        }
        Ok(Entry { name: self.0, dtype, shape, file: 0, offset: begin, bytes, coded: None, adapter: None })
    }
}

/// A list of at most so many unsigned numbers.
struct Numbers(usize);

impl<'de> DeserializeSeed<'de> for Numbers {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Vec<u64>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Numbers {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list of at most {} non-negative whole numbers", self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<u64>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(n) = seq.next_element()? {
            if numbers.len() == self.0 {
                return Err(A::Error::invalid_length(self.0 + 1, &self));
            }
            numbers.push(n);
        }
        numbers.shrink_to_fit();
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, data_bytes: u64) -> Result<Header> {
        parse_header(Path::new("m.safetensors"), json.as_bytes(), 8 + json.len() as u64 + data_bytes)
    }

    #[test]
    fn a_whole_header_gives_the_tensors_by_offset() {
        let json = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]}}  "#;
        let header = parse(json, 12).unwrap();
        let seen: Vec<_> = header.tensors.iter().map(|t| (t.name.as_str(), t.offset - header.data_start)).collect();
        assert_eq!(seen, [("a", 0), ("b", 4)]);
    }

    #[test]
    fn every_malformed_header_is_refused_with_the_tensor_named() {
        let t = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let cases = [
            (t("F32", "[2]", "[4,12]"), "begins at 4"),
            (t("F32", "[3]", "[0,8]"), "takes 12 bytes"),
            (t("F32", "[2]", "[8,0]"), "do not match"),
            (t("F32", "[2]", "[0,7]"), "do not match"),
            (t("F4", "[2]", "[0,8]"), "dequantise"),
            (t("F32", "[9223372036854775807,4]", "[0,8]"), "overflows"),
            (t("F32", "[-2]", "[0,8]"), "invalid"),
            (t("F32", "[2]", "[0,8,8]"), "invalid length"),
            (t("F32", "[1.5]", "[0,8]"), "invalid"),
            (r#"{"x":{"dtype":"F32","shape":[2]}}"#.into(), "`data_offsets` is missing"),
            (r#"{"x":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.into(), "given twice"),
            (r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"y":0}}"#.into(), "unknown key"),
            (r#"{"":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.into(), "0 bytes long"),
            ("{\"a\\u0007\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}".into(), "control"),
            (r#"{"__metadata__":{"a":1}}"#.into(), "expected a string"),
            (r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(), "twice"),
            (" {}".into(), "begin with"),
            ("{} x".into(), "trailing"),
        ];
        for (json, want) in cases {
            let message = parse(&json, 8).unwrap_err().to_string();
            assert!(message.contains(want), "{json}: {message}");
        }
    }

    #[test]
    fn a_duplicate_name_is_refused() {
        let one = r#""x":{"dtype":"F32","shape":[1],"data_offsets":"#;
        let message = parse(&format!("{{{one}[0,4]}},{one}[4,8]}}}}"), 8).unwrap_err().to_string();
        assert!(message.contains("`x`: listed twice"), "{message}");
    }

    #[test]
    fn a_file_cut_short_or_made_longer_is_refused() {
        let json = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        for (bytes, want) in [(7, "truncated"), (9, "longer")] {
            let message = parse(json, bytes).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
        }
    }

    #[test]
    fn a_header_whose_table_would_take_more_than_three_times_its_length_is_refused() {
        let header = |name: &dyn Fn(usize) -> String| {
            let entry = |i: usize| format!(r#""{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, name(i));
            format!("{{{}}}", (0..70_000).map(entry).collect::<Vec<_>>().join(","))
        };
        let message = parse(&header(&|i| format!("{i:x}")), 0).unwrap_err().to_string();
        assert!(message.contains("3 times its length"), "{message}");
        let names = |i| format!("model.layers.{i}.self_attn.q_proj.weight");
        assert_eq!(parse(&header(&names), 0).unwrap().tensors.len(), 70_000);
        let zeros = ["0"; 64].join(",");
        let entry = |i: usize| format!(r#""{i:0100}":{{"dtype":"U8","shape":[{zeros}],"data_offsets":[0,0]}}"#);
        let many = format!("{{{}}}", (0..9000).map(entry).collect::<Vec<_>>().join(","));
        assert!(parse(&many, 0).unwrap_err().to_string().contains("3 times its length"));
    }

    #[test]
    fn scalars_and_empty_tensors_are_whole() {
        let json = r#"{"e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        assert_eq!(parse(json, 4).unwrap().tensors.len(), 2);
    }
}
