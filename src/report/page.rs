//! The frame of a page: one HTML file without scripts that loads nothing, light or dark as the reader's system is.

use super::xml::Xml;
use std::fmt::{self, Display, Write};

const STYLE: &str = include_str!("page.css");

/// A page under way. Texts are escaped on their way in.
#[derive(Debug, Default)]
pub struct Page {
    pub out: String,
}

impl Page {
    /// Begins a page; `sections` are ids and headings, for the list of contents.
    pub fn begin(title: &str, about: &str, sections: &[(&str, &str)]) -> Result<Self, fmt::Error> {
        let mut out = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n");
        // Nothing may be loaded or run, whatever a file's names hold.
        out += "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n";
        out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n";
        out += "<meta name=\"color-scheme\" content=\"light dark\"/>\n";
        writeln!(out, "<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>", Xml(title))?;
        writeln!(out, "<header>\n<h1>{}</h1>\n<p class=\"about\">{}</p>\n</header>", Xml(title), Xml(about))?;
        out += "<nav aria-label=\"Contents\">\n<ul>\n";
        for (id, heading) in sections {
            writeln!(out, "<li><a href=\"#{id}\">{}</a></li>", Xml(heading))?;
        }
        out += "</ul>\n</nav>\n<main>\n";
        Ok(Self { out })
    }

    /// A section with its heading.
    pub fn section(&mut self, id: &str, heading: &str, body: impl FnOnce(&mut Self) -> fmt::Result) -> fmt::Result {
        writeln!(
            self.out,
            "<section id=\"{id}\" aria-labelledby=\"{id}-h\">\n<h2 id=\"{id}-h\">{}</h2>",
            Xml(heading)
        )?;
        body(self)?;
        self.out.write_str("</section>\n")
    }

    pub fn paragraph(&mut self, text: &str) -> fmt::Result {
        writeln!(self.out, "<p>{}</p>", Xml(text))
    }

    pub fn subheading(&mut self, text: &str) -> fmt::Result {
        writeln!(self.out, "<h3>{}</h3>", Xml(text))
    }

    /// A picture that may be wider than the page; it can be scrolled by keys.
    pub fn picture(&mut self, label: &str, svg: &str) -> fmt::Result {
        writeln!(self.out, "<figure class=\"scroll\" tabindex=\"0\" aria-label=\"{}\">\n{svg}</figure>", Xml(label))
    }

    /// A table of which the first column names the rows.
    pub fn table<C: Display>(
        &mut self,
        caption: &str,
        head: &[&str],
        rows: impl Iterator<Item = Vec<C>>,
    ) -> fmt::Result {
        writeln!(self.out, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">", Xml(caption))?;
        write!(self.out, "<table>\n<caption>{}</caption>\n<thead><tr>", Xml(caption))?;
        for name in head {
            write!(self.out, "<th scope=\"col\">{}</th>", Xml(name))?;
        }
        self.out.write_str("</tr></thead>\n<tbody>\n")?;
        for row in rows {
            self.out.write_str("<tr>")?;
            for (c, cell) in row.iter().enumerate() {
                let text = cell.to_string();
                match c {
                    0 => write!(self.out, "<th scope=\"row\">{}</th>", Xml(&text))?,
                    _ => write!(self.out, "<td>{}</td>", Xml(&text))?,
                }
            }
            self.out.write_str("</tr>\n")?;
        }
        self.out.write_str("</tbody>\n</table>\n</div>\n")
    }

    /// The same, closed until it is asked for: the numbers behind a picture.
    pub fn folded(&mut self, summary: &str, body: impl FnOnce(&mut Self) -> fmt::Result) -> fmt::Result {
        writeln!(self.out, "<details>\n<summary>{}</summary>", Xml(summary))?;
        body(self)?;
        self.out.write_str("</details>\n")
    }

    /// Text as it was written.
    pub fn verbatim(&mut self, label: &str, text: &str) -> fmt::Result {
        write!(self.out, "<pre class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">", Xml(label))?;
        let mut lines = text.lines();
        if let Some(first) = lines.next() {
            write!(self.out, "{}", Xml(first))?;
        }
        lines.try_for_each(|line| write!(self.out, "\n{}", Xml(line)))?;
        self.out.write_str("</pre>\n")
    }

    pub fn finish(mut self) -> String {
        self.out += "</main>\n</body>\n</html>\n";
        self.out
    }
}
