//! The host side of a serial line: one link, one worker, whatever the device.
//!
//! ```text
//!   device ──send──► SerialLink (up to 64 KiB) ──turn──► output descriptor
//!   device ◄─receive──────────────────────────── turn ◄── input descriptor
//! ```
//! **Output** is written by the worker, not in the register access: a guest's console sends byte by byte, and a
//! system call on a vCPU's thread for each would cost more than the emulation of the driver around it. The first
//! byte after a silence rings the worker, which writes it at once; what follows within a millisecond is written
//! together. So an echo is prompt, and a boot log costs at most two calls a millisecond.
//!
//! When the peer does not read, the link fills and takes no more: the device holds its transmitter, and goes on when
//! half the link is free. A peer that is gone takes everything: output is dropped, the machine runs on.
//!
//! **Input** is read only as far as the device has room, so that it stays with the peer and nothing is lost in
//! between; end of input only ends the reading.
//!
//! Bytes in the link have left the guest. They are no state of the machine: whoever ends or moves it lets the worker
//! have its turns until it is [`crate::Worker::drained`].

mod link;
mod worker;

pub use link::{OUTPUT_LIMIT, SerialLink};
pub use worker::SerialWorker;

/// What the worker asks of a device with a serial line.
pub trait Serial: Send {
    /// Bytes that [`Serial::receive`] would take now. When this has become more than 0, the device tells its link.
    fn room(&self) -> usize;
    /// Takes input; gives how much of it.
    fn receive(&mut self, bytes: &[u8]) -> usize;
    /// The link, which had refused output, takes some again.
    fn output_resumed(&mut self);
}

#[cfg(test)]
mod tests;
