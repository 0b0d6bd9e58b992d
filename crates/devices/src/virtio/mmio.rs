//! virtio over MMIO, virtio 1.3 §4.2, version 2 (no legacy interface): registers onto [`Virtio`].
//!
//! Control registers answer aligned 32-bit accesses only (§4.2.2.2); any other reads as 0 and writes nothing. The
//! config space from 0x100 on answers 1, 2, 4 and 8 bytes. There is no shared memory (its length reads as -1) and
//! no queue reset (F_RING_RESET is not offered).

use super::core::{Virtio, lock};
use super::device::{Device, isr, status};
use crate::{Mmio, Shared};
use strata_state::{Part, Schema, StateError, Stateful};

/// Size of one device's register range in bytes, as on QEMU's `virt` board.
pub const MMIO_SIZE: u64 = 0x1000;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// The specification leaves the value to us.
const VENDOR: u32 = u32::from_le_bytes(*b"STRA");
const CONFIG: u64 = 0x100;

/// Register offsets (§4.2.2, table 4.1).
mod reg {
    pub const MAGIC: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const DEVICE_ID: u64 = 0x08;
    pub const VENDOR_ID: u64 = 0x0c;
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM_MAX: u64 = 0x34;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC: u64 = 0x80;
    pub const QUEUE_AVAIL: u64 = 0x90;
    pub const QUEUE_USED: u64 = 0xa0;
    pub const SHM_LEN_LOW: u64 = 0xb0;
    pub const SHM_BASE_HIGH: u64 = 0xbc;
    pub const CONFIG_GENERATION: u64 = 0xfc;
}

/// A virtio device behind MMIO registers. Its record is the device's own: these registers add no state.
pub struct VirtioMmio<D: Device>(Shared<Virtio<D>>);

impl<D: Device> VirtioMmio<D> {
    /// Puts registers before `device`.
    pub fn new(device: Shared<Virtio<D>>) -> VirtioMmio<D> {
        VirtioMmio(device)
    }
}

/// Half `sel` (0 low, 1 high) of `v`; other halves are 0.
fn half(v: u64, sel: u32) -> u32 {
    if sel < 2 { (v >> (32 * sel)) as u32 } else { 0 }
}

fn set_half(v: &mut u64, sel: u32, to: u32) {
    if sel < 2 {
        *v = *v & !(0xffff_ffff << (32 * sel)) | u64::from(to) << (32 * sel);
    }
}

fn read_register<D: Device>(v: &mut Virtio<D>, offset: u64) -> u32 {
    let max = v.core.selected_max();
    let s = &v.core.s;
    match offset {
        reg::MAGIC => MAGIC,
        reg::VERSION => VERSION,
        reg::DEVICE_ID => D::ID,
        reg::VENDOR_ID => VENDOR,
        reg::DEVICE_FEATURES => half(v.core.offered(), s.device_features_sel),
        reg::QUEUE_NUM_MAX => u32::from(max),
        reg::QUEUE_READY => v.core.selected().is_some_and(|q| q.ready).into(),
        reg::INTERRUPT_STATUS => s.isr.into(),
        reg::STATUS => s.status.into(),
        reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => u32::MAX,
        reg::CONFIG_GENERATION => s.config_generation,
        _ => 0,
    }
}

fn write_register<D: Device>(v: &mut Virtio<D>, offset: u64, value: u32) {
    let max = v.core.selected_max();
    let s = &mut v.core.s;
    match offset {
        reg::DEVICE_FEATURES_SEL => s.device_features_sel = value,
        reg::DRIVER_FEATURES_SEL => s.driver_features_sel = value,
        // Settled once FEATURES_OK stands (§3.1.1 step 5).
        reg::DRIVER_FEATURES if s.status & status::FEATURES_OK == 0 => {
            set_half(&mut s.driver_features, s.driver_features_sel, value);
        }
        reg::QUEUE_SEL => s.queue_sel = value,
        reg::QUEUE_READY => v.core.set_ready(value & 1 != 0),
        reg::QUEUE_NOTIFY => v.core.notify(value),
        reg::INTERRUPT_ACK => s.isr &= !(value as u8 & (isr::USED | isr::CONFIG)),
        reg::STATUS => v.write_status(value as u8),
        _ => write_queue(v, offset, value, max),
    }
    v.settle();
}

/// Registers of the selected queue that may change only while it is not ready (§4.2.2.2).
fn write_queue<D: Device>(v: &mut Virtio<D>, offset: u64, value: u32, max: u16) {
    let Some(q) = v.core.selected().filter(|q| !q.ready) else { return };
    let sel = u32::from(offset & 4 != 0);
    match offset & !4 {
        // An impossible size is remembered as 0, which QueueReady refuses.
        _ if offset == reg::QUEUE_NUM => q.num = u16::try_from(value).ok().filter(|n| *n <= max).unwrap_or(0),
        reg::QUEUE_DESC => set_half(&mut q.desc, sel, value),
        reg::QUEUE_AVAIL => set_half(&mut q.avail, sel, value),
        reg::QUEUE_USED => set_half(&mut q.used, sel, value),
        _ => {}
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
