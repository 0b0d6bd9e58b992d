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

/// Rewrites what is derived from code and committed; the diff is then read by a person.
pub fn bless(tools: &Tools) -> Result<(), String> {
    command(cargo(tools).args(["test", "--workspace", "--no-fail-fast"]).env("STRATA_BLESS", "1"))
}
