//! virtio over MMIO, virtio 1.3 §4.2, version 2 (no legacy interface): registers onto [`Virtio`].
//!
//! Control registers answer aligned 32-bit accesses only (§4.2.2.2); any other reads as 0 and writes nothing. The
//! config space from 0x100 on answers 1, 2, 4 and 8 bytes. There is no shared memory (its length reads as -1) and
//! no queue reset (F_RING_RESET is not offered).

use super::core::{Virtio, lock};
use super::device::Device;
use super::registers::{MAGIC, VENDOR, VERSION, read_register, reg, write_register};
use crate::{Mmio, Shared};
use strata_state::{Part, Schema, StateError, Stateful};

/// Size of one device's register range in bytes, as on QEMU's `virt` board.
pub const MMIO_SIZE: u64 = 0x1000;

const CONFIG: u64 = 0x100;

/// A virtio device behind MMIO registers. Its record is the device's own: these registers add no state.
pub struct VirtioMmio<D: Device>(Shared<Virtio<D>>);

impl<D: Device> VirtioMmio<D> {
    /// Puts registers before `device`.
    pub fn new(device: Shared<Virtio<D>>) -> VirtioMmio<D> {
        VirtioMmio(device)
    }
}

impl<D: Device> Mmio for VirtioMmio<D> {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let mut v = lock(&self.0);
        match offset.checked_sub(CONFIG) {
            Some(at) => v.read_config(at, size),
            None if size == 4 && offset.is_multiple_of(4) => read_register(&mut v, offset).into(),
            None => 0,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if offset < CONFIG && size == 4 && offset.is_multiple_of(4) {
            write_register(&mut lock(&self.0), offset, value as u32);
        }
    }
}

impl<D: Device> Part for VirtioMmio<D> {
    fn record_id(&self) -> &'static str {
        lock(&self.0).record_id()
    }
    fn save(&self) -> Vec<u8> {
        lock(&self.0).save()
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        lock(&self.0).load(bytes)
    }
    fn reset(&mut self) {
        lock(&self.0).reset();
    }
    fn describe(&self, out: &mut Schema) {
        lock(&self.0).describe(out);
    }
}

strata_state::state! {
    /// A slot without a device has no state.
    pub struct EmptySlotState("virtio-empty", 1) {}
}

/// A slot without a device: DeviceID 0, which drivers pass over in silence (§4.2.2.1).
#[derive(Debug, Default)]
pub struct EmptySlot;

impl Mmio for EmptySlot {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (reg::MAGIC, 4) => MAGIC.into(),
            (reg::VERSION, 4) => VERSION.into(),
            (reg::VENDOR_ID, 4) => VENDOR.into(),
            _ => 0,
        }
    }
    fn write(&mut self, _offset: u64, _size: u8, _value: u64) {}
}

impl Stateful for EmptySlot {
    type State = EmptySlotState;
    fn state(&self) -> EmptySlotState {
        EmptySlotState {}
    }
    fn reset_state(&self) -> EmptySlotState {
        EmptySlotState {}
    }
    fn set_state(&mut self, _state: EmptySlotState) {}
    fn settle(&mut self) {}
}
