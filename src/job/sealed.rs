//! JSON that ends with its own hash: what is damaged is told from what was written.

use crate::error::{Error, Result};
use crate::report::LINE;
use serde::Serialize;

/// JSON that ends with its own hash, and the hash.
pub fn seal<T: Serialize>(content: &T) -> Result<(String, String)> {
    let json = serde_json::to_string(content).map_err(|e| Error::Usage(format!("record: {e}")))?;
    Ok(LINE.close(json.strip_suffix('}').unwrap_or(&json)))
}

/// The content of JSON that ends with its own hash, and the hash; `None` if that is not the one at its end.
pub fn unseal(text: &str) -> Option<(String, String)> {
    let (start, hash) = LINE.open(text.as_bytes())?;
    Some((format!("{}}}", std::str::from_utf8(start).ok()?), hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_of_a_sealed_file_is_noticed() {
        let (text, hash) = seal(&serde_json::json!({"run": "a", "n": 1})).unwrap();
        let whole: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((whole["n"].as_u64(), whole["blake3"].as_str()), (Some(1), Some(hash.as_str())));
        assert!(unseal(&text).is_some());
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(unseal(&String::from_utf8(bytes).unwrap()).is_none(), "byte {at}");
            assert!(unseal(&text[..at]).is_none(), "cut at {at}");
        }
    }
}
