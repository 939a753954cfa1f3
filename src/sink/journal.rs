//! The journal of a run: what is done and on the disk, so that a later run can go on from there.
//!
//! One line for each checkpoint: 16 digits of the blake3 of the rest, a space, JSON. The first line says what is made of
//! what; a run with another first line cannot go on. Lines behind one that is torn or damaged do not count.

use crate::disk;
use crate::error::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Its name in the folder that is being filled.
const NAME: &str = ".journal";

/// A journal being written, by a thread of its own: what waits for the disk holds up nobody else.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    every: Duration,
    begun: Instant,
    last: Instant,
    /// Whether a line is on its way.
    under_way: bool,
    done: Receiver<()>,
    request: Option<Sender<Commit>>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// A line, and the files that must be on the disk before it is written.
#[derive(Debug)]
struct Commit {
    files: Vec<disk::File>,
    line: Value,
}

impl Journal {
    /// Begins a journal in `folder`, with a line at most every so often.
    pub fn begin(folder: &Path, first: &Value, every: Duration) -> Result<Self> {
        let path = folder.join(NAME);
        let file = disk::File::create(&path)?;
        let line = to_line(first);
        file.write_at(line.as_bytes(), 0)?;
        file.sync()?;
        disk::sync_folder(folder)?;
        disk::sync_folder(folder.parent().unwrap_or(Path::new("")))?;
        Self::start(path, file, line.len() as u64, every)
    }

    /// Goes on with the journal in `folder`. Returns the lines behind the first; `None` if there is no journal with this
    /// first line.
    pub fn resume(folder: &Path, first: &Value, every: Duration) -> Result<Option<(Self, Vec<Value>)>> {
        let path = folder.join(NAME);
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(Error::io(&path, "read"))?,
        };
        let (mut lines, bytes) = parse(&text);
        if lines.first() != Some(first) {
            return Ok(None);
        }
        let file = disk::File::open(&path)?;
        file.set_len(bytes)?;
        Ok(Some((Self::start(path, file, bytes, every)?, lines.split_off(1))))
    }

    fn start(path: PathBuf, file: disk::File, mut at: u64, every: Duration) -> Result<Self> {
        let (request, requests) = bounded::<Commit>(1);
        let (tell, done) = bounded(1);
        let work = move || {
            for commit in requests {
                commit.files.iter().try_for_each(disk::File::sync_data)?;
                let line = to_line(&commit.line);
                file.write_at(line.as_bytes(), at)?;
                file.sync_data()?;
                at += line.len() as u64;
                let _ = tell.send(());
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(work);
        let thread = thread.map_err(Error::io(&path, "start a thread for"))?;
        let (request, thread) = (Some(request), Some(thread));
        let begun = Instant::now();
        Ok(Self { path, every, begun, last: begun, under_way: false, done, request, thread })
    }

    /// Whether it is time for a line.
    pub fn is_due(&mut self) -> bool {
        if self.under_way {
            let done = if self.every.is_zero() { self.done.recv().is_ok() } else { self.done.try_recv().is_ok() };
            // A thread that ended early tells why at the next line.
            self.under_way = !done && self.thread.as_ref().is_some_and(|t| !t.is_finished());
        }
        // A long run notes less often: a hundredth of its time may be lost, and the journal stays short.
        let pause = if self.every.is_zero() { self.every } else { self.every.max(self.begun.elapsed() / 100) };
        !self.under_way && self.last.elapsed() >= pause
    }

    /// Adds a line once `files` are on the disk. It must be due.
    pub fn add(&mut self, files: Vec<disk::File>, line: Value) -> Result<()> {
        assert!(!self.under_way, "a line is under way");
        self.under_way = true;
        self.last = Instant::now();
        let sent = self.request.as_ref().is_some_and(|r| r.send(Commit { files, line }).is_ok());
        if sent { Ok(()) } else { self.close() }
    }

    /// Adds a line, due or not.
    pub fn add_soon(&mut self, files: Vec<disk::File>, line: Value) -> Result<()> {
        if self.under_way {
            let _ = self.done.recv();
            self.under_way = false;
        }
        self.add(files, line)
    }

    /// Adds a line, due or not, and waits until it is on the disk.
    pub fn add_last(&mut self, line: Value) -> Result<()> {
        self.add_soon(Vec::new(), line)?;
        self.close()
    }

    /// Ends it and removes it: what it tells of is whole.
    pub fn remove(&mut self) -> Result<()> {
        self.close()?;
        disk::remove_file(&self.path)
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

fn to_line(value: &Value) -> String {
    let json = value.to_string();
    format!("{} {json}\n", digest(&json))
}

fn digest(json: &str) -> String {
    blake3::hash(json.as_bytes()).to_hex()[..16].to_owned()
}

/// The lines up to the first that is not whole, and their length.
fn parse(text: &[u8]) -> (Vec<Value>, u64) {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for line in text.split_inclusive(|b| *b == b'\n') {
        let json = std::str::from_utf8(line).ok().and_then(|l| l.strip_suffix('\n')?.split_once(' '));
        let value = json.filter(|(hash, json)| *hash == digest(json)).and_then(|(_, j)| serde_json::from_str(j).ok());
        let Some(value) = value else { break };
        lines.push(value);
        bytes += line.len() as u64;
    }
    (lines, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(lines: &[Value]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(root.path(), &json!("head"), Duration::ZERO).unwrap();
        for line in lines {
            assert!(journal.is_due());
            journal.add(Vec::new(), line.clone()).unwrap();
        }
        drop(journal);
        let path = root.path().join(NAME);
        (root, path)
    }

    fn resumed(folder: &Path) -> Option<Vec<Value>> {
        Journal::resume(folder, &json!("head"), Duration::ZERO).unwrap().map(|(_, lines)| lines)
    }

    #[test]
    fn whole_lines_come_back_and_a_torn_last_line_is_ignored() {
        let all = [json!({"a": u64::MAX}), json!([1, "x\ny"]), json!(3)];
        let (root, path) = written(&all);
        let text = std::fs::read(&path).unwrap();
        assert_eq!(resumed(root.path()).unwrap(), all);
        let second = text.len() - to_line(&all[2]).len();
        for bytes in second..text.len() {
            std::fs::write(&path, &text[..bytes]).unwrap();
            assert_eq!(resumed(root.path()).unwrap(), all[..2], "cut to {bytes}");
            assert_eq!(std::fs::read(&path).unwrap(), text[..second], "the torn line is cut off");
        }
    }

    #[test]
    fn lines_behind_a_damaged_one_do_not_count() {
        let all = [json!(1), json!(2), json!(3)];
        let (root, path) = written(&all);
        let text = std::fs::read(&path).unwrap();
        let first = to_line(&json!("head")).len();
        let second = first + to_line(&all[0]).len();
        for at in second..second + to_line(&all[1]).len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(resumed(root.path()).unwrap(), all[..1], "byte {at}");
        }
    }

    #[test]
    fn a_journal_of_another_run_is_not_taken() {
        let (root, path) = written(&[json!(1)]);
        assert!(Journal::resume(root.path(), &json!("other"), Duration::ZERO).unwrap().is_none());
        std::fs::remove_file(path).unwrap();
        assert!(resumed(root.path()).is_none());
    }
}
