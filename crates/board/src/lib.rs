//! Boards: the fixed plan of which device is at which address, and how firmware is told of it.
//!
//! A board is a table of [`Row`]s. Everything else about it is derived from those rows: the bus that vCPUs reach
//! devices through ([`MmioBus`]), the device tree ([`fdt`]) or ACPI tables ([`acpi`]), the page of documentation ([`page`]) and the order in
//! which the parts' states are saved. A device moves or appears by a change of one row.
//!
//! There are two: [`RiscvVirt`], the memory map of QEMU's `virt` machine, so that kernels and firmware built for that run
//! unchanged (a test compares its device tree with the one QEMU makes); and [`X86Micro`], a PC with nothing on it that a
//! guest of today can do without.
//!
//! Deliberately not here: making devices, and what they are connected to. That is the machine's.
#![forbid(unsafe_code)]

pub mod acpi;
mod board;
mod bus;
pub mod dtb;
pub mod fdt;
#[doc(hidden)]
pub mod fuzz;
pub mod page;
mod riscv_virt;
mod row;
mod x86_micro;

pub use board::Board;
pub use bus::{BusBuilder, BusError, MmioBus, Place};
pub use riscv_virt::{MAX_HARTS, RiscvVirt, VIRTIO_SLOTS};
pub use row::{Acpi, Lines, Node, PartId, Prop, Row, Space, Transport, Widths};
pub use x86_micro::{MAX_VCPUS, X86Micro};

#[cfg(test)]
mod tests;
