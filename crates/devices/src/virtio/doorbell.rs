//! The doorbell: how a worker learns that there is something to do, without waiting for it.
//!
//! Rung by a vCPU that wrote `QueueNotify`, by a load (there may be unserved chains), and by the machine when pages
//! have come for which a queue was parked. Ringing twice before the worker looks costs one system call, and a ring
//! is never lost: [`Doorbell::hush`] comes before the worker looks at its queues.

use crate::Wake;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire};

struct Bell {
    wake: Wake,
    rung: AtomicBool,
}

/// A handle to one worker's doorbell; clones ring the same one.
#[derive(Clone)]
pub struct Doorbell(Arc<Bell>);

impl Doorbell {
    /// A silent doorbell.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new() -> io::Result<Doorbell> {
        Ok(Doorbell(Arc::new(Bell { wake: Wake::new()?, rung: AtomicBool::new(false) })))
    }

    /// Makes the worker take a turn soon.
    pub fn ring(&self) {
        if !self.0.rung.swap(true, AcqRel) {
            self.0.wake.ring();
        }
    }

    /// Silences it, before the worker looks. The order matters: were the flag cleared first, a ring between the two
    /// could be drained unseen with the flag still up, and every later one would be swallowed.
    pub fn hush(&self) {
        self.0.wake.silence();
        self.0.rung.swap(false, AcqRel);
    }

    /// Whether it has been rung since the worker looked last.
    pub fn rung(&self) -> bool {
        self.0.rung.load(Acquire)
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}
