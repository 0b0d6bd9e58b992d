//! PCI Express: a host bridge with one bus, and what a function on it consists of.
//!
//! ```text
//!  ECAM range    ─► Ecam    ─► Shared<dyn Function>: 256 bytes of configuration      host.rs, config.rs
//!  memory window ─► Window  ─► the same, by where its BAR is now (Home)              window.rs
//!  interrupts    ◄─ Pins: one of four shared wires   |   MSI-X: messages             pins.rs, msix.rs
//! ```
//! PCI Local Bus Specification 3.0 (chapter 6: configuration space), PCI Express Base Specification 5.0 (7.2.2: ECAM),
//! PCI 3.0 6.8.2 (MSI-X).
//!
//! A function has one memory BAR of 32 bits and at most one way to interrupt that its board understands: a pin where
//! the interrupt controller has wires for it, messages where it takes those. There are no bridges behind the host's,
//! so bus 0 is all there is; no port ranges; no extended capabilities; no interrupt by message without a table (MSI).
//!
//! **Locks.** Host → function → the device behind it → its interrupts, never back. The window takes none to find the
//! function: where each BAR is stands in an atomic of its own.
//!
//! A function's memory answers as soon as its BAR is in the window and memory accesses are on. "Bus master" is
//! remembered and not enforced: no driver of today relies on a device that is kept from memory in this way.

mod config;
mod host;
mod msix;
mod pins;
mod window;

pub use config::{BAR_ALIGN, Capability, Header, HeaderState, Identity};
pub use host::{DEVICES, Ecam, EcamState, HostBridge};
pub use msix::{Interrupts, MsixState, NO_VECTOR};
pub use pins::Pins;
pub use window::{Home, Window};

use strata_state::Part;

/// A function: configuration space and memory.
pub trait Function: Part + Send {
    /// Reads the 32-bit register at `at` of the first 256 bytes of configuration space; `at` is a multiple of 4.
    fn read_config(&mut self, at: u8) -> u32;
    /// Writes those bits of it that `mask` has.
    fn write_config(&mut self, at: u8, mask: u32, value: u32);
    /// Reads `size` bytes at `offset` of its memory.
    fn read_memory(&mut self, offset: u64, size: u8) -> u64;
    /// Writes `size` bytes at `offset` of its memory.
    fn write_memory(&mut self, offset: u64, size: u8, value: u64);
}

#[cfg(test)]
mod tests;
