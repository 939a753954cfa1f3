//! Fused stages: what they need before their results can be read, and what is reported of them.

use super::resume::Past;
use super::{Scoring, assign, output, start_method};
use crate::error::Result;
use crate::pass::{Action, Engine, Outcome, Stage};
use crate::plan::{Fused, Plan, PlannedFile};
use crate::report::StageReport;
use crate::source::Links;
use std::time::Instant;

/// What is known of a fused stage.
pub struct Known<'a> {
    fused: &'a Fused,
    scoring: Scoring,
    actions: Vec<Action>,
    /// The stages that are fused into it.
    inner: Vec<Self>,
}

/// Readies the stages that are fused into a plan: each first scores its layers, if it prunes.
pub fn start<'a>(plan: &'a Plan, engine: &mut Engine<'a>) -> Result<Vec<Known<'a>>> {
    let (mut stages, mut known) = (Vec::new(), Vec::new());
    for fused in &plan.fused {
        let mut own = engine.of_stage(&fused.plan);
        let inner = start(&fused.plan, &mut own)?;
        let scoring = Scoring::gather(&fused.plan, &own, &Past::default(), None)?;
        let (works, actions) = assign(&fused.plan, &scoring);
        let elements = scoring.elements.clone();
        let method = start_method(&fused.plan)?;
        stages.push(Stage::new(own, elements, (works, actions.clone()), method));
        known.push(Known { fused, scoring, actions, inner });
    }
    engine.set_stages(stages);
    Ok(known)
}

/// Adds the reports of fused stages, those fused into them first, each stage once.
pub fn report(
    known: Vec<Known<'_>>,
    files: &[PlannedFile],
    hashes: Option<&[blake3::Hash]>,
    links: Links,
    reports: &mut Vec<StageReport>,
) {
    for Known { fused, scoring, actions, inner } in known {
        report(inner, files, hashes, links, reports);
        if reports.iter().any(|r| r.name == fused.name) {
            continue;
        }
        let made = output::Made {
            plan: &fused.plan,
            files,
            delta: None,
            links,
            scoring: &scoring,
            actions: &actions,
            outcome: Outcome::new(fused.plan.tensors.len()),
            written: Vec::new(),
            input_hashes: hashes.map(<[_]>::to_vec),
            runs: scoring.runs.clone(),
            merge_error_bound: None,
            stages: Vec::new(),
            start: Instant::now(),
            resume_id: None,
            moved: (0, 0),
        };
        let mut report = made.report(Vec::new());
        report.run.bytes_written = 0;
        report.run.seconds = scoring.runs.iter().map(|run| run.seconds).sum();
        reports.push(StageReport { name: fused.name.clone(), fused: true, report });
    }
}
