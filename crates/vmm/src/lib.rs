//! One process a machine: how it is started, talked to, found, and what is kept of it.
//!
//! ```text
//!  strata run ──launch──► VMM process ─────────────────────────────────────────────┐
//!      │                   child     its life, from spec to exit code              │
//!      │                   assemble  opens paths, builds the machine               │
//!      ├──control socket──► server    clients, requests, events                    │
//!      └──console stream──► console   hub between the serial line and its readers  │
//!                          └───────────────────────────────────────────────────────┘
//!  runtime     running machines: names, locks, sockets        instances   what is kept between runs
//!  spec, arch  what to run, checked                           exit        how it ended, exit codes
//!  protocol, wire, client                                     doctor      what the host offers
//!  migrate     a machine goes to another host, or comes from one
//! ```
//! Invariants: only this crate and the binary open paths on a user's behalf; a machine's process depends on nobody
//! after it has started (unless it runs in the foreground, on purpose); every running machine has a name, held by a
//! lock, and a control socket; an error has a kind, which is its exit code, and one paragraph for a person.
//! Deliberately not here: the command line, terminals, pulling images.

#![deny(unsafe_code)]

pub mod arch;
mod assemble;
mod child;
pub mod client;
pub mod console;
pub mod control;
mod convert;
mod disks;
pub mod doctor;
pub mod exit;
mod first_touch;
#[doc(hidden)]
pub mod fuzz;
pub mod instances;
pub mod launch;
mod lost;
mod manners;
pub mod migrate;
pub mod name;
mod network;
pub mod protocol;
mod randomness;
pub mod runtime;
mod seal;
pub mod server;
pub mod spec;
pub mod wire;

pub use arch::{Arch, Engine};
pub use child::{child_main, run_child};
pub use client::Client;
pub use convert::now;
pub use exit::{Error, ExitReport, Kind, Outcome, Result};
pub use instances::{Instance, InstanceRecord, NewInstance, Store, home};
pub use launch::{Launched, Launcher, Spawned, launch};
pub use protocol::{Status, Taken};
pub use runtime::{RunningEntry, Runtime};
pub use spec::{ConsoleSpec, DiskFormat, DiskSpec, NetSpec, Tier, Virtio, VmmSpec};
