//! One set of scenarios for every engine: whoever runs machines on it may not be able to tell which it is.
//!
//! ```text
//!   scenarios.rs   what happens, from the host's side; the guest's side is guests/conformance/scenarios.c
//!   rig.rs         vCPUs, memory, interrupt controllers and one device, on an engine
//!   device.rs      that device
//!   program.rs     builds the guest's program for an instruction set
//! ```
//! [`run`] goes through them all. A scenario that this host cannot run says "skipped here" and why. That is only taken from
//! a host whose `/dev/kvm` interprets guest kernel code, which the probe tells apart. What such hosts get wrong differs from
//! one to the next (one lacks INT, one delivers a device's interrupt twice), so no list of it is kept: a scenario is tried
//! twice there, and up to [`LENIENCE`] of them may fail, where more than that would be our doing. No scenario is excused in
//! `cargo xtask test-kvm`, whose host has nested paging.

mod device;
pub mod program;
mod rig;
mod scenarios;

pub use rig::Engine;

use std::time::Instant;

/// How many scenarios may fail on a host whose `/dev/kvm` interprets guest kernel code.
pub const LENIENCE: usize = 3;

/// How a run through all scenarios went.
#[derive(Debug, Default)]
pub struct Tally {
    /// Scenarios that did as they should.
    pub passed: u32,
    /// Scenarios that this host cannot run, with the reason.
    pub skipped: Vec<String>,
    /// What went wrong.
    pub failed: Vec<String>,
}

/// Runs every scenario on `engine`, with the flat program for its instruction set. Prints a line for each.
pub fn run(engine: Engine, program: &[u8]) -> Tally {
    let mut tally = Tally::default();
    let excuse = engine.excuse();
    for scenario in scenarios::ALL {
        let begun = Instant::now();
        let mut outcome = scenario.run(engine, program);
        if let (Err(why), Some(excuse)) = (&outcome, &excuse) {
            println!("{engine}: {}: once more, since {excuse}: {why:#}", scenario.name);
            outcome = scenario.run(engine, program);
        }
        let ms = begun.elapsed().as_millis();
        match (outcome, &excuse) {
            (Ok(()), _) => {
                println!("{engine}: {}: passed ({ms} ms)", scenario.name);
                tally.passed += 1;
            }
            (Err(why), Some(excuse)) if tally.skipped.len() < LENIENCE => {
                println!(
                    "{engine}: {}: skipped here: {excuse}, and not as a processor does it: {why:#}",
                    scenario.name
                );
                tally.skipped.push(format!("{}: {excuse}: {why:#}", scenario.name));
            }
            (Err(why), _) => {
                println!("{engine}: {}: FAILED: {why:#}", scenario.name);
                tally.failed.push(format!("{}: {why:#}", scenario.name));
            }
        }
    }
    println!("{engine}: {} scenarios passed, {} skipped", tally.passed, tally.skipped.len());
    tally
}
