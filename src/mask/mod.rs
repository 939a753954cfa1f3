//! From scores to who survives: arXiv 2506.09093, eq. 6 and 7.

use std::fmt;

/// Fraction of layers removed per task, in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Eta(f64);

impl Eta {
    /// `None` outside [0, 1].
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Eta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How the tasks' masks become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consensus {
    /// A layer that any task keeps is merged from all tasks (eq. 7).
    #[default]
    Or,
    /// Each task is merged only where its own mask keeps it.
    None,
}

/// Which of two readings of eq. 6 gives the threshold, for `n = floor(L * eta)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RankBase {
    /// As printed: `sorted[n]`, counted from 0.
    #[default]
    Zero,
    /// As the prose says: the n-th smallest, counted from 1.
    One,
}

/// A task's threshold: layers scoring above it (strictly) are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// Below every score.
    KeepAll,
    /// A score.
    Above(f64),
    /// Above every score.
    KeepNone,
}

impl Threshold {
    /// The threshold of one task with these scores (one per layer, any order).
    pub fn of(scores: &[f64], eta: Eta, rank_base: RankBase) -> Self {
        let sorted = |place: u64| {
            let mut sorted = scores.to_vec();
            sorted.sort_by(f64::total_cmp);
            Self::Above(sorted[place as usize])
        };
        Self::place(scores.len() as u64, eta, rank_base).map_or_else(|all_or_none| all_or_none, sorted)
    }

    /// The place of the threshold among so many scores, from the smallest, from 0; or the threshold, if it is no score.
    pub fn place(scores: u64, eta: Eta, rank_base: RankBase) -> Result<u64, Self> {
        // floor of the f64 product, as every research code computes it (methods.md 1.4).
        let rank = (scores as f64 * eta.get()).floor() as u64;
        let place = match rank_base {
            _ if eta.get() == 0.0 => None,
            RankBase::Zero => Some(rank),
            RankBase::One => rank.checked_sub(1),
        };
        match place {
            None => Err(Self::KeepAll),
            Some(place) if place >= scores || eta.get() == 1.0 => Err(Self::KeepNone),
            Some(place) => Ok(place),
        }
    }

    /// Whether a layer with this score is kept.
    pub fn keeps(self, score: f64) -> bool {
        match self {
            Self::KeepAll => true,
            Self::Above(threshold) => score > threshold,
            Self::KeepNone => false,
        }
    }

    /// The number, where there is one.
    pub fn value(self) -> Option<f64> {
        match self {
            Self::Above(value) => Some(value),
            Self::KeepAll | Self::KeepNone => None,
        }
    }
}

/// Who survives.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// One per task.
    pub thresholds: Vec<Threshold>,
    /// `[layer][task]`: the tasks' own masks.
    pub kept_by: Vec<Vec<bool>>,
    consensus: Consensus,
}

impl Mask {
    /// From `scores[layer][task]`.
    pub fn new(scores: &[Vec<f64>], tasks: usize, eta: Eta, rank_base: RankBase, consensus: Consensus) -> Self {
        let thresholds: Vec<Threshold> = (0..tasks)
            .map(|k| {
                let of_task: Vec<f64> = scores.iter().map(|layer| layer[k]).collect();
                Threshold::of(&of_task, eta, rank_base)
            })
            .collect();
        let kept_by =
            scores.iter().map(|layer| layer.iter().zip(&thresholds).map(|(&s, t)| t.keeps(s)).collect()).collect();
        Self { thresholds, kept_by, consensus }
    }

    /// Whether the layer is merged from any task (the shared mask, eq. 7).
    pub fn keeps(&self, layer: usize) -> bool {
        self.kept_by[layer].iter().any(|&kept| kept)
    }

    /// Whether `task` takes part in the layer's merge.
    pub fn takes(&self, layer: usize, task: usize) -> bool {
        match self.consensus {
            Consensus::Or => self.keeps(layer),
            Consensus::None => self.kept_by[layer][task],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// methods.md G1: layers a to e of three tasks.
    const G1: [[f64; 3]; 5] =
        [[0.0; 3], [0.0; 3], [2.0, 1.0, 1.0], [2.0, 0.0, 2.0], [7.0 / 9.0, 7.0 / 9.0, 10.0 / 9.0]];

    fn masks(eta: f64, rank_base: RankBase) -> (Vec<String>, String) {
        let scores: Vec<Vec<f64>> = G1.iter().map(|s| s.to_vec()).collect();
        let mask = Mask::new(&scores, 3, Eta::new(eta).unwrap(), rank_base, Consensus::Or);
        let digits = |f: &dyn Fn(usize) -> bool| (0..5).map(|l| if f(l) { '1' } else { '0' }).collect::<String>();
        ((0..3).map(|k| digits(&|l| mask.kept_by[l][k])).collect(), digits(&|l| mask.keeps(l)))
    }

    #[test]
    fn the_golden_vectors_of_g1() {
        let cases = [
            (0.4, RankBase::Zero, ["00110", "00101", "00011"], "00111"),
            (0.4, RankBase::One, ["00111", "00101", "00111"], "00111"),
            (0.7, RankBase::Zero, ["00000", "00100", "00010"], "00110"),
            (0.7, RankBase::One, ["00110", "00101", "00011"], "00111"),
            (0.0, RankBase::Zero, ["11111"; 3], "11111"),
            (0.0, RankBase::One, ["11111"; 3], "11111"),
            (1.0, RankBase::Zero, ["00000"; 3], "00000"),
            (1.0, RankBase::One, ["00000"; 3], "00000"),
        ];
        for (eta, rank_base, own, shared) in cases {
            assert_eq!(masks(eta, rank_base), (own.map(String::from).to_vec(), shared.into()), "{eta} {rank_base:?}");
        }
    }

    #[test]
    fn the_counts_kept_are_those_of_the_paper_s_models() {
        for (layers, zero, one) in [(158, 47, 48), (302, 90, 91), (398, 119, 120)] {
            let scores: Vec<Vec<f64>> = (0..layers).map(|l| vec![f64::from(l)]).collect();
            let kept = |rank_base| {
                let mask = Mask::new(&scores, 1, Eta::new(0.7).unwrap(), rank_base, Consensus::Or);
                (0..scores.len()).filter(|&l| mask.keeps(l)).count()
            };
            assert_eq!((kept(RankBase::Zero), kept(RankBase::One)), (zero, one));
        }
    }

    #[test]
    fn the_rank_is_the_floor_of_the_binary_product() {
        // 180 * 0.7 is 125.99... in f64: the 126th smallest is the threshold, as in Python.
        let scores: Vec<f64> = (0..180).map(f64::from).collect();
        assert_eq!(Threshold::of(&scores, Eta::new(0.7).unwrap(), RankBase::Zero), Threshold::Above(125.0));
    }

    #[test]
    fn without_consensus_each_task_is_merged_where_it_keeps() {
        let mask =
            Mask::new(&[vec![1.0, 0.0], vec![0.0, 1.0]], 2, Eta::new(0.4).unwrap(), RankBase::Zero, Consensus::None);
        assert!(mask.takes(0, 0) && !mask.takes(0, 1) && !mask.takes(1, 0) && mask.takes(1, 1));
    }

    #[test]
    fn eta_is_a_fraction() {
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Eta::new(bad), None);
        }
    }
}
