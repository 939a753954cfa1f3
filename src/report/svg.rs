//! The picture of `taskvec saliency --svg`: scores, the tasks' masks, the shared mask (as Fig. 6 of arXiv 2506.09093).
//!
//! Rows are layers, columns are tasks. Presentation attributes only, no scripts, styles or dates: a picture pasted into a
//! page changes nothing around it.

use std::fmt::{self, Display, Write};

/// What the picture shows.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The headline.
    pub title: &'a str,
    /// Names of the tasks.
    pub tasks: &'a [String],
    /// Names of the layers.
    pub layers: &'a [String],
    /// `[layer][task]`
    pub scores: &'a [Vec<f64>],
    /// `[layer][task]`
    pub kept_by: &'a [Vec<bool>],
    /// `[layer]`: the shared mask.
    pub kept: &'a [bool],
    /// Fraction of layers that each task prunes.
    pub eta: f64,
}

/// Red, green, blue of viridis at equal steps: lightness grows with the score, for all kinds of colour vision.
const VIRIDIS: [[u8; 9]; 3] = [
    [68, 71, 59, 44, 33, 40, 94, 173, 253],
    [1, 45, 82, 114, 145, 174, 201, 220, 231],
    [84, 123, 139, 142, 140, 128, 98, 48, 37],
];
const ZERO: &str = "#c4c4c4";
const INVALID: &str = "#d81b60";
const KEPT: &str = "#262b36";
const PRUNED: &str = "#eceff3";
/// Behind the masks: outlines and grid.
const GRID: &str = "#b4bac3";
const INK: &str = "#1f2328";
const MUTED: &str = "#59636e";
const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const PANELS: [&str; 3] = ["Saliency (log scale)", "Masks of the tasks", "Shared mask (OR)"];

// Lengths in px.
const MARGIN: usize = 24;
const LEGEND_TOP: usize = 82;
const LEGEND_BAR: usize = 300;
const HEADINGS: usize = 148;
const PANEL_GAP: usize = 28;
const BLOCK_GAP: usize = 4;

/// The picture as SVG text; the same bytes for the same input.
pub fn svg(picture: &Picture<'_>) -> String {
    let layers = picture.layers.len();
    assert_eq!([picture.scores.len(), picture.kept_by.len(), picture.kept.len()], [layers; 3], "one row per layer");
    let mut out = String::new();
    draw(&Layout::new(picture), &Scale::new(picture.scores), &mut out).expect("a String takes any text");
    out
}

fn draw(layout: &Layout<'_>, scale: &Scale, out: &mut String) -> fmt::Result {
    begin(layout, out)?;
    legend(scale, layout.picture.scores, out)?;
    headings(layout, out)?;
    labels(layout, out)?;
    writeln!(out, r#"<g shape-rendering="crispEdges">"#)?;
    outlines(layout, out)?;
    for layer in 0..layout.rows.len() {
        row(layout, scale, layer, out)?;
    }
    out.write_str("</g>\n</svg>\n")
}

/// Consecutive layers whose block is the same.
struct Block<'a> {
    first: usize,
    layers: &'a [String],
    /// `model.layers.3`, if several layers are in it: they are named within it.
    name: Option<&'a str>,
}

fn blocks(layers: &[String]) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut first = 0;
    for layers in layers.chunk_by(|a, b| block_name(a) == block_name(b)) {
        blocks.push(Block { first, layers, name: block_name(&layers[0]).filter(|_| layers.len() > 1) });
        first += layers.len();
    }
    blocks
}

/// A name up to its first whole number between dots.
fn block_name(layer: &str) -> Option<&str> {
    let mut end = 0;
    for part in layer.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            return Some(&layer[..end]);
        }
        end += 1;
    }
    None
}

/// What all names begin with, in whole parts; each name keeps two parts at least.
fn common_prefix(names: &[String]) -> &str {
    let first = names.first().map_or("", String::as_str);
    let ends = first.rmatch_indices('.').skip(1).map(|(dot, _)| &first[..=dot]);
    ends.into_iter().find(|prefix| names.iter().all(|n| n.starts_with(prefix))).unwrap_or("")
}

/// A text beside the rows and the height of its middle.
type Label = (usize, String);

/// Where everything stands.
struct Layout<'a> {
    picture: &'a Picture<'a>,
    blocks: Vec<Block<'a>>,
    row_height: usize,
    column_width: usize,
    /// Top of each layer's row.
    rows: Vec<usize>,
    /// Left edge of each of [`PANELS`].
    panels: [usize; 3],
    layer_labels: Vec<Label>,
    block_labels: Vec<Label>,
    /// Foot of the tasks' names.
    names_end: usize,
    width: usize,
}

