//! What a tensor is, as far as its name tells: the one rule behind everything that is told by kind.
//!
//! The first line that fits decides. Letters count alike, large or small; a part is what stands between dots.
//!
//! | kind | the name holds |
//! |---|---|
//! | norm | `norm`; or a part that is `ln` or begins with `ln_` |
//! | embedding | `embed`; or a part `wte`, `wpe`, `shared`, `lm_head`, `head`, `classifier` |
//! | attention | `attn` or `attention`; or a part `q_proj`, `k_proj`, `v_proj`, `o_proj`, `qkv`, `query`, `key`, `value` |
//! | MLP | `mlp`, `ffn`, `feed_forward`, `feedforward`, `expert`, `dense`; or a part `fc1`, `fc2`, `c_fc`, `w1`, `w2`, `w3`, `gate_proj`, `up_proj`, `down_proj` |
//! | other | anything else |

/// What a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Attention,
    Mlp,
    Norm,
    Embedding,
    Other,
}

impl Kind {
    /// In the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Attention, Self::Mlp, Self::Norm, Self::Embedding, Self::Other];

    pub fn of(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let holds = |words: &[&str]| words.iter().any(|w| name.contains(w));
        let has_part = |words: &[&str]| name.split('.').any(|p| words.contains(&p));
        if holds(&["norm"]) || name.split('.').any(|p| p == "ln" || p.starts_with("ln_")) {
            Self::Norm
        } else if holds(&["embed"]) || has_part(&["wte", "wpe", "shared", "lm_head", "head", "classifier"]) {
            Self::Embedding
        } else if holds(&["attn", "attention"])
            || has_part(&["q_proj", "k_proj", "v_proj", "o_proj", "qkv", "query", "key", "value"])
        {
            Self::Attention
        } else if holds(&["mlp", "ffn", "feed_forward", "feedforward", "expert", "dense"])
            || has_part(&["fc1", "fc2", "c_fc", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"])
        {
            Self::Mlp
        } else {
            Self::Other
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "MLP",
            Self::Norm => "norm",
            Self::Embedding => "embedding, head",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_follow_from_names_of_the_common_families() {
        for (name, kind) in [
            ("model.layers.3.self_attn.q_proj.weight", Kind::Attention),
            ("model.layers.3.self_attn.q_norm.weight", Kind::Norm),
            ("model.layers.3.mlp.experts.7.up_proj.weight", Kind::Mlp),
            ("model.layers.3.post_attention_layernorm.weight", Kind::Norm),
            ("vision_model.encoder.layers.0.layer_norm1.bias", Kind::Norm),
            ("vision_model.embeddings.patch_embedding.weight", Kind::Embedding),
            ("visual.transformer.resblocks.0.ln_1.weight", Kind::Norm),
            ("visual.transformer.resblocks.0.mlp.c_fc.weight", Kind::Mlp),
            ("visual.transformer.resblocks.0.attn.in_proj_weight", Kind::Attention),
            ("transformer.h.0.attn.c_attn.weight", Kind::Attention),
            ("transformer.wte.weight", Kind::Embedding),
            ("lm_head.weight", Kind::Embedding),
            ("bert.encoder.layer.0.attention.self.query.weight", Kind::Attention),
            ("bert.encoder.layer.0.attention.output.LayerNorm.weight", Kind::Norm),
            ("bert.encoder.layer.0.output.dense.weight", Kind::Mlp),
            ("encoder.block.0.layer.1.DenseReluDense.wi.weight", Kind::Mlp),
            ("backbone.layers.0.mixer.conv1d.weight", Kind::Other),
            ("logit_scale", Kind::Other),
        ] {
            assert_eq!(Kind::of(name), kind, "{name}");
        }
    }
}
