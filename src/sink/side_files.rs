//! What travels with the weights: configuration, tokenizer, and every other small file of the base.

use super::config::ConfigEdits;
use crate::error::{Error, Result};
use crate::limits::{SIDE_FILE_MAX_BYTES, SIDE_FILE_MAX_DEPTH};
use crate::source::{self, Links, check_link};
use crate::tensor::is_url;
use std::path::{Path, PathBuf};

/// A file to be written beside the weights.
#[derive(Debug)]
pub struct SideFile {
    /// Its name inside the output, with folders.
    pub name: String,
    /// Where it is read from.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// Files that taskvec writes itself.
const OWN: &[&str] = &["README.md", "mergekit_config.yml", "taskvec.json"];

/// Weights in any format, and other files that belong to one checkpoint alone.
const WEIGHTS: &[&str] =
    &["safetensors", "bin", "pt", "pth", "ckpt", "h5", "msgpack", "onnx", "gguf", "npz", "tvd", "pkl", "tflite", "ot"];

/// What says how a model is used.
const CONFIGURATION: &[&str] = &[
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    "USE_POLICY.md",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];

/// The settings of a tokenizer.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Files that hold a tokenizer's words in other forms than `tokenizer.json`.
const WORDS: &[&str] = &[
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tekken.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
];

/// Other files of a tokenizer.
const TOKENIZER: &[&str] =
    &["chat_template.jinja", "chat_template.json", "special_tokens_map.json", "tokenizer.json", TOKENIZER_CONFIG];

/// Whether a file belongs to the tokenizer.
pub fn is_of_tokenizer(name: &str) -> bool {
    let code = name.starts_with("tokenization_") && Path::new(name).extension().is_some_and(|e| e == "py");
    TOKENIZER.contains(&name) || is_of_words(name) || code || name.starts_with("additional_chat_templates/")
}

/// Whether a file says the words of a tokenizer again.
pub fn is_of_words(name: &str) -> bool {
    WORDS.contains(&name)
}

/// The side files of the model at `path`, by name. A model that is a single file has none.
pub fn find(path: &Path, links: Links) -> Result<Vec<SideFile>> {
    let mut found = find_all(path, links)?;
    found.retain(|f| {
        let hidden = f.name.split('/').any(|part| part.starts_with('.'));
        !hidden && !OWN.contains(&f.name.as_str()) && !is_index(&f.name)
    });
    Ok(found)
}

/// The same with the files that taskvec writes itself, the shard index, and hidden files.
pub fn find_all(path: &Path, links: Links) -> Result<Vec<SideFile>> {
    let mut found = Vec::new();
    let root = match path.extension().and_then(|e| e.to_str()) {
        Some("json") => path.parent().unwrap_or(path),
        _ => path,
    };
    if is_url(root) {
        found = under_url(root)?;
    } else if root.is_dir() {
        collect(root, root, "", links, &mut found)?;
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Where folders cannot be listed, files are known by their usual names.
fn under_url(root: &Path) -> Result<Vec<SideFile>> {
    if !source::is_folder(root) {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = CONFIGURATION.iter().chain(WORDS).chain(TOKENIZER).copied().collect();
    let there = source::listed(root, &names)?.into_iter().filter(|(_, bytes)| *bytes <= SIDE_FILE_MAX_BYTES);
    Ok(there.map(|(name, bytes)| SideFile { name: name.to_owned(), path: root.join(name), bytes }).collect())
}

fn collect(root: &Path, folder: &Path, prefix: &str, links: Links, found: &mut Vec<SideFile>) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list the folder"))? {
        let entry = entry.map_err(Error::io(folder, "list the folder"))?;
        let (path, Ok(file_name)) = (entry.path(), entry.file_name().into_string()) else { continue };
        let name = format!("{prefix}{file_name}");
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if is_weights(&file_name) || (meta.is_dir() && file_name.starts_with('.')) {
            continue;
        }
        if meta.is_dir() {
            let another_output = path.join("taskvec.json").exists();
            if another_output || path.is_symlink() || prefix.matches('/').count() == SIDE_FILE_MAX_DEPTH {
                tracing::warn!("{}: the folder is not copied to the output", path.display());
            } else {
                collect(root, &path, &format!("{name}/"), links, found)?;
            }
        } else if meta.is_file() && meta.len() <= SIDE_FILE_MAX_BYTES {
            check_link(root, &path, links)?;
            found.push(SideFile { name, path, bytes: meta.len() });
        } else {
            tracing::warn!("{}: not a small regular file, so not copied to the output", path.display());
        }
    }
    Ok(())
}

fn is_weights(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, e)| e).to_ascii_lowercase();
    WEIGHTS.contains(&extension.as_str()) || name.ends_with(".bin.index.json")
}

fn is_index(name: &str) -> bool {
    name.ends_with(".safetensors.index.json")
}

impl SideFile {
    /// Its bytes.
    pub fn read(&self) -> Result<Vec<u8>> {
        if is_url(&self.path) {
            return source::read_whole(&self.path, SIDE_FILE_MAX_BYTES);
        }
        std::fs::read(&self.path).map_err(Error::io(&self.path, "read"))
    }
}

/// A side file's content in the output: the same bytes, but for what changes in `config.json`, and for a chat template
/// that goes into a file of its own.
pub fn edited(name: &str, bytes: Vec<u8>, edits: &ConfigEdits<'_>, has_template: bool) -> Vec<u8> {
    let edited = match name {
        "config.json" => edits.apply(&bytes),
        TOKENIZER_CONFIG if has_template => without_template(&bytes),
        _ => None,
    };
    edited.unwrap_or(bytes)
}

/// The settings of a tokenizer without its chat template; `None` if there is none.
fn without_template(json: &[u8]) -> Option<Vec<u8>> {
    let mut settings: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).ok()?;
    settings.shift_remove("chat_template")?;
    let mut text = serde_json::to_vec_pretty(&settings).ok()?;
    text.push(b'\n');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_small_that_is_not_weights_travels() {
        let root = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json", "1_Pooling/config.json", "code.py"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        for name in ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "README.md", ".git"] {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        let names: Vec<String> = find(root.path(), Links::Inside).unwrap().into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["1_Pooling/config.json", "code.py", "config.json", "tokenizer.json"]);
    }
}
