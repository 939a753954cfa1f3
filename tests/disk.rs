//! Calls to the file system that fail, in this process: exit 74, a path, and the merge goes on later.
//!
//! Power loss: every call of a merge is recorded, and a double of the file system in memory makes states that a disk may
//! hold when the power goes at any moment. What was written and not synced is there, absent, or torn into sectors; names
//! made, changed or removed in a folder that was not synced since are as before or after, each by itself.
//!
//! In every state the output is absent or whole; a sample of the states is put on the disk and gone on with.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::Random;
use common::bench::{Bench, Content, without_run};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use taskvec::disk::fail::{self, Event, Fault, Plan};
use taskvec::pass::Stop;
use taskvec::sink::Unfinished;

/// Faults and records are of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const SECTOR: usize = 512;
/// Every so many states one is gone on with.
const RESUMED: u64 = 50;

#[derive(Clone, Debug)]
enum Node {
    File { synced: Vec<u8>, pending: Vec<Change> },
    Folder { synced: Names, pending: Vec<Naming> },
}

type Names = BTreeMap<String, usize>;

/// Files by name; folders have no content.
type State = BTreeMap<PathBuf, Option<Vec<u8>>>;

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A change of a folder's names.
#[derive(Clone, Debug)]
enum Naming {
    Link(String, usize),
    Unlink(String),
    Rename(String, String, usize),
    Exchange(String, String),
}

/// The file system below a folder, as programs see it and as the disk may hold it.
struct Double {
    root: PathBuf,
    nodes: Vec<Node>,
}

impl Double {
    fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), nodes: vec![Node::Folder { synced: Names::new(), pending: Vec::new() }] }
    }

    fn split(path: &Path) -> (&Path, String) {
        (path.parent().unwrap(), path.file_name().unwrap().to_string_lossy().into_owned())
    }

    /// The node that programs see at `path`.
    fn find(&self, path: &Path) -> usize {
        let parts = path.strip_prefix(&self.root).unwrap();
        parts.iter().fold(0, |node, part| {
            let Node::Folder { synced, pending } = &self.nodes[node] else { panic!("{}", path.display()) };
            names(synced, pending)[&*part.to_string_lossy()]
        })
    }

    fn rename(&mut self, path: &Path, naming: impl FnOnce(String) -> Naming) {
        let (parent, name) = Self::split(path);
        let parent = self.find(parent);
        let Node::Folder { pending, .. } = &mut self.nodes[parent] else { panic!("{}", path.display()) };
        pending.push(naming(name));
    }

    fn add(&mut self, path: &Path, node: Node) {
        let number = self.nodes.len();
        self.nodes.push(node);
        self.rename(path, |name| Naming::Link(name, number));
    }

    fn change(&mut self, path: &Path, change: Change) {
        let node = self.find(path);
        let Node::File { pending, .. } = &mut self.nodes[node] else { panic!("{}", path.display()) };
        pending.push(change);
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(path) => self.add(path, Node::File { synced: Vec::new(), pending: Vec::new() }),
            Event::MakeFolder(path) => self.add(path, Node::Folder { synced: Names::new(), pending: Vec::new() }),
            Event::Write { path, offset, bytes } => {
                self.change(path, Change::Write(usize::try_from(*offset).unwrap(), bytes.clone()));
            }
            Event::SetLen { path, bytes } => self.change(path, Change::Length(usize::try_from(*bytes).unwrap())),
            Event::Sync(path) | Event::SyncFolder(path) => {
                let node = self.find(path);
                match &mut self.nodes[node] {
                    Node::File { synced, pending } => {
                        pending.iter().for_each(|c| write(synced, c, |_| true));
                        pending.clear();
                    }
                    Node::Folder { synced, pending } => {
                        *synced = names(synced, pending);
                        pending.clear();
                    }
                }
            }
            Event::Rename { from, to } => {
                let node = self.find(from);
                let (_, old) = Self::split(from);
                self.rename(to, |new| Naming::Rename(old, new, node));
            }
            Event::Exchange { from, to } => {
                let (_, old) = Self::split(from);
                self.rename(to, |new| Naming::Exchange(old, new));
            }
            Event::Remove(path) => self.rename(path, Naming::Unlink),
        }
    }

    /// What the disk may hold now.
    fn crash(&self, random: &mut Random) -> State {
        let mut found = State::new();
        self.crash_below(0, Path::new(""), random, &mut found);
        found
    }

    fn crash_below(&self, node: usize, path: &Path, random: &mut Random, found: &mut State) {
        match &self.nodes[node] {
            Node::File { synced, pending } => {
                let mut bytes = synced.clone();
                for change in pending {
                    match random.below(3) {
                        0 => {}
                        1 => write(&mut bytes, change, |_| true),
                        _ => write(&mut bytes, change, |_| random.below(2) == 0),
                    }
                }
                found.insert(path.to_owned(), Some(bytes));
            }
            Node::Folder { synced, pending } => {
                if node > 0 {
                    found.insert(path.to_owned(), None);
                }
                let kept: Vec<Naming> = pending.iter().filter(|_| random.below(2) == 0).cloned().collect();
                for (name, child) in names(synced, &kept) {
                    self.crash_below(child, &path.join(name), random, found);
                }
            }
        }
    }
}