impl<'a> Layout<'a> {
    fn new(picture: &'a Picture<'a>) -> Self {
        let (layers, tasks) = (picture.layers, picture.tasks.len());
        let row_height = (1100 / layers.len().max(1)).clamp(3, 20);
        let column_width = (240 / tasks.max(1)).clamp(16, 40);
        let slant = picture.tasks.iter().map(|t| width(&shorten(t, 24), 11) * 3 / 4).max().unwrap_or(0);
        let names_end = HEADINGS + 16 + slant;
        let blocks = blocks(layers);
        let rows = rows(&blocks, names_end + 6, row_height);
        let mut layout = Self {
            picture,
            blocks,
            row_height,
            column_width,
            rows,
            panels: [0; 3],
            layer_labels: Vec::new(),
            block_labels: Vec::new(),
            names_end,
            width: 0,
        };
        layout.place_labels();
        layout.place_panels();
        let names = layout.panels[1] + tasks * column_width + slant;
        let panels = (layout.panels[2] + width(PANELS[2], 13)).max(names);
        layout.width = panels.max(MARGIN + width(picture.title, 19)).max(600) + MARGIN;
        layout
    }

    /// High rows are all named, their blocks to the left; otherwise a block stands for its layers.
    fn place_labels(&mut self) {
        let (mut layers, mut blocks) = (Vec::new(), Vec::new());
        let prefix = common_prefix(self.picture.layers);
        for block in &self.blocks {
            if let Some(name) = block.name {
                let (top, height) = self.extent(block);
                let label = (top + height / 2, shorten(self.block_label(name, prefix), 28));
                if self.names_all() { blocks.push(label) } else { layers.push(label) }
            }
            if self.names_all() || block.name.is_none() {
                layers.extend(block.layers.iter().zip(&self.rows[block.first..]).map(|(name, top)| {
                    let rest = name.strip_prefix(block.name.unwrap_or(prefix)).unwrap_or(name);
                    (top + self.row_height / 2, shorten(rest.trim_start_matches('.'), 36))
                }));
            }
        }
        self.layer_labels = thinned(layers, self.font_size() + 1);
        self.block_labels = thinned(blocks, self.font_size() + 1);
    }

    fn place_panels(&mut self) {
        let columns = self.picture.tasks.len() * self.column_width;
        let step = |heading: &str| columns.max(width(heading, 13)) + PANEL_GAP;
        let block_names = self.widest(&self.block_labels);
        let first = MARGIN + block_names + if block_names > 0 { 28 } else { 14 } + self.widest(&self.layer_labels);
        let second = first + step(PANELS[0]);
        self.panels = [first, second, second + step(PANELS[1])];
    }

    /// `layers.3`, or more of the name where two stacks have such a block.
    fn block_label<'n>(&self, name: &'n str, prefix: &str) -> &'n str {
        let short = |name: &'n str| name.rmatch_indices('.').nth(1).map_or(name, |(dot, _)| &name[dot..]);
        let others = self.blocks.iter().filter_map(|b| b.name).filter(|&other| other != name);
        let ambiguous = others.clone().any(|other| other.ends_with(short(name)));
        if ambiguous { name.strip_prefix(prefix).unwrap_or(name) } else { short(name).trim_start_matches('.') }
    }

    fn names_all(&self) -> bool {
        self.row_height >= 9
    }

    fn font_size(&self) -> usize {
        if self.names_all() { (self.row_height - 1).min(11) } else { 9 }
    }

    fn widest(&self, labels: &[Label]) -> usize {
        labels.iter().map(|(_, text)| width(text, self.font_size())).max().unwrap_or(0)
    }

    /// Low rows touch: lines between them would outweigh them.
    fn cell_height(&self) -> usize {
        if self.row_height < 6 { self.row_height } else { self.row_height - 1 }
    }

    /// Top and height of a block's cells.
    fn extent(&self, block: &Block<'_>) -> (usize, usize) {
        let top = self.rows[block.first];
        (top, self.rows[block.first + block.layers.len() - 1] + self.cell_height() - top)
    }
}

