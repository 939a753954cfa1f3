//! Aligned columns for terminals; names from files are escaped.

use std::fmt;

/// Rows of cells. The first column is left-aligned, the others right-aligned.
#[derive(Debug, Default)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// With a heading.
    pub fn new(heading: &[&str]) -> Self {
        Self(vec![heading.iter().map(ToString::to_string).collect()])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().map(|c| escape(&c)).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.0.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.0 {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[c] - cell.chars().count());
                line += &if c == 0 { format!("{cell}{pad}") } else { format!("  {pad}{cell}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Control characters, and those that turn the direction of text or take no room, as `\u{..}`: a file's names cannot drive
/// the terminal, nor look like others.
pub fn escape(text: &str) -> String {
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().flat_map(|c| if hides(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_are_shown() {
        let mut table = Table::new(&["name", "n"]);
        table.row(["a\x1b[31m".to_owned(), "1".to_owned()]);
        table.row(["bc".to_owned(), "100".to_owned()]);
        assert_eq!(table.to_string(), "name           n\na\\u{1b}[31m    1\nbc           100\n");
        assert_eq!(escape("a\u{202e}b\u{7f}c\u{feff}é"), "a\\u{202e}b\\u{7f}c\\u{feff}é");
    }
}
