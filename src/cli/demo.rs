//! `taskvec demo`: what LwPTV does, on a really trained model family, in under a minute.

use super::args::{Common, DemoArgs};
use super::{Outcome, print};
use std::path::{Path, PathBuf};
use taskvec::demo::{self, Row};
use taskvec::job::Run;
use taskvec::pass::{Silent, Stop};
use taskvec::report::Table;
use taskvec::sink::{Existing, Unfinished};
use taskvec::source::{Io, Links};
use taskvec::{Error, Result};

pub fn demo(args: &DemoArgs, common: &Common, stop: &Stop) -> Outcome {
    let temporary = args.out.is_none();
    let folder = match &args.out {
        Some(out) => empty_folder(out)?,
        None => temporary_folder()?,
    };
    let result = run(args, common, stop, &folder);
    if temporary {
        let _ = std::fs::remove_dir_all(&folder);
    }
    result
}

fn run(args: &DemoArgs, common: &Common, stop: &Stop, folder: &Path) -> Outcome {
    let run = Run {
        io: Io::Mmap,
        links: Links::Inside,
        delta: None,
        masks: None,
        hash_inputs: true,
        existing: Existing::Refuse,
        unfinished: Unfinished::Discard,
        read_back: false,
        journal: None,
        progress: &Silent,
        stop,
    };
    let mut rows = Vec::new();
    demo::run(folder, args.all, &run, |row| {
        if !common.quiet {
            print::note(format_args!("{}: done", title(&row.name)));
        }
        rows.push(row);
        Ok(())
    })?;
    if args.json {
        let rows: Vec<_> = rows.iter().map(json).collect();
        return print::out(serde_json::to_string_pretty(&rows).unwrap_or_default());
    }
    print::out(table(&rows))?;
    print::out(
        "ID: mean accuracy on the 8 tasks that the experts were fine-tuned on. OOD: on 7 tasks that none was.\n\
         H: harmonic mean of both. LwPTV leaves the layers that it prunes at the base's bytes.",
    )?;
    if args.out.is_some() {
        print::out(format_args!(
            "The models are in {}/merged; evaluate.py there measures them too.",
            folder.display()
        ))?;
    }
    Ok(())
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["method", "layers kept", "ID %", "OOD %", "H %", "zoo's H"]);
    for row in rows {
        let kept = row.layers.map_or_else(String::new, |(kept, all)| format!("{kept}/{all}"));
        let expected =
            row.expected().and_then(|e| e["h_score"].as_f64()).map_or_else(String::new, |h| format!("{h:.1}"));
        let cells = [row.scores.id_avg(), row.scores.ood_avg(), row.scores.h_score()].map(|v| format!("{v:.1}"));
        table.row([title(&row.name), kept].into_iter().chain(cells).chain([expected]));
    }
    table
}

fn title(name: &str) -> String {
    let (method, eta) = name.split_once("+lwptv eta=").map_or((name, None), |(m, eta)| (m, Some(eta)));
    let method = match method {
        "pretrained" => "Pre-trained base",
        "individual" => "Individual experts",
        "wa" => "Weight averaging",
        "ta" => "Task arithmetic, lambda 0.3",
        "ties" => "TIES, top 20 %, lambda 0.3",
        other => other,
    };
    eta.map_or_else(|| method.to_owned(), |eta| format!("{method}, LwPTV {eta}"))
}

fn json(row: &Row) -> serde_json::Value {
    serde_json::json!({
        "name": row.name,
        "layers_kept": row.layers.map(|(kept, _)| kept),
        "layers": row.layers.map(|(_, all)| all),
        "scores": row.scores.summary(),
        "expected": row.expected(),
    })
}

fn empty_folder(out: &Path) -> Result<PathBuf> {
    if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        let problem = "the folder is not empty; choose another".to_owned();
        return Err(Error::OutputExists { path: out.to_owned(), problem });
    }
    std::fs::create_dir_all(out).map_err(Error::io(out, "make the folder"))?;
    Ok(out.to_owned())
}

fn temporary_folder() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("taskvec-demo-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(Error::io(&folder, "make the folder"))?;
    Ok(folder)
}
