//! The command line of taskvec: parses, calls the library, prints, and picks the exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
