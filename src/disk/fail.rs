//! Faults for tests: the N-th call fails, is cut short, or ends the process; every call can be recorded.
//!
//! Set by [`set`], or for a whole process by `TASKVEC_FAILPOINT=KIND:N` (`kill`, `stop`, `eio`, `enospc`, `eintr`, `short`; with `+`
//! behind N from that call on). `TASKVEC_FAILPOINT=count:PATH` writes the number of calls so far to PATH.

use super::Call;
use rustix::process::{Signal, getpid, kill_process};
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// What was done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named like the functions")]
pub enum Event {
    Create(PathBuf),
    Write { path: PathBuf, offset: u64, bytes: Vec<u8> },
    SetLen { path: PathBuf, bytes: u64 },
    Sync(PathBuf),
    SyncFolder(PathBuf),
    MakeFolder(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
    Exchange { from: PathBuf, to: PathBuf },
    Remove(PathBuf),
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process ends at once.
    Kill,
    /// The process stops until it is told to continue.
    Stop,
    /// The call fails with this error number.
    Error(i32),
    /// A write takes half of its bytes; other calls go well.
    Short,
}

/// Which calls go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How.
    pub fault: Fault,
    /// The first, counted from 0.
    pub at: u64,
    /// Whether those behind it too.
    pub forever: bool,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    calls: u64,
    count_to: Option<PathBuf>,
    trace: Option<Vec<Event>>,
    boots: u64,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| Mutex::new(State::from_environment()));

impl State {
    fn from_environment() -> Self {
        let mut state = Self::default();
        let Ok(text) = std::env::var("TASKVEC_FAILPOINT") else { return state };
        let (kind, at) = text.split_once(':').expect("TASKVEC_FAILPOINT=KIND:N");
        if kind == "count" {
            state.count_to = Some(at.into());
            return state;
        }
        let fault = match kind {
            "kill" => Fault::Kill,
            "stop" => Fault::Stop,
            "short" => Fault::Short,
            name => Fault::Error(errno(name)),
        };
        let number = at.trim_end_matches('+').parse().expect("TASKVEC_FAILPOINT=KIND:N");
        state.plan = Some(Plan { fault, at: number, forever: at.ends_with('+') });
        state
    }
}

/// The error number of `eio`, `enospc` or `eintr`.
pub fn errno(name: &str) -> i32 {
    use rustix::io::Errno;
    match name {
        "eio" => Errno::IO.raw_os_error(),
        "enospc" => Errno::NOSPC.raw_os_error(),
        "eintr" => Errno::INTR.raw_os_error(),
        other => panic!("no such fault: {other}"),
    }
}

/// Sets what goes wrong from now on and counts from 0.
pub fn set(plan: Option<Plan>) {
    let mut state = lock();
    (state.plan, state.calls) = (plan, 0);
}

/// Calls since [`set`].
pub fn calls() -> u64 {
    lock().calls
}

/// The machine was started again: what was not synced may be lost.
pub fn reboot() {
    lock().boots += 1;
}

/// The id of this start, if there was one.
pub fn boot_id() -> Option<String> {
    let boots = lock().boots;
    (boots > 0).then(|| format!("start {boots}"))
}

/// Records every call from now on.
pub fn record() {
    lock().trace = Some(Vec::new());
}

/// Ends the record.
pub fn recorded() -> Vec<Event> {
    lock().trace.take().unwrap_or_default()
}

/// Stands before each call.
pub fn gate(_call: Call<'_>, _path: &Path) -> Result<()> {
    pass().map(drop)
}

/// Stands before each write; returns the bytes to write.
pub fn write<'a>(_path: &Path, _offset: u64, bytes: &'a [u8]) -> Result<&'a [u8]> {
    Ok(if pass()? { &bytes[..bytes.len().div_ceil(2)] } else { bytes })
}

/// Whether the call is to be short.
fn pass() -> Result<bool> {
    let mut state = lock();
    let now = state.calls;
    state.calls += 1;
    if let Some(path) = &state.count_to {
        let _ = std::fs::write(path, state.calls.to_string());
    }
    let Some(plan) = state.plan.filter(|p| now == p.at || p.forever && now > p.at) else { return Ok(false) };
    match plan.fault {
        Fault::Kill => {
            signal(Signal::KILL);
            // The signal ends the process before it returns to user code; should it not, nothing goes on.
            Err(ErrorKind::Other.into())
        }
        Fault::Stop => {
            signal(Signal::STOP);
            Ok(false)
        }
        Fault::Error(number) => Err(Error::from_raw_os_error(number)),
        Fault::Short => Ok(true),
    }
}

fn signal(signal: Signal) {
    let _ = kill_process(getpid(), signal);
}

/// Stands behind each call that went well.
pub fn done(call: Call<'_>, path: &Path) {
    let Some(trace) = &mut lock().trace else { return };
    let path = path.to_owned();
    trace.push(match call {
        Call::Create => Event::Create(path),
        Call::Reserve(bytes) | Call::SetLen(bytes) => Event::SetLen { path, bytes },
        Call::Sync => Event::Sync(path),
        Call::SyncFolder => Event::SyncFolder(path),
        Call::MakeFolder => Event::MakeFolder(path),
        Call::Rename(from) => Event::Rename { from: from.to_owned(), to: path },
        // No merge on one machine links files.
        Call::Link(_) => return,
        Call::Exchange(from) => Event::Exchange { from: from.to_owned(), to: path },
        Call::Remove | Call::RemoveFolder => Event::Remove(path),
    });
}

/// Stands behind each write that went well.
pub fn wrote(path: &Path, offset: u64, bytes: &[u8]) {
    if let Some(trace) = &mut lock().trace {
        trace.push(Event::Write { path: path.to_owned(), offset, bytes: bytes.to_vec() });
    }
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
