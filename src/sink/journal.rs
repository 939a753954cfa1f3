//! The journal of a run: what is done, so that a later run can go on from there.
//!
//! Each line is 16 digits of the blake3 of the rest, a space, JSON. The first says what is made of what; a run with another
//! first line cannot go on. Behind it stand
//!
//! * `{"boot": ID}`: what follows was written while the machine ran under this id,
//! * `{"line": ...}`: something is written,
//! * `{"synced": N}`: what the first N bytes of the journal tell of is on the disk.
//!
//! A line waits for no disk. When a process is killed, the kernel keeps what it wrote, so that every line counts; once the
//! machine was started again, those before the last `synced` count. What stands behind a torn or damaged line does not.

use super::Unfinished;
use crate::disk;
use crate::error::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines between two syncs, at most: a line costs microseconds, a sync what the disk takes.
const LINES_PER_SYNC: u32 = 100;
/// A long run notes less often, so that its journal stays short: a line at most each 250th of its time so far, a sync at
/// most each 100th.
const LINES: u32 = 250;
const SYNCS: u32 = 100;

/// A journal being written. Files are synced by a thread of its own: what waits for the disk holds up nobody else.
#[derive(Debug)]
pub struct Journal {
    log: Arc<Log>,
    every: Duration,
    begun: Instant,
    last_line: Instant,
    last_sync: Instant,
    /// Whether a sync is on its way.
    under_way: bool,
    done: Receiver<()>,
    request: Option<Sender<Commit>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What an earlier run has left.
#[derive(Debug)]
pub struct Left {
    /// What it has noted.
    pub lines: Vec<Value>,
    /// When it gave its last sign of life, since 1970; `None` if the machine was started again since, or its disk failed.
    pub alive: Option<Duration>,
}

/// Files that must be on the disk before the first so many bytes of the journal count as synced.
#[derive(Debug)]
struct Commit {
    files: Vec<disk::File>,
    bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Boot(String),
    Line(Value),
    Synced(u64),
}

/// The file, which two threads append to.
#[derive(Debug)]
struct Log {
    file: disk::File,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    at: u64,
    /// Nothing more is appended: a write or a sync has failed.
    failed: bool,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an entry; `false` if the journal has ended with an earlier failure.
    fn append(&self, entry: &Entry) -> Result<bool> {
        let mut end = self.lock();
        if end.failed {
            return Ok(false);
        }
        let line = to_line(entry)?;
        match self.file.write_at(line.as_bytes(), end.at) {
            Ok(()) => {
                end.at += line.len() as u64;
                Ok(true)
            }
            Err(error) => {
                self.distrust(&mut end);
                Err(error)
            }
        }
    }

    /// Ends the journal with an id that no machine has: of what was not synced nothing counts.
    fn distrust(&self, end: &mut End) {
        end.failed = true;
        let written = to_line(&Entry::Boot(String::new())).and_then(|l| self.file.write_at(l.as_bytes(), end.at));
        if written.is_err() {
            let _ = disk::remove_file(self.file.path());
        }
    }

    /// Notes that the first `bytes` count from now on, once `files` are on the disk.
    fn sync(&self, commit: &Commit) -> Result<()> {
        let synced = commit.files.iter().try_for_each(disk::File::sync_data);
        let noted = synced.and_then(|()| {
            let appended = self.append(&Entry::Synced(commit.bytes))?;
            if appended { self.file.sync_data() } else { Ok(()) }
        });
        noted.inspect_err(|_| self.distrust(&mut self.lock()))
    }
}

impl Journal {
    /// Takes up the journal at `path`, if it is wanted and one of the same run; else begins one, in what `clear` has made
    /// empty.
    pub fn open(
        path: &Path,
        first: &Value,
        every: Duration,
        unfinished: Unfinished,
        clear: impl FnOnce() -> Result<()>,
    ) -> Result<(Self, Option<Left>)> {
        if unfinished == Unfinished::Resume
            && let Some((journal, left)) = Self::resume(path, first, every)?
        {
            return Ok((journal, Some(left)));
        }
        clear()?;
        Ok((Self::begin(path, first, every)?, None))
    }

