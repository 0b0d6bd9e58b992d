//! The long runs. Their figures go into notes and `docs/`, not into a test's verdict.

use crate::run::{cargo, command};
use crate::tools::Tools;

/// Runs the soak named by `words`.
pub fn run(tools: &Tools, words: &[&str]) -> Result<(), String> {
    match words {
        ["differential", rest @ ..] => {
            let count = rest.first().copied().unwrap_or("100000000");
            command(
                cargo(tools)
                    .args([
                        "test",
                        "--release",
                        "-p",
                        "strata-e2e",
                        "--test",
                        "differential",
                        "--",
                        "--nocapture",
                    ])
                    .env("STRATA_DIFF_INSTRUCTIONS", count),
            )
        }
        // Machines that are suspended in the middle of their work.
        ["suspend"] => command(
            cargo(tools)
                .args(["test", "--release", "-p", "strata", "--test", "carry_on", "--"])
                .args(["--ignored", "--nocapture", "--test-threads", "1"]),
        ),
        ["debian"] => command(
            cargo(tools)
                .args(["test", "--release", "-p", "strata", "--test", "debian", "--"])
                // One machine after the other, for figures that mean something.
                .args(["--ignored", "--nocapture", "--test-threads", "1"]),
        ),
        ["float"] => command(
            cargo(tools)
                .args(["test", "--release", "-p", "strata-float", "--", "--nocapture"])
                .env("STRATA_FLOAT_CASES", "20000000"),
        ),
        // The translator against the interpreter: random programs, and runs that have to repeat.
        ["translator", rest @ ..] => {
            let seeds = rest.first().copied().unwrap_or("20000");
            let test = |package: &str| {
                let mut c = cargo(tools);
                c.args(["test", "--release", "-p", package]);
                c
            };
            command(
                test("strata-translator").args(["--", "--nocapture"]).env("STRATA_TRANSLATOR_SEEDS", seeds),
            )?;
            command(test("strata-e2e").args(["--test", "digests"]).env("STRATA_DIGEST_ROUNDS", "100000"))
        }
        // Machines and commands killed at random moments of saving, deleting, merging and restoring.
        ["kills", rest @ ..] => {
            let kills = rest.first().copied().unwrap_or("200");
            let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            command(
                cargo(tools)
                    .args(["test", "--release", "-p", "strata-vmm", "--test", "real", "--"])
                    .args(["may_be_killed", "--nocapture"])
                    .env("STRATA_KILLS", kills)
                    .env("STRATA_SEED", seed.map_or(1, |d| d.as_secs()).to_string()),
            )
        }
        // amd64 machines in a host with genuine KVM, made in software.
        ["amd64", rest @ ..] => crate::kvm_soak::soak(tools, rest),
        // Debian machines that change hosts in the middle of their work.
        ["migrate", "services"] => command(
            cargo(tools)
                .args(["test", "--release", "-p", "strata", "--test", "migrate_services", "--"])
                .args(["--ignored", "--nocapture", "--test-threads", "1"]),
        ),
        // Migrations in which something goes wrong, other ones each time; then those.
        ["migrate", rest @ ..] => {
            let count = rest.first().copied().unwrap_or("200");
            let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let seed = seed.map_or(1, |d| d.as_secs()).to_string();
            crate::run::migrate_faults(tools, &["--seed", &seed, "--count", count])?;
            run(tools, &["migrate", "services"])
        }
        [] => ["differential", "translator", "debian", "suspend", "float", "kills", "amd64", "migrate"]
            .iter()
            .try_for_each(|w| run(tools, &[w])),
        _ => Err(
            "usage: cargo xtask soak [differential [INSTRUCTIONS] | translator [SEEDS] | debian | suspend | float | \
                 kills [ROUNDS] | amd64 [debian] [startup] [io] [pair] | migrate [COUNT | services]]"
                .to_owned(),
        ),
    }
}
