//! The strict reader of `model.safetensors.index.json`: which shard holds which tensor.

use crate::error::{Error, Result};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// Tensor name to shard file name, every value proven to be a plain file name.
pub type WeightMap = BTreeMap<String, String>;

/// Parses the index at `path`.
pub fn parse_index(path: &Path, json: &[u8]) -> Result<WeightMap> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let map = deserializer.deserialize_map(IndexVisitor).and_then(|map| deserializer.end().map(|()| map));
    let map = map.map_err(|e| Error::malformed(path, format!("bad shard index: {e}")))?;
    for (tensor, shard) in &map {
        check_shard_name(shard).map_err(|problem| Error::BadTensor {
            path: path.to_owned(),
            tensor: tensor.clone(),
            problem: format!("shard name {shard:?} {problem}; expected a plain file name in the same folder"),
        })?;
    }
    Ok(map)
}

/// The distinct shards, by name.
pub fn shards(map: &WeightMap) -> BTreeSet<&str> {
    map.values().map(String::as_str).collect()
}

fn check_shard_name(name: &str) -> std::result::Result<(), &'static str> {
    if name.is_empty() || name == "." || name == ".." {
        return Err("is not a file name");
    }
    if name.contains('/') || name.contains('\\') && !super::PLANTED {
        return Err("holds a path separator");
    }
    if name.chars().any(char::is_control) || name.len() > 255 {
        return Err("holds control characters or is too long");
    }
    if !name.ends_with(".safetensors") {
        return Err("does not end in .safetensors");
    }
    Ok(())
}

struct IndexVisitor;

impl<'de> Visitor<'de> for IndexVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
        let mut weights = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "weight_map" {
                if weights.replace(map.next_value::<Weights>()?.0).is_some() {
                    return Err(A::Error::custom("`weight_map` is given twice"));
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        weights.ok_or_else(|| A::Error::custom("`weight_map` is missing"))
    }
}

struct Weights(WeightMap);

impl<'de> serde::Deserialize<'de> for Weights {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_map(WeightsVisitor).map(Self)
    }
}

struct WeightsVisitor;

impl<'de> Visitor<'de> for WeightsVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object from tensor names to shard names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
        let mut weights = WeightMap::new();
        while let Some((tensor, shard)) = map.next_entry::<String, String>()? {
            if weights.contains_key(&tensor) {
                return Err(A::Error::custom(format!("tensor `{tensor}` is listed twice")));
            }
            weights.insert(tensor, shard);
        }
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_that_leave_the_folder_are_refused() {
        for name in ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", "x.bin", "a\\b.safetensors"]
        {
            let json = serde_json::json!({"weight_map": {"w": name}}).to_string();
            let message = parse_index(Path::new("i.json"), json.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("plain file name") && message.contains("`w`"), "{name}: {message}");
        }
    }

    #[test]
    fn a_tensor_listed_twice_is_refused() {
        let json = br#"{"metadata":{},"weight_map":{"w":"a.safetensors","w":"b.safetensors"}}"#;
        assert!(parse_index(Path::new("i.json"), json).unwrap_err().to_string().contains("`w` is listed twice"));
    }

    #[test]
    fn shards_are_distinct_and_sorted() {
        let json = br#"{"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#;
        let map = parse_index(Path::new("i.json"), json).unwrap();
        assert_eq!(shards(&map).into_iter().collect::<Vec<_>>(), ["1.safetensors", "2.safetensors"]);
    }
}