    fn begin(path: &Path, first: &Value, every: Duration) -> Result<Self> {
        let file = disk::File::create(path)?;
        let line = sealed(&first.to_string());
        file.write_at(line.as_bytes(), 0)?;
        let journal = Self::start(path, file, line.len() as u64, every)?;
        journal.log.append(&Entry::Boot(disk::boot_id()))?;
        journal.log.file.sync()?;
        disk::sync_folder(path.parent().unwrap_or(Path::new("")))?;
        Ok(journal)
    }

    /// `None` if there is no journal with this first line.
    fn resume(path: &Path, first: &Value, every: Duration) -> Result<Option<(Self, Left)>> {
        let text = match std::fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(Error::io(path, "read"))?,
        };
        let boot = disk::boot_id();
        let Some(found) = Found::in_text(&text, first, &boot) else { return Ok(None) };
        let file = disk::File::open(path)?;
        let alive = if found.trusted { Some(disk::changed(&file.identity()?)) } else { None };
        file.set_len(found.bytes)?;
        file.sync()?;
        let journal = Self::start(path, file, found.bytes, every)?;
        journal.log.append(&Entry::Boot(boot))?;
        journal.log.append(&Entry::Synced(found.synced))?;
        journal.log.file.sync()?;
        Ok(Some((journal, Left { lines: found.lines, alive })))
    }

    fn start(path: &Path, file: disk::File, at: u64, every: Duration) -> Result<Self> {
        let log = Arc::new(Log { file, end: Mutex::new(End { at, failed: false }) });
        let (request, requests) = bounded::<Commit>(1);
        let (tell, done) = bounded(1);
        let work = {
            let log = log.clone();
            move || {
                requests.iter().try_for_each(|commit| {
                    log.sync(&commit)?;
                    let _ = tell.send(());
                    Ok(())
                })
            }
        };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(work);
        let thread = thread.map_err(Error::io(path, "start a thread for"))?;
        let (request, thread) = (Some(request), Some(thread));
        let now = Instant::now();
        Ok(Self { log, every, begun: now, last_line: now, last_sync: now, under_way: false, done, request, thread })
    }

    /// Gives a sign of life: files that are written until then are this run's.
    pub fn touch(&self) {
        self.log.file.touch();
    }

    /// Whether it is time for a line.
    pub fn is_due(&self) -> bool {
        self.last_line.elapsed() >= self.pause(self.every / LINES_PER_SYNC, LINES)
    }

    /// The time between two notes: what is asked for, and more in a long run.
    fn pause(&self, every: Duration, share: u32) -> Duration {
        if self.every.is_zero() { self.every } else { every.max(self.begun.elapsed() / share) }
    }

    /// Adds a line: what it tells of is written. Where it is time, begins to sync what was not synced yet: `files`.
    pub fn add(&mut self, line: Value, files: impl FnOnce() -> Result<Vec<disk::File>>) -> Result<()> {
        self.last_line = Instant::now();
        self.append(&Entry::Line(line))?;
        if self.last_sync.elapsed() >= self.pause(self.every, SYNCS) && !self.is_syncing() {
            self.sync(files()?)?;
        }
        Ok(())
    }

    /// Adds a line, and begins to sync in any case.
    pub fn add_and_sync(&mut self, line: Value, files: Vec<disk::File>) -> Result<()> {
        self.append(&Entry::Line(line))?;
        self.sync(files)
    }

    /// Adds a line to a journal that ends with it, and waits until everything is on the disk.
    pub fn add_last(&mut self, line: Value, files: Vec<disk::File>) -> Result<()> {
        self.add_and_sync(line, files)?;
        self.close()
    }

    /// The run ends early, with this error: where a disk may have failed, only what was synced counts.
    pub fn end_with(&mut self, error: &Error) {
        if !matches!(error, Error::Interrupted { .. }) {
            let _ = self.close();
            self.log.distrust(&mut self.log.lock());
        }
    }

