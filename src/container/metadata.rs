//! The `__metadata__` of a delta file's header.

use super::FORMAT;
use std::collections::BTreeMap;

/// The `__metadata__` of a delta file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Names the base, see [`super::root`].
    pub base_root: String,
    /// Names the result.
    pub result_root: String,
    /// Largest error of a value, a decimal number; `None` for an exact delta.
    pub error_bound: Option<String>,
}

const MAGIC: &str = "taskvec-delta";
/// The feature of files with payloads that have a scheme.
const LOSSY: &str = "lossy";

impl Metadata {
    /// As stored, but for the tool's name.
    pub fn fields(&self) -> BTreeMap<String, String> {
        let version = FORMAT.to_string();
        let fields = [
            ("format", MAGIC),
            ("version", &version),
            ("min_reader", &version),
            ("features_required", if self.error_bound.is_some() { LOSSY } else { "" }),
            ("base_root", &self.base_root),
            ("result_root", &self.result_root),
            ("mode", if self.error_bound.is_some() { LOSSY } else { "exact" }),
            ("error_bound", self.error_bound.as_deref().unwrap_or("0")),
        ];
        fields.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// The largest error of a value as a number; `None` for an exact delta.
    pub fn largest_error(&self) -> Option<f64> {
        self.error_bound.as_ref().and_then(|e| e.parse().ok())
    }

    /// Reads the fields of a safetensors header; the error says what is wrong.
    pub fn parse(fields: &[(String, String)]) -> Result<Self, String> {
        let get = |name: &str| {
            let found = fields.iter().find(|(k, _)| k == name);
            found
                .map(|(_, v)| v.clone())
                .ok_or_else(|| format!("not a delta file: `{name}` is missing in its metadata"))
        };
        if get("format")? != MAGIC {
            return Err(format!("not a delta file: format is `{}`, expected `{MAGIC}`", get("format")?));
        }
        let needed = get("min_reader")?;
        if !needed.parse().is_ok_and(|n: u32| n <= FORMAT) {
            return Err(format!("needs a reader of format {needed}, this one knows {FORMAT}; use a newer taskvec"));
        }
        let features = get("features_required")?;
        if let Some(feature) = features.split(',').find(|f| !matches!(*f, "" | LOSSY)) {
            return Err(format!("needs a feature that this version does not have ({feature}); use a newer taskvec"));
        }
        let root = |name: &str| {
            let root = get(name)?;
            let hex = root.len() == 64 && root.bytes().all(|b| b.is_ascii_hexdigit());
            if hex { Ok(root) } else { Err(format!("`{name}` is not a blake3 hash")) }
        };
        let error_bound = match get("mode")?.as_str() {
            "exact" => None,
            LOSSY => Some(bound(get("error_bound")?)?),
            other => return Err(format!("mode is `{other}`, expected exact or lossy")),
        };
        Ok(Self { base_root: root("base_root")?, result_root: root("result_root")?, error_bound })
    }
}

fn bound(text: String) -> Result<String, String> {
    match text.parse() {
        Ok(0.0..=f64::MAX) => Ok(text),
        _ => Err(format!("`error_bound` is `{text}`, expected a number that is not negative")),
    }
}
