//! Networks: what a virtual network card's frames go to.
//!
//! A [`NetBackend`] carries Ethernet frames between one port and the world: rootless user-mode networking, or a
//! TAP device. It owns no thread: the one who serves the card's queues polls its descriptor and calls it.

#![deny(unsafe_code)]

pub mod announce;
#[doc(hidden)]
pub mod fuzz;
pub mod port;
pub mod tap;
pub mod user;

pub use announce::Shown;
pub use port::{Left, Port};
pub use tap::{Tap, TapError, open_tap};
pub use user::{
    Cards, Forward, ForwardError, ForwardSyntax, OpenFlow, OpenForward, Proto, Resolvers, UserConfig,
    UserNet, UserNetError, bind_forward,
};

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Largest frame carried, in bytes, without the Ethernet checksum: an MTU of 1500 and a header with a VLAN tag.
pub const MAX_FRAME: usize = 1518;

/// The host side of a network card.
pub trait NetBackend: Send {
    /// Takes one Ethernet frame from the guest. It is dropped where there is no room, as a wire would.
    fn send(&mut self, frame: &[u8]);
    /// The next frame for the guest, or `None` for now. `buf` holds at least [`MAX_FRAME`] bytes; gives the length.
    fn recv(&mut self, buf: &mut [u8]) -> Option<usize>;
    /// Becomes readable (level-triggered) when `poll` should be called because of the outside world.
    fn poll_fd(&self) -> BorrowedFd<'_>;
    /// Lets the backend do its work (sockets, timers). Called when `poll_fd` is readable, after frames were sent,
    /// and when the time that the last call gave has passed. Gives how long to wait at most until the next call.
    fn poll(&mut self, now: Instant) -> Option<Duration>;
    /// Whether it has come to another place since this was asked last: then the driver is to tell its neighbours.
    fn take_moved(&mut self) -> bool {
        false
    }
}
