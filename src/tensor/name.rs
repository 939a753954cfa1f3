//! The one naming rule: where in a stack of blocks a tensor's name places it.
//!
//! A name is split at its dots; the first part that is a whole number is the block's index, and what stands before it
//! names the stack: `model.layers.3.mlp.up_proj.weight` is in block 3 of `model.layers`. Names without a number are
//! outside every stack (embeddings, final norm, head).

/// A place in a stack of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position<'a> {
    /// What stands before the index, for instance `model.layers`.
    pub stack: &'a str,
    /// The block's index, from 0.
    pub index: u32,
}

/// The place of `name`, or `None` outside every stack.
pub fn position(name: &str) -> Option<Position<'_>> {
    let mut start = 0;
    for part in name.split('.') {
        if start > 0
            && part.bytes().all(|b| b.is_ascii_digit())
            && let Ok(index) = part.parse()
        {
            return Some(Position { stack: &name[..start - 1], index });
        }
        start += part.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_whole_number_between_dots_is_the_index() {
        let at = |stack, index| Some(Position { stack, index });
        assert_eq!(position("model.layers.3.mlp.experts.17.up.weight"), at("model.layers", 3));
        assert_eq!(position("vision_model.encoder.layers.11.layer_norm1.bias"), at("vision_model.encoder.layers", 11));
        assert_eq!(position("h.0"), at("h", 0));
        assert_eq!(position("lm_head.weight"), None);
        assert_eq!(position("model.layers.3b.weight"), None);
        assert_eq!(position("0.weight"), None);
        assert_eq!(position("a..weight"), None);
    }
}
