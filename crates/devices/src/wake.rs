//! A bell: how a register access on a vCPU's thread makes a worker's turn come.
//!
//! An `eventfd` in the host's kernel. Ringing twice before the worker looks is ringing once.

use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The bell. Rung from any thread, heard by one worker that waits for its descriptor.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// A silent bell.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new() -> std::io::Result<Wake> {
        Ok(Wake(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Rings.
    pub fn ring(&self) {
        // It can only fail when the count is at its limit, and then the bell already rings.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Silences the bell; the worker does this first in its turn, so that nothing rung later is lost.
    pub fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
