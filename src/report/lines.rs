//! Values over a number: lines that differ in colour, dashes and marks, named at their ends.

use super::charts::begin;
use super::colour::PAGE;
use super::xml::{Xml, compact, text, width};
use std::fmt::{self, Write};

const LEFT: usize = 64;
const TOP: usize = 16;
const PLOT: (usize, usize) = (520, 280);
/// Colour and dashes of each line; beyond these they repeat.
const STYLES: [(&str, &str); 6] = [
    ("var(--bar)", ""),
    ("var(--bar2)", "8 4"),
    ("var(--kept)", "2 4"),
    ("var(--bar)", "12 3 3 3"),
    ("var(--bar2)", "3 3"),
    ("var(--kept)", "14 6"),
];

/// A line through points, by x.
#[derive(Debug)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Lines over the same axis; `marked` is the x of a point that is to be seen.
pub fn lines(title: &str, axis: &str, lines: &[Line], marked: Option<f64>) -> String {
    let mut out = String::new();
    draw(title, axis, lines, marked, &mut out).expect("a String takes any text");
    out
}

/// From values to places.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn new(lines: &[Line]) -> Self {
        let all = || lines.iter().flat_map(|l| &l.points);
        let range = |values: &mut dyn Iterator<Item = f64>| {
            let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
            if low < high { (low, high) } else { (low - 0.5, low + 0.5) }
        };
        let (low, high) = range(&mut all().map(|p| p.1));
        let room = (high - low) * 0.06;
        Self { x: range(&mut all().map(|p| p.0)), y: (low - room, high + room) }
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let part = |v: f64, (low, high): (f64, f64)| (v - low) / (high - low);
        (LEFT as f64 + part(x, self.x) * PLOT.0 as f64, TOP as f64 + (1.0 - part(y, self.y)) * PLOT.1 as f64)
    }
}

/// Round numbers in a range, four to nine of them.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let power = 10f64.powf(((high - low) / 4.0).log10().floor());
    let step = [5.0, 2.0, 1.0].map(|s| s * power).into_iter().find(|s| (high - low) / s >= 3.0).unwrap_or(power);
    ((low / step).ceil() as i64..=(high / step).floor() as i64).map(|i| i as f64 * step).collect()
}

fn draw(title: &str, axis: &str, lines: &[Line], marked: Option<f64>, out: &mut String) -> fmt::Result {
    let frame = Frame::new(lines);
    let names = lines.iter().map(|l| width(&l.name, 12)).max().unwrap_or(0);
    let size = (LEFT + PLOT.0 + names + 40, TOP + PLOT.1 + 48);
    begin(out, size, title, &format!("Over {axis}. The table below has the same numbers."))?;
    axes(&frame, axis, lines, out)?;
    if let Some(x) = marked {
        let (x, _) = frame.place((x, frame.y.0));
        let (y, end, muted) = (TOP, TOP + PLOT.1, PAGE.muted);
        writeln!(out, r#"<path d="M{x:.1} {y}V{end}" stroke="{muted}" stroke-width="6" opacity="0.25"/>"#)?;
    }
    let mut ends: Vec<(f64, usize)> = Vec::new();
    for (i, line) in lines.iter().enumerate().filter(|(_, l)| !l.points.is_empty()) {
        one(&frame, axis, line, i, out)?;
        ends.push((frame.place(line.points[line.points.len() - 1]).1, i));
    }
    // Names that would lie on each other are moved down.
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = 0.0;
    for (y, i) in ends {
        let y = y.max(free);
        free = y + 15.0;
        let fill = format!(r#"fill="{}""#, STYLES[i % STYLES.len()].0);
        text(out, LEFT + PLOT.0 + 12, y as usize + 4, &fill, &lines[i].name)?;
    }
    out.write_str("</svg>\n")
}

fn axes(frame: &Frame, axis: &str, lines: &[Line], out: &mut String) -> fmt::Result {
    let (right, bottom) = (LEFT + PLOT.0, TOP + PLOT.1);
    for tick in ticks(frame.y) {
        let (_, y) = frame.place((frame.x.0, tick));
        writeln!(out, r#"<path d="M{LEFT} {y:.1}H{right}" stroke="{}" stroke-width="0.5"/>"#, PAGE.grid)?;
        text(out, LEFT - 8, y as usize + 4, &format!(r#"text-anchor="end" fill="{}""#, PAGE.muted), &compact(tick))?;
    }
    writeln!(out, r#"<path d="M{LEFT} {bottom}H{right}" stroke="{}"/>"#, PAGE.grid)?;
    let mut xs: Vec<f64> = lines.iter().flat_map(|l| &l.points).map(|p| p.0).collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    let every = 1 + xs.len() / 14;
    for x in xs.iter().step_by(every) {
        let (at, _) = frame.place((*x, frame.y.0));
        text(out, at as usize, bottom + 18, &format!(r#"text-anchor="middle" fill="{}""#, PAGE.muted), &compact(*x))?;
    }
    text(out, LEFT + PLOT.0 / 2, bottom + 38, r#"text-anchor="middle""#, axis)
}

fn one(frame: &Frame, axis: &str, line: &Line, index: usize, out: &mut String) -> fmt::Result {
    let (colour, dashes) = STYLES[index % STYLES.len()];
    let places: Vec<(f64, f64)> = line.points.iter().map(|p| frame.place(*p)).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    let dashes = if dashes.is_empty() { String::new() } else { format!(r#" stroke-dasharray="{dashes}""#) };
    writeln!(out, r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>"#, path.join("L"))?;
    for ((x, y), (at, value)) in places.iter().zip(&line.points) {
        let says = format!("{}, {axis} {}: {}", line.name, compact(*at), compact(*value));
        let title = Xml(&says);
        match index % 3 {
            0 => write!(out, r#"<circle cx="{x:.1}" cy="{y:.1}" r="4""#)?,
            1 => write!(out, r#"<rect x="{:.1}" y="{:.1}" width="7" height="7""#, x - 3.5, y - 3.5)?,
            _ => write!(out, r#"<path d="M{x:.1} {:.1}l5 9h-10z""#, y - 5.0)?,
        }
        let end = match index % 3 {
            0 => "circle",
            1 => "rect",
            _ => "path",
        };
        writeln!(out, r#" fill="{colour}"><title>{title}</title></{end}>"#)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks((1.0, 9.0)), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks((61.0, 79.0)), [65.0, 70.0, 75.0]);
    }

    #[test]
    fn one_point_is_drawn() {
        let svg = lines("a", "eta", &[Line { name: "x".into(), points: vec![(0.5, 1.0)] }], Some(0.5));
        assert!(svg.contains("<circle") && !svg.contains("NaN") && !svg.contains("inf"));
    }
}
