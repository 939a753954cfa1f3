//! Delta files as models: opened, checked against their index, and chained down to the base.

use super::checkpoint::{open_regular, read_range};
use super::files::{Counter, Files};
use super::header::{header_bytes, parse_header};
use super::place::refuse_url;
use crate::container::{
    ENTRY_BYTES, Entry as TableEntry, FILES, HEADER_BYTES, Head, Histogram, INDEX, Index, Kept, Metadata, RestoredFile,
    Tensor, block_count, checksum, histogram_checksum, parse_histogram, payload_name, unpack_section,
};
use crate::error::{Error, Result};
use crate::limits::{
    CHAIN_MAX, CODED_BLOCK_ELEMENTS, DELTA_FILES_MAX_BYTES, DELTA_HISTOGRAM_MAX_BYTES, DELTA_INDEX_MAX_BYTES,
    DELTA_INDEX_RATIO_MAX, NAME_MAX_BYTES, RANK_MAX,
};
use crate::tensor::{Coded, Dtype, Entry, FileEntry, Identity, Inventory, Link, Lossy, Payload};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Entries of a block table that are read at a time.
const ENTRIES_READ: u64 = 4096;
/// Bytes copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// A delta file whose header and index have been checked.
#[derive(Debug)]
pub struct DeltaFile {
    /// The file itself.
    pub file: FileEntry,
    /// What its header says.
    pub metadata: Metadata,
    /// Its tensors.
    pub index: Index,
    handle: File,
    /// Offset and length, by name; tensors' payloads without padding.
    payloads: BTreeMap<String, (u64, u64)>,
    /// By payload name.
    heads: BTreeMap<String, Head>,
}

/// Whether `path` is called like a delta file.
pub fn is_delta(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "tvd")
}

impl DeltaFile {
    /// Opens `path` and reads header, index and the heads of all payloads.
    pub fn open(path: &Path) -> Result<Self> {
        refuse_url(&path.to_string_lossy(), "a delta file")?;
        let Front { handle, file, metadata, fields, entries } = read_front(path)?;
        let bad = |problem: String| Error::malformed(path, problem);
        if let Some(e) = entries.iter().find(|e| e.dtype != Dtype::U8 || e.shape.len() != 1) {
            return Err(bad(format!(
                "payload `{}` is {} {:?}, expected U8 of one dimension",
                e.name, e.dtype, e.shape
            )));
        }
        let mut payloads: BTreeMap<String, (u64, u64)> =
            entries.into_iter().map(|e| (e.name, (e.offset, e.bytes))).collect();
        let index = section(&handle, path, &payloads, INDEX, DELTA_INDEX_MAX_BYTES)?;
        let index: Index = serde_json::from_slice(&index).map_err(|e| bad(format!("`{INDEX}`: {e}")))?;
        if index.metadata != fields {
            return Err(bad("the metadata of its header is not the one in its index".into()));
        }
        check_files(&index.files).map_err(bad)?;
        let mut heads = BTreeMap::new();
        for t in &index.tensors {
            check_shape(path, t)?;
            let name = payload_name(&t.name);
            let place = payloads.get_mut(&name);
            match (place, &t.payload) {
                (None, None) => check_equal(path, t)?,
                (Some(place), Some(_)) => {
                    let head = read_head(&handle, path, t, place)?;
                    heads.insert(name, head);
                }
                (None, Some(_)) => return Err(bad_tensor(path, &t.name, "its payload is missing")),
                (Some(_), None) => return Err(bad_tensor(path, &t.name, "has a payload that the index does not know")),
            }
        }
        let own = [INDEX, FILES].iter().filter(|n| payloads.contains_key(**n)).count();
        if heads.len() + own != payloads.len() {
            return Err(bad("holds payloads that its index does not know".into()));
        }
        if metadata.error_bound.is_none() && heads.values().any(|h| h.scheme.is_some()) {
            return Err(bad("has lossy payloads, but its metadata says that it is exact".into()));
        }
        let delta = Self { file, metadata, index, handle, payloads, heads };
        delta.check_roots()?;
        Ok(delta)
    }

    /// One head and place for each payload of the index's tensors, `None` where every byte is the base's.
    pub fn payload(&self, tensor: &Tensor) -> Option<(Head, u64, u64)> {
        let name = payload_name(&tensor.name);
        let (offset, bytes) = *self.payloads.get(&name)?;
        Some((self.heads[&name], offset, bytes))
    }

