//! The page of `taskvec report`: what a merge did, from its `taskvec.json`.

use super::charts::{Bar, Density, bars, depth_map};
use super::comparison::Comparison;
use super::gist::percent;
use super::kind::Kind;
use super::page::Page;
use super::record::{Done, Record, Tensor};
use super::svg::{Picture, svg_in_page};
use super::vectors;
use super::xml::{Xml, compact};
use crate::tensor::{Bytes, position};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// What a page shows besides the record.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    /// The output's name, for the headline.
    pub name: &'a str,
    /// The output as the user gave it, for commands.
    pub out: &'a str,
    /// The recipe's text, if it is at hand.
    pub recipe: Option<&'a str>,
    /// The inputs' task vectors, if they were read.
    pub vectors: Option<&'a Comparison>,
}

/// The page: one HTML file that loads nothing. The same bytes for the same input.
pub fn merge_page(record: &Record, beside: &Beside<'_>) -> String {
    page(record, beside).expect("a String takes any text")
}

fn page(record: &Record, beside: &Beside<'_>) -> Result<String, fmt::Error> {
    let mut sections = vec![("gist", "In short")];
    if !record.layers.is_empty() {
        sections.push(("masks", "Scores and masks"));
    }
    sections.extend([("density", "What differs from the base"), ("vectors", "Task vectors"), ("run", "Run")]);
    sections.extend([("sizes", "Sizes"), ("recipe", "Recipe"), ("provenance", "Provenance")]);
    let about = format!("merged with {} by taskvec {}", record.method(), record.version);
    let mut page = Page::begin(beside.name, &about, &sections)?;
    for (id, heading) in sections {
        page.section(id, heading, |p| match id {
            "gist" => gist(p, record, beside),
            "masks" => masks(p, record),
            "density" => density(p, record),
            "vectors" => task_vectors(p, record, beside),
            "run" => run(p, record),
            "sizes" => sizes(p, record),
            "recipe" => recipe(p, record, beside),
            _ => provenance(p, record),
        })?;
    }
    Ok(page.finish())
}

fn gist(p: &mut Page, record: &Record, beside: &Beside<'_>) -> fmt::Result {
    p.out.write_str("<ul class=\"gist\">\n")?;
    let lines = record.gist(beside.out);
    for line in lines.iter().take_while(|l| !l.starts_with("Next:")) {
        // Numbers keep their unit on the line.
        writeln!(p.out, "<li>{}</li>", Xml(&line.replace(" %", "\u{a0}%")))?;
    }
    p.out.write_str("</ul>\n")?;
    if record.stages.is_empty() {
        return Ok(());
    }
    p.paragraph("Before this merge came others, whose results it took. The rest of the page is about the last one.")?;
    let row = |s: &super::record::Stage| {
        let counts = [Done::Merged, Done::Pruned, Done::Copied].map(|d| s.report.count(d).to_string());
        [s.name.clone(), s.report.method().to_owned()].into_iter().chain(counts).collect()
    };
    p.table("Stages", &["stage", "method", "merged", "pruned", "copied"], record.stages.iter().map(row))
}

