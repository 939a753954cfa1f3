//! `adapter_config.json`: ranks and scales of a LoRA adapter. What would change the result and is not done here is refused.

use crate::error::{Error, Result};
use crate::limits::ADAPTER_PATTERNS_BYTES;
use regex::{RegexSet, RegexSetBuilder};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// Keys that make another adapter than `W + scale * B A`.
const REFUSED: &[&str] = &[
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
    "alora_invocation_tokens",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "megatron_config",
];

/// Ways to begin training that leave the model's own weights as they are. The others (`pissa`, `olora` and so on) train
/// on changed weights.
const BEGINNINGS: &[&str] = &["gaussian", "eva", "orthogonal", "mica"];

/// The configuration of a LoRA adapter.
#[derive(Debug)]
pub struct Config {
    rank: u64,
    alpha: f64,
    /// Whether the scale is alpha over the root of the rank.
    rslora: bool,
    /// Ranks of modules whose names match.
    ranks: Patterns<u64>,
    alphas: Patterns<f64>,
    /// Whether matrices are stored with inputs as rows.
    pub fan_in_fan_out: bool,
    /// Whether some modules were trained as a whole.
    pub saves_modules: bool,
}

/// Other kinds of adapters have other keys.
#[derive(Deserialize)]
struct Kind {
    peft_type: String,
}

#[derive(Deserialize)]
struct Raw {
    r: u64,
    lora_alpha: f64,
    use_rslora: Option<bool>,
    fan_in_fan_out: Option<bool>,
    rank_pattern: Option<Map<String, Value>>,
    alpha_pattern: Option<Map<String, Value>>,
    modules_to_save: Option<Vec<String>>,
    init_lora_weights: Option<Value>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Config {
    /// Parses the file at `path`.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self> {
        let bad = |problem: String| Error::malformed(path, problem);
        let parsed = |e| bad(format!("is not the configuration of a LoRA adapter: {e}"));
        let kind: Kind = serde_json::from_slice(json).map_err(parsed)?;
        if kind.peft_type != "LORA" {
            return Err(bad(format!("`peft_type` is {:?}, expected \"LORA\"; {MERGE}", kind.peft_type)));
        }
        let raw: Raw = serde_json::from_slice(json).map_err(parsed)?;
        refuse(&raw).map_err(bad)?;
        let config = Self {
            rank: raw.r,
            alpha: raw.lora_alpha,
            rslora: raw.use_rslora.unwrap_or(false),
            ranks: patterns("rank_pattern", raw.rank_pattern, Value::as_u64).map_err(bad)?,
            alphas: patterns("alpha_pattern", raw.alpha_pattern, Value::as_f64).map_err(bad)?,
            fan_in_fan_out: raw.fan_in_fan_out.unwrap_or(false),
            saves_modules: raw.modules_to_save.is_some_and(|m| !m.is_empty()),
        };
        let mut ranks = config.ranks.values.iter().copied().chain([config.rank]);
        let mut alphas = config.alphas.values.iter().copied().chain([config.alpha]);
        if ranks.any(|r| r == 0) && !super::PLANTED {
            return Err(bad("a rank is 0; expected 1 or more".into()));
        }
        match alphas.find(|a| !(*a as f32).is_finite()) {
            Some(alpha) => Err(bad(format!("alpha {alpha} is too large for f32"))),
            None => Ok(config),
        }
    }

    /// The rank of the adapter on `module`.
    pub fn rank(&self, module: &str) -> u64 {
        self.ranks.first_match(module).unwrap_or(self.rank)
    }

