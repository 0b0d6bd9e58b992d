//! Images: what machines are made from.
//!
//! ```text
//!  mirror ─▶ fetch ─▶ verify ─▶ release ─▶ index      where from, and whether it is Debian's
//!                        archive (one suite, opened)
//!  deb ─▶ kernel, initramfs (cpio)                    what a machine boots
//!  deb ─▶ root (one tar) ─▶ debian ─▶ GuestRunner     a disk, configured in a machine
//!                        store, record                what is kept
//! ```
//! Invariants: no byte of a package is used before signature, dates and hashes held; an image is
//! complete or not there; nothing here needs root, prints, opens a terminal, or runs a program of the
//! host. What runs programs of the image is behind [`GuestRunner`]: a machine of ours, or namespaces.

#![forbid(unsafe_code)]

mod arch;
mod archive;
mod busybox;
mod cpio;
mod deb;
mod deb822;
mod debian;
mod error;
mod fetch;
#[doc(hidden)]
pub mod fuzz;
mod gpt;
mod import;
mod index;
mod initramfs;
mod kernel;
mod mirror;
mod module;
mod progress;
mod proxied;
mod pull;
mod record;
mod release;
mod root;
mod runner;
mod settings;
mod store;
#[cfg(test)]
mod tests;
mod time;
mod verify;
mod version;

pub use arch::Arch;
pub use archive::{SUITES, Suite};
pub use cpio::Cpio;
pub use debian::DEFAULT_DISK;
pub use error::{Error, Kind, Result};
pub use import::{ImportRequest, import};
pub use mirror::{Environment, Source, discover};
pub use progress::{Cancel, Progress, Silent, Stage};
pub use pull::{Host, PullRequest, canonical_name, pull, update_kernel};
pub use record::{DiskFormat, DiskRecord, FileRecord, Image, KernelRecord, Origin, Record, SCHEMA};
pub use runner::{GuestError, GuestJob, GuestRunner, HOST_INIT, Place};
pub use store::{Lock, Store};
pub use time::rfc3339;
