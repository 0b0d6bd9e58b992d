//! A host on a wire, with a home of its own, and the machine `web` that goes from one to the other.

use super::{Console, Done, Place, TwoHosts};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// One of [`TwoHosts`].
pub struct Host<'a> {
    wires: &'a TwoHosts,
    n: usize,
    /// Its home, and its users' files.
    pub place: Place,
}

impl<'a> Host<'a> {
    /// Both hosts.
    pub fn both(wires: &'a TwoHosts, places: [Place; 2]) -> [Host<'a>; 2] {
        let mut n = 0..;
        places.map(|place| Host { wires, n: n.next().unwrap(), place })
    }

    /// `strata WORDS` there, split at spaces.
    pub fn command(&self, words: &str) -> Command {
        let mut c = self.wires.on(self.n, env!("CARGO_BIN_EXE_strata"));
        self.place.at_home(&mut c).args(words.split_whitespace());
        c
    }

    /// Runs `strata WORDS` there to its end, without input.
    pub fn strata(&self, words: &str) -> Done {
        self.place.finish(&mut self.command(words))
    }

    /// The shell on the machine's console.
    pub fn console(&self) -> Console {
        let mut c = Console::spawn(self.command("console web"));
        c.greet();
        c
    }

    /// Has `from` send its machine here; gives what the migration said.
    pub fn take(&self, from: &Host<'_>, options: &str) -> String {
        // One that nobody has: who had the last one may not be gone yet.
        static PORT: AtomicU16 = AtomicU16::new(7000);
        let address = format!("10.9.0.1{}:{}", self.n, PORT.fetch_add(1, Relaxed));
        let mut there = Console::spawn(self.command(&format!("migrate receive --listen {address}")));
        let token = there.wait_for("\n").trim().to_owned();
        let figures = from.strata(&format!("migrate web {address} --token {token} {options}")).good();
        assert_eq!(there.end().code, Some(0));
        figures
    }
}