fn names(synced: &Names, pending: &[Naming]) -> Names {
    let mut names = synced.clone();
    for naming in pending {
        match naming {
            Naming::Link(name, node) => drop(names.insert(name.clone(), *node)),
            Naming::Unlink(name) => drop(names.remove(name)),
            Naming::Rename(old, new, node) => {
                names.retain(|name, n| name != old || n != node);
                names.insert(new.clone(), *node);
            }
            Naming::Exchange(old, new) => {
                let (a, b) = (names.remove(old), names.remove(new));
                names.extend(a.map(|n| (new.clone(), n)));
                names.extend(b.map(|n| (old.clone(), n)));
            }
        }
    }
    names
}

/// Makes a change, of a write only the sectors that `takes` says.
fn write(bytes: &mut Vec<u8>, change: &Change, mut takes: impl FnMut(usize) -> bool) {
    match change {
        Change::Length(length) => {
            if takes(0) {
                bytes.resize(*length, 0);
            }
        }
        Change::Write(offset, new) => {
            let mut at = 0;
            while at < new.len() {
                let end = ((offset + at) / SECTOR * SECTOR + SECTOR - offset).min(new.len());
                if takes(at) {
                    bytes.resize(bytes.len().max(offset + end), 0);
                    bytes[offset + at..offset + end].copy_from_slice(&new[at..end]);
                }
                at = end;
            }
        }
    }
}

/// Records a merge into `out`.
fn record(bench: &Bench, out: &Path) -> Vec<Event> {
    fail::record();
    bench.merge(out, Unfinished::Discard, &Stop::default()).unwrap();
    fail::recorded()
}

/// The output in a state, if it is there.
fn output(state: &State) -> Option<Content> {
    state.contains_key(Path::new("out")).then(|| {
        let inside = |(name, bytes): (&PathBuf, &Option<Vec<u8>>)| {
            let name = name.strip_prefix("out").ok().filter(|n| !n.as_os_str().is_empty())?;
            let bytes = bytes.clone().unwrap_or_default();
            let report = name == Path::new("taskvec.json");
            Some((name.to_owned(), if report { without_run(&bytes) } else { bytes }))
        };
        state.iter().filter_map(inside).collect()
    })
}

fn put(state: &State, folder: &Path) {
    for (name, bytes) in state {
        let path = folder.join(name);
        match bytes {
            None => std::fs::create_dir(path).unwrap(),
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
        }
    }
}

