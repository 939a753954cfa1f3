//! What a merge did, in a few lines: `taskvec explain`, and the head of the page.

use super::kind::Kind;
use super::record::{Done, Record};
use super::xml::compact;
use crate::tensor::Bytes;

impl Record {
    /// What was done, what stands out, what it cost, and what may come next; one sentence or two a line. `out` is how
    /// the user names the output.
    pub fn gist(&self, out: &str) -> Vec<String> {
        let mut lines = vec![self.what()];
        lines.extend(self.masks());
        lines.extend(self.tasks_that_stand_out());
        lines.extend(self.layers_that_stand_out());
        lines.push(self.how_much());
        lines.extend(self.kinds());
        lines.extend(self.caveats());
        lines.push(self.sizes());
        lines.push(self.cost());
        lines.extend(self.next(out));
        lines
    }

    fn what(&self) -> String {
        let experts = self.experts().len();
        let base = self.base().map(|b| super::short_names(&[b.name()]).remove(0));
        let on = base.map_or_else(String::new, |b| format!(" on {b}"));
        let stages = match self.stages.len() {
            0 => String::new(),
            1 => ", after one stage before it".into(),
            n => format!(", after {n} stages before it"),
        };
        let plural = if experts == 1 { "" } else { "s" };
        format!("{} of {experts} model{plural}{on}{stages}, by taskvec {}.", self.method(), self.version)
    }

    fn masks(&self) -> Option<String> {
        let layers = self.layers.len();
        let Some(eta) = self.eta().filter(|_| layers > 0) else {
            let no_pruning = self.settings["lwptv"].is_null();
            return no_pruning.then(|| "No LwPTV: every float tensor that is not copied is merged.".into());
        };
        let kept = self.layers.iter().filter(|l| l.kept).count();
        let elements =
            |only: bool| self.layers.iter().filter(|l| l.kept || !only).map(|l| l.elements as f64).sum::<f64>();
        let share = percent(elements(true), elements(false));
        let by = |n: usize| self.layers.iter().filter(|l| l.kept_by.iter().filter(|k| **k).count() == n).count();
        let tasks = self.thresholds.len();
        Some(format!(
            "LwPTV, eta {}: {kept} of {layers} layers are kept by some task and merged ({share} of the elements); {} keep \
             the base's values. All {tasks} tasks agree on {} of those that are kept.",
            compact(eta),
            layers - kept,
            by(tasks)
        ))
    }

    fn tasks_that_stand_out(&self) -> Option<String> {
        let (tasks, alone) = (self.tasks(), self.kept_alone());
        let mut order: Vec<usize> = (0..alone.len().min(tasks.len())).filter(|&k| alone[k] > 0).collect();
        order.sort_by_key(|&k| std::cmp::Reverse(alone[k]));
        if tasks.len() < 2 || order.is_empty() {
            return None;
        }
        let list: Vec<String> = order.iter().take(3).map(|&k| format!("{} ({})", tasks[k], alone[k])).collect();
        Some(format!("Layers that only one task keeps: {}{}.", list.join(", "), more(order.len(), 3)))
    }

    fn layers_that_stand_out(&self) -> Option<String> {
        let tasks = self.tasks();
        let mut all: Vec<f64> = self.layers.iter().flat_map(|l| l.scores.iter().flatten().copied()).collect();
        all.sort_by(f64::total_cmp);
        let median = all.get(all.len() / 2).copied().filter(|m| *m > 0.0)?;
        let best = |l: &super::record::Layer| {
            let scores = l.scores.iter().enumerate().filter_map(|(k, s)| Some((k, (*s)?)));
            scores.max_by(|a, b| a.1.total_cmp(&b.1))
        };
        let mut layers: Vec<(&str, usize, f64)> =
            self.layers.iter().filter_map(|l| best(l).map(|(k, s)| (l.name.as_str(), k, s / median))).collect();
        layers.sort_by(|a, b| b.2.total_cmp(&a.2));
        let show = |(name, k, times): &(&str, usize, f64)| format!("{name} ({} times, {})", compact(*times), tasks[*k]);
        let list: Vec<String> = layers.iter().take(3).map(show).collect();
        Some(format!("Highest scores, against the median of all: {}.", list.join("; ")))
    }

