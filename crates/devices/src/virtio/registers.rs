//! The registers of a virtio device, virtio 1.3 §4.2.2, by the numbers that they have on the MMIO transport.
//!
//! The PCI transport has the same ones in other places, and some that can be read here and not there.

use super::core::Virtio;
use super::device::{Device, isr, status};
use strata_state::Stateful;

pub(super) const MAGIC: u32 = 0x7472_6976;
pub(super) const VERSION: u32 = 2;
/// The specification leaves the value to us.
pub(super) const VENDOR: u32 = u32::from_le_bytes(*b"STRA");

/// Register offsets (§4.2.2, table 4.1).
pub(super) mod reg {
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

/// Half `sel` (0 low, 1 high) of `v`; other halves are 0.
pub(super) fn half(v: u64, sel: u32) -> u32 {
    if sel < 2 { (v >> (32 * sel)) as u32 } else { 0 }
}

fn set_half(v: &mut u64, sel: u32, to: u32) {
    if sel < 2 {
        *v = *v & !(0xffff_ffff << (32 * sel)) | u64::from(to) << (32 * sel);
    }
}

/// Reads a register; what is none is 0.
pub(super) fn read_register<D: Device>(v: &mut Virtio<D>, offset: u64) -> u32 {
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

/// Writes a register, where it can be written.
pub(super) fn write_register<D: Device>(v: &mut Virtio<D>, offset: u64, value: u32) {
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
