//! The Debian image of the long runs: pulled once, kept under the target folder.

use super::{Console, Place, mirror_or_strata};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For a boot, or for apt: an interpreter on a busy host takes minutes.
pub const LONG: Duration = Duration::from_secs(1200);

pub fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e-home")
}

/// `strata WORDS` in the home that keeps Debian between runs.
pub fn strata(place: &Place, words: &[&str]) -> Command {
    let mut c = place.command("");
    c.args(words).env("STRATA_HOME", home());
    c
}

/// Pulls the first suite that verifies; gives the image's name.
pub fn pull(place: &Place) -> String {
    let mut refused = String::new();
    for image in ["debian:13", "debian:forky", "debian:sid"] {
        let start = Instant::now();
        if strata(place, &["image", "show", image]).output().unwrap().status.success() {
            println!("{image}: pulled by an earlier run");
            return image.into();
        }
        let pull = strata(place, &["image", "pull", image]).stdin(Stdio::null()).output().unwrap();
        if pull.status.success() {
            println!("{image}: pulled in {:.0?}", start.elapsed());
            return image.into();
        }
        refused = mirror_or_strata(&pull);
        println!("{image}: not this one, {refused}");
        assert_eq!(
            pull.status.code(),
            Some(75),
            "only a mirror may be why another suite is tried: {refused}"
        );
    }
    panic!("no suite can be pulled; the last one: {refused}");
}

/// Logs in as root; leaves a shell whose answers can be read.
pub fn log_in(c: &mut Console, what: &str, since: Instant) {
    c.wait_long("login:", LONG);
    println!("{what}: login after {:.1?}", since.elapsed());
    c.send("root");
    c.wait_long("~# ", LONG);
    println!("{what}: shell after {:.1?}", since.elapsed());
    // No colours, no title, no bracketed paste: plain lines.
    c.send("export TERM=dumb PS1='# ' PAGER=cat; bind 'set enable-bracketed-paste off'");
    c.sh("true");
}

/// The login prompt does not wait for the network.
pub fn has_an_address(c: &mut Console) {
    let wait = "for i in $(seq 60); do ip -4 addr | grep -q 'inet 10.0.2.15/24' && break; sleep 1; done";
    c.sh_long(wait, LONG);
    let addresses = c.sh("ip -4 addr | cat");
    assert!(addresses.contains("inet 10.0.2.15/24"), "no address by DHCP:\n{addresses}");
}

/// Runs a step and prints how long it took.
pub fn timed<T>(what: &str, step: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = step();
    println!("{what}: {:.1?}", start.elapsed());
    value
}
