//! How a run's progress is shown.

use super::args::{Common, ProgressKind};
use super::print;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use taskvec::pass::{Progress, Silent};
use taskvec::report::escape;
use taskvec::tensor::Bytes;

const EVERY: Duration = Duration::from_secs(5);

/// The kind that the arguments ask for.
pub fn choose(common: &Common) -> Box<dyn Progress> {
    let terminal = std::io::stderr().is_terminal();
    match common.progress {
        _ if common.quiet => Box::new(Silent),
        ProgressKind::None => Box::new(Silent),
        ProgressKind::Auto if terminal => Box::new(Bar::new()),
        ProgressKind::Auto | ProgressKind::Plain => Box::new(Lines::new(Lines::plain)),
        ProgressKind::Json => Box::new(Lines::new(Lines::json)),
    }
}

struct Bar(Mutex<ProgressBar>);

impl Bar {
    fn new() -> Self {
        Self(Mutex::new(ProgressBar::hidden()))
    }

    fn with(&self, f: impl FnOnce(&mut ProgressBar)) {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Bar {
    fn begin(&self, pass: &str, bytes: u64) {
        let template = "{msg:<24} {bar:32} {percent:>3}% {decimal_bytes:>9} {decimal_bytes_per_sec:>11} eta {eta}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr()).with_style(style);
        bar.set_message(escape(pass));
        self.with(|b| *b = bar);
    }

    fn advance(&self, bytes: u64) {
        self.with(|b| b.inc(bytes));
    }

    fn end(&self) {
        self.with(|b| b.finish_and_clear());
    }
}

/// A line when a pass begins and ends, and every few seconds between.
struct Lines {
    show: fn(&State, u64),
    state: Mutex<State>,
    done: AtomicU64,
}

struct State {
    pass: String,
    bytes: u64,
    start: Instant,
    last: Instant,
}

impl Lines {
    fn new(show: fn(&State, u64)) -> Self {
        let now = Instant::now();
        let state = State { pass: String::new(), bytes: 0, start: now, last: now };
        Self { show, state: Mutex::new(state), done: AtomicU64::new(0) }
    }

    fn plain(state: &State, done: u64) {
        let seconds = state.start.elapsed().as_secs_f64();
        let rate = Bytes((done as f64 / seconds.max(1e-3)) as u64);
        let percent = (done * 100).checked_div(state.bytes).unwrap_or(100);
        print::note(format_args!(
            "{}: {percent} % of {}, {rate}/s, {seconds:.1} s",
            escape(&state.pass),
            Bytes(state.bytes)
        ));
    }

    fn json(state: &State, done: u64) {
        let line = serde_json::json!({
            "pass": state.pass, "bytes_done": done, "bytes_total": state.bytes, "seconds": state.start.elapsed().as_secs_f64(),
        });
        print::note(line);
    }
}

impl Progress for Lines {
    fn begin(&self, pass: &str, bytes: u64) {
        let now = Instant::now();
        self.done.store(0, Ordering::Relaxed);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) =
            State { pass: pass.to_owned(), bytes, start: now, last: now };
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.elapsed() >= EVERY {
            state.last = Instant::now();
            (self.show)(&state, done);
        }
    }

    fn end(&self) {
        (self.show)(&self.state.lock().unwrap_or_else(PoisonError::into_inner), self.done.load(Ordering::Relaxed));
    }
}
