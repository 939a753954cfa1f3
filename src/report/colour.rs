//! Colours that all kinds of colour vision can tell apart, on paper and on a page that is light or dark.

/// Red, green, blue of viridis at equal steps: lightness grows with the score, for all kinds of colour vision.
const VIRIDIS: [[u8; 9]; 3] = [
    [68, 71, 59, 44, 33, 40, 94, 173, 253],
    [1, 45, 82, 114, 145, 174, 201, 220, 231],
    [84, 123, 139, 142, 140, 128, 98, 48, 37],
];
/// The colours of a picture besides those of scores.
#[derive(Debug)]
pub struct Palette {
    pub paper: &'static str,
    pub ink: &'static str,
    pub muted: &'static str,
    /// Behind the masks: outlines and grid.
    pub grid: &'static str,
    pub kept: &'static str,
    pub pruned: &'static str,
    /// A score of 0.
    pub zero: &'static str,
    /// A score that is not a number.
    pub invalid: &'static str,
}

/// For a picture in a file of its own.
pub const PAPER: Palette = Palette {
    paper: "#fff",
    ink: "#1f2328",
    muted: "#59636e",
    grid: "#b4bac3",
    kept: "#262b36",
    pruned: "#eceff3",
    zero: "#c4c4c4",
    invalid: "#d81b60",
};

/// For a picture inside a page, whose style sheet says what these are in the light and in the dark.
pub const PAGE: Palette = Palette {
    paper: "none",
    ink: "var(--ink)",
    muted: "var(--muted)",
    grid: "var(--grid)",
    kept: "var(--kept)",
    pruned: "var(--pruned)",
    zero: "var(--zero)",
    invalid: "var(--invalid)",
};

/// From scores to colours, over the range of the positive finite scores.
#[derive(Debug)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
}

impl Scale {
    /// Over these scores.
    pub fn new(scores: &[Vec<f64>]) -> Self {
        let valid = || scores.iter().flatten().copied().filter(|&s| s > 0.0 && s.is_finite());
        Self { low: valid().fold(f64::INFINITY, f64::min), high: valid().fold(0.0, f64::max) }
    }

    /// 0 for the lowest score to 1 for the highest; one half if they are equal.
    pub fn position(&self, score: f64) -> f64 {
        let (low, high) = (self.low.log10(), self.high.log10());
        if low < high { (score.log10() - low) / (high - low) } else { 0.5 }
    }

    /// The colour of a score.
    pub fn colour(&self, score: f64, palette: &Palette) -> String {
        match score {
            0.0 => palette.zero.into(),
            s if s > 0.0 && s.is_finite() => viridis(self.position(s)),
            _ => palette.invalid.into(),
        }
    }

    /// Powers of ten, or 1-2-5 steps, or all digits, whichever first gives three; else the two ends.
    pub fn ticks(&self) -> Vec<f64> {
        let exponents = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let steps = ["1", "125", "123456789"].map(|digits| {
            let numbers = exponents.clone().flat_map(|e| digits.chars().map(move |d| format!("{d}e{e}")));
            numbers.filter_map(|n| n.parse().ok()).filter(|n| (self.low..=self.high).contains(n)).collect()
        });
        steps.into_iter().find(|ticks: &Vec<f64>| ticks.len() > 2).unwrap_or_else(|| vec![self.low, self.high])
    }
}

/// The colour at 0 to 1.
pub fn viridis(at: f64) -> String {
    let at = at * 8.0;
    let i = (at as usize).min(7);
    let [r, g, b] = VIRIDIS.map(|channel| {
        let (a, b) = (f64::from(channel[i]), f64::from(channel[i + 1]));
        (a + (b - a) * (at - i as f64)).round() as u8
    });
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_runs_from_dark_to_light_with_round_ticks() {
        let scale = |low, high| Scale::new(&[vec![high, 0.0, low, f64::NAN]]);
        let s = scale(1e-5, 1e-1);
        assert_eq!([1e-5, 1e-3, 1e-1].map(|x| s.colour(x, &PAPER)), ["#440154", "#21918c", "#fde725"]);
        assert_eq!(s.ticks(), [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]);
        assert_eq!(scale(0.9, 6.0).ticks(), [1.0, 2.0, 5.0]);
        assert_eq!(scale(1.9, 4.0).ticks(), [2.0, 3.0, 4.0]);
        assert_eq!(scale(1.1, 1.3).ticks(), [1.1, 1.3]);
    }
}