/// The top of each row; blocks of several layers stand a little apart.
fn rows(blocks: &[Block<'_>], mut y: usize, row_height: usize) -> Vec<usize> {
    let (mut rows, mut before) = (Vec::new(), 0);
    for block in blocks {
        let layers = block.layers.len();
        if before > 0 && before.max(layers) > 1 {
            y += BLOCK_GAP;
        }
        rows.extend((0..layers).map(|i| y + i * row_height));
        y += layers * row_height;
        before = layers;
    }
    rows
}

/// Drops labels that would touch the one above.
fn thinned(labels: Vec<Label>, distance: usize) -> Vec<Label> {
    let mut next = 0;
    let fits = |label: &Label| {
        let fits = label.0 >= next;
        next = if fits { label.0 + distance } else { next };
        fits
    };
    labels.into_iter().filter(fits).collect()
}

/// From scores to colours, over the range of the positive finite scores.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn new(scores: &[Vec<f64>]) -> Self {
        let valid = || scores.iter().flatten().copied().filter(|&s| s > 0.0 && s.is_finite());
        Self { low: valid().fold(f64::INFINITY, f64::min), high: valid().fold(0.0, f64::max) }
    }

    /// 0 for the lowest score to 1 for the highest; one half if they are equal.
    fn position(&self, score: f64) -> f64 {
        let (low, high) = (self.low.log10(), self.high.log10());
        if low < high { (score.log10() - low) / (high - low) } else { 0.5 }
    }

    fn colour(&self, score: f64) -> String {
        match score {
            0.0 => ZERO.into(),
            s if s > 0.0 && s.is_finite() => viridis(self.position(s)),
            _ => INVALID.into(),
        }
    }

    /// Powers of ten, or 1-2-5 steps, or all digits, whichever first gives three; else the two ends.
    fn ticks(&self) -> Vec<f64> {
        let exponents = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let steps = ["1", "125", "123456789"].map(|digits| {
            let numbers = exponents.clone().flat_map(|e| digits.chars().map(move |d| format!("{d}e{e}")));
            numbers.filter_map(|n| n.parse().ok()).filter(|n| (self.low..=self.high).contains(n)).collect()
        });
        steps.into_iter().find(|ticks: &Vec<f64>| ticks.len() > 2).unwrap_or_else(|| vec![self.low, self.high])
    }
}

