//! `taskvec completions` and `taskvec man`: made from the definitions of the commands.

use super::Outcome;
use super::args::Cli;
use clap::CommandFactory;
use std::io::Write;
use std::path::Path;
use taskvec::Error;

pub fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "taskvec", &mut text);
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(&text).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Error::io(Path::new("stdout"), "write")),
    }
}

/// One page for taskvec and one for each command.
pub fn pages(dir: &Path) -> Outcome {
    std::fs::create_dir_all(dir).map_err(Error::io(dir, "make the folder"))?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(Error::io(dir, "write the man pages"))
}
