//! The smaller pictures of a page: bars, bars in time, matrices of pairs, and a map of kinds over depth.

use super::colour::{PAGE, viridis};
use super::xml::{Xml, shorten, text, width};
use std::fmt::{self, Write};

const LABELS: usize = 30;
const BAR: usize = 420;
const ROW: usize = 26;
const TOP: usize = 6;

/// A bar with its name and what is written behind it.
#[derive(Debug)]
pub struct Bar {
    pub label: String,
    /// Where it begins, 0 to 1.
    pub start: f64,
    /// How long it is, 0 to 1.
    pub length: f64,
    pub says: String,
    /// Of the other group.
    pub second: bool,
}

/// Bars, one below the other.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    let mut out = String::new();
    draw_bars(title, bars, &mut out).expect("a String takes any text");
    out
}

pub(super) fn begin(out: &mut String, (w, h): (usize, usize), title: &str, about: &str) -> fmt::Result {
    write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{w}" height="{h}" viewBox="0 0 {w} {h}" "#
    )?;
    writeln!(out, r#"font-size="12" fill="{}">"#, PAGE.ink)?;
    writeln!(out, "<title>{}</title>\n<desc>{}</desc>", Xml(title), Xml(about))
}

fn draw_bars(title: &str, bars: &[Bar], out: &mut String) -> fmt::Result {
    let label = |b: &Bar| shorten(&b.label, LABELS);
    let left = 12 + bars.iter().map(|b| width(&label(b), 12)).max().unwrap_or(0);
    let says = bars.iter().map(|b| width(&b.says, 12)).max().unwrap_or(0);
    begin(out, (left + BAR + says + 40, TOP + bars.len() * ROW + 8), title, "The table below has the same numbers.")?;
    for (i, b) in bars.iter().enumerate() {
        let (y, start) = (TOP + i * ROW, unit(b.start) * BAR as f64);
        let length = (unit(b.length) * BAR as f64).min(BAR as f64 - start).max(if b.length > 0.0 { 1.0 } else { 0.0 });
        let fill = if b.second { "var(--bar2)" } else { "var(--bar)" };
        writeln!(out, "<g><title>{}: {}</title>", Xml(&b.label), Xml(&b.says))?;
        text(out, left - 8, y + 15, r#"text-anchor="end""#, &label(b))?;
        writeln!(
            out,
            r#"<rect x="{:.1}" y="{y}" width="{length:.1}" height="18" fill="{fill}"/>"#,
            left as f64 + start
        )?;
        let x = left + (start + length) as usize + 8;
        text(out, x, y + 15, &format!(r#"fill="{}""#, PAGE.muted), &b.says)?;
        out.write_str("</g>\n")?;
    }
    out.write_str("</svg>\n")
}

fn unit(value: f64) -> f64 {
    if value.is_finite() { value.clamp(0.0, 1.0) } else { 0.0 }
}

/// A value for each pair of `names`.
pub fn matrix(title: &str, names: &[String], value: impl Fn(usize, usize) -> Option<f64>) -> String {
    let mut out = String::new();
    draw_matrix(title, names, value, &mut out).expect("a String takes any text");
    out
}

fn draw_matrix(
    title: &str,
    names: &[String],
    value: impl Fn(usize, usize) -> Option<f64>,
    out: &mut String,
) -> fmt::Result {
    let n = names.len();
    let cell = if n <= 12 { 52 } else { (560 / n).clamp(14, 30) };
    let height = if n <= 12 { 30 } else { cell };
    let written = names.iter().map(|s| width(&shorten(s, 24), 12)).max().unwrap_or(0);
    let (left, slant) = (14 + written, written * 3 / 4);
    let top = 40 + slant;
    let all =
        (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter_map(|(i, j)| value(i, j)).filter(|v| v.is_finite());
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let size = ((left + n * cell + slant + 24).max(420), top + n * height + 12);
    begin(out, size, title, "Rows and columns are models. The table below has the same numbers.")?;
    if low <= high {
        scale_bar(out, (14, 4), &format!("{low:.3}"), &format!("{high:.3}"))?;
    }
    for (j, name) in names.iter().enumerate() {
        let x = left + j * cell + cell / 2;
        let (y, label) = (top - 6, shorten(name, 24));
        writeln!(out, r#"<text x="{x}" y="{y}" transform="rotate(-45 {x} {y})">{}</text>"#, Xml(&label))?;
        text(out, left - 8, top + j * height + height / 2 + 4, r#"text-anchor="end""#, &label)?;
    }
    for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let Some(v) = value(i, j).filter(|v| v.is_finite()) else { continue };
        let at = if high > low { (v - low) / (high - low) } else { 0.5 };
        let (x, y) = (left + j * cell, top + i * height);
        write!(out, "<g><title>{}, {}: {v:.4}</title>", Xml(&names[i]), Xml(&names[j]))?;
        let (w, h, fill) = (cell - 1, height - 1, viridis(at));
        write!(out, r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{fill}"/>"#)?;
        if n <= 12 {
            let fill = if at < 0.42 { "#fff" } else { "#000" };
            let style = format!(r#"text-anchor="middle" font-size="11" fill="{fill}""#);
            text(out, x + cell / 2, y + height / 2 + 4, &style, &format!("{v:.3}"))?;
        }
        out.write_str("</g>\n")?;
    }
    out.write_str("</svg>\n")
}

/// From dark to light, with what its ends mean.
fn scale_bar(out: &mut String, (x, y): (usize, usize), low: &str, high: &str) -> fmt::Result {
    const STEPS: usize = 40;
    let first = x + width(low, 12) + 8;
    text(out, x, y + 12, "", low)?;
    for i in 0..STEPS {
        let (x, fill) = (first + i * 5, viridis(i as f64 / (STEPS - 1) as f64));
        writeln!(out, r#"<rect x="{x}" y="{y}" width="5" height="14" fill="{fill}" shape-rendering="crispEdges"/>"#)?;
    }
    text(out, first + STEPS * 5 + 8, y + 12, "", high)
}

/// What is known of all tensors of one kind in one block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Density {
    pub elements: u64,
    pub changed: u64,
    /// Tensors, and how many of them are pruned.
    pub tensors: usize,
    pub pruned: usize,
}

impl Density {
    pub fn share(&self) -> f64 {
        if self.elements == 0 { 0.0 } else { unit(self.changed as f64 / self.elements as f64) }
    }
}

/// Rows of kinds, columns of blocks: how much of each differs from the base.
pub fn depth_map(title: &str, columns: &[u32], rows: &[(String, Vec<Option<Density>>)]) -> String {
    let mut out = String::new();
    draw_depth_map(title, columns, rows, &mut out).expect("a String takes any text");
    out
}

fn draw_depth_map(
    title: &str,
    columns: &[u32],
    rows: &[(String, Vec<Option<Density>>)],
    out: &mut String,
) -> fmt::Result {
    let column = (900 / columns.len().max(1)).clamp(8, 36);
    let left = 14 + rows.iter().map(|(name, _)| width(name, 12)).max().unwrap_or(0);
    let (top, height) = (34, 24);
    let size = ((left + columns.len() * column + 20).max(460), top + rows.len() * height + 26);
    begin(
        out,
        size,
        title,
        "Rows are kinds of tensors, columns are blocks by depth. The table below has the same numbers.",
    )?;
    scale_bar(out, (14, 4), "0 % differ", "100 %")?;
    let x = 14 + width("0 % differ", 12) + 8 + 200 + 8 + width("100 %", 12) + 16;
    writeln!(out, r#"<rect x="{x}.5" y="4.5" width="13" height="13" fill="{}" stroke="{}"/>"#, PAGE.pruned, PAGE.grid)?;
    text(out, x + 20, 16, "", "all pruned")?;
    for (r, (name, cells)) in rows.iter().enumerate() {
        let y = top + r * height;
        text(out, left - 8, y + 15, r#"text-anchor="end""#, name)?;
        for (c, cell) in cells.iter().enumerate() {
            let Some(d) = cell else { continue };
            let pruned = d.pruned == d.tensors;
            let fill = if pruned { PAGE.pruned.to_owned() } else { viridis(d.share()) };
            let (x, w, h) = (left + c * column, column - 2, height - 3);
            let says = format!(
                "{name}, block {}: {:.1} % differ; {} of {} tensors pruned",
                columns[c],
                100.0 * d.share(),
                d.pruned,
                d.tensors
            );
            writeln!(
                out,
                r#"<rect x="{x}.5" y="{y}.5" width="{w}" height="{h}" fill="{fill}" stroke="{}"><title>{}</title></rect>"#,
                PAGE.grid,
                Xml(&says)
            )?;
        }
    }
    let every = 1 + columns.len() * 24 / (columns.len() * column).max(1);
    let style = format!(r#"text-anchor="middle" font-size="11" fill="{}""#, PAGE.muted);
    text(out, left - 8, top + rows.len() * height + 14, &style.replace("middle", "end"), "block")?;
    for (c, block) in columns.iter().enumerate().step_by(every) {
        text(out, left + c * column + column / 2, top + rows.len() * height + 14, &style, &block.to_string())?;
    }
    out.write_str("</svg>\n")
}
