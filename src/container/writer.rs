//! Writes a delta file: payloads stream out in order, the header comes last, so that until then the file does not parse.

use super::index::Index;
use super::payload::{ALIGNMENT, ENTRY_BYTES, Entry, HEADER_BYTES, Head, block_count};
use super::{FILES, FORMAT, INDEX, Metadata, histogram_checksum, payload_name, section};
use crate::codec::lossy::Scheme;
use crate::disk;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes gathered before a write.
const BUFFER_BYTES: usize = 1 << 20;
/// `:{"dtype":"U8","shape":[N],"data_offsets":[N,N]},` with three numbers of 20 digits.
const ENTRY_JSON_BYTES: u64 = 110;
/// A histogram is kept if it takes at most one byte in this many.
const HISTOGRAM_SHARE: u64 = 64;
/// Room for `__metadata__`.
const METADATA_BYTES: u64 = 4096;

/// A payload that an earlier run wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPayload {
    /// Its tensor.
    pub tensor: String,
    /// Its hash.
    pub hash: String,
    /// Its place, counted from the end of the header.
    pub begin: u64,
    /// Its end, padding included.
    pub end: u64,
}

/// A delta file being written.
#[derive(Debug)]
pub struct Writer {
    file: disk::File,
    header_bytes: u64,
    /// Where the buffer will be written.
    at: u64,
    buffer: Vec<u8>,
    /// Names and ranges of payloads, counted from the end of the header.
    payloads: Vec<(String, u64, u64)>,
    current: Option<Current>,
}

/// The payload under way.
#[derive(Debug)]
struct Current {
    head: Head,
    start: u64,
    table: Vec<u8>,
    block_bytes: u64,
    hasher: blake3::Hasher,
}

