//! `taskvec store`.

use super::args::Common;
use super::delta_args::{StoreArgs, StoreCommand};
use super::merge::unfinished;
use super::{Outcome, print};
use taskvec::job::Store;
use taskvec::report::{Table, escape};
use taskvec::sink::Existing;
use taskvec::tensor::Bytes;

pub fn store(args: &StoreArgs, common: &Common) -> Outcome {
    let note = |text: std::fmt::Arguments<'_>| {
        if !common.quiet {
            print::note(text);
        }
    };
    match &args.command {
        StoreCommand::Add { dir, delta, name, resume } => {
            let stem = delta.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let name = name.as_ref().unwrap_or(&stem);
            let added = Store::open(dir, true)?.add(delta, name, unfinished(*resume))?;
            note(format_args!(
                "{name}: {} payloads added ({}), {} were there",
                added.new,
                Bytes(added.bytes),
                added.shared
            ));
        }
        StoreCommand::List { dir, json } => list(&Store::open(dir, false)?, *json)?,
        StoreCommand::Get { dir, name, output, overwrite } => {
            let existing = if *overwrite { Existing::Replace } else { Existing::Refuse };
            let bytes = Store::open(dir, false)?.get(name, output, existing)?;
            note(format_args!("{}: {}", output.display(), Bytes(bytes)));
        }
        StoreCommand::Gc { dir, drop } => {
            let (files, bytes) = Store::open(dir, false)?.gc(drop)?;
            note(format_args!("{}: {files} files removed, {}", dir.display(), Bytes(bytes)));
        }
    }
    Ok(())
}

fn list(store: &Store, json: bool) -> Outcome {
    if json {
        return print::out(serde_json::to_string_pretty(store.list()).unwrap_or_default());
    }
    let mut table = Table::new(&["name", "model", "delta", "result", "base"]);
    for (name, e) in store.list() {
        let short = |root: &str| escape(&root.chars().take(16).collect::<String>());
        let sizes = [Bytes(e.tensor_bytes).to_string(), Bytes(e.delta_bytes).to_string()];
        let [model, delta] = sizes;
        table.row([escape(name), model, delta, short(&e.result_root), short(&e.base_root)]);
    }
    print::out(table.to_string().trim_end())?;
    print::out(format_args!("payloads: {}", Bytes(store.payload_bytes()?)))
}