fn masks(p: &mut Page, record: &Record) -> fmt::Result {
    let lwptv = &record.settings["lwptv"];
    let score = match lwptv["score"].as_str() {
        Some("magnitude") => "the mean magnitude of the task vector",
        Some("random") => "drawn at random",
        _ => "eq. 5 of LwPTV: how far the task's weights are from the mean of all",
    };
    let shared = match lwptv["consensus"].as_str() {
        Some("none") => "a layer is merged from the tasks that keep it; the shared mask says whether there are any",
        _ => "the shared mask, the OR of all, says which layers are merged",
    };
    p.paragraph(&format!(
        "Each layer has a score for each task ({score}). A task keeps the layers above its threshold; {shared}."
    ))?;
    let (tasks, layers) = (record.tasks(), &record.layers);
    let names: Vec<String> = layers.iter().map(|l| l.name.clone()).collect();
    let score = |s: &Option<f64>| s.unwrap_or(f64::NAN);
    let scores: Vec<Vec<f64>> = layers.iter().map(|l| l.scores.iter().map(score).collect()).collect();
    let kept_by: Vec<Vec<bool>> = layers.iter().map(|l| l.kept_by.clone()).collect();
    let kept: Vec<bool> = layers.iter().map(|l| l.kept).collect();
    let title = "Scores, masks of the tasks, and the shared mask";
    let picture = Picture {
        title,
        tasks: &tasks,
        layers: &names,
        scores: &scores,
        kept_by: &kept_by,
        kept: &kept,
        eta: record.eta().unwrap_or(0.0),
    };
    p.picture(title, &svg_in_page(&picture))?;
    p.folded("All scores as a table", |p| {
        let head: Vec<&str> =
            ["layer", "elements"].into_iter().chain(tasks.iter().map(String::as_str)).chain(["merged"]).collect();
        let cell = |(s, kept): (&Option<f64>, &bool)| {
            let star = if *kept { " *" } else { "" };
            s.map_or_else(|| "not finite".to_owned(), compact) + star
        };
        let rows = layers.iter().map(|l| {
            let scores = l.scores.iter().zip(&l.kept_by).map(cell);
            let merged = if l.kept { "yes" } else { "no" };
            [l.name.clone(), l.elements.to_string()]
                .into_iter()
                .chain(scores)
                .chain([merged.into()])
                .collect::<Vec<_>>()
        });
        let none = || "none".to_owned();
        let thresholds = record.thresholds.iter().map(|t| t.map_or_else(none, compact));
        let last =
            ["threshold".to_owned(), String::new()].into_iter().chain(thresholds).chain([String::new()]).collect();
        p.table("Scores; * is above the task's threshold", &head, rows.chain([last]))
    })
}

fn density(p: &mut Page, record: &Record) -> fmt::Result {
    let by_kind = by_kind(record);
    if record.changed().1.is_some() {
        p.paragraph("The share of elements that differ from the base, as stored, by kind of tensor and by depth.")?;
        for (stack, columns, rows) in depth(record) {
            if record.tensors.iter().filter_map(|t| position(&t.name)).any(|at| at.stack != stack) {
                p.subheading(&stack)?;
            }
            let title = format!("Share that differs from the base, blocks of {stack}");
            p.picture(&title, &depth_map(&title, &columns, &rows))?;
        }
        let of_kind = |(kind, d): &(Kind, Density)| Bar {
            label: kind.name().into(),
            start: 0.0,
            length: d.share(),
            says: percent(d.changed as f64, d.elements as f64),
            second: false,
        };
        p.subheading("By kind")?;
        p.picture(
            "Share that differs by kind",
            &bars("Share that differs from the base, by kind", &by_kind.iter().map(of_kind).collect::<Vec<_>>()),
        )?;
    } else {
        p.paragraph("The merge read no base, so it is not known what differs from one.")?;
    }
    let row = |(kind, d): &(Kind, Density)| {
        let share = percent(d.changed as f64, d.elements as f64);
        vec![
            kind.name().to_owned(),
            d.tensors.to_string(),
            d.pruned.to_string(),
            d.elements.to_string(),
            d.changed.to_string(),
            share,
        ]
    };
    let head = ["kind", "tensors", "pruned", "elements", "differ", "share"];
    p.table("By kind; kinds follow from names (docs/report.md)", &head, by_kind.iter().map(row))?;
    p.folded(&format!("All {} tensors as a table", record.tensors.len()), |p| {
        let head = ["tensor", "kind", "shape", "dtype", "done", "differ", "largest difference"];
        p.table("Tensors in the output's order", &head, record.tensors.iter().map(tensor_row))
    })
}

fn tensor_row(t: &Tensor) -> Vec<String> {
    let unknown = || "unknown".to_owned();
    vec![
        t.name.clone(),
        Kind::of(&t.name).name().to_owned(),
        format!("{:?}", t.shape),
        t.dtype.clone(),
        t.action.word().to_owned(),
        t.elements_changed.map_or_else(unknown, |n| percent(n as f64, t.elements() as f64)),
        t.max_abs_delta.map_or_else(unknown, compact),
    ]
}

