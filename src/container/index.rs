//! What a delta file says about itself: tensors, hashes, statistics, and the files that it restores.

use crate::tensor::{Dtype, Statistics};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The `#index` payload, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// The `__metadata__` of the header, again.
    pub metadata: BTreeMap<String, String>,
    /// Every tensor of the result, in its order.
    pub tensors: Vec<Tensor>,
    /// Tensors that only the base has.
    pub base_only: Vec<Identity>,
    /// The files of the result, in the order of their names.
    pub files: Vec<RestoredFile>,
}

/// What tells a tensor from any other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// blake3 of its bytes.
    pub blake3: String,
}

/// A tensor of the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// blake3 of its bytes.
    pub blake3: String,
    /// The tensor of this name in the base.
    pub base: Option<BaseTensor>,
    /// blake3 of its payload (blocks, then header and table); `None` where every byte is the base's.
    pub payload: Option<String>,
    /// What merges may start from; `None` for tensors that are not finite floats of one shape on both sides.
    pub statistics: Option<Statistics>,
}

/// A tensor's other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseTensor {
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// blake3 of its bytes.
    pub blake3: String,
}

/// A file that `apply` writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoredFile {
    /// Name inside the model's folder.
    pub name: String,
    /// What is kept of it.
    pub kept: Kept,
    /// Bytes kept in the `#files` payload.
    pub kept_bytes: u64,
    /// Length of the whole file.
    pub bytes: u64,
    /// blake3 of the whole file; `None` for weights, whose tensors have their own.
    pub blake3: Option<String>,
}

/// What a delta file keeps of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// A weight file's header: its length field and its JSON.
    Header,
    /// The whole file.
    Content,
    /// Nothing: the base has the same file under the same name.
    Nothing,
}

impl Tensor {
    /// Its name, dtype, shape and hash.
    pub fn identity(&self) -> Identity {
        Identity { name: self.name.clone(), dtype: self.dtype, shape: self.shape.clone(), blake3: self.blake3.clone() }
    }

    /// The same of its other side.
    pub fn base_identity(&self) -> Option<Identity> {
        let base = self.base.clone()?;
        Some(Identity { name: self.name.clone(), dtype: base.dtype, shape: base.shape, blake3: base.blake3 })
    }
}

impl Index {
    /// Names the result, however it is cut into files.
    pub fn result_root(&self) -> String {
        root(self.tensors.iter().map(Tensor::identity).collect())
    }

    /// Names the base, likewise.
    pub fn base_root(&self) -> String {
        root(self.tensors.iter().filter_map(Tensor::base_identity).chain(self.base_only.iter().cloned()).collect())
    }
}

/// blake3 over one line of JSON for each tensor, `["name","dtype",[shape],"blake3"]`, sorted by name.
pub fn root(mut tensors: Vec<Identity>) -> String {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hasher = blake3::Hasher::new();
    for t in &tensors {
        hasher.update(serde_json::json!([t.name, t.dtype, t.shape, t.blake3]).to_string().as_bytes()).update(b"\n");
    }
    hasher.finalize().to_hex().to_string()
}
