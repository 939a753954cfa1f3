//! Writing to the terminal: data to stdout, everything else to stderr, quiet when a pipe closes.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use taskvec::report::escape;
use taskvec::{Error, Result};

/// A line of data. A closed pipe ends the program quietly.
pub fn out(text: impl Display) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(Error::io(std::path::Path::new("stdout"), "write")),
    }
}

/// A line for the person who watches.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{}", plain(text));
}

/// The text without what would drive the terminal.
pub fn plain(text: impl Display) -> String {
    text.to_string().split('\n').map(escape).collect::<Vec<_>>().join("\n")
}

/// The message of a failed run.
pub fn error(error: &Error) {
    let (start, end) = if colours(&std::io::stderr()) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let _ = writeln!(std::io::stderr().lock(), "{start}error{end}: {}", plain(error));
}

/// Whether this stream shows colours.
pub fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