    /// Ends it and removes it: what it tells of is whole.
    pub fn remove(&mut self) -> Result<()> {
        self.close()?;
        disk::remove_file(self.log.file.path())
    }

    fn append(&mut self, entry: &Entry) -> Result<()> {
        if self.log.append(entry)? {
            return Ok(());
        }
        let earlier = Error::io(self.log.file.path(), "write")(io::Error::other("an earlier write has failed"));
        // A sync that failed is what there is to tell.
        Err(self.close().err().unwrap_or(earlier))
    }

    fn is_syncing(&mut self) -> bool {
        if self.under_way {
            let done = if self.every.is_zero() { self.done.recv().is_ok() } else { self.done.try_recv().is_ok() };
            // A thread that ended early tells why when it is asked again.
            self.under_way = !done && self.thread.as_ref().is_some_and(|t| !t.is_finished());
        }
        self.under_way
    }

    fn sync(&mut self, files: Vec<disk::File>) -> Result<()> {
        if self.under_way {
            let _ = self.done.recv();
        }
        self.under_way = true;
        self.last_sync = Instant::now();
        let bytes = self.log.lock().at;
        let sent = self.request.as_ref().is_some_and(|r| r.send(Commit { files, bytes }).is_ok());
        if sent { Ok(()) } else { self.close() }
    }

    fn close(&mut self) -> Result<()> {
        self.request = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Whoever drops it has an error of its own to tell.
        let _ = self.close();
    }
}

/// What a text holds.
#[derive(Debug)]
struct Found {
    lines: Vec<Value>,
    /// Bytes up to the end of the last line that counts.
    bytes: u64,
    /// Of them, those that are synced.
    synced: u64,
    /// Whether what was not synced counts too.
    trusted: bool,
}

impl Found {
    fn in_text(text: &[u8], first: &Value, boot: &str) -> Option<Self> {
        let mut lines = whole_lines(text);
        let (head, mut bytes) = lines.next().filter(|(head, _)| head == first)?;
        drop(head);
        let entries: Vec<(Entry, u64)> =
            lines.map_while(|(value, end)| Some((serde_json::from_value(value).ok()?, end))).collect();
        let last_boot = entries.iter().rev().find_map(|(e, _)| if let Entry::Boot(id) = e { Some(id) } else { None });
        let trusted = !boot.is_empty() && last_boot.is_some_and(|id| id == boot);
        let marks = entries.iter().filter_map(|(e, _)| if let Entry::Synced(n) = e { Some(*n) } else { None });
        let synced = marks.max().unwrap_or(0).max(bytes);
        let mut lines = Vec::new();
        for (entry, end) in entries {
            if end > synced && !trusted {
                break;
            }
            bytes = end;
            lines.extend(if let Entry::Line(line) = entry { Some(line) } else { None });
        }
        Some(Self { lines, bytes, synced: synced.min(bytes), trusted })
    }
}

fn to_line(entry: &Entry) -> Result<String> {
    let json = serde_json::to_string(entry).map_err(|e| Error::Usage(format!("journal: {e}")))?;
    Ok(sealed(&json))
}

fn sealed(json: &str) -> String {
    format!("{} {json}\n", digest(json))
}

fn digest(json: &str) -> String {
    blake3::hash(json.as_bytes()).to_hex()[..16].to_owned()
}

