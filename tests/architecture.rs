//! The house as docs/architecture.md draws it: which room may name which, and which crates are fenced to a room.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Crates and words that only these places may name.
const FENCES: &[(&str, &[&str])] = &[
    ("memmap2::", &["src/source/"]),
    ("object_store::", &["src/source/remote/"]),
    ("tokio::", &["src/source/remote/"]),
    ("futures_util::", &["src/source/remote/"]),
    ("rustls::", &["src/source/remote/"]),
    ("rayon::", &["src/pass/"]),
    ("crossbeam_channel", &["src/pass/", "src/sink/journal.rs", "src/sink/shards.rs"]),
    ("thread::scope", &["src/pass/", "src/demo/zoo.rs", "src/job/batch.rs"]),
    ("thread::Builder", &["src/sink/journal.rs", "src/sink/shards.rs"]),
    ("rustix::", &["src/disk/", "src/sink/", "src/source/"]),
    ("clap::", &["src/cli/"]),
    ("clap_complete::", &["src/cli/"]),
    ("clap_mangen::", &["src/cli/"]),
    ("indicatif::", &["src/cli/"]),
    ("signal_hook::", &["src/cli/"]),
    ("serde_saphyr::", &["src/recipe/"]),
    ("zip::", &["src/demo/"]),
    ("zstd::", &["src/codec/", "src/container/", "src/demo/"]),
    ("xxhash_rust::", &["src/container/"]),
    ("libc::", &["src/cli/fault.rs"]),
    ("unsafe ", &["src/source/mmap.rs", "src/cli/fault.rs"]),
    ("println!", &[]),
    ("HashMap", &[]),
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut paths = Vec::new();
    walk(Path::new("src"), &mut paths);
    paths.sort();
    paths.into_iter().map(|p| (p.clone(), code(&std::fs::read_to_string(&p).unwrap()))).collect()
}

/// The code before the unit tests, without comments.
fn code(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]").next().unwrap();
    before_tests.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn room(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|p| p.to_string_lossy().into_owned()).collect();
    parts[1].trim_end_matches(".rs").to_owned()
}

/// The table of docs/architecture.md: room to the rooms that it may name.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string("docs/architecture.md").unwrap();
    let table = text.lines().skip_while(|l| !l.starts_with("| room |")).skip(2).take_while(|l| l.starts_with('|'));
    let cells = |l: &str| l.trim_matches('|').split('|').map(|c| c.trim().replace('`', "")).collect::<Vec<_>>();
    let names =
        |cell: &str| cell.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty() && n != "-").collect();
    table.map(cells).map(|c| (c[0].clone(), names(&c[1]))).collect()
}

#[test]
fn rooms_name_only_the_rooms_that_their_arrows_allow() {
    let arrows = arrows();
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, code) in sources().iter().filter(|(p, _)| p.components().count() > 2 || p.ends_with("error.rs")) {
        let from = room(path);
        let key = if from == "cli" { "taskvec::" } else { "crate::" };
        for (at, _) in code.match_indices(key) {
            let rest = &code[at + key.len()..];
            let named: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if !named.is_empty() && named != from && arrows.contains_key(&named) {
                let allowed = arrows.get(&from).unwrap_or_else(|| panic!("docs/architecture.md has no room `{from}`"));
                assert!(
                    from == "cli" || allowed.contains(&named),
                    "{}: `{from}` may not name `{named}`",
                    path.display()
                );
                seen.entry(from.clone()).or_default().insert(named);
            }
        }
    }
    for (from, allowed) in arrows.iter().filter(|(from, _)| *from != "cli") {
        let unused: Vec<_> = allowed.iter().filter(|to| !seen.get(from).is_some_and(|s| s.contains(*to))).collect();
        assert!(unused.is_empty(), "docs/architecture.md: `{from}` does not name {unused:?}");
    }
}

#[test]
fn every_room_is_in_the_drawing_and_in_the_order_of_the_data() {
    let declared: Vec<String> = std::fs::read_to_string("src/lib.rs")
        .unwrap()
        .lines()
        .filter_map(|l| l.strip_prefix("pub mod ").map(|m| m.trim_end_matches(';').to_owned()))
        .collect();
    let arrows = arrows();
    for room in &declared {
        assert!(arrows.contains_key(room), "docs/architecture.md lacks `{room}`");
    }
}

#[test]
fn no_room_reaches_itself_through_others() {
    let arrows = arrows();
    for start in arrows.keys() {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = arrows[start].iter().collect();
        while let Some(room) = next.pop() {
            assert!(room != start, "`{start}` depends on itself");
            if reached.insert(room) {
                next.extend(arrows.get(room).into_iter().flatten());
            }
        }
    }
}

#[test]
fn crates_stay_behind_their_fences() {
    for (path, code) in sources() {
        for (word, allowed) in FENCES {
            let inside = allowed.iter().any(|place| path.to_string_lossy().starts_with(place));
            assert!(inside || !code.contains(word), "{}: `{}` is fenced to {allowed:?}", path.display(), word.trim());
        }
    }
}