/// Makes so many states of the recorded run and returns those in which the output is neither absent nor whole.
fn damaged(events: &[Event], root: &Path, golden: &Content, states: u64, mut look: impl FnMut(u64, &State)) -> u64 {
    let mut random = Random(11);
    let per_moment = states.div_ceil(events.len() as u64 + 1);
    let mut double = Double::new(root);
    let (mut damaged, mut number) = (0, 0);
    for moment in 0..=events.len() {
        for _ in 0..per_moment {
            let state = double.crash(&mut random);
            let whole = output(&state).map(|out| out == *golden);
            damaged += u64::from(whole == Some(false));
            // Once the merge has said that it is done, the output is there.
            damaged += u64::from(moment == events.len() && whole.is_none());
            look(number, &state);
            number += 1;
        }
        if let Some(event) = events.get(moment) {
            double.apply(event);
        }
    }
    damaged
}

/// `TASKVEC_STATES=1000000` for a long run.
#[test]
fn after_a_power_loss_the_output_is_absent_or_whole_and_the_merge_goes_on_to_the_same_bytes() {
    let _alone = alone();
    let states = std::env::var("TASKVEC_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000);
    let bench = Bench::new(4, 3000);
    let case = bench.case();
    let events = record(&bench, &case.path().join("out"));
    let mut resumed = 0;
    let bad = damaged(&events, case.path(), &bench.golden, states, |number, state| {
        if number % RESUMED == 0 {
            let again = bench.case();
            put(state, again.path());
            let out = again.path().join("out");
            bench.merge(&out, Unfinished::Resume, &Stop::default()).unwrap_or_else(|e| panic!("state {number}: {e}"));
            assert!(bench.is_whole(&out, &format!("state {number}, gone on with")));
            resumed += 1;
        }
    });
    assert_eq!(bad, 0, "of {states} states");
    assert!(resumed >= states / RESUMED);

    // The same with each kind of sync left out: the double must notice.
    let unsynced: Vec<Event> = events.iter().filter(|e| !matches!(e, Event::Sync(_))).cloned().collect();
    assert!(damaged(&unsynced, case.path(), &bench.golden, 1000, |_, _| {}) > 0);
    let unsynced: Vec<Event> = events.iter().filter(|e| !matches!(e, Event::SyncFolder(_))).cloned().collect();
    assert!(damaged(&unsynced, case.path(), &bench.golden, 1000, |_, _| {}) > 0);
}

#[test]
fn every_call_that_fails_ends_in_exit_74_with_a_path_and_the_merge_goes_on_later() {
    let _alone = alone();
    let bench = Bench::new(4, 3000);
    let case = bench.case();
    fail::set(None);
    bench.merge(&case.path().join("out"), Unfinished::Discard, &Stop::default()).unwrap();
    let calls = fail::calls();
    let mut failed = 0;
    for fault in ["eio", "enospc", "eintr", "short"] {
        for forever in [false, true] {
            for at in 0..calls {
                let why = format!("{fault} at call {at}, for ever: {forever}");
                let case = bench.case();
                let out = case.path().join("out");
                let kind = if fault == "short" { Fault::Short } else { Fault::Error(fail::errno(fault)) };
                fail::set(Some(Plan { fault: kind, at, forever }));
                let result = bench.merge(&out, Unfinished::Discard, &Stop::default());
                fail::set(None);
                let harmless = fault == "short" || (fault == "eintr" && !forever);
                match result {
                    Ok(()) => assert!(bench.is_whole(&out, &why), "{why}"),
                    Err(error) => {
                        assert!(!harmless, "{why}: {error}");
                        assert_eq!(error.exit_code(), 74, "{why}: {error}");
                        assert!(error.to_string().contains(&*case.path().to_string_lossy()), "{why}: {error}");
                        bench.is_whole(&out, &why);
                        failed += 1;
                    }
                }
                bench.merge(&out, Unfinished::Resume, &Stop::default()).unwrap_or_else(|e| panic!("{why}, then {e}"));
                assert!(bench.is_whole(&out, &why));
            }
        }
    }
    assert!(failed > 2 * calls, "{failed} of {calls} calls");
}
