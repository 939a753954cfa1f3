//! Targets that read text: JSON and YAML.

use super::Outcome;
use safetensors::SafeTensors;
use std::collections::BTreeSet;
use std::path::Path;
use taskvec::recipe::{Coefficients, Stages};
use taskvec::sink::ConfigEdits;
use taskvec::source::{AdapterConfig, Header, parse_header, parse_index};
use taskvec::tensor::Dtype;
use taskvec::vocabulary::TokenizerFile;

/// Where other readers are asked, files have at most so many bytes of tensors.
const DATA_MAX: u64 = 64 << 10;

fn message(error: &taskvec::Error) -> String {
    let code = error.exit_code();
    assert!([2, 65, 66, 76].contains(&code), "exit code {code} for bad input: {error}");
    error.to_string()
}

/// A header's JSON. The file is as long as its last offsets say; a tab at the end makes it one byte longer, a newline one shorter.
pub fn header(json: &[u8]) -> Outcome {
    let data = match json.last() {
        Some(b'\t') => data_bytes(json) + 1,
        Some(b'\n') => data_bytes(json).saturating_sub(1),
        _ => data_bytes(json),
    };
    let file_bytes = 8 + json.len() as u64 + data;
    let header = parse_header(Path::new("m"), json, file_bytes).map_err(|e| message(&e))?;
    check_table(&header, json.len() as u64, data);
    if data <= DATA_MAX {
        ask_safetensors(&header, json, data);
    }
    Ok(())
}

/// The largest end of a pair of offsets.
fn data_bytes(json: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(json);
    let ends = text.split("\"data_offsets\"").skip(1).filter_map(|rest| {
        let end = rest.split(']').next()?.rsplit(',').next()?;
        end.trim().parse::<u64>().ok()
    });
    ends.max().unwrap_or(0).min(1 << 62)
}

fn check_table(header: &Header, json_bytes: u64, data: u64) {
    let mut at = u128::from(8 + json_bytes);
    let mut names = BTreeSet::new();
    for t in &header.tensors {
        let elements: u128 = t.shape.iter().map(|d| u128::from(*d)).product();
        assert_eq!(elements * t.dtype.bytes() as u128, u128::from(t.bytes), "{t:?}");
        assert_eq!(at, u128::from(t.offset), "{t:?}");
        assert!(names.insert(t.name.as_str()) && !t.name.is_empty(), "{t:?}");
        at += u128::from(t.bytes);
    }
    assert_eq!(at, u128::from(8 + json_bytes + data));
}

/// What ours accepts, the safetensors crate accepts with the same table.
fn ask_safetensors(header: &Header, json: &[u8], data: u64) {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json);
    let start = file.len();
    file.resize(start + data as usize, 0);
    let (_, theirs) = SafeTensors::read_metadata(&file).unwrap_or_else(|e| panic!("safetensors refuses: {e}"));
    assert_eq!(theirs.tensors().len(), header.tensors.len());
    for t in &header.tensors {
        let info = theirs.info(&t.name).unwrap_or_else(|| panic!("safetensors has no {}", t.name));
        let offset = t.offset as usize - start;
        assert_eq!(info.data_offsets, (offset, offset + t.bytes as usize), "{}", t.name);
        assert!(info.shape.iter().map(|d| *d as u64).eq(t.shape.iter().copied()), "{}", t.name);
        assert_eq!(info.dtype.to_string(), t.dtype.header_name(), "{}", t.name);
    }
}

/// `model.safetensors.index.json`.
pub fn shard_index(json: &[u8]) -> Outcome {
    let map = parse_index(Path::new("m"), json).map_err(|e| message(&e))?;
    for shard in map.values() {
        let plain = Path::new(shard).file_name().is_some_and(|name| name == shard.as_str());
        assert!(plain && !shard.contains('\\') && !shard.chars().any(char::is_control), "{shard:?}");
    }
    Ok(())
}

/// A recipe's YAML.
pub fn recipe(yaml: &[u8]) -> Outcome {
    let text = std::str::from_utf8(yaml).map_err(|e| e.to_string())?;
    let stages = Stages::parse(text).map_err(|e| message(&e))?;
    for recipe in stages.before.iter().map(|s| &s.recipe).chain([&stages.last]) {
        recipe.check().map_err(|e| message(&e))?;
        recipe.canonical();
        let layers = recipe.slices().flat_map(|s| s.origins().filter_map(|(_, layers)| layers).collect::<Vec<_>>());
        layers.for_each(|l| assert!(l.start < l.end, "no layers: {l:?}"));
        for depth in [0.0, 0.5, 1.0] {
            recipe.settings("model.layers.1.self_attn.q_proj.weight", depth).map_err(|e| message(&e))?;
        }
    }
    Ok(())
}

/// A file of coefficients, for three experts.
pub fn coefficients(json: &[u8]) -> Outcome {
    let text = std::str::from_utf8(json).map_err(|e| e.to_string())?;
    let coefficients = Coefficients::parse(text, "coefficients", 3).map_err(|e| message(&e))?;
    for k in 0..3 {
        let weight = coefficients.of_expert(k).at("a", 0.5);
        assert!(weight.is_none_or(f64::is_finite), "{weight:?}");
    }
    Ok(())
}

/// `adapter_config.json` of PEFT.
pub fn adapter_config(json: &[u8]) -> Outcome {
    let config = AdapterConfig::parse(Path::new("m"), json).map_err(|e| message(&e))?;
    for module in ["model.layers.1.self_attn.q_proj", "q", "lm_head"] {
        assert!(config.rank(module) > 0 && config.scale(module).is_finite(), "{config:?}");
    }
    Ok(())
}

/// `tokenizer.json`.
pub fn tokenizer(json: &[u8]) -> Outcome {
    let mut file = TokenizerFile::parse("m".into(), json).map_err(|e| message(&e))?;
    let ids: BTreeSet<u64> = file.ids.values().copied().collect();
    assert_eq!(ids.len(), file.ids.len(), "two tokens have one id");
    // Where ids have gaps, no token is added.
    let whole = ids.iter().copied().eq(0..ids.len() as u64);
    assert!(!whole || !ids.contains(&file.next_id()), "the next id is taken");
    assert_eq!(file.in_order().len(), ids.len());
    file.drop_from(3);
    assert!(file.ids.values().all(|id| *id < 3));
    Ok(())
}

/// `config.json`, changed for an output.
pub fn config(json: &[u8]) -> Outcome {
    let restacked = [taskvec::plan::Restack { stack: "model.layers".into(), height: 3, layers: vec![0, 1, 1, 2] }];
    let edits = ConfigEdits { dtype: Some(Dtype::BF16), rows: Some(7), restacked: &restacked, untied: true };
    edits.unplaced(json);
    let edited = edits.apply(json).ok_or("not a configuration")?;
    let edited: serde_json::Value = serde_json::from_slice(&edited).expect("valid JSON");
    assert_eq!(edited["tie_word_embeddings"], false, "{edited}");
    let says_dtype = |key: &str| edited[key] == "bfloat16";
    assert!(says_dtype("dtype") || says_dtype("torch_dtype"), "{edited}");
    Ok(())
}
