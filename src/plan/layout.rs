//! The output's weight files: which tensor goes where, and the headers, known before anything is written.

use super::PlannedTensor;

/// A weight file of the output.
#[derive(Clone, Debug)]
pub struct Shard {
    /// File name.
    pub name: String,
    /// The first bytes: header length and header, padded to a multiple of 8.
    pub header: Vec<u8>,
    /// Bytes of tensors.
    pub tensor_bytes: u64,
}

impl Shard {
    /// Length of the file.
    pub fn file_bytes(&self) -> u64 {
        self.header.len() as u64 + self.tensor_bytes
    }
}

/// Fills shards in tensor order, as mergekit does, and tells each tensor its place.
pub fn lay_out(tensors: &mut [PlannedTensor], shard_bytes: u64) -> Vec<Shard> {
    let mut sizes = vec![0];
    for t in tensors.iter_mut() {
        let mut last = sizes.len() - 1;
        if sizes[last] > 0 && sizes[last] + t.bytes() > shard_bytes {
            sizes.push(0);
            last += 1;
        }
        (t.shard, t.offset) = (last, sizes[last]);
        sizes[last] += t.bytes();
    }
    let count = sizes.len();
    let mut shards = Vec::with_capacity(count);
    for (i, tensor_bytes) in sizes.into_iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let header = header(tensors.iter().filter(|t| t.shard == i));
        tensors.iter_mut().filter(|t| t.shard == i).for_each(|t| t.offset += header.len() as u64);
        shards.push(Shard { name, header, tensor_bytes });
    }
    shards
}

fn header<'a>(tensors: impl Iterator<Item = &'a PlannedTensor>) -> Vec<u8> {
    // Loaders of transformers ask for the format in the metadata.
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    for t in tensors {
        let entry = serde_json::json!({
            "dtype": t.dtype.header_name(),
            "shape": t.shape,
            "data_offsets": [t.offset, t.offset + t.bytes()],
        });
        json.push_str(&format!(",{}:{entry}", serde_json::json!(t.name)));
    }
    json.push('}');
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes
}
