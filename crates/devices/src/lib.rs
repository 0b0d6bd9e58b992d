//! The devices a guest sees. Each is a pure state machine over registers, an interrupt wire and checked descriptor
//! chains; it owns no thread and no host resource. Its host side is a backend, served by a [`Worker`].

pub mod aclint;
pub mod acpi_sleep;
pub mod cmos;
#[doc(hidden)]
pub mod fuzz;
pub mod goldfish_rtc;
pub mod htif;
pub mod i8042;
mod mmio;
pub mod pci;
pub mod plic;
pub mod serial;
pub mod syscon;
pub mod uart16550;
pub mod virtio;
pub mod vmgenid;
mod wake;
mod worker;

pub use mmio::{Mmio, Shared, SystemEvent, SystemSink};
pub use wake::Wake;
pub use worker::Worker;
