//! The delta file that a merge writes beside its output.

use super::diff::same_in;
use super::resume::Past;
use crate::container::{Kept as How, RestoredFile};
use crate::disk;
use crate::error::{Error, Result};
use crate::limits::DELTA_FILES_MAX_BYTES;
use crate::pass::{Action, Copied, TensorHashes};
use crate::plan::Plan;
use crate::report::OutputFile;
use crate::sink::{DeltaSink, DeltaTensor, Extra, Hashes, Told};
use crate::source::PieceHash;
use std::path::{Path, PathBuf};

pub const NAME: &str = "merged.tvd";

/// Whether tensors must be hashed: for the delta file's index, or to see that the base is the one that inputs are made for.
pub fn wants_hashes(plan: &Plan) -> bool {
    plan.has_base && (plan.writes_delta() || plan.has_coded())
}

/// One hash for each side of each tensor.
pub fn tensor_hashes(plan: &Plan) -> TensorHashes {
    let base = |t: &crate::plan::PlannedTensor| PieceHash::new(t.elements * t.places[0].dtype.bytes() as u64);
    TensorHashes {
        base: plan.tensors.iter().map(base).collect(),
        result: plan.tensors.iter().map(|t| PieceHash::new(t.bytes())).collect(),
    }
}

/// Begins the delta file.
pub fn create(plan: &Plan, actions: &[Action], path: &Path) -> Result<DeltaSink> {
    disk::remove_file(path)?;
    let mut sink = DeltaSink::create(path, tensors(plan))?;
    tell_equal(&mut sink, actions);
    Ok(sink)
}

/// Goes on with the delta file of an earlier run.
pub fn resume(plan: &Plan, actions: &[Action], path: &Path, (past, told): (&Past, Told)) -> Result<DeltaSink> {
    let mut sink = DeltaSink::resume(path, tensors(plan), &past.delta, told)?;
    tell_equal(&mut sink, actions);
    Ok(sink)
}

fn tensors(plan: &Plan) -> Vec<DeltaTensor> {
    let tensor = |t: &crate::plan::PlannedTensor| DeltaTensor {
        name: t.name.clone(),
        dtype: t.dtype,
        shape: t.shape.clone(),
        base: Some((t.places[0].dtype, t.shape.clone())),
        base_elements: t.elements,
    };
    plan.tensors.iter().map(tensor).collect()
}

fn tell_equal(sink: &mut DeltaSink, actions: &[Action]) {
    let equal = actions.iter().enumerate().filter(|(_, a)| a.copied == Copied::Bytes);
    equal.for_each(|(tensor, _)| sink.equal(tensor));
}

/// Ends the hashes. Fails if an input is a delta file made for another base.
pub fn finish_hashes(plan: &Plan, actions: &[Action], hashes: TensorHashes) -> Result<Vec<Hashes>> {
    check_bases(plan, &hashes.base)?;
    let hex = |hash: PieceHash| hash.finish().to_hex().to_string();
    let both = hashes.base.into_iter().map(hex).zip(hashes.result);
    let one = |((base, result), action): ((String, PieceHash), &Action)| {
        let result = if action.copied == Copied::Bytes { base.clone() } else { hex(result) };
        Hashes { result, base: Some(base) }
    };
    Ok(both.zip(actions).map(one).collect())
}

/// Fails if an input is a delta file made for another base than the one whose tensors have these hashes.
pub fn check_bases(plan: &Plan, bases: &[PieceHash]) -> Result<()> {
    for (t, base) in plan.tensors.iter().zip(bases) {
        for (place, expected) in t.places.iter().filter_map(|p| p.coded.as_ref()?.base_blake3.as_ref().map(|h| (p, h)))
        {
            let got = base.root().map(|h| h.to_hex().to_string()).unwrap_or_default();
            if *expected != got {
                return Err(Error::HashDiffers {
                    path: plan.files[t.places[0].file].path.clone(),
                    what: format!(
                        "tensor `{}` is not the one that {} was made for",
                        t.name, plan.files[place.file].name
                    ),
                    expected: expected.clone(),
                    got,
                    hint: "Give the base_model that the delta was made from.",
                });
            }
        }
    }
    Ok(())
}

/// What the delta file keeps of the output's other files.
#[derive(Default)]
pub struct Kept {
    files: Vec<RestoredFile>,
    content: Vec<u8>,
}

impl Kept {
    /// Begins with the headers of the weight files.
    pub fn new(plan: &Plan) -> Self {
        let mut kept = Self::default();
        for s in &plan.shards {
            kept.content.extend_from_slice(&s.header);
            kept.files.push(RestoredFile {
                name: s.name.clone(),
                kept: How::Header,
                kept_bytes: s.header.len() as u64,
                bytes: s.file_bytes(),
                blake3: None,
            });
        }
        kept
    }

    /// Adds a file; its content is left out if the base at `base` has the same.
    pub fn add(&mut self, name: &str, content: &[u8], blake3: &str, base: &Path) {
        let same = same_in(base, name, content);
        let bytes = content.len() as u64;
        let kept = if same { How::Nothing } else { How::Content };
        if !same {
            self.content.extend_from_slice(content);
        }
        let kept_bytes = if same { 0 } else { bytes };
        self.files.push(RestoredFile {
            name: name.to_owned(),
            kept,
            kept_bytes,
            bytes,
            blake3: Some(blake3.to_owned()),
        });
    }
}

/// A delta file under way.
pub struct Made {
    pub sink: DeltaSink,
    /// Of all tensors.
    pub hashes: Vec<Hashes>,
    pub path: PathBuf,
    /// Whether it lies in the output's folder.
    pub inside: bool,
}

/// Completes the delta file and tells its length and hash.
pub fn finish(made: Made, kept: Kept) -> Result<OutputFile> {
    let Made { sink, hashes, path, .. } = made;
    if kept.content.len() as u64 > DELTA_FILES_MAX_BYTES {
        let problem =
            format!("the side files take {} bytes; a delta file keeps {DELTA_FILES_MAX_BYTES}", kept.content.len());
        return Err(Error::malformed(&path, format!("{problem}; pass --no-delta")));
    }
    let (_, bytes) = sink.finish(&hashes, Extra { files: kept.files, content: kept.content, ..Extra::default() })?;
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(&path).map_err(Error::io(&path, "open"))?;
    hasher.update_reader(file).map_err(Error::io(&path, "read"))?;
    Ok(OutputFile { name: NAME.to_owned(), bytes, blake3: hasher.finalize().to_hex().to_string() })
}
