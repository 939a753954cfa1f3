//! A delta file around any index and any payloads, with hashes that fit as far as they can be made to.

use super::Outcome;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use serde_json::{Map, Value, json};
use std::cell::LazyCell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use taskvec::container::{Entry, HEADER_BYTES, Head, Index, checksum, histogram_checksum, payload_name};
use taskvec::source::{Counter, DeltaFile};

thread_local! {
    /// A file in memory, written anew for each input.
    static FILE: LazyCell<(File, PathBuf)> = LazyCell::new(|| {
        let file = File::from(memfd_create("delta", MemfdFlags::CLOEXEC).expect("a file in memory"));
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        (file, path)
    });
}

/// The parts of an input: the restored files' bytes, one payload for each tensor that has one, and the index's JSON, which
/// takes what is left. A byte tells how many parts there are before it, and two bytes the length of each.
fn split(input: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (count, mut rest) = input.split_first()?;
    let mut parts = Vec::new();
    for _ in 0..*count {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (part, after) = after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
        parts.push(part);
        rest = after;
    }
    Some((rest, parts))
}

/// Opens the file and checks every payload.
pub fn delta_index(input: &[u8]) -> Outcome {
    let Some((index, parts)) = split(input) else { return Err("short".into()) };
    let [files, payloads @ ..] = parts.as_slice() else { return Err("short".into()) };
    FILE.with(|file| {
        let (file, path) = &**file;
        let bytes = forge(index, files, payloads);
        ftruncate(file, 0).and_then(|()| ftruncate(file, bytes.len() as u64)).expect("room in memory");
        file.write_all_at(&bytes, 0).expect("room in memory");
        open(path)
    })
}

fn open(path: &Path) -> Outcome {
    let message = |e: taskvec::Error| {
        assert!([65, 76].contains(&e.exit_code()), "exit code {}: {e}", e.exit_code());
        e.to_string()
    };
    let delta = DeltaFile::open(path).map_err(message)?;
    for file in &delta.index.files {
        let parts = file.name.split('/');
        assert!(parts.into_iter().all(|p| !matches!(p, "" | "." | "..")), "{:?} leaves the output", file.name);
    }
    delta.files().map_err(message)?;
    delta.check_payloads(&Counter::default()).map_err(message)
}

fn forge(index: &[u8], files: &[u8], payloads: &[&[u8]]) -> Vec<u8> {
    let payloads: Vec<Vec<u8>> = payloads.iter().map(|p| seal(p)).collect();
    let (index, metadata, names) = fit_roots(index, &payloads);
    let (mut header, mut data) = (Map::new(), Vec::new());
    header.insert("__metadata__".into(), metadata);
    let mut add = |name: &str, bytes: &[u8]| {
        let start = data.len();
        data.extend_from_slice(bytes);
        data.resize(data.len().next_multiple_of(64), 0);
        let entry = json!({"dtype": "U8", "shape": [data.len() - start], "data_offsets": [start, data.len()]});
        header.insert(name.to_owned(), entry);
    };
    for (name, payload) in names.iter().zip(&payloads) {
        add(&payload_name(name), payload);
    }
    add("#files", &section(files));
    add("#index", &section(&index));
    let json = Value::Object(header).to_string();
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat()
}

/// The payload with the checksums that its blocks and its histogram have.
fn seal(payload: &[u8]) -> Vec<u8> {
    let mut sealed = payload.to_vec();
    let Some((head, rest)) = sealed.split_first_chunk_mut::<HEADER_BYTES>() else { return sealed };
    let Ok((parsed, _)) = Head::parse(head) else { return sealed };
    let front = usize::try_from(parsed.front_bytes()).unwrap_or(usize::MAX).saturating_sub(HEADER_BYTES);
    let Some((table, blocks)) = rest.split_at_mut_checked(front) else { return sealed };
    let mut at = 0;
    for stored in table.as_chunks_mut().0 {
        let entry = Entry::parse(stored);
        let end = usize::try_from(entry.end).unwrap_or(usize::MAX);
        let Some(block) = blocks.get(at..end) else { return sealed };
        *stored = Entry { checksum: checksum(entry.kind, block), ..entry }.to_bytes();
        at = end;
    }
    let histogram = blocks[at..].iter().copied().take(parsed.histogram_bytes as usize).collect::<Vec<_>>();
    head[HEADER_BYTES - 8..].copy_from_slice(&histogram_checksum(&histogram).to_le_bytes());
    sealed
}

/// blake3 of blocks and histogram, then header and table.
fn payload_hash(payload: &[u8]) -> String {
    let head = payload.first_chunk::<HEADER_BYTES>().and_then(|head| Head::parse(head).ok());
    let front = head.map_or(0, |(h, _)| usize::try_from(h.front_bytes()).unwrap_or(usize::MAX));
    let length = head.map_or(0, |(_, length)| usize::try_from(length).unwrap_or(usize::MAX)).min(payload.len());
    let (front, blocks) = payload[..length].split_at(front.min(length));
    blake3::Hasher::new().update(blocks).update(front).finalize().to_hex().to_string()
}

/// The index with the hashes of the payloads and the roots of its own tensors in its metadata; that metadata; the names
/// of tensors with payloads.
fn fit_roots(json: &[u8], payloads: &[Vec<u8>]) -> (Vec<u8>, Value, Vec<String>) {
    let Ok(mut index) = serde_json::from_slice::<Index>(json) else {
        let format = [("format", "taskvec-delta"), ("version", "1"), ("min_reader", "1"), ("features_required", "")];
        let rest = [("base_root", "0".repeat(64)), ("result_root", "0".repeat(64)), ("mode", "exact".into())];
        let format = format.into_iter().map(|(k, v)| (k.to_owned(), Value::from(v)));
        let metadata = format.chain(rest.into_iter().map(|(k, v)| (k.to_owned(), Value::from(v)))).collect();
        return (json.to_vec(), Value::Object(metadata), Vec::new());
    };
    let hashed = index.tensors.iter_mut().filter(|t| t.payload.is_some());
    hashed.zip(payloads).for_each(|(t, payload)| t.payload = Some(payload_hash(payload)));
    for (key, root) in [("base_root", index.base_root()), ("result_root", index.result_root())] {
        if let Some(value) = index.metadata.get_mut(key) {
            *value = root;
        }
    }
    let names = index.tensors.iter().filter(|t| t.payload.is_some()).map(|t| t.name.clone()).collect();
    let metadata = json!(index.metadata);
    (serde_json::to_vec(&index).unwrap_or_default(), metadata, names)
}

/// A zstd frame of one block that is stored as it is.
fn frame(content: &[u8]) -> Vec<u8> {
    let length = content.len() as u32;
    let block = length << 3 | 1;
    let lead = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &length.to_le_bytes(), &block.to_le_bytes()[..3]].concat();
    [&lead, content].concat()
}

/// As docs/format.md has it: length, packed length, checksum, a zstd frame.
fn section(content: &[u8]) -> Vec<u8> {
    let packed = frame(content);
    let numbers = [content.len() as u64, packed.len() as u64, checksum(0, &packed)];
    numbers.iter().flat_map(|n| n.to_le_bytes()).chain(packed).collect()
}
