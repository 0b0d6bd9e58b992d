//! Runs the conformance scenarios on KVM, and nothing else: for a host that has no compiler.
//!
//! ```text
//! conformance build PROGRAM        compiles the guest's x86-64 program
//! conformance run PROGRAM [all]    runs the scenarios with it; with `all`, none may be skipped
//! ```
//! The last line of a run is "kvm: N scenarios passed, M skipped".
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use strata_e2e::conformance::{Engine, program, run};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (path, all) = match words.as_slice() {
        ["build", path] => {
            return std::fs::write(path, program::x86()?).with_context(|| format!("writing {path}"));
        }
        ["run", path] => (path, false),
        ["run", path, "all"] => (path, true),
        _ => bail!("usage: conformance build PROGRAM | run PROGRAM [all]"),
    };
    let program = std::fs::read(path).with_context(|| format!("reading {path}"))?;
    let tally = run(Engine::Kvm, &program);
    if !tally.failed.is_empty() {
        bail!("{} scenarios failed", tally.failed.len());
    }
    if all && !tally.skipped.is_empty() {
        bail!("{} scenarios were skipped, where none may be", tally.skipped.len());
    }
    Ok(())
}
