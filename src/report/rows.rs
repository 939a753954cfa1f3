//! Where the rows, columns and labels of the picture of layers stand.

use super::colour::Palette;
use super::svg::Picture;
use super::xml::{shorten, width};

/// The three parts of the picture.
pub const PANELS: [&str; 3] = ["Saliency (log scale)", "Masks of the tasks", "Shared mask (OR)"];

// Lengths in px.
pub const MARGIN: usize = 24;
/// Base line of the panels' headings, below the headline.
pub const HEADINGS: usize = 74;
pub const PANEL_GAP: usize = 28;
const BLOCK_GAP: usize = 4;

/// Consecutive layers whose block is the same.
pub struct Block<'a> {
    pub first: usize,
    pub layers: &'a [String],
    /// `model.layers.3`, if several layers are in it: they are named within it.
    pub name: Option<&'a str>,
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
pub fn block_name(layer: &str) -> Option<&str> {
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
pub type Label = (usize, String);

/// Where everything stands.
pub struct Layout<'a> {
    pub picture: &'a Picture<'a>,
    pub palette: &'static Palette,
    /// Height of the headline; 0 if there is none.
    pub headline: usize,
    pub blocks: Vec<Block<'a>>,
    pub row_height: usize,
    pub column_width: usize,
    /// Top of each layer's row.
    pub rows: Vec<usize>,
    /// Left edge of each of [`PANELS`].
    pub panels: [usize; 3],
    pub layer_labels: Vec<Label>,
    pub block_labels: Vec<Label>,
    /// Foot of the tasks' names.
    pub names_end: usize,
    pub width: usize,
}

impl<'a> Layout<'a> {
    /// Under a headline of so many px.
    pub fn new(picture: &'a Picture<'a>, palette: &'static Palette, headline: usize) -> Self {
        let (layers, tasks) = (picture.layers, picture.tasks.len());
        // A page can be scrolled, a picture should be seen at once.
        let (room, least) = if headline == 0 { (1900, 5) } else { (1100, 3) };
        let row_height = (room / layers.len().max(1)).clamp(least, 20);
        let column_width = (240 / tasks.max(1)).clamp(16, 40);
        let slant = picture.tasks.iter().map(|t| width(&shorten(t, 24), 11) * 3 / 4).max().unwrap_or(0);
        let names_end = headline + HEADINGS + 16 + slant;
        let blocks = blocks(layers);
        let rows = rows(&blocks, names_end + 6, row_height);
        let mut layout = Self {
            picture,
            palette,
            headline,
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

    pub fn names_all(&self) -> bool {
        self.row_height >= 9
    }

    pub fn font_size(&self) -> usize {
        if self.names_all() { (self.row_height - 1).min(11) } else { 9 }
    }

    pub fn widest(&self, labels: &[Label]) -> usize {
        labels.iter().map(|(_, text)| width(text, self.font_size())).max().unwrap_or(0)
    }

    /// Low rows touch: lines between them would outweigh them.
    pub fn cell_height(&self) -> usize {
        if self.row_height < 6 { self.row_height } else { self.row_height - 1 }
    }

    /// Top and height of a block's cells.
    pub fn extent(&self, block: &Block<'_>) -> (usize, usize) {
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
pub fn thinned(labels: Vec<Label>, distance: usize) -> Vec<Label> {
    let mut next = 0;
    let fits = |label: &Label| {
        let fits = label.0 >= next;
        next = if fits { label.0 + distance } else { next };
        fits
    };
    labels.into_iter().filter(fits).collect()
}
