//! Whether an output is there already: made from the same recipe and the same inputs.

use super::{Memo, Run, StagedPlan, open_files, resume};
use crate::error::{Error, Result};
use crate::limits::INDEX_MAX_BYTES;
use crate::pass::Engine;
use crate::plan::{Plan, Shard};
use crate::sink::{StagedFile, Unfinished};
use crate::source::{DeltaFile, Files};
use serde::Deserialize;
use std::io::Read;
use std::path::Path;

#[derive(Deserialize)]
struct Made {
    plan_id: String,
    inputs: Vec<Input>,
    outputs: Vec<File>,
    run: MadeBy,
}

#[derive(Deserialize)]
struct Input {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    name: String,
    bytes: u64,
    blake3: Option<String>,
}

#[derive(Deserialize)]
struct MadeBy {
    resume_id: Option<String>,
}

/// Whether `out` holds what this merge would make. Fails if it holds something else. Inputs that are not the very files
/// that it was made from are hashed and compared.
pub fn is_done(plan: &Plan, out: &Path, run: &Run<'_>) -> Result<bool> {
    is_done_with(plan, out, run, None)
}

/// The same for all stages of a merge, where other merges may have hashed the inputs. Never where results of stages are
/// written.
pub(super) fn is_done_knowing(plan: &StagedPlan, out: &Path, run: &Run<'_>, memo: &Memo) -> Result<bool> {
    if plan.writes_stages() { Ok(false) } else { is_done_with(&plan.last, out, run, Some(memo)) }
}

fn is_done_with(plan: &Plan, out: &Path, run: &Run<'_>, memo: Option<&Memo>) -> Result<bool> {
    let path = out.join("taskvec.json");
    let Some(made) = read(&path)? else { return Ok(false) };
    let other = |problem: &str| Err(Error::OutputExists { path: out.to_owned(), problem: problem.to_owned() });
    if made.plan_id != plan.id {
        return other("is the output of another recipe or other inputs; choose another, or pass --overwrite alone");
    }
    let damaged = |f: &&File| std::fs::metadata(out.join(&f.name)).ok().is_none_or(|m| m.len() != f.bytes);
    if let Some(f) = made.outputs.iter().find(damaged) {
        return other(&format!(
            "`{}` is missing or has another length; pass --overwrite to make the output again",
            f.name
        ));
    }
    let files = open_files(plan, run.io)?;
    let first = resume::first_line(plan, run, &files);
    let same_run = made.run.resume_id == Some(resume::id(&first));
    if !same_run {
        let inside = plan.writes_delta() && run.delta.is_none();
        if inside != made.outputs.iter().any(|f| f.name == super::delta::NAME) {
            return other(
                "was made with or without a delta file, unlike this merge; pass --overwrite to make it again",
            );
        }
        if !has_inputs(&made, plan, &files, run, memo)? {
            return other("is the output of other inputs; choose another, or pass --overwrite to make it again");
        }
    }
    if let Some((path, _)) = run.masks.zip(plan.masks.as_ref()).filter(|(path, masks)| !holds(path, masks)) {
        let problem =
            "does not hold the masks of this merge, and the output is whole; pass --overwrite to make both again"
                .to_owned();
        return Err(Error::OutputExists { path: path.to_owned(), problem });
    }
    match run.delta.filter(|path| plan.writes_delta() && !path.exists()) {
        None => Ok(true),
        Some(path) => finish_aside(path, run),
    }
}

/// Whether the file at `path` has the header, which names the plan, and the length of these masks.
fn holds(path: &Path, masks: &Shard) -> bool {
    let mut header = vec![0; masks.header.len()];
    let read = std::fs::File::open(path).and_then(|mut file| {
        file.read_exact(&mut header)?;
        file.metadata()
    });
    read.is_ok_and(|m| m.len() == masks.file_bytes()) && header == masks.header
}

/// Publishes a delta file that a run had made, but not yet named, when it was ended.
fn finish_aside(path: &Path, run: &Run<'_>) -> Result<bool> {
    let aside = StagedFile::begin(path, run.existing, Unfinished::Resume, &[])?;
    if DeltaFile::open(aside.part()).is_ok() {
        return aside.publish().map(|()| true);
    }
    let problem = "is missing, and the output is whole; make it with `taskvec diff`, or pass --overwrite".to_owned();
    Err(Error::OutputExists { path: path.to_owned(), problem })
}

/// Whether the inputs have the hashes on record.
fn has_inputs(made: &Made, plan: &Plan, files: &Files, run: &Run<'_>, memo: Option<&Memo>) -> Result<bool> {
    let mut engine = Engine::new(plan, files, true, run.progress, run.stop)?;
    if let Some(memo) = memo {
        memo.recall_hashes(&mut engine);
    }
    let (hashes, _) = engine.finish_hashes()?;
    if let Some(memo) = memo {
        memo.learn_hashes(files, hashes.as_deref());
    }
    let got: Vec<String> = hashes.unwrap_or_default().iter().map(|h| h.to_hex().to_string()).collect();
    let expected = super::output::inputs(plan, &plan.files, None);
    let same = |input: &Input, now: &crate::report::InputReport, range: &std::ops::Range<usize>| {
        input.files.len() == now.files.len()
            && input.files.iter().zip(&got[range.clone()]).all(|(f, hash)| f.blake3.as_ref() == Some(hash))
    };
    Ok(made.inputs.len() == expected.len()
        && made.inputs.iter().zip(&expected).all(|(input, (now, range))| same(input, now, range)))
}

fn read(path: &Path) -> Result<Option<Made>> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() <= INDEX_MAX_BYTES => {}
        _ => return Ok(None),
    }
    let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
    Ok(serde_json::from_slice(&text).ok())
}
