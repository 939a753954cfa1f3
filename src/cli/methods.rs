//! `taskvec methods`: the table of merge methods.

use super::args::MethodsArgs;
use super::{Outcome, print};
use taskvec::Error;
use taskvec::method::{self, Basis, Entry, METHODS, Parameter, Scope};
use taskvec::recipe::unknown;

pub fn methods(args: &MethodsArgs) -> Outcome {
    let chosen: Vec<&Entry> = match &args.name {
        None => METHODS.iter().collect(),
        Some(name) => {
            let names: Vec<&str> = METHODS.iter().map(|m| m.name).collect();
            vec![method::find(name).ok_or_else(|| Error::Usage(unknown("method", name, &names)))?]
        }
    };
    if args.markdown {
        return print::out(method::document().trim_end());
    }
    if args.json {
        let json: Vec<_> = chosen.iter().map(|m| json(m)).collect();
        return print::out(serde_json::to_string_pretty(&json).unwrap_or_default());
    }
    if args.name.is_some() {
        return explain(chosen[0]);
    }
    for m in chosen {
        print::out(format_args!("{:<18} {}", m.name, m.summary))?;
    }
    print::out("\nEach runs alone or under `lwptv:`. `taskvec methods NAME` explains one.")
}

fn explain(m: &Entry) -> Outcome {
    print::out(format_args!("{}: {}\n", m.name, m.summary))?;
    print::out(format_args!("  {}\n", m.formula))?;
    print::out(format_args!("source      {}", m.source))?;
    print::out(format_args!(
        "works on    {}",
        match m.basis {
            Basis::Weights => "weights",
            Basis::TaskVectors => "task vectors (needs base_model)",
            Basis::Either => "task vectors if there is a base_model, else weights",
        }
    ))?;
    print::out(format_args!("passes      {} (lwptv adds one over the experts)", m.passes))?;
    print::out(format_args!("memory      {}\n", m.memory))?;
    for p in m.parameters {
        let scope = if p.scope == Scope::Model { "per model" } else { "global" };
        print::out(format_args!(
            "  {:<12} {scope}; {}; {}\n{:15}{}",
            p.name,
            p.kind.describe(),
            default(p),
            "",
            p.help
        ))?;
    }
    for d in m.differs {
        print::out(format_args!("\ndiffers     {d}"))?;
    }
    Ok(())
}

fn default(p: &Parameter) -> String {
    p.default.map_or_else(|| "required".into(), |d| format!("default {}", p.kind.show(d)))
}

fn json(m: &Entry) -> serde_json::Value {
    let parameter = |p: &Parameter| {
        serde_json::json!({
            "name": p.name,
            "scope": if p.scope == Scope::Model { "model" } else { "global" },
            "values": p.kind.describe(),
            "default": p.default.map(|d| p.kind.show(d)),
            "help": p.help,
        })
    };
    serde_json::json!({
        "name": m.name, "summary": m.summary, "formula": m.formula, "source": m.source, "passes": m.passes, "memory": m.memory, "differs": m.differs,
        "needs_base": m.basis == Basis::TaskVectors,
        "parameters": m.parameters.iter().map(parameter).collect::<Vec<_>>(),
    })
}
