//! What a memory-mapped device looks like to the bus.

use std::sync::{Arc, Mutex};
use strata_state::Part;

/// A device with registers. A pure state machine: every access happens at once, and ends with its `settle()`.
///
/// Offsets are from the device's base and lie inside its range; `size` is 1, 2, 4 or 8 and the access does not
/// cross the end of the range. Whatever the guest does, a device answers: unknown registers read as zero.
pub trait Mmio: Part + Send {
    /// Reads `size` bytes at `offset`, zero-extended.
    fn read(&mut self, offset: u64, size: u8) -> u64;
    /// Writes the low `size` bytes of `value` at `offset`.
    fn write(&mut self, offset: u64, size: u8, value: u64);
}

/// A device as bus, worker and snapshot share it. Locks nest device → interrupt controller, never back.
pub type Shared<D> = Arc<Mutex<D>>;

/// What the guest asks of the whole machine through a device (syscon, HTIF) or a firmware call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemEvent {
    /// Power off; 0 is a good end, anything else the guest's own code of failure.
    PowerOff(u32),
    /// Start again as after power-on.
    Reset,
}

/// Takes system events; called from a vCPU's thread with the device's lock held, so it only notes them.
pub type SystemSink = Arc<dyn Fn(SystemEvent) + Send + Sync>;
