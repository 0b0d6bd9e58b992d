//! A program of a root file system of its own, run by this host's kernel, in namespaces that hide the host from it.
//!
//! ```text
//!  this process ── spawns ─▶ one that leaves all namespaces ── spawns ─▶ process 1 in there: mounts the root, gives
//!     │                           │                                        its rights away, becomes the program
//!     └── maps ids of users ──────┘          dies with its parent ◀── dies with its parent
//! ```
//! What runs inside has users, processes, mounts, a host name, IPC and a network of its own (the network has nothing in
//! it, not even loopback that is up); of the host's devices it has five that hold nothing; of the host's files, those that
//! it is given. It can neither mount nor load nor trace anything, nor, where it has a user namespace, make another in which
//! it could. What it shares with the caller: the kernel, with what /proc tells of the host, the session's keyring, and sockets
//! of machines (`AF_VSOCK`). Its root is in memory: whatever ends it, there is nothing to unmount, and nothing is left of it
//! but perhaps an empty folder among the temporary files.
//!
//! The other two processes are this program again, by a hidden subcommand ([`SUBCOMMAND`], [`child_main`]): a process
//! with several threads can neither leave a user namespace nor safely fork.

mod ids;
mod inside;
mod outside;
mod unpack;

pub use ids::{Ids, Refusal, Way, ways};
pub use inside::child_main;
pub use outside::{SUBCOMMAND, probe, run};
pub use unpack::unpack;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its root file system: a `newc` cpio archive. Empty: nothing is run, and only whether it could be is found out.
    pub archive: PathBuf,
    /// The most that its root may grow to, in bytes of memory.
    pub size: u64,
    /// Files of the host that it may read and write, and where they are in there.
    pub files: Vec<(PathBuf, String)>,
    /// Folders in there that are seen at a second place too, in this order: what is mounted in one of the two later, the
    /// other does not have.
    pub views: Vec<(String, String)>,
    /// Folders that are made first.
    pub folders: Vec<String>,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// Why a program did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This host does not let it be started.
    #[error("{doing}: {source}")]
    Host {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The same, as the new process told it.
    #[error("{0}")]
    Inside(String),
    /// It ended with this status.
    #[error("it ended with {0}")]
    Ended(std::process::ExitStatus),
    /// The caller asked for its end.
    #[error("it was stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn host(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Host { doing, source }
    }
}
