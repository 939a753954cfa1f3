//! `config.json` of the output: the reference's, changed where the output's weights differ.

use crate::plan::Restack;
use crate::tensor::Dtype;
use serde_json::{Map, Value};

/// What changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConfigEdits<'a> {
    /// The dtype, if the output has another.
    pub dtype: Option<Dtype>,
    /// The rows of embeddings and heads, if the recipe settles the tokens.
    pub rows: Option<u64>,
    /// Stacks with other layers.
    pub restacked: &'a [Restack],
    /// Whether the head is no longer the embedding.
    pub untied: bool,
}

/// Keys that tell the number of layers.
const HEIGHTS: &[&str] = &["num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_decoder_layers"];

/// Lists with an entry for each layer.
const LISTS: &[&str] = &["layer_types", "mlp_layer_types", "no_rope_layers"];

impl ConfigEdits<'_> {
    fn is_empty(&self) -> bool {
        self.dtype.is_none() && self.rows.is_none() && self.restacked.is_empty() && !self.untied
    }

    /// The file with the changes; `None` if there are none, or it is not what it should be.
    pub fn apply(&self, json: &[u8]) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let mut config: Map<String, Value> = serde_json::from_slice(json).ok()?;
        if let Some(dtype) = self.dtype {
            let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
            config.insert(key.to_owned(), dtype.torch_name().into());
        }
        if let Some(rows) = self.rows {
            set_rows(&mut config, rows);
        }
        for stack in self.restacked {
            if let Some(part) = part_of(&mut config, stack) {
                restack(part, stack);
            }
        }
        if self.untied && !cfg!(feature = "planted-faults") {
            config.insert("tie_word_embeddings".into(), false.into());
        }
        let mut text = serde_json::to_vec_pretty(&config).ok()?;
        text.push(b'\n');
        Some(text)
    }

    /// The stacks of which the file does not tell the number of layers, so that it has to be set by hand.
    pub fn unplaced(&self, json: &[u8]) -> Vec<&Restack> {
        let mut config: Map<String, Value> = serde_json::from_slice(json).unwrap_or_default();
        self.restacked.iter().filter(|s| part_of(&mut config, s).is_none()).collect()
    }
}

/// The mapping that tells the stack's height: the file itself, else the only nested one.
fn part_of<'a>(config: &'a mut Map<String, Value>, stack: &Restack) -> Option<&'a mut Map<String, Value>> {
    if tells(config, stack) {
        return Some(config);
    }
    let mut nested = config.values_mut().filter_map(Value::as_object_mut).filter(|part| tells(part, stack));
    let first = nested.next();
    first.filter(|_| nested.next().is_none())
}

fn tells(part: &Map<String, Value>, stack: &Restack) -> bool {
    HEIGHTS.iter().any(|key| part.get(*key) == Some(&stack.height.into()))
}

fn restack(part: &mut Map<String, Value>, stack: &Restack) {
    let height = Value::from(stack.height);
    for key in HEIGHTS {
        if let Some(value) = part.get_mut(*key).filter(|v| **v == height) {
            *value = stack.layers.len().into();
        }
    }
    for key in LISTS {
        let Some(Value::Array(list)) = part.get_mut(*key) else { continue };
        let layers: Option<Vec<Value>> = stack.layers.iter().map(|l| list.get(*l as usize).cloned()).collect();
        if let Some(layers) = layers.filter(|_| list.len() == stack.height as usize) {
            *list = layers;
        }
    }
}

/// Sets `vocab_size`, also that of the language model in a larger one.
fn set_rows(config: &mut Map<String, Value>, rows: u64) {
    if let Some(inner) = config.get_mut("text_config").and_then(Value::as_object_mut) {
        set_rows(inner, rows);
    }
    if let Some(size) = config.get_mut("vocab_size") {
        *size = rows.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(json: &str, edits: ConfigEdits<'_>) -> String {
        String::from_utf8(edits.apply(json.as_bytes()).unwrap()).unwrap().replace([' ', '\n'], "")
    }

    #[test]
    fn the_dtype_in_the_configuration_follows_the_output() {
        let edits = ConfigEdits { dtype: Some(Dtype::BF16), ..ConfigEdits::default() };
        assert_eq!(edited(r#"{"z":1,"torch_dtype":"float32"}"#, edits), r#"{"z":1,"torch_dtype":"bfloat16"}"#);
        assert_eq!(edited(r#"{"dtype":"float32"}"#, edits), r#"{"dtype":"bfloat16"}"#);
    }

    #[test]
    fn the_size_of_the_vocabulary_in_the_configuration_follows_the_output() {
        let edits = ConfigEdits { rows: Some(7), ..ConfigEdits::default() };
        assert_eq!(edited(r#"{"vocab_size":8}"#, edits), r#"{"vocab_size":7}"#);
        let nested = r#"{"text_config":{"vocab_size":8},"audio_config":{"vocab_size":9}}"#;
        assert_eq!(edited(nested, edits), nested.replace('8', "7"));
    }

    #[test]
    fn the_number_of_layers_and_lists_by_layer_follow_the_output() {
        let restacked = [Restack { stack: "model.layers".into(), height: 3, layers: vec![0, 1, 1, 2] }];
        let edits = ConfigEdits { restacked: &restacked, ..ConfigEdits::default() };
        let json = r#"{"num_hidden_layers":3,"layer_types":["a","b","c"],"eos_token_id":[1,2,3],"n_layer":5}"#;
        let want = r#"{"num_hidden_layers":4,"layer_types":["a","b","b","c"],"eos_token_id":[1,2,3],"n_layer":5}"#;
        assert_eq!(edited(json, edits), want);
        let nested = r#"{"text_config":{"n_layers":3},"vision_config":{"num_hidden_layers":7}}"#;
        let want = r#"{"text_config":{"n_layers":4},"vision_config":{"num_hidden_layers":7}}"#;
        assert_eq!(edited(nested, edits), want);
        for unclear in [r#"{"text_config":{"n_layers":3},"vision_config":{"num_layers":3}}"#, "{}", "not json"] {
            assert_eq!(edits.unplaced(unclear.as_bytes()).len(), 1, "{unclear}");
        }
        assert!(edits.unplaced(nested.as_bytes()).is_empty());
    }

    #[test]
    fn a_head_of_its_own_is_told() {
        let edits = ConfigEdits { untied: true, ..ConfigEdits::default() };
        assert_eq!(edited(r#"{"tie_word_embeddings":true}"#, edits), r#"{"tie_word_embeddings":false}"#);
        assert_eq!(ConfigEdits::default().apply(b"{}"), None);
    }
}
