//! The `lwptv` block: which layers are pruned, and how they are scored.

use super::node::{Node, Value};
use super::suggest::unknown;
use crate::error::Result;
use crate::mask::{Consensus, Eta, RankBase};
use crate::survey::Score;
use regex::Regex;

/// The pruning stage (arXiv 2506.09093, eq. 5-8).
#[derive(Clone, Debug)]
pub struct Lwptv {
    /// Fraction of layers removed per task.
    pub eta: Eta,
    /// What a layer is.
    pub layer: LayerRule,
    /// What it is scored by.
    pub score: Score,
    /// How the tasks' masks become one.
    pub consensus: Consensus,
    /// Which reading of eq. 6.
    pub rank_base: RankBase,
    /// Whether weights are multiplied by eta (the rule for layer-wise AdaMerging, appendix B.1).
    pub scale_by_eta: bool,
}

/// What a layer is.
#[derive(Clone, Debug)]
pub enum LayerRule {
    /// Each tensor (the paper's).
    Tensor,
    /// Each block of a stack; tensors outside stacks are layers of their own.
    Block,
    /// Tensors for which capture group 1 is the same; those that do not match are layers of their own.
    Pattern(Regex),
    /// Each element by itself (PwPTV, appendix B.10).
    Element,
}

const KEYS: &[&str] = &["eta", "layer", "score", "consensus", "rank_base", "scale_by_eta"];

impl Lwptv {
    /// The paper's, with this ratio.
    pub fn new(eta: Eta) -> Self {
        Self {
            eta,
            layer: LayerRule::Tensor,
            score: Score::default(),
            consensus: Consensus::default(),
            rank_base: RankBase::default(),
            scale_by_eta: false,
        }
    }

    pub(super) fn parse(node: &Node<'_>) -> Result<Self> {
        let mut eta = None;
        let mut block = Self::new(Eta::new(0.0).expect("0 is a fraction"));
        for (key, child) in node.map()? {
            match key {
                "eta" => {
                    let number = child.number()?;
                    let problem =
                        || child.error(format!("expected the fraction of layers to prune, 0 to 1, got {number}"));
                    eta = Some(Eta::new(number).ok_or_else(problem)?);
                }
                "layer" => block.layer = layer(&child)?,
                "score" => {
                    let scores =
                        [("saliency", Score::Saliency), ("magnitude", Score::Magnitude), ("random", Score::Random)];
                    block.score = choose(&child, &scores)?;
                }
                "consensus" => block.consensus = choose(&child, &[("or", Consensus::Or), ("none", Consensus::None)])?,
                "rank_base" => {
                    block.rank_base = match child.number()? {
                        0.0 => RankBase::Zero,
                        1.0 => RankBase::One,
                        n => return Err(child.error(format!("expected 0 or 1, got {n}"))),
                    }
                }
                "scale_by_eta" => block.scale_by_eta = child.flag()?,
                _ => return Err(child.error(unknown("key", key, KEYS))),
            }
        }
        block.eta = eta.ok_or_else(|| node.error("`eta` is missing: the fraction of layers to prune, 0 to 1"))?;
        Ok(block)
    }

    pub(super) fn canonical(&self) -> serde_json::Value {
        serde_json::json!({
            "eta": self.eta.get(),
            "layer": self.layer.describe(),
            "score": format!("{:?}", self.score).to_lowercase(),
            "consensus": format!("{:?}", self.consensus).to_lowercase(),
            "rank_base": self.rank_base as u8,
            "scale_by_eta": self.scale_by_eta,
        })
    }
}

impl LayerRule {
    /// As a recipe writes it.
    pub fn describe(&self) -> String {
        match self {
            Self::Tensor => "tensor".into(),
            Self::Block => "block".into(),
            Self::Pattern(regex) => format!("regex {regex}"),
            Self::Element => "element".into(),
        }
    }
}

fn layer(node: &Node<'_>) -> Result<LayerRule> {
    if let Value::Map(_) = node.value {
        let entries = node.map()?;
        let [("regex", pattern)] = entries.as_slice() else {
            return Err(node.error("expected tensor, block, element or {regex: \"...\"}"));
        };
        let regex = Regex::new(pattern.text()?).map_err(|e| pattern.error(format!("not a regular expression: {e}")))?;
        if regex.captures_len() < 2 {
            return Err(pattern.error("the expression needs a capture group: group 1 names the layer"));
        }
        return Ok(LayerRule::Pattern(regex));
    }
    match node.text()? {
        "tensor" => Ok(LayerRule::Tensor),
        "block" => Ok(LayerRule::Block),
        "element" => Ok(LayerRule::Element),
        word => Err(node.error(unknown("layer", word, &["tensor", "block", "element"]))),
    }
}

fn choose<T: Copy>(node: &Node<'_>, words: &[(&str, T)]) -> Result<T> {
    let word = node.text()?;
    match words.iter().find(|(w, _)| *w == word) {
        Some((_, value)) => Ok(*value),
        None => Err(node.error(unknown("value", word, &words.iter().map(|(w, _)| *w).collect::<Vec<_>>()))),
    }
}
