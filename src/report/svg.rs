//! The picture of `taskvec saliency --svg`: scores, the tasks' masks, the shared mask (as Fig. 6 of arXiv 2506.09093).
//!
//! Rows are layers, columns are tasks. Presentation attributes only, no scripts, styles or dates: a picture pasted into a
//! page changes nothing around it.

use super::colour::{PAGE, PAPER, Palette, Scale, viridis};
use super::rows::{HEADINGS, Layout, MARGIN, PANEL_GAP, PANELS, thinned};
use super::xml::{Xml, compact, shorten, text, width};
use std::fmt::{self, Write};

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

const FONTS: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
// Lengths in px.
const HEADLINE: usize = 74;
const LEGEND_BAR: usize = 300;

/// The picture as SVG text; the same bytes for the same input.
pub fn svg(picture: &Picture<'_>) -> String {
    drawn(picture, &PAPER, HEADLINE)
}

/// The same for a page, which has the headline itself.
pub fn svg_in_page(picture: &Picture<'_>) -> String {
    drawn(picture, &PAGE, 0)
}

fn drawn(picture: &Picture<'_>, palette: &'static Palette, headline: usize) -> String {
    let layers = picture.layers.len();
    assert_eq!([picture.scores.len(), picture.kept_by.len(), picture.kept.len()], [layers; 3], "one row per layer");
    let mut out = String::new();
    let layout = Layout::new(picture, palette, headline);
    draw(&layout, &Scale::new(picture.scores), &mut out).expect("a String takes any text");
    out
}