fn add(d: &mut Density, t: &Tensor) {
    d.elements = d.elements.saturating_add(t.elements());
    d.changed = d.changed.saturating_add(t.elements_changed.unwrap_or(0));
    d.tensors += 1;
    d.pruned += usize::from(t.action == Done::Pruned);
}

fn by_kind(record: &Record) -> Vec<(Kind, Density)> {
    let mut kinds: BTreeMap<Kind, Density> = BTreeMap::new();
    record.tensors.iter().for_each(|t| add(kinds.entry(Kind::of(&t.name)).or_default(), t));
    kinds.into_iter().collect()
}

/// A stack's name, its blocks, and for each kind what is in each of these.
type Depth = (String, Vec<u32>, Vec<(String, Vec<Option<Density>>)>);

fn depth(record: &Record) -> Vec<Depth> {
    let mut stacks: BTreeMap<&str, BTreeMap<(Kind, u32), Density>> = BTreeMap::new();
    for t in &record.tensors {
        if let Some(at) = position(&t.name) {
            add(stacks.entry(at.stack).or_default().entry((Kind::of(&t.name), at.index)).or_default(), t);
        }
    }
    let of_stack = |(stack, cells): (&str, BTreeMap<(Kind, u32), Density>)| {
        let columns: Vec<u32> = cells.keys().map(|(_, b)| *b).collect::<BTreeSet<_>>().into_iter().collect();
        let kinds: BTreeSet<Kind> = cells.keys().map(|(k, _)| *k).collect();
        let row = |k: Kind| (k.name().to_owned(), columns.iter().map(|b| cells.get(&(k, *b)).copied()).collect());
        let rows = kinds.into_iter().map(row).collect();
        (stack.to_owned(), columns, rows)
    };
    stacks.into_iter().map(of_stack).collect()
}

fn task_vectors(p: &mut Page, record: &Record, beside: &Beside<'_>) -> fmt::Result {
    if let Some(found) = beside.vectors {
        return vectors::show(p, found, &record.tasks());
    }
    let why = match record.base() {
        None => {
            "Cosines and sign conflicts between task vectors need one base, which this merge does not have.".to_owned()
        }
        Some(_) => format!(
            "Cosines and sign conflicts between task vectors are not in taskvec.json: a merge does not need them, and to gather \
             them takes a read of all inputs. This does it: taskvec report --inputs {}",
            beside.out
        ),
    };
    p.paragraph(&why)
}

fn run(p: &mut Page, record: &Record) -> fmt::Result {
    let run = &record.run;
    let passes: f64 = run.passes.iter().map(|p| p.seconds.max(0.0)).sum();
    let all = run.seconds.max(passes);
    let rate = |bytes: u64, seconds: f64| {
        if seconds > 0.0 { format!("{:.2} GB/s", bytes as f64 / 1e9 / seconds) } else { "-".into() }
    };
    let mut before = 0.0;
    let mut list = Vec::new();
    for pass in &run.passes {
        let says =
            format!("{}, {:.2} s, {}", Bytes(pass.bytes_read), pass.seconds, rate(pass.bytes_read, pass.seconds));
        let (start, length) = if all > 0.0 { (before / all, pass.seconds / all) } else { (0.0, 0.0) };
        list.push(Bar { label: pass.name.clone(), start, length, says, second: false });
        before += pass.seconds.max(0.0);
    }
    let rest = (all - passes).max(0.0);
    let (start, length) = if all > 0.0 { (before / all, rest / all) } else { (0.0, 0.0) };
    list.push(Bar { label: "the rest: plan, sync".into(), start, length, says: format!("{rest:.2} s"), second: true });
    p.picture("The run in time", &bars("The run in time", &list))?;
    let row = |pass: &super::record::Pass| {
        let seconds = format!("{:.2}", pass.seconds);
        vec![pass.name.clone(), Bytes(pass.bytes_read).to_string(), seconds, rate(pass.bytes_read, pass.seconds)]
    };
    let read = run.passes.iter().fold(0, |n: u64, p| n.saturating_add(p.bytes_read));
    let total = vec!["all".to_owned(), Bytes(read).to_string(), format!("{all:.2}"), rate(read, all)];
    p.table(
        "Passes: bytes of tensors read",
        &["pass", "read", "seconds", "rate"],
        run.passes.iter().map(row).chain([total]),
    )?;
    let say = format!(
        "Wrote {} to weight files. {} compute threads; peak memory {} of {} allowed.",
        Bytes(run.bytes_written),
        run.threads,
        Bytes(run.peak_rss_bytes),
        Bytes(run.memory_bytes)
    );
    p.paragraph(&say)
}

