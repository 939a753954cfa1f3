//! `taskvec inspect`: what a checkpoint or a merged model holds.

use super::args::InspectArgs;
use super::{Outcome, print};
use std::collections::BTreeMap;
use std::path::Path;
use taskvec::limits::INDEX_MAX_BYTES;
use taskvec::report::{Table, escape};
use taskvec::source::{self, DeltaFile, Links, is_delta, read_small};
use taskvec::tensor::{Bytes, Entry, Inventory, Statistics, position};

pub fn inspect(args: &InspectArgs) -> Outcome {
    if is_delta(Path::new(&args.path)) {
        return delta(&DeltaFile::open(Path::new(&args.path))?, args.json);
    }
    let links = if args.follow_links { Links::All } else { Links::Inside };
    let inventory = source::open(&args.path, Path::new(""), links)?;
    let report = merge_report(&inventory);
    if args.json { print_json(&inventory, report.as_ref()) } else { print_text(&inventory, report.as_ref()) }
}

fn delta(delta: &DeltaFile, json: bool) -> Outcome {
    let payload = |t| delta.payload(t).map_or(0, |(_, _, bytes)| bytes);
    let tensors = &delta.index.tensors;
    if json {
        let tensor = |t| serde_json::json!({"tensor": t, "payload_bytes": payload(t)});
        let json = serde_json::json!({
            "path": delta.file.path.display().to_string(),
            "bytes": delta.file.bytes,
            "metadata": delta.metadata.fields(),
            "tensors": tensors.iter().map(tensor).collect::<Vec<_>>(),
            "base_only": delta.index.base_only,
            "files": delta.index.files,
        });
        return print::out(serde_json::to_string_pretty(&json).unwrap_or_default());
    }
    let model: u64 = tensors.iter().map(|t| t.shape.iter().product::<u64>() * t.dtype.bytes() as u64).sum();
    let equal = tensors.iter().filter(|t| t.payload.is_none()).count();
    print::out(format_args!(
        "{}: {} for a model of {} ({:.2} %), {}",
        escape(&delta.file.path.display().to_string()),
        Bytes(delta.file.bytes),
        Bytes(model),
        100.0 * delta.file.bytes as f64 / model.max(1) as f64,
        delta
            .metadata
            .error_bound
            .as_ref()
            .map_or("exact".to_owned(), |e| format!("lossy, error at most {}", escape(e)))
    ))?;
    print::out(format_args!("base   {}", delta.metadata.base_root))?;
    print::out(format_args!("result {}", delta.metadata.result_root))?;
    print::out(format_args!("{} tensors, {equal} equal the base; {} files", tensors.len(), delta.index.files.len()))?;
    let mut table = Table::new(&["tensor", "dtype", "shape", "payload", "%", "changed %", "max abs"]);
    for t in tensors {
        let elements = t.shape.iter().product::<u64>();
        let raw = elements * t.dtype.bytes() as u64;
        let share = |part: u64, all: u64| format!("{:.2}", 100.0 * part as f64 / all.max(1) as f64);
        let known = |f: &dyn Fn(&Statistics) -> String| t.statistics.as_ref().map_or("-".to_owned(), f);
        table.row([
            t.name.clone(),
            t.dtype.to_string(),
            format!("{:?}", t.shape),
            Bytes(payload(t)).to_string(),
            share(payload(t), raw),
            known(&|s| share(s.changed, elements)),
            known(&|s| format!("{:.3e}", s.max_abs)),
        ]);
    }
    print::out(table.to_string().trim_end())
}

/// The report of the merge that made this model, if it is one.
fn merge_report(inventory: &Inventory) -> Option<serde_json::Value> {
    let bytes = read_small(&inventory.path, "taskvec.json", Links::Inside, INDEX_MAX_BYTES).ok()??;
    serde_json::from_slice(&bytes).ok()
}

fn print_json(inventory: &Inventory, report: Option<&serde_json::Value>) -> Outcome {
    let tensor = |t: &Entry| {
        serde_json::json!({
            "name": t.name, "dtype": t.dtype.header_name(), "shape": t.shape, "bytes": t.bytes,
            "file": inventory.files[t.file].name,
        })
    };
    let json = serde_json::json!({
        "path": inventory.path.display().to_string(),
        "files": inventory.files.iter().map(|f| serde_json::json!({"name": f.name, "bytes": f.bytes})).collect::<Vec<_>>(),
        "elements": inventory.elements(),
        "tensor_bytes": inventory.tensor_bytes(),
        "tensors": inventory.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "merge": report,
    });
    print::out(serde_json::to_string_pretty(&json).unwrap_or_default())
}

fn print_text(inventory: &Inventory, report: Option<&serde_json::Value>) -> Outcome {
    print::out(format_args!("{}", escape(&inventory.path.display().to_string())))?;
    let mut dtypes: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    let mut stacks: BTreeMap<&str, u32> = BTreeMap::new();
    for t in &inventory.tensors {
        let entry = dtypes.entry(t.dtype.header_name()).or_default();
        *entry = (entry.0 + 1, entry.1 + t.bytes);
        if let Some(p) = position(&t.name) {
            let height = stacks.entry(p.stack).or_default();
            *height = (*height).max(p.index.saturating_add(1));
        }
    }
    print::out(format_args!(
        "{} tensors, {} elements, {} in {} {}",
        inventory.tensors.len(),
        inventory.elements(),
        Bytes(inventory.tensor_bytes()),
        inventory.files.len(),
        if inventory.files.len() == 1 { "file" } else { "files" }
    ))?;
    for (dtype, (count, bytes)) in dtypes {
        print::out(format_args!("{dtype}: {count} tensors, {}", Bytes(bytes)))?;
    }
    for (stack, height) in stacks {
        print::out(format_args!("stack {}: {height} blocks", escape(stack)))?;
    }
    if let Some(report) = report {
        print_merge(report)?;
    }
    let mut table = Table::new(&["tensor", "dtype", "shape", "bytes", "file"]);
    for t in &inventory.tensors {
        let file = inventory.files[t.file].name.clone();
        table.row([t.name.clone(), t.dtype.to_string(), format!("{:?}", t.shape), Bytes(t.bytes).to_string(), file]);
    }
    print::out(table.to_string().trim_end())
}

fn print_merge(report: &serde_json::Value) -> Outcome {
    let text = |v: &serde_json::Value| escape(v.as_str().unwrap_or("?"));
    let tensors = report["tensors"].as_array().map_or(&[][..], Vec::as_slice);
    let count = |action: &str| tensors.iter().filter(|t| t["action"] == action).count();
    print::out(format_args!(
        "merged by taskvec {} with {}: {} tensors merged, {} pruned, {} copied",
        text(&report["version"]),
        text(&report["settings"]["merge_method"]),
        count("merged"),
        count("pruned"),
        count("copied")
    ))
}
