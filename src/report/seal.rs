//! Text that carries its own hash: whatever is damaged is told from what was written.

/// Where the hash stands: between `lead` and `end`, behind every byte that it is over.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    lead: &'static str,
    end: &'static str,
}

/// Of `taskvec.json`, indented: the last field of `run`, which is its last field.
const REPORT: Seal = Seal { lead: ",\n    \"report_blake3\": \"", end: "\"\n  }\n}\n" };
/// The end of an indented report that has no hash.
const OPEN_END: &str = "\n  }\n}";

/// Of a JSON object in one line: its last field.
pub const LINE: Seal = Seal { lead: ",\"blake3\":\"", end: "\"}\n" };

impl Seal {
    /// The text that begins so, with its hash, and the hash.
    pub fn close(self, start: &str) -> (String, String) {
        let hash = blake3::hash(start.as_bytes()).to_hex().to_string();
        (format!("{start}{}{hash}{}", self.lead, self.end), hash)
    }

    /// What stands before the hash, and the hash; `None` if a byte is not the one that was written.
    pub fn open(self, text: &[u8]) -> Option<(&[u8], String)> {
        let at = text.len().checked_sub(self.lead.len() + 2 * blake3::OUT_LEN + self.end.len())?;
        let (start, tail) = text.split_at(at);
        let hash = blake3::hash(start).to_hex().to_string();
        (tail == format!("{}{hash}{}", self.lead, self.end).as_bytes()).then_some((start, hash))
    }
}

/// A report, indented JSON that ends with the object `run`, with its hash.
pub fn seal(json: &str) -> String {
    let start = json.strip_suffix(OPEN_END).unwrap_or_else(|| unreachable!("`run` is the last field of a report"));
    REPORT.close(start).0
}

/// Whether every byte of a report is the one that was written.
pub fn is_sealed(report: &[u8]) -> bool {
    REPORT.open(report).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_report_is_json_and_no_bit_of_it_can_change() {
        let report = serde_json::json!({"outputs": ["a"], "run": {"threads": 2}});
        let mut sealed = seal(&serde_json::to_string_pretty(&report).unwrap()).into_bytes();
        let parsed: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
        assert_eq!((&parsed["outputs"], &parsed["run"]["threads"]), (&report["outputs"], &report["run"]["threads"]));
        assert!(is_sealed(&sealed));
        for bit in 0..sealed.len() * 8 {
            sealed[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_sealed(&sealed), "bit {bit}");
            sealed[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(!is_sealed(&sealed[1..]) && !is_sealed(b"") && !is_sealed(&[&sealed[..], b"\n"].concat()));
    }
}