/// The lines up to the first that is not whole, each with its end.
fn whole_lines(text: &[u8]) -> impl Iterator<Item = (Value, u64)> {
    let mut end = 0;
    text.split_inclusive(|b| *b == b'\n').map_while(move |line| {
        let (hash, json) = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
        let value = if hash == digest(json) { serde_json::from_str(json).ok() } else { None };
        end += line.len() as u64;
        value.map(|value| (value, end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    /// A journal with these lines, as a process that is killed leaves it.
    fn written(lines: &[Value]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("journal");
        let mut journal = Journal::begin(&path, &json!("head"), Duration::ZERO).unwrap();
        for line in lines {
            assert!(journal.is_due());
            journal.add(line.clone(), || Ok(Vec::new())).unwrap();
        }
        drop(journal);
        (root, path)
    }

    fn resumed(path: &Path) -> Option<Left> {
        Journal::resume(path, &json!("head"), Duration::ZERO).unwrap().map(|(_, left)| left)
    }

    /// The lines that end in the first `bytes`.
    fn inside(text: &[u8], bytes: usize) -> Vec<Value> {
        let line = |value: Value| value.get("line").cloned();
        whole_lines(text).filter(|(_, end)| *end <= bytes as u64).filter_map(|(value, _)| line(value)).collect()
    }

    #[test]
    fn every_whole_line_counts_after_a_kill_and_a_torn_one_does_not() {
        let all = [json!({"a": u64::MAX}), json!([1, "x\ny"]), json!(3)];
        let (_root, path) = written(&all);
        let text = std::fs::read(&path).unwrap();
        assert_eq!(inside(&text, text.len()), all);
        let boot = whole_lines(&text).nth(1).unwrap().1 as usize;
        for bytes in boot..=text.len() {
            std::fs::write(&path, &text[..bytes]).unwrap();
            let left = resumed(&path).unwrap();
            assert_eq!((left.lines, left.alive.is_some()), (inside(&text, bytes), true), "cut to {bytes}");
            // The next run appends to whole lines.
            assert_eq!(resumed(&path).unwrap().lines, inside(&text, bytes), "cut to {bytes}, twice");
        }
    }

    #[test]
    fn lines_behind_a_damaged_one_do_not_count() {
        let (_root, path) = written(&[json!(1), json!(2), json!(3)]);
        let text = std::fs::read(&path).unwrap();
        let first = text.iter().position(|b| *b == b'\n').unwrap();
        for at in first + 1..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let before = text[..at].iter().rposition(|b| *b == b'\n').unwrap() + 1;
            assert_eq!(resumed(&path).unwrap().lines, inside(&text, before), "byte {at}");
        }
    }

    #[test]
    fn after_a_restart_of_the_machine_only_what_was_synced_counts() {
        let entries = [
            Entry::Boot("one".into()),
            Entry::Line(json!(1)),
            Entry::Line(json!(2)),
            Entry::Synced(0),
            Entry::Line(json!(3)),
        ];
        let head = sealed("\"head\"");
        let mut text = head.clone();
        for entry in entries {
            let bytes = (head.len()
                + to_line(&Entry::Boot("one".into())).unwrap().len()
                + to_line(&Entry::Line(json!(1))).unwrap().len()) as u64;
            let entry = if let Entry::Synced(_) = entry { Entry::Synced(bytes) } else { entry };
            text.push_str(&to_line(&entry).unwrap());
        }
        let found = |boot: &str| Found::in_text(text.as_bytes(), &json!("head"), boot).unwrap();
        assert_eq!((found("one").lines.len(), found("one").trusted), (3, true));
        for other in ["two", ""] {
            assert_eq!((found(other).lines, found(other).trusted), (vec![json!(1)], false), "{other:?}");
        }
    }

    #[test]
    fn after_a_failed_disk_only_what_was_synced_counts() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("journal");
        let mut journal = Journal::begin(&path, &json!("head"), Duration::from_secs(3600)).unwrap();
        journal.add_and_sync(json!(1), Vec::new()).unwrap();
        journal.add(json!(2), || unreachable!("not due")).unwrap();
        journal.end_with(&Error::Locked { path: path.clone() });
        assert!(journal.add(json!(3), || unreachable!("it has ended")).is_err());
        let left = resumed(&path).unwrap();
        assert_eq!((left.lines, left.alive), (vec![json!(1)], None));
    }

    #[test]
    fn a_journal_of_another_run_is_not_taken() {
        let (_root, path) = written(&[json!(1)]);
        assert!(Journal::resume(&path, &json!("other"), Duration::ZERO).unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(resumed(&path).is_none());
    }
}