impl Writer {
    /// Makes `path`, with room for the header of payloads of all these tensors.
    pub fn create<'a>(path: &Path, tensors: impl Iterator<Item = &'a str>) -> Result<Self> {
        Ok(Self::new(disk::File::create(path)?, header_bytes(tensors)))
    }

    /// Goes on with the file at `path`, which holds these payloads; what stands behind them is cut off.
    pub fn resume<'a>(path: &Path, tensors: impl Iterator<Item = &'a str>, written: &[WrittenPayload]) -> Result<Self> {
        let mut writer = Self::new(disk::File::open(path)?, header_bytes(tensors));
        for payload in written {
            writer.payloads.push((payload_name(&payload.tensor), payload.begin, payload.end));
            writer.at = writer.header_bytes + payload.end;
        }
        writer.file.set_len(writer.at)?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Fails if a payload is not as its hash says.
    pub fn check(&self, payload: &WrittenPayload) -> Result<()> {
        let damaged = || Error::malformed(self.file.path(), format!("the payload of `{}` is damaged", payload.tensor));
        let offset = self.header_bytes + payload.begin;
        let mut head = [0; HEADER_BYTES];
        self.file.read_at(&mut head, offset)?;
        let (head, bytes) = Head::parse(&head).map_err(|_| damaged())?;
        let front = head.front_bytes();
        if front > bytes || bytes > payload.end - payload.begin {
            return Err(damaged());
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = Vec::new();
        for part in [front..bytes, 0..front] {
            let mut at = part.start;
            while at < part.end {
                buffer.resize((part.end - at).min(BUFFER_BYTES as u64) as usize, 0);
                self.file.read_at(&mut buffer, offset + at)?;
                hasher.update(&buffer);
                at += buffer.len() as u64;
            }
        }
        if hasher.finalize().to_hex().as_str() == payload.hash { Ok(()) } else { Err(damaged()) }
    }

    /// Writes out what is gathered, and returns the file to be synced.
    pub fn write_out(&mut self) -> Result<disk::File> {
        self.flush()?;
        self.file.again()
    }

    /// Where payloads begin.
    pub fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// The place of the payload that was ended last, counted from the end of the header.
    pub fn last_payload(&self) -> Option<(u64, u64)> {
        self.payloads.last().map(|&(_, begin, end)| (begin, end))
    }

    fn new(file: disk::File, header_bytes: u64) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES);
        Self { file, header_bytes, at: header_bytes, buffer, payloads: Vec::new(), current: None }
    }

    /// Begins a tensor's payload.
    pub fn begin(&mut self, head: Head) {
        assert!(self.current.is_none(), "a payload is under way");
        let start = self.position();
        let front = usize::try_from(head.front_bytes()).expect("a table fits into memory");
        self.buffer.resize(self.buffer.len() + front, 0);
        let table = Vec::with_capacity(front - HEADER_BYTES);
        self.current = Some(Current { head, start, table, block_bytes: 0, hasher: blake3::Hasher::new() });
    }

    /// Appends the next block.
    pub fn block(&mut self, kind: u8, bytes: &[u8], checksum: u64) -> Result<()> {
        let current = self.current.as_mut().expect("a payload is under way");
        current.block_bytes += bytes.len() as u64;
        current.table.extend(Entry { end: current.block_bytes, kind, checksum }.to_bytes());
        current.hasher.update(bytes);
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Notes how blocks of the payload under way that are not exact are coded.
    pub fn lossy(&mut self, scheme: Scheme) {
        self.current.as_mut().expect("a payload is under way").head.scheme = Some(scheme);
    }

    /// Ends a tensor's payload and returns its hash; a payload without a byte in its blocks is dropped (`None`). The
    /// histogram is kept where it takes little beside the blocks.
    pub fn end(&mut self, name: &str, histogram: &[u8]) -> Result<Option<String>> {
        let mut current = self.current.take().expect("a payload is under way");
        assert_eq!(current.table.len() as u64, block_count(current.head.elements) * ENTRY_BYTES as u64);
        let front = current.head.front_bytes();
        if current.block_bytes == 0 {
            self.drop_to(current.start);
            return Ok(None);
        }
        let histogram = if histogram.len() as u64 <= current.block_bytes / HISTOGRAM_SHARE { histogram } else { &[] };
        current.hasher.update(histogram);
        self.buffer.extend_from_slice(histogram);
        current.head.histogram_bytes = histogram.len() as u32;
        current.head.histogram_checksum = histogram_checksum(histogram);
        let mut patch = current.head.to_bytes(front + current.block_bytes + histogram.len() as u64).to_vec();
        patch.append(&mut current.table);
        current.hasher.update(&patch);
        self.patch(current.start, &patch)?;
        self.close(payload_name(name), current.start)?;
        Ok(Some(current.hasher.finalize().to_hex().to_string()))
    }

    /// Takes a tensor's payload as it is, from the file at `path`.
    pub fn copy(&mut self, tensor: &str, path: &Path) -> Result<()> {
        let start = self.position();
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        loop {
            let held = self.buffer.len();
            self.buffer.resize(held + BUFFER_BYTES, 0);
            let bytes = file.read(&mut self.buffer[held..]).map_err(Error::io(path, "read"))?;
            self.buffer.truncate(held + bytes);
            if bytes == 0 {
                return self.close(payload_name(tensor), start);
            }
            self.flush()?;
        }
    }

    /// Takes a tensor's payload as it is from another delta file: inside the kernel, where that can.
    pub fn take(&mut self, tensor: &str, (from, offset): (&File, u64), bytes: u64) -> Result<()> {
        self.flush()?;
        let start = self.at;
        if self.file.copy_at(start, (from, offset), bytes)?.is_some() {
            self.at += bytes;
            return self.close(payload_name(tensor), start);
        }
        let mut at = 0;
        while at < bytes {
            self.buffer.resize((bytes - at).min(BUFFER_BYTES as u64) as usize, 0);
            from.read_exact_at(&mut self.buffer, offset + at).map_err(Error::io(self.file.path(), "copy into"))?;
            at += self.buffer.len() as u64;
            self.flush()?;
        }
        self.close(payload_name(tensor), start)
    }

    /// Adds the payloads that describe the others, writes the header and syncs. Returns the file's length.
    pub fn finish(mut self, metadata: &Metadata, index: &Index, files: &[u8]) -> Result<u64> {
        let json = serde_json::to_vec(index).map_err(|e| Error::Usage(format!("delta index: {e}")))?;
        for (name, content) in [(FILES, files), (INDEX, &json)] {
            let start = self.position();
            section::pack(content, &mut self.buffer);
            self.close(name.to_owned(), start)?;
        }
        self.flush()?;
        let header = self.header(metadata)?;
        self.file.write_at(&header, 0)?;
        self.file.set_len(self.at)?;
        self.file.sync()?;
        Ok(self.at)
    }

    fn header(&self, metadata: &Metadata) -> Result<Vec<u8>> {
        let mut json = format!(r#"{{"__metadata__":{}"#, serde_json::json!(metadata.fields()));
        for (name, begin, end) in &self.payloads {
            let name = serde_json::json!(name);
            json.push_str(&format!(
                r#",{name}:{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#,
                end - begin
            ));
        }
        json.push('}');
        let room = usize::try_from(self.header_bytes - 8).expect("a header fits into memory");
        if json.len() > room {
            let problem = format!("the header of format {FORMAT} needs {} bytes, has {room}", json.len());
            return Err(Error::malformed(self.file.path(), problem));
        }
        let mut bytes = (room as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(room + 8, b' ');
        Ok(bytes)
    }

    /// Where the next byte goes.
    fn position(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    fn close(&mut self, name: String, start: u64) -> Result<()> {
        let end = (self.position() - start).next_multiple_of(ALIGNMENT) + start;
        let padding = usize::try_from(end - self.position()).expect("less than the alignment");
        self.buffer.resize(self.buffer.len() + padding, 0);
        self.payloads.push((name, start - self.header_bytes, end - self.header_bytes));
        if self.buffer.len() > BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset < self.at {
            self.flush()?;
            return self.file.write_at(bytes, offset);
        }
        let at = usize::try_from(offset - self.at).expect("inside the buffer");
        self.buffer[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Forgets everything from `offset` on.
    fn drop_to(&mut self, offset: u64) {
        if let Some(kept) = offset.checked_sub(self.at) {
            self.buffer.truncate(kept as usize);
        } else {
            self.buffer.clear();
            self.at = offset;
        }
    }
}

/// Bytes of a header with room for payloads of all these tensors.
fn header_bytes<'a>(tensors: impl Iterator<Item = &'a str>) -> u64 {
    let room = |name: &str| serde_json::json!(payload_name(name)).to_string().len() as u64 + ENTRY_JSON_BYTES;
    let own: u64 = [INDEX, FILES].iter().map(|n| n.len() as u64 + ENTRY_JSON_BYTES).sum();
    (8 + METADATA_BYTES + own + tensors.map(room).sum::<u64>()).next_multiple_of(ALIGNMENT)
}
