//! Arguments, printing and exit codes; everything else is in the library.

mod args;
mod batch;
mod compare;
mod delta;
mod delta_args;
mod demo;
mod fault;
mod inspect;
mod manual;
mod merge;
mod methods;
mod part;
mod print;
mod progress;
mod report;
mod saliency;
mod store;
mod submit;
mod sweep;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use taskvec::Result;
use taskvec::pass::Stop;

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    start_log(&cli);
    let stop = Stop::default();
    watch_signals(&stop);
    if !matches!(cli.command, Command::Merge(_) | Command::Plan(_) | Command::Saliency(_)) {
        planned();
    }
    fault::watch();
    let result = match &cli.command {
        Command::Merge(args) => merge::merge(args, &cli.common, &stop),
        Command::Plan(args) => merge::plan(args),
        Command::Part(args) => part::part(args, &cli.common, &stop),
        Command::Reduce(args) => part::reduce(args, &cli.common, &stop),
        Command::Commit(args) => part::commit(args, &cli.common, &stop),
        Command::Status(args) => part::status(args),
        Command::Submit(args) => submit::submit(args),
        Command::Batch(args) => batch::batch(args, &cli.common, &stop),
        Command::Sweep(args) => sweep::sweep(args, &cli.common, &stop),
        Command::Saliency(args) => saliency::saliency(args, &cli.common, &stop),
        Command::Diff(args) => delta::diff(args, &cli.common, &stop),
        Command::Apply(args) => delta::apply(args, &cli.common, &stop),
        Command::Verify(args) => delta::verify(args, &cli.common, &stop),
        Command::Store(args) => store::store(args, &cli.common),
        Command::Inspect(args) => inspect::inspect(args),
        Command::Compare(args) => compare::compare(args, &cli.common, &stop),
        Command::Report(args) => report::report(args, &cli.common, &stop),
        Command::Explain(args) => report::explain(args),
        Command::Methods(args) => methods::methods(args),
        Command::Demo(args) => demo::demo(args, &cli.common, &stop),
        Command::Completions { shell } => manual::completions(*shell),
        Command::Man { dir } => manual::pages(dir),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            print::error(&e);
            ExitCode::from(e.exit_code())
        }
    }
}

fn start_log(cli: &Cli) {
    use tracing_subscriber::EnvFilter;
    let level = match cli.common.verbose {
        _ if cli.common.quiet => "error",
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("TASKVEC_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    log.with_ansi(print::colours(&std::io::stderr())).without_time().init();
}

/// Sent where a file would grow beyond RLIMIT_FSIZE.
const SIGXFSZ: i32 = 25;

/// Whether the next signal ends the process at once: while nothing is written, and once it was asked to stop.
static AT_ONCE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

/// The plan is made: from now on the first SIGINT or SIGTERM asks the run to stop, and the second ends the process.
fn planned() {
    AT_ONCE.store(false, Ordering::Relaxed);
}

fn watch_signals(stop: &Stop) {
    use signal_hook::consts::{SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM] {
        // Registered in this order, the shutdown sees the flag of an earlier signal only.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, AT_ONCE.clone());
        let _ = signal_hook::flag::register(signal, AT_ONCE.clone());
        let _ = signal_hook::flag::register_usize(signal, stop.0.clone(), signal as usize);
    }
    // A file that a limit keeps from growing is an error of the write, which tells its path, not the end of the process.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

type Outcome = Result<()>;
