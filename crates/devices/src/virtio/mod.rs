//! virtio devices, virtio 1.3.
//!
//! ```text
//! mmio.rs       the MMIO transport                        a bus sees this
//! pci.rs        or this: a function of a PCI bus
//! registers.rs  registers, the same under any transport
//! core.rs       status, features, queues, completions     the same under any transport
//! device.rs     what a kind of device is, and the record  pure data
//! virtqueue/    rings and descriptor chains               the only place where they are checked
//! pump.rs       how a worker serves a queue
//! blk.rs net.rs console.rs rng.rs                         one file a device: config space, protocol, backend
//! ```
//! A constructor ([`blk()`], [`net()`], [`console()`], [`rng()`]) takes what the device is wired to and a backend that is
//! open already, and gives a [`Built`]: registers for the bus, a worker for an I/O thread, a doorbell.
//!
//! **Parked queues.** When `GuestRam::acquire` answers "wait", the chain stays where it is and the worker's turn
//! ends. Whoever makes pages present rings the [`Doorbell`] afterwards; every turn looks at every queue again.
//!
//! **Saving.** Between two turns no request is under way, so a record saved then is complete. After a load the
//! doorbell rings by itself, and chains that waited are served.

pub mod blk;
pub mod console;
mod core;
mod device;
mod doorbell;
#[doc(hidden)]
pub mod fuzz;
mod mmio;
pub mod net;
mod pci;
mod pump;
mod registers;
pub mod rng;
pub mod virtqueue;

pub use self::core::{Cause, Core, Messages, Token, Virtio, Wiring};
pub use self::device::{Completion, Device, QueueSpec, VirtioState, feature, isr, status};
pub use blk::blk;
pub use console::console;
pub use doorbell::Doorbell;
pub use mmio::{EmptySlot, EmptySlotState, MMIO_SIZE, VirtioMmio};
pub use net::net;
pub use pci::{NOTIFY, PciPlace, PciState, VirtioPci};
pub use rng::rng;

use crate::{Shared, Worker};
use std::sync::{Arc, Mutex};

/// A device ready for the machine.
pub struct Built<D: Device> {
    /// Registers, and the device as a part; coerces to `Shared<dyn Mmio>`.
    pub device: Shared<VirtioMmio<D>>,
    /// The device behind any transport, for what its host side tells it (link, terminal size).
    pub virtio: Shared<Virtio<D>>,
    /// Serves the queues.
    pub worker: Box<dyn Worker>,
    /// Makes the worker look again.
    pub doorbell: Doorbell,
}

fn built<D: Device>(
    virtio: Virtio<D>,
    worker: impl FnOnce(&Shared<Virtio<D>>) -> Box<dyn Worker>,
) -> Built<D> {
    let doorbell = virtio.doorbell();
    let virtio = Arc::new(Mutex::new(virtio));
    let device = Arc::new(Mutex::new(VirtioMmio::new(virtio.clone())));
    let worker = worker(&virtio);
    Built { device, virtio, worker, doorbell }
}

#[cfg(test)]
mod tests;
