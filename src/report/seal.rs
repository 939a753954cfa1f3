//! The hash that `taskvec.json` has of itself: the last field of `run`, over every byte that stands before it.

/// Between the last field before the hash and the hash.
const LEAD: &str = ",\n    \"report_blake3\": \"";
/// Between the hash and the end of the file.
const END: &str = "\"\n  }\n}\n";
/// The end of an indented report that has no hash.
const OPEN_END: &str = "\n  }\n}";

/// A report, indented JSON that ends with the object `run`, with its hash.
pub fn seal(json: &str) -> String {
    let start = json.strip_suffix(OPEN_END).unwrap_or_else(|| unreachable!("`run` is the last field of a report"));
    format!("{start}{LEAD}{}{END}", blake3::hash(start.as_bytes()))
}

/// Whether every byte of a report is the one that was written.
pub fn is_sealed(report: &[u8]) -> bool {
    let hash_bytes = 2 * blake3::OUT_LEN;
    let Some(at) = report.len().checked_sub(LEAD.len() + hash_bytes + END.len()) else { return false };
    let (start, tail) = report.split_at(at);
    tail == format!("{LEAD}{}{END}", blake3::hash(start)).as_bytes()
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
