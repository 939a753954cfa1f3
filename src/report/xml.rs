//! Text in SVG and HTML: escaped, shortened, measured; and numbers with few digits.

use std::fmt::{self, Display, Write};

pub fn text(out: &mut String, x: usize, y: usize, style: &str, content: &str) -> fmt::Result {
    let space = if style.is_empty() { "" } else { " " };
    writeln!(out, r#"<text x="{x}" y="{y}"{space}{style}>{}</text>"#, Xml(content))
}

/// The last `limit` characters, from the start of a part if that is near: names differ at their ends.
pub fn shorten(name: &str, limit: usize) -> String {
    match name.char_indices().rev().nth(limit - 1) {
        Some((start, _)) if start > 0 => {
            let end = &name[start..];
            let parts = end.split_once('.').map(|(_, parts)| parts).filter(|parts| parts.len() * 2 > limit);
            format!("…{}", parts.unwrap_or(end))
        }
        _ => name.into(),
    }
}

/// Px that a text takes in a wide system font, roughly: nothing here can measure fonts.
pub fn width(text: &str, font_size: usize) -> usize {
    text.chars().map(|c| if c.is_ascii() { 6 } else { 10 }).sum::<usize>() * font_size / 10
}

/// Three significant digits.
pub fn compact(value: f64) -> String {
    let scientific = format!("{value:.2e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let trim =
        |n: &str| if n.contains('.') { n.trim_end_matches('0').trim_end_matches('.').into() } else { n.to_owned() };
    match exponent.parse::<i32>() {
        Ok(e @ -2..=3) => trim(&format!("{value:.*}", usize::try_from(2 - e).unwrap_or(0))),
        _ => trim(digits) + "e" + exponent,
    }
}

/// Untrusted text: markup is escaped; what XML forbids or what turns the reading direction becomes U+FFFD.
pub struct Xml<'a>(pub &'a str);

impl Display for Xml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}'),
            c if c.is_control() => f.write_char('\u{fffd}'),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("ab.cdefgh", 6), "…cdefgh");
        assert_eq!(shorten("äbc.defgé", 6), "…defgé");
        assert_eq!(shorten("abcdefg.h", 6), "…defg.h");
    }

    #[test]
    fn numbers_are_compact() {
        let cases = [(0.0, "0"), (1.0, "1"), (0.5, "0.5"), (12.345, "12.3"), (999.9, "1000"), (9999.0, "1e4")];
        for (value, text) in cases.into_iter().chain([(0.0123, "0.0123"), (1.5e-5, "1.5e-5"), (2e10, "2e10")]) {
            assert_eq!(compact(value), text);
        }
    }
}
