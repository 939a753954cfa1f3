//! Which tensors have a row for each token.

/// Last parts of the names of embeddings and heads, as model families write them.
const NAMES: &[&str] = &[
    "embed_tokens.weight",
    "tok_embeddings.weight",
    "word_embeddings.weight",
    "wte.weight",
    "embed_in.weight",
    "embed_out.weight",
    "lm_head.weight",
    "lm_head.bias",
    "output.weight",
];

/// Whether a tensor has one row for each token, going by its name: the name is one of a few, or ends in a dot and one.
/// `output.weight` counts only where it is the whole name.
pub fn is_vocabulary(name: &str) -> bool {
    NAMES.iter().any(|n| match name.strip_suffix(n) {
        Some("") => true,
        Some(before) => before.ends_with('.') && *n != "output.weight",
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_and_heads_are_known_by_the_end_of_their_names() {
        for name in ["model.embed_tokens.weight", "lm_head.weight", "transformer.wte.weight", "output.weight"] {
            assert!(is_vocabulary(name), "{name}");
        }
        for name in ["model.layers.0.attn.output.weight", "transformer.wpe.weight", "my_lm_head.weight"] {
            assert!(!is_vocabulary(name), "{name}");
        }
    }
}
