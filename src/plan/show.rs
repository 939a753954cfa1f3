//! The plan as a person reads it.

use super::{Plan, Source};
use crate::tensor::Bytes;
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = self.recipe.method;
        writeln!(f, "method    {}: {}", method.name, method.summary)?;
        match &self.recipe.lwptv {
            Some(l) => {
                writeln!(
                    f,
                    "lwptv     eta {}, layer {}, score {:?}, consensus {:?}",
                    l.eta,
                    l.layer.describe(),
                    l.score,
                    l.consensus
                )?;
            }
            None => writeln!(f, "lwptv     off: every layer is merged")?,
        }
        for (i, s) in self.sources.iter().enumerate() {
            let role = if self.base() == Some(i) { "base" } else { "expert" };
            let adapted = self.tensors.iter().filter(|t| t.places[i].adapter.is_some()).count();
            writeln!(
                f,
                "{role:<9} {} ({}, {}{})",
                s.label,
                Bytes(self.source_bytes(i)),
                self.show_files(s),
                if adapted == 0 { String::new() } else { format!("; an adapter on {adapted} tensors") }
            )?;
        }
        let floats = self.tensors.iter().filter(|t| t.layer.is_some()).count();
        write!(
            f,
            "tensors   {}, {} elements",
            self.tensors.len(),
            self.tensors.iter().map(|t| t.elements).sum::<u64>()
        )?;
        let taken = self.tensors.iter().filter(|t| t.taken.is_some()).count();
        match self.tensors.len() - floats - taken {
            0 => {}
            n => write!(f, "; {n} of integers or bools, copied")?,
        }
        match taken {
            0 => writeln!(f)?,
            n => writeln!(f, "; {n} copied as the recipe says")?,
        }
        for r in &self.restacked {
            writeln!(f, "stack     {}: {} layers, {} in the first source", r.stack, r.layers.len(), r.height)?;
        }
        if let Some(v) = &self.vocabulary {
            writeln!(f, "tokens    {} rows, tokenizer files of {}", v.rows, self.sources[v.files_of].label)?;
        }
        writeln!(f, "layers    {}", self.layers.len())?;
        self.show_passes(f)?;
        let shards = self.shards.len();
        writeln!(
            f,
            "output    {} in {shards} {}",
            Bytes(self.output_bytes()),
            if shards == 1 { "file" } else { "files" }
        )?;
        if let Some(masks) = &self.masks {
            writeln!(f, "masks     {}, a bit for each element and expert", Bytes(masks.file_bytes()))?;
        }
        let b = &self.budget;
        writeln!(
            f,
            "memory    peak {} (jobs of {}, {} under way; budget {})",
            Bytes(self.peak_bytes()),
            Bytes(b.job_bytes as u64),
            Bytes(b.window_bytes as u64),
            Bytes(self.options.memory_bytes)
        )?;
        for warning in &self.warnings {
            writeln!(f, "note      {warning}")?;
        }
        write!(f, "plan id   {}", &self.id[..16])
    }
}

impl Plan {
    fn show_files(&self, source: &Source) -> String {
        let fused = source.models.iter().filter(|&&m| self.models[m].fused.is_some()).count();
        let files: usize = source.models.iter().map(|&m| self.models[m].files.len()).sum();
        match (fused, files) {
            (0, 1) => "1 file".to_owned(),
            (0, _) => format!("{files} files"),
            (_, 0) => "read by a fused stage".to_owned(),
            _ => format!("{files} files and what a fused stage reads"),
        }
    }

    fn show_passes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = self.base().map_or(0, |b| self.source_bytes(b));
        let experts: u64 = self.experts().map(|s| self.source_bytes(s)).sum();
        let (mut reads, mut at_most) = (base + experts, base + experts);
        if let Some(bytes) = self.survey_bytes() {
            writeln!(f, "pass      score: reads {}", Bytes(bytes))?;
            reads += bytes;
            at_most += bytes;
        }
        if self.surveys > 0 {
            let surveys = self.surveys;
            writeln!(
                f,
                "passes    {surveys} for statistics of the method: each reads at most {}{}",
                Bytes(base + experts),
                match self.waves.runs.len() {
                    1 => String::new(),
                    n => format!("; tensors go in {n} waves"),
                }
            )?;
            at_most += surveys * (base + experts);
            reads = at_most;
        }
        if self.recipe.lwptv.is_some() {
            writeln!(
                f,
                "pass      merge: reads {} of the base and at most {} of the experts (kept layers)",
                Bytes(base),
                Bytes(experts)
            )?;
            writeln!(f, "reads     at most {}", Bytes(at_most))
        } else {
            writeln!(f, "pass      merge: reads {}", Bytes(base + experts))?;
            writeln!(f, "reads     {}", Bytes(reads))
        }
    }
}
