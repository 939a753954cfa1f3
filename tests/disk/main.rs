//! Calls to the file system that fail, in this process, and disks that lose power.
//!
//! Power loss: every call of a merge is recorded, and a double of the file system (`double.rs`) makes states that a disk
//! may hold when the power goes at any moment. In every state the output is absent or whole; a sample of the states is put
//! on the disk and gone on with.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod double;
mod faults;

use common::Random;
use common::bench::{Bench, Content, without_run};
use double::{Double, State};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use taskvec::disk::fail::{self, Event};
use taskvec::pass::Stop;
use taskvec::sink::Unfinished;

/// Faults and records are of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every so many states one is gone on with.
const RESUMED: u64 = 50;

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
            fail::reboot();
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
