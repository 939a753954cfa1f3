//! Byte counts as people write and read them.

use std::fmt;

/// A number of bytes that prints as `2.20 GB` (powers of ten, three figures).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in ["kB", "MB", "GB", "TB", "PB"] {
            if value < 1000.0 {
                break;
            }
            (value, unit) = (value / 1000.0, next);
        }
        let digits = if unit == "B" || value >= 100.0 { 0 } else { 1 + usize::from(value < 10.0) };
        f.pad(&format!("{value:.digits$} {unit}"))
    }
}

/// Reads `512MiB`, `1.5GB`, `5B` (mergekit: billions of bytes), `200M`, `4096`.
///
/// K, M and B alone are powers of ten as in mergekit; `KB` to `TB` too; `KiB` to `TiB` are powers of two.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().ok()?;
    let unit = match text[split..].trim().to_ascii_lowercase().as_str() {
        "" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "b" | "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = (number * unit).round();
    (bytes >= 0.0 && bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_mergekit_and_as_people_write_them() {
        for (text, want) in [
            ("5B", 5_000_000_000),
            ("200MB", 200_000_000),
            ("4.5GiB", 4_831_838_208),
            ("64MiB", 67_108_864),
            ("4096", 4096),
        ] {
            assert_eq!(parse_size(text), Some(want), "{text}");
        }
        for text in ["", "MB", "5X", "-1", "1e999", "1..2"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_print_with_three_figures() {
        let shown = [0, 999, 1000, 2_200_123_456, 812_345_678].map(|n| Bytes(n).to_string());
        assert_eq!(shown, ["0 B", "999 B", "1.00 kB", "2.20 GB", "812 MB"]);
    }
}