    /// Hands a range of the file to `out`, piece by piece.
    pub fn copy(&self, offset: u64, bytes: u64, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut at = offset;
        while at < offset + bytes {
            let piece = COPY_BYTES.min(offset + bytes - at);
            out(&read_range(&self.handle, &self.file.path, at, piece)?)?;
            at += piece;
        }
        Ok(())
    }

    /// The kept headers and side files, one after another.
    pub fn files(&self) -> Result<Vec<u8>> {
        section(&self.handle, &self.file.path, &self.payloads, FILES, DELTA_FILES_MAX_BYTES)
    }

    /// Reads every payload: the checksum of each block, the hash of each payload, zeros in the padding.
    pub fn check_payloads(&self, counter: &Counter) -> Result<()> {
        let path = &self.file.path;
        for t in &self.index.tensors {
            let Some((head, offset, bytes)) = self.payload(t) else { continue };
            let mut hasher = blake3::Hasher::new();
            let front = head.front_bytes();
            let (mut at, mut table) = (0, Vec::new());
            for number in 0..block_count(head.elements) {
                let entry = self.entry(offset, number, &mut table)?;
                let tail = front + u64::from(head.histogram_bytes);
                let raw = (CODED_BLOCK_ELEMENTS * head.dtype.bytes()) as u64;
                let length = entry.end.checked_sub(at).filter(|&n| entry.end <= bytes - tail && n <= raw);
                let Some(length) = length else {
                    return Err(bad_tensor(
                        path,
                        &t.name,
                        format!("block {number}: its place in the block table is impossible"),
                    ));
                };
                let block = read_range(&self.handle, path, offset + front + at, length)?;
                let got = checksum(entry.kind, &block);
                if got != entry.checksum {
                    return Err(Error::HashDiffers {
                        path: path.clone(),
                        what: format!("tensor `{}`: block {number} is damaged", t.name),
                        expected: format!("{:016x}", entry.checksum),
                        got: format!("{got:016x}"),
                        hint: "Fetch the file again.",
                    });
                }
                hasher.update(&block);
                at = entry.end;
            }
            let histogram = read_range(&self.handle, path, offset + front + at, bytes - front - at)?;
            check_histogram(path, &t.name, &head, &histogram)?;
            hasher.update(&histogram);
            self.copy(offset, front, &mut |piece| {
                hasher.update(piece);
                Ok(())
            })?;
            let got = hasher.finalize().to_hex().to_string();
            if t.payload.as_ref() != Some(&got) {
                return Err(Error::HashDiffers {
                    path: path.clone(),
                    what: format!("tensor `{}`: its payload is damaged", t.name),
                    expected: t.payload.clone().unwrap_or_default(),
                    got,
                    hint: "Fetch the file again.",
                });
            }
            let padding = bytes.next_multiple_of(64) - bytes;
            if read_range(&self.handle, path, offset + bytes, padding)?.iter().any(|&b| b != 0) {
                return Err(bad_tensor(path, &t.name, "the padding of its payload is not zero"));
            }
            counter.add(bytes);
        }
        Ok(())
    }

    /// Entry `number` of the block table of the payload at `offset`; `table` holds those around it.
    fn entry(&self, offset: u64, number: u64, table: &mut Vec<u8>) -> Result<TableEntry> {
        let (first, inside) = (number / ENTRIES_READ * ENTRIES_READ, number % ENTRIES_READ);
        if inside == 0 {
            let at = offset + HEADER_BYTES as u64 + first * ENTRY_BYTES as u64;
            let bytes = (ENTRIES_READ * ENTRY_BYTES as u64).min(self.file.bytes - at);
            *table = read_range(&self.handle, &self.file.path, at, bytes)?;
        }
        Ok(TableEntry::parse(&table.as_chunks().0[inside as usize]))
    }

    /// Fails if the index is not the one that the header's roots were made from.
    fn check_roots(&self) -> Result<()> {
        let names: std::collections::BTreeSet<&str> = self.index.tensors.iter().map(|t| t.name.as_str()).collect();
        if names.len() != self.index.tensors.len() {
            return Err(Error::malformed(&self.file.path, "the index lists a tensor twice"));
        }
        let roots = [
            ("base_root", &self.metadata.base_root, self.index.base_root()),
            ("result_root", &self.metadata.result_root, self.index.result_root()),
        ];
        for (name, expected, got) in roots {
            if *expected != got {
                return Err(Error::HashDiffers {
                    path: self.file.path.clone(),
                    what: format!("`{name}` of the header does not fit the index"),
                    expected: expected.clone(),
                    got,
                    hint: "Fetch the file again.",
                });
            }
        }
        Ok(())
    }