fn sizes(p: &mut Page, record: &Record) -> fmt::Result {
    let names = super::short_names(&record.inputs.iter().map(super::record::Input::name).collect::<Vec<_>>());
    let inputs = record.inputs.iter().zip(names).map(|(i, name)| (format!("{name} ({})", i.role), i.bytes(), false));
    let made = [("merged weights", ".safetensors"), ("delta file", ".tvd")];
    let made = made.map(|(name, ends)| (name.to_owned(), record.output_bytes(ends), true));
    let all: Vec<(String, u64, bool)> = inputs.chain(made.into_iter().filter(|m| m.1 > 0)).collect();
    let most = all.iter().map(|(_, bytes, _)| *bytes).max().unwrap_or(1).max(1) as f64;
    let bar = |(label, bytes, second): &(String, u64, bool)| Bar {
        label: label.clone(),
        start: 0.0,
        length: *bytes as f64 / most,
        says: Bytes(*bytes).to_string(),
        second: *second,
    };
    p.picture("Sizes", &bars("Sizes of inputs and outputs", &all.iter().map(bar).collect::<Vec<_>>()))?;
    let row =
        |(label, bytes, _): &(String, u64, bool)| vec![label.clone(), Bytes(*bytes).to_string(), bytes.to_string()];
    p.folded("Sizes as a table", |p| p.table("Weight files", &["what", "size", "bytes"], all.iter().map(row)))
}

fn recipe(p: &mut Page, record: &Record, beside: &Beside<'_>) -> fmt::Result {
    match beside.recipe {
        Some(text) => p.verbatim("The recipe", text)?,
        None => p.paragraph("mergekit_config.yml is not there, or is not the recipe of this merge.")?,
    }
    p.folded("What was done, overrides included", |p| {
        p.verbatim("Settings", &serde_json::to_string_pretty(&record.settings).unwrap_or_default())
    })
}

fn provenance(p: &mut Page, record: &Record) -> fmt::Result {
    let facts = [("plan", &record.plan_id), ("recipe", &record.recipe_blake3)];
    p.table(
        "Identities",
        &["what", "blake3"],
        facts.iter().map(|(what, hash)| vec![(*what).to_owned(), (*hash).clone()]),
    )?;
    let unhashed = || "not hashed".to_owned();
    let input = |i: &super::record::Input| {
        let (role, path) = (i.role.clone(), i.name());
        i.files
            .iter()
            .map(move |f| {
                vec![
                    path.clone(),
                    role.clone(),
                    f.name.clone(),
                    f.bytes.to_string(),
                    f.blake3.clone().unwrap_or_else(unhashed),
                ]
            })
            .collect::<Vec<_>>()
    };
    p.table(
        "Files that were read",
        &["model", "role", "file", "bytes", "blake3"],
        record.inputs.iter().flat_map(input),
    )?;
    let output =
        |f: &super::record::File| vec![f.name.clone(), f.bytes.to_string(), f.blake3.clone().unwrap_or_else(unhashed)];
    p.table("Files that were written", &["file", "bytes", "blake3"], record.outputs.iter().map(output))
}
