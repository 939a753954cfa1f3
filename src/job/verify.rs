//! `taskvec verify` of a merged model: every file against the hash in its report.

use super::apply::{ApplyReport, ApplyRun};
use crate::disk;
use crate::error::{Error, Result};
use crate::limits::INDEX_MAX_BYTES;
use crate::pass::{Extent, Run, Stream};
use crate::report::{OutputFile, is_sealed};
use crate::source::{Counter, Files, PieceHash};
use crate::tensor::Expected;
use serde::Deserialize;
use std::path::Path;
use std::time::Instant;

#[derive(Deserialize)]
struct Recorded {
    outputs: Vec<RecordedFile>,
}

#[derive(Deserialize)]
struct RecordedFile {
    name: String,
    bytes: u64,
    blake3: String,
}

/// Compares every file of the output `folder` with length and hash in its `taskvec.json`.
pub fn check_output(folder: &Path, run: &ApplyRun<'_>) -> Result<ApplyReport> {
    let start = Instant::now();
    let recorded = read_report(&folder.join("taskvec.json"))?;
    let paths: Vec<_> = recorded.iter().map(|f| folder.join(&f.name)).collect();
    for (f, path) in recorded.iter().zip(&paths) {
        let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        if found != Some(f.bytes) {
            return Err(Error::HashDiffers {
                path: path.clone(),
                what: format!(
                    "expected a file of {} bytes, got {}",
                    f.bytes,
                    found.map_or("none".into(), |n| n.to_string())
                ),
                expected: f.blake3.clone(),
                got: "nothing".into(),
                hint: "Merge again.",
            });
        }
    }
    let files = Files::open(
        paths.iter().zip(&recorded).map(|(p, f)| (p.as_path(), Expected { bytes: f.bytes, identity: None })),
        run.io,
    )?;
    let stream = Stream::new(run.threads, run.progress, run.stop)?;
    let counter = Counter::default();
    let hashes: Vec<PieceHash> = recorded.iter().map(|f| PieceHash::new(f.bytes)).collect();
    let extents: Vec<Extent> =
        recorded.iter().map(|f| Extent { elements: f.bytes, element_bytes: 1, traffic: f.bytes }).collect();
    let worker = || {
        let mut buffer = Vec::new();
        let (files, hashes, counter) = (&files, &hashes, &counter);
        move |run: &Run| {
            let bytes = (run.elements.end - run.elements.start) as usize;
            hashes[run.tensor]
                .update(run.elements.start, &files.span(run.tensor, run.elements.start, bytes, &mut buffer, counter)?);
            Ok(())
        }
    };
    stream.over("verify", &extents, &counter, worker, |_, ()| Ok(()))?;
    for ((f, path), hash) in recorded.iter().zip(&paths).zip(hashes) {
        let got = hash.finish().to_hex().to_string();
        if got != f.blake3 {
            return Err(Error::HashDiffers {
                path: path.clone(),
                what: "is not the file that the merge wrote".into(),
                expected: f.blake3.clone(),
                got,
                hint: "Merge again.",
            });
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(ApplyReport { tensors: 0, files: recorded.len(), bytes_read: counter.get(), bytes_written: 0, seconds })
}

/// Reads back from the disk what a merge has written into `folder`, before it has its name.
pub fn read_back(folder: &Path, outputs: &[OutputFile]) -> Result<()> {
    for f in outputs {
        let path = folder.join(&f.name);
        disk::forget_cached(&path)?;
        let file = std::fs::File::open(&path).map_err(Error::io(&path, "open"))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(Error::io(&path, "read back"))?;
        let got = hasher.finalize().to_hex().to_string();
        if got != f.blake3 {
            return Err(Error::HashDiffers {
                path,
                what: "the disk gives back other bytes than were written".into(),
                expected: f.blake3.clone(),
                got,
                hint: "Nothing was published. Check disk and memory.",
            });
        }
    }
    Ok(())
}

fn read_report(path: &Path) -> Result<Vec<RecordedFile>> {
    let missing = |problem: String| Error::InputMissing { path: path.to_owned(), problem };
    let meta = std::fs::metadata(path).map_err(|_| {
        missing("no such file; expected a delta file (.tvd) or the folder of a model that taskvec merged".into())
    })?;
    if !meta.is_file() || meta.len() > INDEX_MAX_BYTES {
        return Err(missing("is not a report of taskvec".into()));
    }
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    if !is_sealed(&bytes) {
        return Err(Error::HashDiffers {
            path: path.to_owned(),
            what: "is not the report that the merge wrote".into(),
            expected: "the one at its end".into(),
            got: "another".into(),
            hint: "Merge again.",
        });
    }
    let recorded: Recorded = serde_json::from_slice(&bytes)
        .map_err(|e| Error::malformed(path, format!("is not a report of taskvec: {e}")))?;
    let outside = |f: &&RecordedFile| {
        let plain = |c| matches!(c, std::path::Component::Normal(_));
        f.name.is_empty() || !Path::new(&f.name).components().all(plain)
    };
    match recorded.outputs.iter().find(outside) {
        Some(f) => Err(Error::malformed(path, format!("lists a file called {:?}", f.name))),
        None => Ok(recorded.outputs),
    }
}