/// The colour at 0 to 1.
fn viridis(at: f64) -> String {
    let at = at * 8.0;
    let i = (at as usize).min(7);
    let [r, g, b] = VIRIDIS.map(|channel| {
        let (a, b) = (f64::from(channel[i]), f64::from(channel[i + 1]));
        (a + (b - a) * (at - i as f64)).round() as u8
    });
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn begin(layout: &Layout<'_>, out: &mut String) -> fmt::Result {
    let Picture { title, layers, kept, eta, .. } = layout.picture;
    let summary = format!("eta {eta}: {} of {} layers kept", kept.iter().filter(|&&kept| kept).count(), layers.len());
    let (w, h) = (layout.width, layout.rows.last().map_or(layout.names_end, |y| y + layout.row_height) + MARGIN);
    write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{w}" height="{h}" viewBox="0 0 {w} {h}""#
    )?;
    writeln!(out, r#" font-family="{FONTS}" font-size="11" fill="{INK}">"#)?;
    writeln!(out, "<title>{}</title>\n<desc>{summary}. Rows are layers, columns are tasks:", Xml(title))?;
    writeln!(out, "the scores, the tasks' masks (dark: kept, light: pruned), the shared mask.</desc>")?;
    writeln!(out, r##"<rect width="{w}" height="{h}" rx="6" fill="#fff"/>"##)?;
    text(out, MARGIN, 40, r#"font-size="18" font-weight="600""#, title)?;
    text(out, MARGIN, 62, &format!(r#"font-size="13" fill="{MUTED}""#), &summary)
}

fn kept_by(picture: &Picture<'_>, task: usize) -> usize {
    picture.kept_by.iter().filter(|row| row[task]).count()
}

fn legend(scale: &Scale, scores: &[Vec<f64>], out: &mut String) -> fmt::Result {
    let mut x = MARGIN;
    if scale.high > 0.0 {
        colour_bar(scale, out)?;
        x += LEGEND_BAR + PANEL_GAP;
    }
    let seen = |fill: &str| scores.iter().flatten().any(|&s| scale.colour(s) == fill);
    for (fill, meaning) in [(ZERO, "score 0"), (INVALID, "invalid score"), (KEPT, "kept"), (PRUNED, "pruned")] {
        if fill == KEPT || fill == PRUNED || seen(fill) {
            writeln!(
                out,
                r#"<rect x="{x}.5" y="{LEGEND_TOP}.5" width="13" height="13" fill="{fill}" stroke="{GRID}"/>"#
            )?;
            text(out, x + 20, LEGEND_TOP + 11, "", meaning)?;
            x += 36 + width(meaning, 11);
        }
    }
    Ok(())
}

fn colour_bar(scale: &Scale, out: &mut String) -> fmt::Result {
    write!(out, r#"<linearGradient id="taskvec-viridis">"#)?;
    for at in (0..=8).map(|i| f64::from(i) / 8.0) {
        write!(out, r#"<stop offset="{at}" stop-color="{}"/>"#, viridis(at))?;
    }
    let (y, size) = (LEGEND_TOP, format!(r#"width="{LEGEND_BAR}" height="14""#));
    writeln!(out, "</linearGradient>\n<rect x=\"{MARGIN}\" y=\"{y}\" {size} fill=\"url(#taskvec-viridis)\"/>")?;
    let place = |tick: f64| MARGIN + (scale.position(tick) * LEGEND_BAR as f64).round() as usize;
    let ticks = scale.ticks().into_iter().map(|tick| (place(tick), compact(tick))).collect();
    let style = format!(r#"font-size="10" fill="{MUTED}" text-anchor="middle""#);
    for (x, tick) in thinned(ticks, 34) {
        writeln!(out, r#"<path d="M{x} {}v5" stroke="{MUTED}"/>"#, y + 14)?;
        text(out, x, y + 30, &style, &tick)?;
    }
    Ok(())
}

fn headings(layout: &Layout<'_>, out: &mut String) -> fmt::Result {
    for (heading, x) in PANELS.iter().zip(layout.panels) {
        text(out, x, HEADINGS, r#"font-size="12" font-weight="600""#, heading)?;
    }
    let (y, layers) = (layout.names_end, layout.rows.len());
    for left in &layout.panels[..2] {
        for (task, name) in layout.picture.tasks.iter().enumerate() {
            let x = left + task * layout.column_width + layout.column_width / 2 + 3;
            let (kept, label) = (kept_by(layout.picture, task), shorten(name, 24));
            write!(out, r#"<text x="{x}" y="{y}" transform="rotate(-45 {x} {y})">"#)?;
            writeln!(out, "<title>{}: keeps {kept} of {layers} layers</title>{}</text>", Xml(name), Xml(&label))?;
        }
    }
    Ok(())
}

fn labels(layout: &Layout<'_>, out: &mut String) -> fmt::Result {
    let (size, right) = (layout.font_size(), layout.panels[0] - 10);
    let left = right - layout.widest(&layout.layer_labels);
    writeln!(out, r#"<g font-size="{size}" fill="{MUTED}" text-anchor="end">"#)?;
    for (y, name) in &layout.layer_labels {
        text(out, right, y + size / 3 + 1, "", name)?;
    }
    for (y, name) in &layout.block_labels {
        text(out, left - 14, y + size / 3 + 1, &format!(r#"fill="{INK}""#), name)?;
    }
    let bracket = if layout.names_all() { left - 9 } else { right + 4 };
    for block in layout.blocks.iter().filter(|b| b.name.is_some()) {
        let (top, height) = layout.extent(block);
        writeln!(out, r#"<path d="M{bracket}.5 {top}v{height}" stroke="{GRID}"/>"#)?;
    }
    out.write_str("</g>\n")
}

/// Behind each block's masks and one px wider all round: pruned cells stand out from the page.
fn outlines(layout: &Layout<'_>, out: &mut String) -> fmt::Result {
    let [_, masks, shared] = layout.panels;
    for block in &layout.blocks {
        let (top, height) = layout.extent(block);
        for (x, columns) in [(masks, layout.picture.tasks.len()), (shared, 1)] {
            let (x, y, w, h) = (x - 1, top - 1, columns * layout.column_width + 1, height + 2);
            writeln!(out, r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{GRID}"/>"#)?;
        }
    }
    Ok(())
}

/// One layer: for each task the score and the mask under one tooltip, then the shared mask.
fn row(layout: &Layout<'_>, scale: &Scale, layer: usize, out: &mut String) -> fmt::Result {
    let Picture { tasks, layers, scores, kept_by, kept, .. } = layout.picture;
    let (name, scores, kept_by) = (Xml(&layers[layer]), &scores[layer], &kept_by[layer]);
    let (w, h) = (layout.column_width - 1, layout.cell_height());
    let cell = |panel: usize, task: usize, fill: &str| {
        let x = layout.panels[panel] + task * layout.column_width;
        format!(r#"<rect x="{x}" width="{w}" height="{h}" fill="{fill}"/>"#)
    };
    writeln!(out, r#"<g transform="translate(0 {})">"#, layout.rows[layer])?;
    for (task, task_name) in tasks.iter().enumerate() {
        let (fill, word) = mask(kept_by[task]);
        let cells = cell(0, task, &scale.colour(scores[task])) + &cell(1, task, fill);
        writeln!(out, "<g><title>{name}\n{}: {}, {word}</title>{cells}</g>", Xml(task_name), compact(scores[task]))?;
    }
    let ((fill, word), by) = (mask(kept[layer]), kept_by.iter().filter(|&&kept| kept).count());
    writeln!(
        out,
        "<g><title>{name}\nshared: {word}, by {by} of {} tasks</title>{}</g>\n</g>",
        tasks.len(),
        cell(2, 0, fill)
    )
}

fn mask(kept: bool) -> (&'static str, &'static str) {
    if kept { (KEPT, "kept") } else { (PRUNED, "pruned") }
}

fn text(out: &mut String, x: usize, y: usize, style: &str, content: &str) -> fmt::Result {
    let space = if style.is_empty() { "" } else { " " };
    writeln!(out, r#"<text x="{x}" y="{y}"{space}{style}>{}</text>"#, Xml(content))
}

/// The last `limit` characters, from the start of a part if that is near: names differ at their ends.
fn shorten(name: &str, limit: usize) -> String {
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
fn width(text: &str, font_size: usize) -> usize {
    text.chars().map(|c| if c.is_ascii() { 6 } else { 10 }).sum::<usize>() * font_size / 10
}

/// Three significant digits.
fn compact(value: f64) -> String {
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
struct Xml<'a>(&'a str);

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

    fn names(count: usize, name: impl Fn(usize) -> String) -> Vec<String> {
        (0..count).map(name).collect()
    }

    /// A picture in which a layer is kept by a task if its score is over 1.
    fn draw(layers: &[String], tasks: &[String], score: impl Fn(usize, usize) -> f64) -> String {
        let row = |layer| (0..tasks.len()).map(|task| score(layer, task)).collect();
        let scores: Vec<Vec<f64>> = (0..layers.len()).map(row).collect();
        let kept_by: Vec<Vec<bool>> = scores.iter().map(|row| row.iter().map(|&s| s > 1.0).collect()).collect();
        let kept: Vec<bool> = kept_by.iter().map(|row| row.contains(&true)).collect();
        let (scores, kept_by, kept) = (&scores, &kept_by, &kept);
        svg(&Picture { title: "a < b", tasks, layers, scores, kept_by, kept, eta: 0.7 })
    }

    fn typical(layers: usize, tasks: usize) -> String {
        let layers = names(layers, |i| format!("model.layers.{}.part{}.weight", i / 7, i % 7));
        draw(&layers, &names(tasks, |i| format!("task{i}")), |l, t| ((l + t) % 5) as f64)
    }

    /// Panics unless tags balance, attributes are quoted and entities are known.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for piece in svg.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a tag ends");
            assert!(!text.contains('>') && tag.matches('"').count() % 2 == 0, "{piece}");
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split(' ').next().unwrap()),
            }
        }
        assert!(open.is_empty(), "{open:?}");
        let known = ["amp;", "lt;", "gt;", "quot;"];
        assert!(svg.split('&').skip(1).all(|rest| known.iter().any(|k| rest.starts_with(k))));
        assert!(svg.chars().all(|c| c == '\n' || !c.is_control()));
    }

    #[test]
    fn names_are_escaped() {
        let layers = [String::from("</title><script>1 & 2\u{0}\n"), "\"a\u{202e}b'".into()];
        let svg = draw(&layers, &["<&>".into()], |_, _| 1.0);
        assert_well_formed(&svg);
        assert!(!svg.contains("<script"));
        for escaped in
            ["&lt;/title&gt;&lt;script&gt;1 &amp; 2\u{fffd}\u{fffd}", "&quot;a\u{fffd}b'", "&lt;&amp;&gt;", "a &lt; b"]
        {
            assert!(svg.contains(escaped), "{escaped}");
        }
    }

    #[test]
    fn every_layer_is_named_in_full_with_every_task() {
        for (layers, tasks) in [(5, 2), (104, 8), (400, 20)] {
            let svg = typical(layers, tasks);
            assert_well_formed(&svg);
            let tooltips: Vec<&str> = svg.split("<g><title>").skip(1).map(|g| g.split('<').next().unwrap()).collect();
            for (l, row) in tooltips.chunks(tasks + 1).enumerate() {
                let name = format!("model.layers.{}.part{}.weight", l / 7, l % 7);
                for (t, tooltip) in row[..tasks].iter().enumerate() {
                    let (score, word) = ((l + t) % 5, if (l + t) % 5 > 1 { "kept" } else { "pruned" });
                    assert_eq!(*tooltip, format!("{name}\ntask{t}: {score}, {word}"));
                }
                assert!(row[tasks].starts_with(&format!("{name}\nshared: ")));
            }
            assert_eq!(tooltips.len(), layers * (tasks + 1));
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(typical(104, 8), typical(104, 8));
    }

    #[test]
    fn zero_equal_and_invalid_scores_have_colours() {
        let draw = |score: f64| draw(&["a".into()], &["t".into()], |_, _| score);
        let cases = [(0.0, ZERO), (3.0, "#21918c"), (f64::NAN, INVALID), (f64::INFINITY, INVALID), (5e-324, "#21918c")];
        for (score, fill) in cases {
            let svg = draw(score);
            assert_well_formed(&svg);
            assert!(svg.contains(&format!("height=\"19\" fill=\"{fill}\"/>")), "{score}");
            assert_eq!(svg.contains(">score 0<"), score == 0.0);
            assert_eq!(svg.contains("NaN"), score.is_nan());
        }
    }

    #[test]
    fn no_layers_or_no_tasks_is_a_picture_too() {
        for (layers, tasks) in [(0, 0), (0, 3), (3, 0)] {
            let svg = typical(layers, tasks);
            assert_well_formed(&svg);
            assert!(svg.contains(&format!("eta 0.7: 0 of {layers} layers kept")));
        }
    }

    #[test]
    fn the_summary_counts_the_shared_mask() {
        assert!(typical(4, 1).contains(">eta 0.7: 2 of 4 layers kept<"));
        assert!(typical(4, 2).contains(">eta 0.7: 3 of 4 layers kept<"));
    }

    #[test]
    fn blocks_are_labelled_by_their_last_two_parts_unless_two_stacks_share_them() {
        assert_eq!(block_name("model.layers.12.mlp.0.weight"), Some("model.layers.12"));
        assert_eq!(block_name("model.layers.12"), Some("model.layers.12"));
        assert_eq!(block_name("model.conv1.weight."), None);
        for layers in [14, 400] {
            assert!(typical(layers, 2).contains(">layers.1</text>"));
        }
        let single = draw(&names(9, |i| format!("model.layers.{i}")), &["t".into()], |_, _| 1.0);
        assert!(single.contains(">layers.1</text>") && !single.contains("></text>"));
        let two = names(8, |i| format!("clip.{}.layers.{}.{}", ["text", "vision"][i / 4], i / 2 % 2, i % 2));
        let svg = draw(&two, &["t".into()], |_, _| 1.0);
        assert!(svg.contains(">text.layers.0</text>") && svg.contains(">vision.layers.0</text>"));
    }

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("ab.cdefgh", 6), "…cdefgh");
        assert_eq!(shorten("äbc.defgé", 6), "…defgé");
        assert_eq!(shorten("abcdefg.h", 6), "…defg.h");
    }

    #[test]
    fn the_scale_runs_from_dark_to_light_with_round_ticks() {
        let scale = |low, high| Scale::new(&[vec![high, 0.0, low, f64::NAN]]);
        let s = scale(1e-5, 1e-1);
        assert_eq!([1e-5, 1e-3, 1e-1].map(|x| s.colour(x)), ["#440154", "#21918c", "#fde725"]);
        assert_eq!(s.ticks(), [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]);
        assert_eq!(scale(0.9, 6.0).ticks(), [1.0, 2.0, 5.0]);
        assert_eq!(scale(1.9, 4.0).ticks(), [2.0, 3.0, 4.0]);
        assert_eq!(scale(1.1, 1.3).ticks(), [1.1, 1.3]);
    }

    #[test]
    fn numbers_are_compact() {
        let cases = [(0.0, "0"), (1.0, "1"), (0.5, "0.5"), (12.345, "12.3"), (999.9, "1000"), (9999.0, "1e4")];
        for (value, text) in cases.into_iter().chain([(0.0123, "0.0123"), (1.5e-5, "1.5e-5"), (2e10, "2e10")]) {
            assert_eq!(compact(value), text);
        }
    }
}
