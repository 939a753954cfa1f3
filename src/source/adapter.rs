//! LoRA adapters as PEFT saves them: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Every tensor of an adapter must find its tensor in the model; nothing is left out in silence.

use super::adapter_config::Config;
use super::checkpoint::{Links, check_link, read_header, read_known};
use super::place::exists;
use crate::error::{Error, Result};
use crate::limits::ADAPTER_CONFIG_MAX_BYTES;
use crate::tensor::{Entry, Factor, FileEntry, Inventory, LowRank};
use std::collections::BTreeMap;
use std::path::Path;

pub const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";

/// What PEFT puts before the names of the model's tensors.
const PREFIX: &str = "base_model.model.";

/// The model with the adapter in the folder `root`.
pub fn put_on(mut model: Inventory, label: &str, root: &Path, links: Links) -> Result<Inventory> {
    let (config_file, config) = read_config(root, links)?;
    let (weights, entries) = read_weights(root, links)?;
    model.files.push(config_file);
    let file = model.files.len();
    model.files.push(weights);
    label.clone_into(&mut model.label);
    model.adapter = Some(root.to_owned());
    let adapter = Adapter { path: &root.join(WEIGHTS), file, config: &config };
    adapter.put_on(&mut model.tensors, &entries)?;
    Ok(model)
}

fn read_config(root: &Path, links: Links) -> Result<(FileEntry, Config)> {
    let path = root.join(CONFIG);
    if !exists(&path)? {
        let problem = format!("is not an adapter: expected a folder with {CONFIG} and {WEIGHTS}");
        return Err(Error::InputMissing { path: root.to_owned(), problem });
    }
    check_link(root, &path, links)?;
    let (json, identity) = read_known(&path, ADAPTER_CONFIG_MAX_BYTES)?;
    let bytes = json.len() as u64;
    let config = Config::parse(&path, &json)?;
    let header_blake3 = blake3::hash(&json).to_hex().to_string();
    Ok((FileEntry { name: CONFIG.to_owned(), path, bytes, header_blake3, identity: Some(identity) }, config))
}

fn read_weights(root: &Path, links: Links) -> Result<(FileEntry, Vec<Entry>)> {
    let path = root.join(WEIGHTS);
    if !exists(&path)? {
        let problem = if exists(&root.join(PICKLE))? {
            format!("{PICKLE} is a pickle, which can run code when opened; save the adapter as {WEIGHTS} first")
        } else {
            format!("no {WEIGHTS} in this folder")
        };
        return Err(Error::InputMissing { path: root.to_owned(), problem });
    }
    check_link(root, &path, links)?;
    read_header(WEIGHTS, path)
}

/// An adapter whose files have been read.
struct Adapter<'a> {
    path: &'a Path,
    /// Index of its weights among the model's files.
    file: usize,
    config: &'a Config,
}

/// What a tensor of an adapter is for its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    A {
        embedding: bool,
    },
    B {
        embedding: bool,
    },
    /// It takes the target's place.
    Whole,
}

