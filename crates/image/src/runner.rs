//! The seam to the machine that builds an image. This crate knows no engine: the binary brings one.
//!
//! Where the host is of the image's architecture, it may do without a machine: then it unpacks [`GuestJob::initrd`] to be the
//! root of a process that sees nothing else of the host, puts the disks there as the files `/build/vda`, `/build/vdb`..., shows
//! the folder `/root` as `/tree` too, with `/proc`, `/dev` and `/run` mounted there, and runs [`HOST_INIT`] with its shell.

use crate::arch::Arch;
use crate::progress::Cancel;
use std::path::PathBuf;
use std::time::Duration;

/// What is run in [`GuestJob::initrd`] where there is no machine.
pub const HOST_INIT: &str = "/build/init";

/// Where a job is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a machine.
    Machine,
    /// On the host itself, apart from the rest of it; with the words for how.
    Host(&'static str),
}

/// A one-off machine for image building.
#[derive(Debug, Clone)]
pub struct GuestJob {
    /// Its architecture.
    pub arch: Arch,
    /// A kernel of it.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initrd: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
    /// Raw disk files, attached read-write in this order: `/dev/vda`, `/dev/vdb`...
    pub disks: Vec<PathBuf>,
    /// Guest memory in bytes.
    pub memory: u64,
    /// Stop the machine and fail after this long.
    pub time_limit: Duration,
    /// Stop the machine and fail when this is set.
    pub cancel: Cancel,
}

/// Why a building machine did not power itself off.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It ran longer than its limit.
    #[error("it did not finish within {0:?}")]
    TimedOut(Duration),
    /// [`GuestJob::cancel`] was set.
    #[error("it was cancelled")]
    Cancelled,
    /// It could not be started, or it stopped in another way.
    #[error("{0}")]
    Failed(String),
}

/// Runs a one-off machine for image building, or does without.
pub trait GuestRunner {
    /// Where a job of `arch` would be done here: asked before anything is fetched for one.
    ///
    /// # Errors
    /// [`GuestError::Failed`] with what to do.
    fn ready(&self, arch: Arch) -> Result<Place, GuestError>;
    /// Runs `job` to its end; console text is streamed to `console` as it comes, in pieces of any
    /// length. `Ok` when the guest powered itself off.
    ///
    /// # Errors
    /// [`GuestError`] for every other end.
    fn run(&self, job: GuestJob, console: &mut dyn FnMut(&[u8])) -> Result<(), GuestError>;
}
