//! "Did you mean": the known word nearest to an unknown one.

/// Words of more characters are neither compared with known ones, which takes memory in proportion, nor shown whole.
const WORD_MAX: usize = 64;

/// A sentence about `word`, which is not among `known`.
pub fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    if let Some((end, _)) = word.char_indices().nth(WORD_MAX) {
        return format!("unknown {what} `{}...`; known: {}", &word[..end], known.join(", "));
    }
    let nearest = known.iter().map(|k| (strsim::damerau_levenshtein(word, k), *k)).min();
    match nearest {
        Some((distance, k)) if distance <= 1 + k.len() / 3 => format!("unknown {what} `{word}`; did you mean `{k}`?"),
        _ => format!("unknown {what} `{word}`; known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_gets_a_suggestion_and_anything_else_the_list() {
        assert_eq!(unknown("key", "wieght", &["lambda", "weight"]), "unknown key `wieght`; did you mean `weight`?");
        assert_eq!(unknown("key", "foo", &["lambda", "weight"]), "unknown key `foo`; known: lambda, weight");
        let long = unknown("key", &"é".repeat(1 << 20), &["lambda"]);
        assert_eq!(long, format!("unknown key `{}...`; known: lambda", "é".repeat(64)));
    }
}