fn draw(layout: &Layout<'_>, scale: &Scale, out: &mut String) -> fmt::Result {
    begin(layout, out)?;
    legend(layout, scale, out)?;
    headings(layout, out)?;
    labels(layout, out)?;
    writeln!(out, r#"<g shape-rendering="crispEdges">"#)?;
    outlines(layout, out)?;
    for layer in 0..layout.rows.len() {
        row(layout, scale, layer, out)?;
    }
    out.write_str("</g>\n</svg>\n")
}

fn begin(layout: &Layout<'_>, out: &mut String) -> fmt::Result {
    let Picture { title, layers, kept, eta, .. } = layout.picture;
    let Palette { paper, ink, muted, .. } = layout.palette;
    let summary = format!("eta {eta}: {} of {} layers kept", kept.iter().filter(|&&kept| kept).count(), layers.len());
    let (w, h) = (layout.width, layout.rows.last().map_or(layout.names_end, |y| y + layout.row_height) + MARGIN);
    write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{w}" height="{h}" viewBox="0 0 {w} {h}""#
    )?;
    writeln!(out, r#" font-family="{FONTS}" font-size="11" fill="{ink}">"#)?;
    writeln!(out, "<title>{}</title>\n<desc>{summary}. Rows are layers, columns are tasks:", Xml(title))?;
    writeln!(out, "the scores, the tasks' masks (strong: kept, pale: pruned), the shared mask.</desc>")?;
    if layout.headline == 0 {
        return Ok(());
    }
    writeln!(out, r#"<rect width="{w}" height="{h}" rx="6" fill="{paper}"/>"#)?;
    text(out, MARGIN, 40, r#"font-size="18" font-weight="600""#, title)?;
    text(out, MARGIN, 62, &format!(r#"font-size="13" fill="{muted}""#), &summary)
}

fn kept_by(picture: &Picture<'_>, task: usize) -> usize {
    picture.kept_by.iter().filter(|row| row[task]).count()
}

fn legend(layout: &Layout<'_>, scale: &Scale, out: &mut String) -> fmt::Result {
    let (mut x, y, p) = (MARGIN, layout.headline + 8, layout.palette);
    if scale.high > 0.0 {
        colour_bar(scale, (x, y), p, out)?;
        x += LEGEND_BAR + PANEL_GAP;
    }
    let seen = |fill: &str| layout.picture.scores.iter().flatten().any(|&s| scale.colour(s, p) == fill);
    let meanings = [(p.zero, "score 0"), (p.invalid, "invalid score"), (p.kept, "kept"), (p.pruned, "pruned")];
    for (fill, meaning) in meanings {
        if fill == p.kept || fill == p.pruned || seen(fill) {
            let stroke = p.grid;
            writeln!(out, r#"<rect x="{x}.5" y="{y}.5" width="13" height="13" fill="{fill}" stroke="{stroke}"/>"#)?;
            text(out, x + 20, y + 11, "", meaning)?;
            x += 36 + width(meaning, 11);
        }
    }
    Ok(())
}

fn colour_bar(scale: &Scale, (left, y): (usize, usize), palette: &Palette, out: &mut String) -> fmt::Result {
    write!(out, r#"<linearGradient id="taskvec-viridis">"#)?;
    for at in (0..=8).map(|i| f64::from(i) / 8.0) {
        write!(out, r#"<stop offset="{at}" stop-color="{}"/>"#, viridis(at))?;
    }
    let size = format!(r#"width="{LEGEND_BAR}" height="14""#);
    writeln!(out, "</linearGradient>\n<rect x=\"{left}\" y=\"{y}\" {size} fill=\"url(#taskvec-viridis)\"/>")?;
    let place = |tick: f64| left + (scale.position(tick) * LEGEND_BAR as f64).round() as usize;
    let ticks = scale.ticks().into_iter().map(|tick| (place(tick), compact(tick))).collect();
    let muted = palette.muted;
    let style = format!(r#"font-size="10" fill="{muted}" text-anchor="middle""#);
    for (x, tick) in thinned(ticks, 34) {
        writeln!(out, r#"<path d="M{x} {}v5" stroke="{muted}"/>"#, y + 14)?;
        text(out, x, y + 30, &style, &tick)?;
    }
    Ok(())
}

fn headings(layout: &Layout<'_>, out: &mut String) -> fmt::Result {
    for (heading, x) in PANELS.iter().zip(layout.panels) {
        text(out, x, layout.headline + HEADINGS, r#"font-size="12" font-weight="600""#, heading)?;
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
    let Palette { ink, muted, grid, .. } = layout.palette;
    let left = right - layout.widest(&layout.layer_labels);
    writeln!(out, r#"<g font-size="{size}" fill="{muted}" text-anchor="end">"#)?;
    for (y, name) in &layout.layer_labels {
        text(out, right, y + size / 3 + 1, "", name)?;
    }
    for (y, name) in &layout.block_labels {
        text(out, left - 14, y + size / 3 + 1, &format!(r#"fill="{ink}""#), name)?;
    }
    let bracket = if layout.names_all() { left - 9 } else { right + 4 };
    for block in layout.blocks.iter().filter(|b| b.name.is_some()) {
        let (top, height) = layout.extent(block);
        writeln!(out, r#"<path d="M{bracket}.5 {top}v{height}" stroke="{grid}"/>"#)?;
    }
    out.write_str("</g>\n")
}

/// Behind each block's masks and one px wider all round: pruned cells stand out from the page.
fn outlines(layout: &Layout<'_>, out: &mut String) -> fmt::Result {
    let ([_, masks, shared], grid) = (layout.panels, layout.palette.grid);
    for block in &layout.blocks {
        let (top, height) = layout.extent(block);
        for (x, columns) in [(masks, layout.picture.tasks.len()), (shared, 1)] {
            let (x, y, w, h) = (x - 1, top - 1, columns * layout.column_width + 1, height + 2);
            writeln!(out, r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{grid}"/>"#)?;
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
        let (fill, word) = mask(layout.palette, kept_by[task]);
        let cells = cell(0, task, &scale.colour(scores[task], layout.palette)) + &cell(1, task, fill);
        writeln!(out, "<g><title>{name}\n{}: {}, {word}</title>{cells}</g>", Xml(task_name), compact(scores[task]))?;
    }
    let ((fill, word), by) = (mask(layout.palette, kept[layer]), kept_by.iter().filter(|&&kept| kept).count());
    writeln!(
        out,
        "<g><title>{name}\nshared: {word}, by {by} of {} tasks</title>{}</g>\n</g>",
        tasks.len(),
        cell(2, 0, fill)
    )
}

fn mask(palette: &Palette, kept: bool) -> (&'static str, &'static str) {
    if kept { (palette.kept, "kept") } else { (palette.pruned, "pruned") }
}

#[cfg(test)]
mod tests {
    use super::super::rows::block_name;
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
        let cases = [
            (0.0, PAPER.zero),
            (3.0, "#21918c"),
            (f64::NAN, PAPER.invalid),
            (f64::INFINITY, PAPER.invalid),
            (5e-324, "#21918c"),
        ];
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
}
