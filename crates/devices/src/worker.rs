//! Workers: how a device's host side gets its turns.
//!
//! A device owns no thread. What it has to do beside register accesses (serving queues, moving frames, reading the
//! console) is a [`Worker`], which the machine calls from an I/O thread whenever one of its descriptors is ready or
//! its time has come. Between two turns nothing of the worker's is under way, so the machine pauses a worker by not
//! calling it.

use std::os::fd::BorrowedFd;
use std::time::Duration;

/// The host side of a device.
pub trait Worker: Send {
    /// The descriptors to wait for (readable, level-triggered), as of now; asked again before every wait.
    fn wait_for(&self) -> Vec<BorrowedFd<'_>>;
    /// Descriptors to wait for becoming writable; usually none.
    fn wait_to_write(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
    /// Does all that can be done now, in bounded time. Gives how long to wait at most until the next turn.
    fn turn(&mut self) -> Option<Duration>;
    /// Whether the times that [`Worker::turn`] gives are of the machine's clock, not of the host's: they are the same but in
    /// a machine that counts time in instructions.
    fn in_guest_time(&self) -> bool {
        false
    }
    /// Whether a turn may block on the host's storage: such a worker gets a thread of its own.
    fn blocks(&self) -> bool {
        false
    }
    /// Whether everything that the guest has handed over has left for the host. Asked when the machine ends, so that
    /// its last words are not lost.
    fn drained(&self) -> bool {
        true
    }
    /// Name for the thread and for messages.
    fn name(&self) -> &str;
}
