//! docs/methods.md, made from the table.

use super::{Basis, Entry, METHODS, Parameter, Scope};
use std::fmt::Write as _;

const HEAD: &str = "\
# Merge methods

Made from the table of methods: `taskvec methods --markdown > docs/methods.md`. Do not edit; a test compares it.

Each method runs alone and under `lwptv:` (those that merge one model: alone). K: number of models besides the base; n:
elements of a tensor; d: elements of the model; tau_k = theta_k - theta_0. A pass is one read of the inputs, the one that
writes the output included; `lwptv` adds one over the experts. Memory is what a method keeps beyond what is under way; the
plan counts it. Steps and rounding: `docs/numerics.md`.
";

/// The text of docs/methods.md.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    text += "\n| method | |\n|---|---|\n";
    for m in METHODS {
        let _ = writeln!(text, "| [{}](#{}) | {} |", m.name, m.name, m.summary);
    }
    METHODS.iter().for_each(|m| describe(m, &mut text));
    text
}

fn describe(m: &Entry, text: &mut String) {
    let _ = writeln!(text, "\n## {}\n\n{}\n\n```text\n{}\n```\n", m.name, m.summary, wrap(m.formula));
    let basis = match m.basis {
        Basis::Weights => "weights",
        Basis::TaskVectors => "task vectors (needs `base_model`)",
        Basis::Either => "task vectors if there is a `base_model`, else weights",
    };
    let models = match m.experts {
        (a, b) if a == b => a.to_string(),
        (a, usize::MAX) => format!("{a} or more"),
        (a, b) => format!("{a} to {b}"),
    };
    let rows =
        [("source", m.source), ("works on", basis), ("models", &models), ("passes", m.passes), ("memory", m.memory)];
    for (name, value) in rows {
        let _ = writeln!(text, "* {name}: {value}");
    }
    if !m.parameters.is_empty() {
        *text += "\n| parameter | given | values | default | |\n|---|---|---|---|---|\n";
        m.parameters.iter().for_each(|p| parameter(p, text));
    }
    if !m.differs.is_empty() {
        *text += "\nDifferences from other codes:\n\n";
        m.differs.iter().for_each(|d| *text += &format!("* {d}\n"));
    }
}

fn parameter(p: &Parameter, text: &mut String) {
    let scope = if p.scope == Scope::Model { "per model" } else { "globally" };
    let values = p.kind.describe().replace(" | ", ", ");
    let default = p.default.map_or_else(|| "required".to_owned(), |d| p.kind.show(d));
    let _ = writeln!(text, "| `{}` | {scope} | {values} | {default} | {} |", p.name, p.help);
}

/// Lines of at most 116 characters, cut at spaces.
fn wrap(text: &str) -> String {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > 116 {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines.join("\n")
}