    /// A tensor's step, with its payload in file number `file`.
    fn link(&self, t: &Tensor, file: usize) -> Link {
        let payload = self.payload(t);
        Link {
            payload: payload.map(|(head, offset, bytes)| Payload {
                file,
                offset,
                bytes,
                histogram_bytes: head.histogram_bytes,
                lossy: head.scheme.map(|s| Lossy { scheme: s.to_code(), row: t.shape.last().map_or(1, |d| *d) }),
            }),
            dtype: t.dtype,
            elements: t.shape.iter().product(),
            base_elements: comparable_with_base(t),
        }
    }
}

/// A delta file and those it builds on, the one on the base first.
pub fn open_chain(path: &Path) -> Result<Vec<DeltaFile>> {
    let mut chain = vec![DeltaFile::open(path)?];
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside: Option<Vec<(PathBuf, Metadata)>> = None;
    loop {
        let last = chain.last().expect("starts with one");
        let wanted = last.metadata.base_root.clone();
        let found = beside.get_or_insert_with(|| deltas_in(folder));
        let parent = found.iter().find(|(p, m)| {
            m.result_root == wanted && m.base_root != wanted && p.file_name() != last.file.path.file_name()
        });
        let Some((parent, _)) = parent else { break };
        if chain.len() == CHAIN_MAX || chain.iter().any(|d| d.file.path.file_name() == parent.file_name()) {
            let problem = format!("the chain of deltas is a cycle or longer than {CHAIN_MAX}");
            return Err(Error::malformed(path, problem));
        }
        chain.push(DeltaFile::open(&parent.clone())?);
    }
    chain.reverse();
    check_shared(&chain)?;
    Ok(chain)
}

/// Fails if TALL masks stand anywhere but on the one delta file that makes their shared model of the base.
fn check_shared(chain: &[DeltaFile]) -> Result<()> {
    let masks = |d: &DeltaFile| d.heads.values().any(Head::has_masks);
    match chain.iter().enumerate().find(|(i, d)| *i != 1 && masks(d)) {
        None => Ok(()),
        Some((_, delta)) => Err(Error::malformed(
            &delta.file.path,
            "holds TALL masks, which need the delta file of their shared model, made from the base itself, in the same folder",
        )),
    }
}

/// The model that a chain makes of its base, with payloads in `files`.
pub fn chained(reference: &str, path: &Path, chain: &[DeltaFile]) -> Inventory {
    let last = chain.last().expect("a chain has a file");
    let by_name: Vec<BTreeMap<&str, &Tensor>> =
        chain.iter().map(|d| d.index.tensors.iter().map(|t| (t.name.as_str(), t)).collect()).collect();
    let entry = |t: &Tensor| {
        let mut links = Vec::new();
        let mut base = None;
        for (i, delta) in chain.iter().enumerate().rev() {
            let Some(step) = by_name[i].get(t.name.as_str()) else { break };
            links.push(delta.link(step, i));
            base.clone_from(&step.base);
            if base.is_none() {
                break;
            }
        }
        links.reverse();
        let elements: u64 = t.shape.iter().product();
        Entry {
            name: t.name.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
            file: chain.len() - 1,
            offset: 0,
            bytes: elements * t.dtype.bytes() as u64,
            coded: Some(Box::new(Coded {
                links,
                base_blake3: base.as_ref().map(|b| b.blake3.clone()),
                base: base.map(|b| (b.dtype, b.shape)),
                statistics: t.statistics.filter(|_| chain.len() == 1),
            })),
            adapter: None,
        }
    };
    Inventory {
        label: reference.to_owned(),
        path: path.to_owned(),
        adapter: None,
        files: chain.iter().map(|d| d.file.clone()).collect(),
        tensors: last.index.tensors.iter().map(entry).collect(),
        error_bound: last.metadata.largest_error(),
        tied: false,
    }
}

/// The readable delta files of a folder.
fn deltas_in(folder: &Path) -> Vec<(PathBuf, Metadata)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| is_delta(p)).collect();
    paths.sort();
    paths.into_iter().filter_map(|p| read_front(&p).ok().map(|front| (p, front.metadata))).collect()
}