/// What an adapter has for one tensor of the model.
#[derive(Default)]
struct Parts<'a> {
    a: Option<(&'a Entry, bool)>,
    b: Option<(&'a Entry, bool)>,
    whole: Option<&'a Entry>,
}

impl Adapter<'_> {
    fn put_on(&self, tensors: &mut [Entry], entries: &[Entry]) -> Result<()> {
        let parts = self.gather(tensors, entries)?;
        if parts.is_empty() {
            return Err(Error::malformed(self.path, "holds no tensors; fetch the adapter again"));
        }
        if self.config.saves_modules && parts.values().all(|p| p.whole.is_none()) {
            let problem = format!("holds none of the `modules_to_save` of its {CONFIG}; fetch the adapter again");
            return Err(Error::malformed(self.path, problem));
        }
        for (target, parts) in parts {
            let t = &mut tensors[target];
            if let Some(whole) = parts.whole {
                self.replace(t, whole)?;
            }
            match (parts.a, parts.b) {
                (None, None) => {}
                (Some(a), Some(b)) => t.adapter = Some(Box::new(self.low_rank(t, a, b)?)),
                (Some((found, _)), None) => return Err(self.bad(found, "has no B beside it; fetch the adapter again")),
                (None, Some((found, _))) => return Err(self.bad(found, "has no A beside it; fetch the adapter again")),
            }
        }
        Ok(())
    }

    fn gather<'a>(&self, tensors: &[Entry], entries: &'a [Entry]) -> Result<BTreeMap<usize, Parts<'a>>> {
        let by_name: BTreeMap<&str, usize> = tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        let mut gathered: BTreeMap<usize, Parts<'a>> = BTreeMap::new();
        for entry in entries {
            let (role, target) = role(&entry.name).map_err(|problem| self.bad(entry, problem))?;
            let Some(&index) = by_name.get(target.as_str()) else {
                let near = nearest(&target, tensors);
                let problem =
                    format!("the model has no tensor `{target}` that it could be for; the nearest is `{near}`");
                return Err(self.bad(entry, problem));
            };
            let parts = gathered.entry(index).or_default();
            let twice = match role {
                Role::A { embedding } => parts.a.replace((entry, embedding)).is_some(),
                Role::B { embedding } => parts.b.replace((entry, embedding)).is_some(),
                Role::Whole => parts.whole.replace(entry).is_some(),
            };
            if twice {
                return Err(self.bad(entry, format!("the adapter has it twice for `{target}`, in two spellings")));
            }
        }
        Ok(gathered)
    }

    /// Lets `t` be the tensor that was trained as a whole.
    fn replace(&self, t: &mut Entry, whole: &Entry) -> Result<()> {
        let alike = whole.dtype == t.dtype || (whole.dtype.is_float() && t.dtype.is_float());
        if whole.shape != t.shape || !alike {
            let problem = format!(
                "{} {:?}, but `{}` of the model is {} {:?}; take the model that the adapter was trained on",
                whole.dtype, whole.shape, t.name, t.dtype, t.shape
            );
            return Err(self.bad(whole, problem));
        }
        (t.file, t.offset, t.dtype, t.bytes) = (self.file, whole.offset, whole.dtype, whole.bytes);
        Ok(())
    }

    fn low_rank(&self, t: &Entry, (a, a_embeds): (&Entry, bool), (b, b_embeds): (&Entry, bool)) -> Result<LowRank> {
        if a_embeds != b_embeds {
            return Err(self.bad(a, "it is for an embedding and its B is not, or the other way round"));
        }
        let [rows, columns] = t.shape[..] else {
            let problem = format!(
                "its target has shape {:?}; only matrices can have an adapter here. Merge the adapter with PEFT \
                 (merge_and_unload) and use the result",
                t.shape
            );
            return Err(self.bad(a, problem));
        };
        if let Some(other) = [t, a, b].into_iter().find(|e| !e.dtype.is_float()) {
            return Err(self.bad(a, format!("`{}` is {}; expected a float dtype", other.name, other.dtype)));
        }
        let module = t.name.strip_suffix(".weight").unwrap_or(&t.name);
        let rank = self.config.rank(module);
        let transposed = a_embeds || self.config.fan_in_fan_out;
        let (inputs, outputs) = if transposed { (rows, columns) } else { (columns, rows) };
        for (entry, shape) in [(a, [rank, inputs]), (b, [outputs, rank])] {
            if entry.shape != shape {
                let problem = format!(
                    "expected shape {shape:?} for rank {rank} on `{}` {:?}{}, got {:?}; take the model that the adapter \
                     was trained on",
                    t.name,
                    t.shape,
                    if transposed { ", whose rows are inputs" } else { "" },
                    entry.shape
                );
                return Err(self.bad(entry, problem));
            }
        }
        let factor = |e: &Entry| Factor { file: self.file, offset: e.offset, dtype: e.dtype };
        let scale = self.config.scale(module);
        Ok(LowRank { a: factor(a), b: factor(b), rank, columns, scale, transposed })
    }

    fn bad(&self, entry: &Entry, problem: impl Into<String>) -> Error {
        Error::BadTensor { path: self.path.to_owned(), tensor: entry.name.clone(), problem: problem.into() }
    }
}

