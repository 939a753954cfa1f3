//! Merges one after another. Results of earlier stages are made as they are read, where that moves fewer bytes; else
//! they are written beside the output, as checkpoints, and removed.

use super::{Memo, Run, merge_with, output, plan_with};
use crate::error::{Error, Result};
use crate::plan::{How, Options, Plan, PlannedStage, fuse_stages};
use crate::recipe::Stages;
use crate::report::{Report, StageReport};
use crate::sink::{Existing, Locked, Staging, Unfinished, free_bytes};
use crate::source::Links;
use crate::tensor::{Bytes, Inventory};
use std::path::{Path, PathBuf};

/// The plans of all stages.
#[derive(Debug)]
pub struct StagedPlan {
    /// Those of all stages but the last.
    pub before: Vec<PlannedStage>,
    /// The last: its output is the output.
    pub last: Plan,
}

/// Plans all stages; results of earlier ones that are written will lie in a hidden folder beside the output.
pub fn plan_stages(stages: Stages, folder: &Path, links: Links, options: Options, out: &Path) -> Result<StagedPlan> {
    let place = stages_folder(out);
    let (mut before, mut results) = (Vec::new(), Vec::<(Inventory, Vec<String>)>::new());
    for stage in stages.before {
        let options = Options { delta: false, masks: false, ..options };
        let in_stage = |e| in_stage(&stage.name, e);
        let plan = plan_with(stage.recipe, folder, links, options, &results).map_err(in_stage)?;
        results.push((plan.result(&stage.name, &place.join(&stage.name)), plan.origins()));
        before.push((stage.name, plan));
    }
    let from_stage = stages.last.base.as_ref().is_some_and(|b| before.iter().any(|(name, _)| name == b));
    let options = Options { delta: options.delta && !from_stage, ..options };
    let mut last = plan_with(stages.last, folder, links, options, &results)?;
    if from_stage {
        last.warnings.push("no delta file is written: the base is the result of a stage".into());
    }
    if before.is_empty() {
        return Ok(StagedPlan { before: Vec::new(), last });
    }
    let (before, last) = fuse_stages(&before, &last);
    Ok(StagedPlan { before, last })
}

fn in_stage(name: &str, error: Error) -> Error {
    match error {
        Error::Recipe { place, problem } => Error::recipe(format!("stage {name}: {place}"), problem),
        other => other,
    }
}

/// Where results of stages lie while `out` is made.
fn stages_folder(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.stages"))
}

impl StagedPlan {
    /// Bytes that all stages take on disk while the last is written, with the reserve.
    pub fn disk_bytes(&self, links: Links) -> Result<Bytes> {
        let before: u64 = self.written().map(|stage| stage.plan.output_bytes()).sum();
        Ok(Bytes(before + output::disk_bytes(&self.last, links)?.0))
    }

    /// The stages whose results are written, in order.
    fn written(&self) -> impl Iterator<Item = &PlannedStage> {
        self.before.iter().filter(|stage| stage.how != How::Fused)
    }

    /// Whether results of stages are written.
    pub(super) fn writes_stages(&self) -> bool {
        self.written().next().is_some()
    }

    /// Whether `out` holds what a merge would make; see [`super::is_done`]. Never where results of stages are written.
    pub fn is_done(&self, out: &Path, run: &Run<'_>) -> Result<bool> {
        if self.written().next().is_none() { super::is_done(&self.last, out, run) } else { Ok(false) }
    }

    /// Runs all stages. `out` appears when it is complete, or not at all; results of stages before the last are removed.
    pub fn merge(&self, out: &Path, run: &Run<'_>) -> Result<Report> {
        self.merge_knowing(out, run, None)
    }

    /// The same with what earlier merges have found out.
    pub fn merge_knowing(&self, out: &Path, run: &Run<'_>, memo: Option<&Memo>) -> Result<Report> {
        if self.before.is_empty() {
            return merge_with(&self.last, out, run, Vec::new(), memo);
        }
        let (needed, free) = (self.disk_bytes(run.links)?, free_bytes(out)?);
        if needed > free {
            return Err(Error::NoSpace { path: out.to_owned(), needed, free });
        }
        Staging::check(out, run.existing)?;
        let folder = stages_folder(out);
        let writes = self.written().next().is_some();
        // Results of stages are made anew, so what was made from them cannot be gone on with.
        let run = if writes { &Run { unfinished: Unfinished::Discard, journal: None, ..*run } } else { run };
        // What a killed run left there is removed, too.
        let _results = (writes || folder.exists()).then(|| Results::begin(out)).transpose()?;
        let mut reports: Vec<StageReport> = Vec::new();
        for PlannedStage { name, plan, .. } in self.written() {
            tracing::info!("stage {name}");
            let run = Run { delta: None, masks: None, existing: Existing::Refuse, ..*run };
            let mut report =
                merge_with(plan, &folder.join(name), &run, Vec::new(), None).map_err(|e| in_stage(name, e))?;
            let known = |r: &StageReport| reports.iter().any(|known| known.name == r.name);
            let inner: Vec<_> = std::mem::take(&mut report.stages).into_iter().filter(|r| !known(r)).collect();
            reports.extend(inner);
            reports.push(StageReport { name: name.clone(), fused: false, report });
        }
        merge_with(&self.last, out, run, reports, memo)
    }
}

/// The folder with results of stages; removed when dropped.
struct Results {
    folder: PathBuf,
    _lock: Locked,
}

impl Results {
    /// Locks the folder's name and removes what a killed run left there.
    fn begin(out: &Path) -> Result<Self> {
        let folder = stages_folder(out);
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io(parent, "make the folder"))?;
        }
        let lock = Locked::take(&folder.with_extension("stages.lock"), out)?;
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&folder, "remove")(e)),
            _ => {}
        }
        std::fs::create_dir(&folder).map_err(Error::io(&folder, "make the folder"))?;
        Ok(Self { folder, _lock: lock })
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