/// What a delta file's header says.
struct Front {
    handle: File,
    file: FileEntry,
    metadata: Metadata,
    /// The whole `__metadata__`.
    fields: BTreeMap<String, String>,
    entries: Vec<Entry>,
}

fn read_front(path: &Path) -> Result<Front> {
    let (handle, bytes) = open_regular(path)?;
    let identity = Some(Identity::of(&handle, path)?);
    let first = read_range(&handle, path, 0, 8.min(bytes))?;
    let first =
        first.try_into().map_err(|_| Error::malformed(path, format!("{bytes} bytes long; not a delta file")))?;
    let length = header_bytes(path, first, bytes)?;
    let json = read_range(&handle, path, 8, length)?;
    let header = parse_header(path, &json, bytes)?;
    let metadata = Metadata::parse(&header.metadata).map_err(|problem| Error::malformed(path, problem))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let header_blake3 = blake3::hash(&json).to_hex().to_string();
    let file = FileEntry { name, path: path.to_owned(), bytes, header_blake3, identity };
    Ok(Front { handle, file, metadata, fields: header.metadata.into_iter().collect(), entries: header.tensors })
}

fn section(file: &File, path: &Path, payloads: &BTreeMap<String, (u64, u64)>, name: &str, cap: u64) -> Result<Vec<u8>> {
    let bad = |problem: String| Error::malformed(path, format!("`{name}` {problem}"));
    let &(offset, bytes) = payloads.get(name).ok_or_else(|| bad("is missing".into()))?;
    if bytes > cap {
        return Err(bad(format!("is {bytes} bytes long, more than the {cap} allowed")));
    }
    // An index is mostly hashes: what packs better is none.
    let cap = if name == INDEX { cap.min(DELTA_INDEX_RATIO_MAX * bytes) } else { cap };
    unpack_section(&read_range(file, path, offset, bytes)?, cap).map_err(bad)
}

/// Reads and checks a payload's head; `place` loses its padding.
fn read_head(file: &File, path: &Path, t: &Tensor, place: &mut (u64, u64)) -> Result<Head> {
    let bad = |problem: String| bad_tensor(path, &t.name, problem);
    if t.name.len() + 3 > NAME_MAX_BYTES {
        return Err(bad("its name is too long".into()));
    }
    let mut bytes = [0; HEADER_BYTES];
    if place.1 < HEADER_BYTES as u64 {
        return Err(bad("its payload is shorter than a payload's header".into()));
    }
    file.read_exact_at(&mut bytes, place.0).map_err(Error::io(path, "read"))?;
    let (head, length) = Head::parse(&bytes).map_err(bad)?;
    if t.shape.iter().product::<u64>() != head.elements || head.dtype != t.dtype {
        return Err(bad(format!("its payload holds {} elements of {}", head.elements, head.dtype)));
    }
    if head.base != t.base.as_ref().map(|b| b.dtype) || head.base_elements != comparable_with_base(t) {
        return Err(bad("its payload is made for another base".into()));
    }
    let front = head.front_bytes();
    if length.checked_next_multiple_of(64) != Some(place.1) || length <= front {
        return Err(bad(format!("its payload claims {length} bytes of {}", place.1)));
    }
    let mut last = [0; ENTRY_BYTES];
    file.read_exact_at(&mut last, place.0 + front - ENTRY_BYTES as u64).map_err(Error::io(path, "read"))?;
    if head.histogram_bytes > DELTA_HISTOGRAM_MAX_BYTES {
        return Err(bad(format!("its histogram claims {} bytes", head.histogram_bytes)));
    }
    let tail = u64::from(head.histogram_bytes);
    if TableEntry::parse(&last).end.checked_add(tail) != Some(length - front) {
        return Err(bad(format!("its block table does not end at {length} bytes")));
    }
    place.1 = length;
    Ok(head)
}

/// Fails if a tensor without a payload is not made of its base: all its blocks would have to be EQUAL.
fn check_equal(path: &Path, t: &Tensor) -> Result<()> {
    let elements = t.shape.iter().product();
    if block_count(comparable_with_base(t)) == block_count(elements) {
        return Ok(());
    }
    Err(bad_tensor(path, &t.name, "has no payload, and its base does not give all of its blocks"))
}

