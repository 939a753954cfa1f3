//! Delta files whose hashes and lengths fit together, made by hand from a good one.

use super::common::Model;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use taskvec::codec::BLOCK;
use taskvec::container::{Index, checksum, histogram_checksum};

/// Bytes of a payload's header and of an entry of its table (docs/format.md).
pub const HEAD: usize = 64;
pub const ENTRY: usize = 17;

/// A delta file in parts.
#[derive(Clone)]
pub struct Forged {
    pub payloads: BTreeMap<String, Vec<u8>>,
    pub index: Value,
    pub files: Vec<u8>,
    /// Laid over the header's metadata and the index's.
    pub metadata: BTreeMap<String, String>,
    /// Leads of `#files` and `#index` that replace the true ones: length, packed length.
    pub leads: BTreeMap<&'static str, [u64; 2]>,
    /// Frames that replace the true ones.
    pub frames: BTreeMap<&'static str, Vec<u8>>,
    /// What payloads are said to hold.
    pub dtype: &'static str,
    /// Bytes of the index's JSON that replace it.
    pub json: Option<Vec<u8>>,
    header_bytes: usize,
}

impl Forged {
    pub fn read(path: &Path) -> Self {
        let file = Model::read(path);
        let bytes: u64 = fs::metadata(path).unwrap().len();
        let held: usize = file.tensors.iter().map(|t| t.bytes.len()).sum();
        let mut payloads: BTreeMap<String, Vec<u8>> = file.tensors.into_iter().map(|t| (t.name, t.bytes)).collect();
        let unpack = |bytes: &[u8]| {
            let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            zstd::bulk::decompress(&bytes[24..24 + number(8)], number(0)).unwrap()
        };
        let index = serde_json::from_slice(&unpack(&payloads.remove("#index").unwrap())).unwrap();
        let files = unpack(&payloads.remove("#files").unwrap());
        Self {
            payloads,
            index,
            files,
            metadata: BTreeMap::new(),
            leads: BTreeMap::new(),
            frames: BTreeMap::new(),
            dtype: "U8",
            json: None,
            header_bytes: bytes as usize - held,
        }
    }

    pub fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    pub fn tensor(&mut self, name: &str) -> &mut Value {
        let tensors = self.index["tensors"].as_array_mut().unwrap();
        tensors.iter_mut().find(|t| t["name"] == name).unwrap()
    }

    pub fn payload(&mut self, tensor: &str) -> &mut Vec<u8> {
        self.payloads.get_mut(&format!("{tensor}#d0")).unwrap()
    }

    pub fn number(&self, tensor: &str, at: usize, bytes: usize) -> u64 {
        let payload = &self.payloads[&format!("{tensor}#d0")];
        payload[at..at + bytes].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
    }

    pub fn put(&mut self, tensor: &str, at: usize, bytes: &[u8]) {
        self.payload(tensor)[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Blocks of a tensor that its elements ask for, and the ends in its table.
    pub fn table(&self, tensor: &str) -> (usize, Vec<u64>) {
        let room = self.payloads[&format!("{tensor}#d0")].len() / ENTRY - HEAD.div_ceil(ENTRY);
        let blocks = (self.number(tensor, 16, 8).div_ceil(BLOCK as u64) as usize).min(room);
        (HEAD + blocks * ENTRY, (0..blocks).map(|i| self.number(tensor, HEAD + i * ENTRY, 8)).collect())
    }

    /// Ranges of the file that blocks lie in, and how messages name them. The payloads stand in the order of the index.
    pub fn blocks(&self) -> Vec<(Range<usize>, String)> {
        let mut found = Vec::new();
        let mut start = self.header_bytes;
        for t in self.index["tensors"].as_array().unwrap() {
            let name = t["name"].as_str().unwrap();
            let Some(payload) = self.payloads.get(&format!("{name}#d0")) else { continue };
            let (front, ends) = self.table(name);
            let mut at = 0;
            for (i, end) in ends.into_iter().enumerate() {
                let range = start + front + at..start + front + end as usize;
                found.push((range, format!("tensor `{name}`: block {i} is damaged")));
                at = end as usize;
            }
            start += payload.len();
        }
        found
    }

    /// Gives every block the checksum that it has, and the histogram.
    pub fn seal(&mut self, tensor: &str) {
        let (front, ends) = self.table(tensor);
        let mut at = front;
        for (i, end) in ends.into_iter().enumerate() {
            let end = front + end as usize;
            let entry = HEAD + i * ENTRY;
            let payload = self.payload(tensor);
            let Some(block) = payload.get(at..end) else { return };
            let sum = checksum(payload[entry + 8], block);
            self.put(tensor, entry + 9, &sum.to_le_bytes());
            at = end;
        }
        let end = at + self.number(tensor, 52, 4) as usize;
        if let Some(histogram) = self.payload(tensor).get(at..end) {
            let sum = histogram_checksum(histogram);
            self.put(tensor, 56, &sum.to_le_bytes());
        }
    }

    /// The file, with hashes and roots that fit.
    pub fn write(&self, path: &Path) {
        let mut index = self.index.clone();
        for t in index["tensors"].as_array_mut().unwrap() {
            let name = t["name"].as_str().unwrap().to_owned();
            if let (Some(payload), false) = (self.payloads.get(&format!("{name}#d0")), t["payload"].is_null()) {
                let (front, _) = self.table(&name);
                let length = (self.number(&name, 40, 8) as usize).clamp(front.min(payload.len()), payload.len());
                let (table, blocks) = payload[..length].split_at(front.min(length));
                let hash = blake3::Hasher::new().update(blocks).update(table).finalize();
                t["payload"] = hash.to_hex().as_str().into();
            }
        }
        let mut metadata = index["metadata"].clone();
        if let Ok(index) = serde_json::from_value::<Index>(index.clone()) {
            metadata["base_root"] = index.base_root().into();
            metadata["result_root"] = index.result_root().into();
        }
        self.metadata.iter().for_each(|(k, v)| metadata[k] = v.as_str().into());
        index["metadata"] = metadata.clone();
        let json = self.json.clone().unwrap_or_else(|| serde_json::to_vec(&index).unwrap());
        let mut payloads: Vec<(String, Vec<u8>)> = self.payloads.clone().into_iter().collect();
        for (name, content) in [("#files", &self.files), ("#index", &json)] {
            let frame = self.frames.get(name).cloned().unwrap_or_else(|| zstd::bulk::compress(content, 3).unwrap());
            let [length, packed] = self.leads.get(name).copied().unwrap_or([content.len() as u64, frame.len() as u64]);
            let mut section = [length, packed, checksum(0, &frame)].map(u64::to_le_bytes).concat();
            section.extend(frame);
            section.resize(section.len().next_multiple_of(64), 0);
            payloads.push((name.into(), section));
        }
        let mut header = json!({"__metadata__": metadata});
        let mut at = 0;
        for (name, bytes) in &payloads {
            let end = at + bytes.len();
            header[name] = json!({"dtype": self.dtype, "shape": [bytes.len()], "data_offsets": [at, end]});
            at = end;
        }
        let header = serde_json::to_vec(&header).unwrap();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        payloads.iter().for_each(|(_, bytes)| file.extend(bytes));
        fs::write(path, file).unwrap();
    }
}
