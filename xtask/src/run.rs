//! Running cargo: tests, lints, blessing.

use crate::tools::Tools;
use std::process::Command;

/// Runs a command, echoing it; an error says which one failed.
pub fn command(c: &mut Command) -> Result<(), String> {
    let text = format!("{:?}", c);
    eprintln!("+ {text}");
    match c.status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("{text} ended with {s}")),
        Err(e) => Err(format!("{text} did not start: {e}")),
    }
}

/// `cargo` with the tools on the path and no excuse for skipping a test.
pub fn cargo(tools: &Tools) -> Command {
    let mut c = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    c.env("PATH", tools.path()).env("STRATA_REQUIRE_TOOLS", "1");
    c
}

/// All tests of the workspace.
pub fn tests(tools: &Tools, more: &[&str]) -> Result<(), String> {
    command(cargo(tools).args(["test", "--workspace", "--no-fail-fast"]).args(more))
}

/// Format, clippy, documentation.
pub fn lint() -> Result<(), String> {
    let cargo = || Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command(cargo().args(["fmt", "--all", "--check"]))?;
    command(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    command(cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Runs fault samples of migrations, from the seed on; ends with one line of counts.
pub fn migrate_faults(tools: &Tools, rest: &[&str]) -> Result<(), String> {
    const USAGE: &str = "usage: cargo xtask migrate-faults [--seed N] [--count N] [--guest kvm|riscv64]";
    let mut run = cargo(tools);
    run.args(["test", "--release", "-p", "strata", "--test", "migrate_faults", "--", "--nocapture"]);
    run.env("STRATA_SEED", "1").env("STRATA_FAULTS", "100").env_remove("STRATA_FAULTS_GUEST");
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let (Some(value), is_number) = (words.next(), |v: &str| v.parse::<u64>().is_ok()) else {
            return Err(USAGE.into());
        };
        match *word {
            "--seed" if is_number(value) => run.env("STRATA_SEED", value),
            "--count" if is_number(value) => run.env("STRATA_FAULTS", value),
            "--guest" if ["kvm", "riscv64"].contains(value) => run.env("STRATA_FAULTS_GUEST", value),
            _ => return Err(USAGE.into()),
        };
    }
    let done =
        run.stdout(std::process::Stdio::piped()).spawn().and_then(std::process::Child::wait_with_output);
    let done = done.map_err(|e| format!("cannot run cargo: {e}"))?;
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        return Err(format!("a fault was not survived as it should be:\n{out}"));
    }
    let counts = out.lines().find(|l| l.contains("faults (seed")).unwrap_or("no counts were printed");
    println!("{counts}");
    Ok(())
}

/// Rewrites what is derived from code and committed; the diff is then read by a person.
pub fn bless(tools: &Tools) -> Result<(), String> {
    command(cargo(tools).args(["test", "--workspace", "--no-fail-fast"]).env("STRATA_BLESS", "1"))
}