/// Fails unless every file to be restored gets a path of its own below the output, and weights lie beside each other.
fn check_files(files: &[RestoredFile]) -> std::result::Result<(), String> {
    let mut names = std::collections::BTreeSet::new();
    for f in files {
        let name = &f.name;
        let plain = name.split('/').all(|part| !matches!(part, "" | "." | "..") || super::PLANTED && part == "..");
        let clean = !name.chars().any(|c| c.is_control() || c == '\\');
        if !plain || !clean || (f.kept == Kept::Header && name.contains('/')) {
            return Err(format!("lists a file called {name:?}; expected a plain relative name"));
        }
        if !names.insert(name.as_str()) {
            return Err(format!("lists the file {name:?} twice"));
        }
    }
    let folders = |name: &'_ str| name.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
    let both = |name: &&&str| folders(name).into_iter().any(|at| names.contains(&name[..at]));
    match names.iter().find(both) {
        Some(name) => Err(format!("lists the file {name:?} inside another file")),
        None => Ok(()),
    }
}

/// Fails unless elements and bytes fit into 64 bits, on both sides.
fn check_shape(path: &Path, t: &Tensor) -> Result<()> {
    let sides = t.base.iter().map(|b| (b.dtype, &b.shape)).chain([(t.dtype, &t.shape)]);
    for (dtype, shape) in sides {
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let bytes = elements.and_then(|n| n.checked_mul(dtype.bytes() as u64));
        if bytes.is_none_or(|b| b > i64::MAX as u64) || shape.len() > RANK_MAX {
            return Err(bad_tensor(path, &t.name, format!("shape {shape:?} of {dtype} is impossible")));
        }
    }
    Ok(())
}

/// The histogram behind a payload's blocks; `None` if it has none.
pub fn histogram(
    files: &Files,
    file: usize,
    tensor: &str,
    payload: Payload,
    elements: u64,
) -> Result<Option<Histogram>> {
    if payload.histogram_bytes == 0 {
        return Ok(None);
    }
    let bytes = u64::from(payload.histogram_bytes);
    let mut buffer = Vec::new();
    let counter = Counter::default();
    let span = files.span(file, payload.offset + payload.bytes - bytes, bytes as usize, &mut buffer, &counter)?;
    let (mut front, path) = (Vec::new(), files.path(file));
    let front = files.span(file, payload.offset, HEADER_BYTES, &mut front, &counter)?;
    let front = (*front).try_into().expect("as long as a header");
    let (head, _) = Head::parse(front).map_err(|problem| bad_tensor(path, tensor, problem))?;
    check_histogram(path, tensor, &Head { elements, ..head }, &span).map(Some)
}

/// Parses the bytes of a payload's histogram. Fails if they are not those that `head` was made for.
fn check_histogram(path: &Path, tensor: &str, head: &Head, bytes: &[u8]) -> Result<Histogram> {
    let got = histogram_checksum(bytes);
    if got != head.histogram_checksum {
        return Err(Error::HashDiffers {
            path: path.to_owned(),
            what: format!("tensor `{tensor}`: its histogram is damaged"),
            expected: format!("{:016x}", head.histogram_checksum),
            got: format!("{got:016x}"),
            hint: "Fetch the file again.",
        });
    }
    if bytes.is_empty() {
        return Ok(Histogram::new());
    }
    parse_histogram(bytes, head.elements).ok_or_else(|| bad_tensor(path, tensor, "its histogram does not parse"))
}

/// Leading elements of `t` that its base has too, in a dtype that converts.
fn comparable_with_base(t: &Tensor) -> u64 {
    let converts = |from: Dtype| from == t.dtype || (from.is_float() && t.dtype.is_float());
    t.base.as_ref().filter(|b| converts(b.dtype)).map_or(0, |b| common_elements(&t.shape, &b.shape))
}

/// Leading elements that tensors of these shapes share: whole rows if all dimensions but the first agree.
pub fn common_elements(a: &[u64], b: &[u64]) -> u64 {
    match (a, b) {
        ([], []) => 1,
        // From the smaller number of rows on: an empty tensor's other dimensions may be too large to multiply.
        ([x, rest_a @ ..], [y, rest_b @ ..]) if rest_a == rest_b => rest_a.iter().fold(*x.min(y), |n, d| n * d),
        _ => 0,
    }
}

fn bad_tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Error {
    Error::BadTensor { path: path.to_owned(), tensor: tensor.to_owned(), problem: problem.into() }
}