/// What the adapter's tensor of this name is, and the name of the model's tensor that it is for.
fn role(name: &str) -> std::result::Result<(Role, String), String> {
    let Some(inner) = name.strip_prefix(PREFIX) else {
        return Err(format!("expected a name that begins with `{PREFIX}`, as PEFT saves them"));
    };
    let parts: Vec<&str> = inner.split('.').collect();
    let Some(at) = parts.iter().position(|p| p.starts_with("lora_")) else {
        return Ok((Role::Whole, without_wrappers(&parts)));
    };
    let role = match parts[at..] {
        ["lora_A", "weight"] | ["lora_A", "default", "weight"] => Role::A { embedding: false },
        ["lora_B", "weight"] | ["lora_B", "default", "weight"] => Role::B { embedding: false },
        ["lora_embedding_A"] | ["lora_embedding_A", "default"] => Role::A { embedding: true },
        ["lora_embedding_B"] | ["lora_embedding_B", "default"] => Role::B { embedding: true },
        ["lora_magnitude_vector", ..] => {
            return Err("the adapter is a DoRA; merge it with PEFT (merge_and_unload) and use the result".into());
        }
        _ => {
            return Err("is no A, B or whole tensor of a plain LoRA adapter; merge the adapter with PEFT \
                        (merge_and_unload) and use the result"
                .into());
        }
    };
    Ok((role, format!("{}.weight", parts[..at].join("."))))
}

/// The name without what PEFT puts around modules that it wraps.
fn without_wrappers(parts: &[&str]) -> String {
    let mut kept: Vec<&str> = Vec::with_capacity(parts.len());
    let mut parts = parts.iter().peekable();
    while let Some(&part) = parts.next() {
        match part {
            "base_layer" => {}
            "modules_to_save" => {
                parts.next_if(|p| **p == "default");
            }
            _ => kept.push(part),
        }
    }
    kept.join(".")
}

/// The tensor whose name ends most like `target`.
fn nearest<'a>(target: &str, tensors: &'a [Entry]) -> &'a str {
    let shared = |t: &&Entry| t.name.bytes().rev().zip(target.bytes().rev()).take_while(|(a, b)| a == b).count();
    tensors.iter().max_by_key(shared).map_or("", |t| &t.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_tensor_is_for() {
        let a = |embedding| Role::A { embedding };
        for (name, want, target) in [
            ("model.layers.0.q.lora_A.weight", a(false), "model.layers.0.q.weight"),
            ("model.layers.0.q.lora_B.default.weight", Role::B { embedding: false }, "model.layers.0.q.weight"),
            ("wte.lora_embedding_A", a(true), "wte.weight"),
            ("wte.lora_embedding_B.default", Role::B { embedding: true }, "wte.weight"),
            ("score.weight", Role::Whole, "score.weight"),
            ("score.modules_to_save.default.weight", Role::Whole, "score.weight"),
            ("score.modules_to_save.dense.bias", Role::Whole, "score.dense.bias"),
            ("wte.base_layer.weight", Role::Whole, "wte.weight"),
            ("h.0.q.bias", Role::Whole, "h.0.q.bias"),
        ] {
            assert_eq!(role(&format!("{PREFIX}{name}")), Ok((want, target.to_owned())), "{name}");
        }
        for name in ["q.lora_A.weight", "base_model.model.q.lora_A.math.weight", "base_model.model.q.lora_B.bias"] {
            assert!(role(name).is_err(), "{name}");
        }
        assert!(role("base_model.model.q.lora_magnitude_vector").unwrap_err().contains("DoRA"));
    }
}
