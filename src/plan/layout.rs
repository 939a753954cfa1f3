//! The output's weight files: which tensor goes where, and the headers, known before anything is written.

use super::{Masks, PlannedTensor};

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

/// The file of masks: of each tensor that is merged one of bytes, a row for each expert. Tells each tensor its place.
pub fn lay_out_masks(tensors: &mut [PlannedTensor], experts: &[String], plan_id: &str) -> Shard {
    let names = serde_json::json!(experts).to_string();
    let metadata = serde_json::json!({
        "format": "pt", "content": "TALL masks", "bit_order": "big", "experts": names, "plan_id": plan_id
    });
    let mut json = format!(r#"{{"__metadata__":{metadata}"#);
    let mut tensor_bytes = 0;
    for t in tensors.iter_mut().filter(|t| t.layer.is_some()) {
        t.masks = Some(Masks { offset: tensor_bytes, experts: experts.len() });
        let end = tensor_bytes + experts.len() as u64 * t.elements.div_ceil(8);
        let shape = [experts.len() as u64, t.elements.div_ceil(8)];
        let entry = serde_json::json!({"dtype": "U8", "shape": shape, "data_offsets": [tensor_bytes, end]});
        json.push_str(&format!(",{}:{entry}", serde_json::json!(t.name)));
        tensor_bytes = end;
    }
    let header = finish_header(json);
    tensors.iter_mut().filter_map(|t| t.masks.as_mut()).for_each(|m| m.offset += header.len() as u64);
    Shard { name: "masks".into(), header, tensor_bytes }
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
    finish_header(json)
}

/// The bytes before the tensors; `json` lacks its end.
fn finish_header(mut json: String) -> Vec<u8> {
    json.push('}');
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes
}
