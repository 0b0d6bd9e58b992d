//! What the end-to-end tests share: a place of its own for each test, the busybox image, a console driver.
//!
//! ```text
//!  place     a home, a runtime folder and a work folder that end with the test
//!  image     the busybox image, pulled once from the real mirror and used again by later runs
//!  console   a running `strata` as a person sees it: wait for words, type lines, look at the exit code
//!  network   a network of the test's own      debian    the Debian image of the long runs
//!  cable     a link on which things go wrong         receiver  a host that waits for a machine
//!  host      one of two hosts on a wire              load      who writes to a service all the time
//!  redis     the words of Redis, and                 work      a job in a guest's background
//!  postgres  those of PostgreSQL
//!  bare      an amd64 guest that looks after itself, on KVM
//! ```
//! Everything is done through the binary, as a user does it.
#![allow(dead_code, unused_imports, reason = "every test program uses a part of this")]

mod bare;
mod cable;
mod console;
pub mod debian;
mod host;
mod image;
pub mod load;
mod network;
mod place;
pub mod postgres;
mod receiver;
pub mod redis;
mod work;

pub use bare::{bare_counts, start_bare};
pub use cable::{Cable, Damage};
pub use console::Console;
pub use host::Host;
pub use image::{busybox, mirror_or_strata};
pub use network::{OwnNetwork, TwoHosts};
pub use place::{Done, Place};
pub use receiver::{Receiver, free_port, row, row_if_there, shell};
pub use work::{Work, source};

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a machine may take for anything. Far more than it does: a build host may be busy.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until `done` holds.
///
/// # Panics
/// It does not in time.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process lives; one that its parent has not looked at yet does not. One whose first thread has ended, and others
/// not quite yet, still has its files open.
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // State and number of threads are the third field and the twentieth (proc(5)).
    let after: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let alone = after.get(17).is_none_or(|n| matches!(*n, "0" | "1"));
    after.first().is_some_and(|state| *state != "Z" || !alone)
}

/// Kills a process as `kill -9` does.
///
/// # Panics
/// There is no such process.
#[track_caller]
pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// `unshare` with these namespaces, as root or as a user who may; `None`, said aloud, where the host forbids it.
pub fn apart(namespaces: &[&str]) -> Option<Command> {
    let make = |root: bool| {
        let mut c = Command::new("unshare");
        c.args(root.then_some("--map-root-user")).args(namespaces).arg("--");
        c
    };
    for as_root in [false, true] {
        if make(as_root).arg("true").output().is_ok_and(|o| o.status.success()) {
            return Some(make(as_root));
        }
    }
    eprintln!("SKIPPED: this host lets the test make no namespace (unshare {namespaces:?})");
    None
}

/// Machine code as a file of words.
pub fn write_code(path: &Path, words: &[u32]) {
    std::fs::write(path, words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()).unwrap();
}

/// `j .`: an M-mode firmware that does nothing, for ever.
pub const SPIN: [u32; 4] = [0x0000_006f; 4];
