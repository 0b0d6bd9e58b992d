//! What the tests of migration share: a host that waits for a machine, what is read of a migration, and the shell of one that
//! has come.

use super::{Console, Place};
use std::net::TcpListener;

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A host that waits for a machine.
pub struct Receiver {
    /// The waiting command.
    pub console: Console,
    /// Where it listens.
    pub address: String,
    /// What lets one machine in.
    pub token: String,
}

impl Receiver {
    /// Has `at` wait for one, on a port that is free now.
    pub fn at(at: &Place, options: &str) -> Receiver {
        let address = format!("127.0.0.1:{}", free_port());
        let mut console = at.open(&format!("migrate receive --listen {address} {options}"));
        let token = console.wait_for("\n").trim().to_owned();
        assert!(token.starts_with("strata1:"), "{token}");
        Receiver { console, address, token }
    }

    /// What sends `name` here.
    pub fn send(&self, name: &str, options: &str) -> String {
        format!("migrate {name} {} --token {} {options}", self.address, self.token)
    }
}

/// A row of what a migration prints; none if it is not there.
pub fn row_if_there<'a>(figures: &'a str, name: &str) -> Option<&'a str> {
    figures.lines().find_map(|l| l.strip_prefix(name)).map(str::trim)
}

/// A row of what a migration prints.
pub fn row<'a>(figures: &'a str, name: &str) -> &'a str {
    row_if_there(figures, name).unwrap_or_else(|| panic!("no `{name}` in\n{figures}"))
}

/// The shell on the console of the machine `name`.
pub fn shell(at: &Place, name: &str) -> Console {
    let mut c = at.open(&format!("console {name}"));
    c.greet();
    c
}