    /// What the product of B and A is multiplied by on `module`.
    pub fn scale(&self, module: &str) -> f32 {
        let alpha = self.alphas.first_match(module).unwrap_or(self.alpha);
        let rank = self.rank(module) as f64;
        (alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }
}

const MERGE: &str = "merge the adapter with PEFT (merge_and_unload) and use the result";

fn refuse(raw: &Raw) -> std::result::Result<(), String> {
    let off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    if let Some(key) = REFUSED.iter().find(|key| raw.other.get(**key).is_some_and(|v| !off(v))) {
        return Err(format!("`{key}` is not supported: it is more than W + scale * B A; {MERGE}"));
    }
    match &raw.init_lora_weights {
        Some(Value::String(name)) if !BEGINNINGS.contains(&name.as_str()) => Err(format!(
            "`init_lora_weights` is \"{name}\": the adapter may be for changed weights of its model; convert it with PEFT \
             (save_pretrained with path_initial_model_for_weight_conversion), or {MERGE}"
        )),
        _ => Ok(()),
    }
}

/// Values for modules whose names match. PEFT's rule: a pattern matches the end of a name, from a dot or the start on.
#[derive(Debug)]
struct Patterns<T> {
    names: RegexSet,
    values: Vec<T>,
}

impl<T: Copy> Patterns<T> {
    /// The value of the first pattern that matches.
    fn first_match(&self, module: &str) -> Option<T> {
        self.names.matches(module).iter().next().map(|first| self.values[first])
    }
}

fn patterns<T>(
    key: &str,
    map: Option<Map<String, Value>>,
    number: impl Fn(&Value) -> Option<T>,
) -> std::result::Result<Patterns<T>, String> {
    let map = map.unwrap_or_default();
    let value = |(name, value): (&String, &Value)| {
        number(value).ok_or_else(|| format!("`{key}`: `{name}` is {value}; expected a number"))
    };
    let values = map.iter().map(value).collect::<std::result::Result<Vec<_>, _>>()?;
    // One limit for all, and no look at each: some thousand of them may be large.
    let names = map.keys().map(|name| format!(r"^(?:.*\.)?(?:{name})$"));
    match RegexSetBuilder::new(names).size_limit(ADAPTER_PATTERNS_BYTES).build() {
        Ok(names) => Ok(Patterns { names, values }),
        Err(e @ regex::Error::CompiledTooBig(_)) => {
            Err(format!("`{key}`: its expressions are too large together: {e}"))
        }
        Err(e) => Err(format!("`{key}` holds what is not an expression that taskvec reads: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Config> {
        Config::parse(Path::new("adapter_config.json"), json.as_bytes())
    }

    #[test]
    fn the_first_pattern_that_matches_the_end_of_a_name_decides() {
        let config = parse(
            r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "unknown": 1, "use_dora": false,
                "rank_pattern": {"layers.1.q": 4, "q": 2}, "alpha_pattern": {"k|v": 3.5, "mlp\\..*": 1}}"#,
        )
        .unwrap();
        let rank = |module| config.rank(module);
        assert_eq!(["layers.1.q", "a.layers.1.q", "a.layers.11.q", "a.xq"].map(rank), [4, 4, 2, 8]);
        let scale = |module| config.scale(module);
        assert_eq!(["a.k", "v", "a.mlp.up", "a.q", "b.o"].map(scale), [3.5 / 8.0, 3.5 / 8.0, 0.125, 8.0, 2.0]);
    }

    #[test]
    fn rank_stabilised_adapters_divide_by_the_root() {
        let config = parse(r#"{"peft_type": "LORA", "r": 9, "lora_alpha": 6, "use_rslora": true}"#).unwrap();
        assert_eq!(config.scale("q"), 2.0);
    }

    #[test]
    fn what_is_more_than_a_product_is_refused_by_name() {
        for (key, value) in [
            ("use_dora", "true"),
            ("layer_replication", "[[0, 4]]"),
            ("trainable_token_indices", "[1]"),
            ("target_parameters", "[\"x\"]"),
            ("init_lora_weights", "\"pissa\""),
            ("peft_type", "\"LOHA\""),
        ] {
            let mut json = serde_json::json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16});
            json[key] = serde_json::from_str(value).unwrap();
            let error = parse(&json.to_string()).unwrap_err();
            assert!(error.to_string().contains(key) && error.exit_code() == 65, "{error}");
        }
        for json in [
            "[]",
            r#"{"peft_type": "LORA"}"#,
            r#"{"peft_type": "LORA", "r": 0, "lora_alpha": 1}"#,
            r#"{"peft_type": "LORA", "r": 8, "r": 4, "lora_alpha": 1}"#,
            r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 1e300}"#,
            r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 1, "rank_pattern": {"(": 1}}"#,
            r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 1, "rank_pattern": {"q": 1.5}}"#,
            r#"{"peft_type": "LORA", "r": 8, "lora_alpha": 1, "rank_pattern": {"((a{1000}){1000}){9}": 1}}"#,
        ] {
            assert_eq!(parse(json).unwrap_err().exit_code(), 65, "{json}");
        }
    }
}