    fn how_much(&self) -> String {
        let [merged, pruned, copied] = [Done::Merged, Done::Pruned, Done::Copied].map(|d| self.count(d));
        let counts = format!("{merged} tensors merged, {pruned} pruned to the base, {copied} copied");
        let (all, changed) = self.changed();
        let Some(changed) = changed else {
            return format!("{counts}. How much differs from a base is not known: the merge did not read one.");
        };
        if changed == 0 {
            return format!("{counts}. Nothing differs from the base.");
        }
        let largest = self.tensors.iter().filter_map(|t| Some((t.max_abs_delta?, &t.name)));
        let largest = largest.max_by(|a, b| a.0.total_cmp(&b.0));
        let most = largest.map_or_else(String::new, |(d, name)| format!(", most by {} in {name}", compact(d)));
        format!("{counts}. {} of all elements differ from the base{most}.", percent(changed as f64, all as f64))
    }

    fn kinds(&self) -> Option<String> {
        self.changed().1.filter(|n| *n > 0)?;
        let share = |kind: Kind| {
            let mine = || self.tensors.iter().filter(|t| Kind::of(&t.name) == kind);
            let (all, changed) = (
                mine().map(|t| t.elements() as f64).sum::<f64>(),
                mine().filter_map(|t| t.elements_changed).map(|n| n as f64).sum::<f64>(),
            );
            (all > 0.0).then(|| format!("{} {}", kind.name(), percent(changed, all)))
        };
        let list: Vec<String> = Kind::ALL.into_iter().filter_map(share).collect();
        Some(format!("Changed elements by kind: {}.", list.join("; ")))
    }

    fn caveats(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.layers.iter().any(|l| l.scores.iter().any(Option::is_none)) {
            lines.push("Caution: some scores are not finite, so an input holds NaN or infinities.".into());
        }
        if let Some(bound) = self.merge_error_bound {
            lines.push(format!(
                "Caution: inputs are lossy; no value is off by more than {} before rounding.",
                compact(bound)
            ));
        } else if self.inputs.iter().any(|i| i.error_bound.is_some()) {
            lines.push("Caution: inputs are lossy, and this method gives no bound on what that does.".into());
        }
        if self.unhashed() {
            lines.push("The inputs were not hashed: this report does not prove what was merged.".into());
        }
        lines
    }

    fn sizes(&self) -> String {
        let weights = self.output_bytes(".safetensors");
        let delta = self.output_bytes(".tvd");
        let size = format!("Weights {}", Bytes(weights));
        if delta == 0 {
            return format!("{size}; no delta file inside the output.");
        }
        format!("{size}; as a delta file on the base {} ({}).", Bytes(delta), percent(delta as f64, weights as f64))
    }

    fn cost(&self) -> String {
        let run = &self.run;
        let read = run.passes.iter().fold(0, |n: u64, p| n.saturating_add(p.bytes_read));
        let rate = if run.seconds > 0.0 {
            format!(" ({}/s)", Bytes((read as f64 / run.seconds) as u64))
        } else {
            String::new()
        };
        format!(
            "Read {} in {} passes and wrote {} in {:.1} s{rate}; peak memory {} of {}.",
            Bytes(read),
            run.passes.len(),
            Bytes(run.bytes_written),
            run.seconds,
            Bytes(run.peak_rss_bytes),
            Bytes(run.memory_bytes)
        )
    }

    fn next(&self, out: &str) -> Vec<String> {
        let mut lines = vec![format!("Next: taskvec verify {out}")];
        if self.base().is_some() && self.experts().len() > 1 {
            lines.push(format!("      taskvec report --inputs {out}    (how the task vectors lie to each other)"));
        }
        let kept = self.layers.iter().filter(|l| l.kept).count();
        if kept == self.layers.len() && kept > 0 && self.eta() != Some(0.0) {
            lines.push("      a higher eta: at this one the tasks together keep every layer".into());
        } else if kept == 0 && !self.layers.is_empty() {
            lines.push("      a lower eta: at this one nothing is merged".into());
        }
        lines
    }
}

fn more(all: usize, shown: usize) -> String {
    if all > shown { format!(" and {} more tasks", all - shown) } else { String::new() }
}

/// A share as people read it.
pub fn percent(part: f64, all: f64) -> String {
    let share = if all > 0.0 { (100.0 * part / all).clamp(0.0, 100.0) } else { 0.0 };
    match share {
        s if s > 0.0 && s < 0.1 => "less than 0.1 %".into(),
        s => format!("{s:.1} %"),
    }
}
