//! The seam to the machine that builds an image. This crate knows no engine: the binary brings one.

use crate::progress::Cancel;
use std::path::PathBuf;
use std::time::Duration;

/// A one-off machine for image building.
#[derive(Debug, Clone)]
pub struct GuestJob {
    /// Raw RISC-V kernel.
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

/// Runs a one-off machine for image building.
pub trait GuestRunner {
    /// Runs `job` to its end; console text is streamed to `console` as it comes, in pieces of any
    /// length. `Ok` when the guest powered itself off.
    ///
    /// # Errors
    /// [`GuestError`] for every other end.
    fn run(&self, job: GuestJob, console: &mut dyn FnMut(&[u8])) -> Result<(), GuestError>;
}
