//! The strata binary: the command line over the parts.
//!
//! ```text
//!  args        what can be said           run, start   from words to a running machine
//!  terminal    a person at a console      manage       ps, stop, pause, console, delete
//!  image       pull, list, show, ...      builder      where images are configured
//!  doctor      what the host offers           snapshot     snapshots and clones
//!  progress    bars                           migrate      to another host, and from one
//! ```
//! Every command gives an exit code: 0, the guest's own (1 to 63), or Strata's by kind (64 to 99, see
//! `docs/exit-codes.md`). An error is one paragraph on standard error.
#![forbid(unsafe_code)]

mod args;
mod builder;
mod doctor;
mod image;
mod manage;
mod migrate;
mod progress;
mod run;
mod snapshot;
mod start;
mod terminal;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::io::Write;
use std::process::ExitCode;
use strata_vmm::{Kind, Result};

fn main() -> ExitCode {
    // A machine's process must begin before anything is opened here.
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    log_to_stderr();
    match words.split_first() {
        Some((word, [])) if word == strata_vmm::launch::SUBCOMMAND => return strata_vmm::child_main(),
        // That of an image's packages, which must have one thread.
        Some((word, rest)) if word == strata_sandbox::SUBCOMMAND => return strata_sandbox::child_main(rest),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { Kind::Usage.code() } else { 0 };
            // Nobody is there to read it if this fails.
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    match dispatch(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            say(&e);
            ExitCode::from(e.kind.code())
        }
    }
}

/// Warnings by default; `STRATA_LOG=debug` (or a filter such as `strata_devices=trace`) for more.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("STRATA_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .without_time()
        .init();
}

fn dispatch(command: Command) -> Result<u8> {
    match command {
        Command::Run(args) => run::run(*args),
        Command::Start(args) => start::start(args),
        Command::Ps(args) => manage::ps(&args),
        Command::Stop(args) => manage::stop(&args.name, args.force),
        Command::Snapshot(command) => snapshot::snapshot(command),
        Command::Clone(args) => snapshot::clone(args),
        Command::Migrate(args) => migrate::migrate(*args),
        Command::Suspend(args) => manage::suspend(&args.name),
        Command::Resume(args) => start::resume(&args),
        Command::Pause(args) => manage::pause(&args.name),
        Command::Unpause(args) => manage::unpause(&args.name),
        Command::Reset(args) => manage::reset(&args.name),
        Command::Console(args) => manage::console(&args.name),
        Command::Delete(args) => manage::delete(&args),
        Command::Image(command) => image::image(command),
        Command::Doctor => doctor::doctor(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "strata", &mut script);
            print(&script);
            Ok(0)
        }
        // Taken before parsing; with more words than its own it is a mistake.
        Command::Vmm => {
            Err(strata_vmm::Error::new(Kind::Usage, "`strata vmm` is started by the other commands."))
        }
    }
}

/// Tells a person something on standard error. Nothing that is said may end what it is about: a log on a full disk, or a
/// reader that has gone, is no error.
fn say(text: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "strata: {text}");
}

/// Prints to standard output; a reader that has gone away is no error.
fn print(text: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text).and_then(|()| out.flush());
}
