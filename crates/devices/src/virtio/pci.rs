//! virtio over PCI, virtio 1.3 §4.1, modern only: a function whose memory holds the registers of [`Virtio`].
//!
//! ```text
//!  0x0000  common configuration     0x3000  notification, one place for all queues
//!  0x1000  interrupt status         0x4000  MSI-X table
//!  0x2000  the device's own         0x5000  MSI-X pending bits
//! ```
//! The common configuration answers in each field's own width (§4.1.3.1; halves of 64-bit fields, too); a write in
//! another is lost. All queues share the notification address (the multiplier is 0), since one worker serves them
//! all: one doorbell of the host's kernel is enough for a device.
//!
//! A driver that has MSI-X on is told each cause by the vector that it has given it, and the interrupt status register
//! stays as it is (§4.1.4.5.1). Vectors are the transport's state, beside the function's header; the device's own
//! record is the same as under MMIO.

use super::core::{Cause, Messages, Virtio, Wiring, lock};
use super::device::Device;
use super::registers::{half, read_register, reg, write_register};
use crate::Shared;
use crate::pci::{
    Capability, Function, Header, HeaderState, Home, Identity, Interrupts, MsixState, NO_VECTOR,
};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use strata_engine::{IrqLine, MsiSink};
use strata_memory::GuestRam;
use strata_state::{StateError, Stateful};

/// virtio's vendor id, and the device id of virtio device 0 (§4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;

/// What is where in the function's memory.
mod area {
    pub const COMMON: u64 = 0x0000;
    pub const STATUS: u64 = 0x1000;
    pub const DEVICE: u64 = 0x2000;
    pub const NOTIFY: u64 = 0x3000;
    pub const TABLE: u64 = 0x4000;
    pub const PENDING: u64 = 0x5000;
    pub const SIZE: u32 = 0x8000;
    /// Bytes of each.
    pub const LENGTH: u64 = 0x1000;
}

/// Where a driver notifies of any queue, in the function's memory.
pub const NOTIFY: u64 = area::NOTIFY;

/// Capabilities by id (PCI 3.0, appendix H).
const VENDOR_SPECIFIC: u8 = 0x09;
const MSI_X: u8 = 0x11;

/// Fields of the common configuration, by offset (§4.1.4.3).
mod common {
    pub const FEATURES_SEL: u64 = 0x00;
    pub const DRIVER_SEL: u64 = 0x08;
    pub const DRIVER_FEATURES: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SEL: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_ADDRESSES: u64 = 0x20;
    pub const LENGTH: u64 = 0x38;
}

strata_state::state! {
    /// What a virtio device has on a PCI bus beside its own record.
    pub struct PciState("virtio-pci", 1) {
        /// Header.
        1 header: HeaderState,
        /// MSI-X.
        2 msix: MsixState,
        /// Vector for changes of config space and status; 65535 is none.
        3 config_vector: u16,
        /// Vector of each queue.
        4 queue_vectors: Vec<u16>,
        /// Window from configuration space to the function's memory: BAR, offset, length.
        5 access: [u32; 3],
    }
}

/// Which vector tells which cause.
struct Vectors {
    irq: Arc<Interrupts>,
    config: AtomicU16,
    queues: Box<[AtomicU16]>,
}

impl Vectors {
    fn forget(&self) {
        self.config.store(NO_VECTOR, SeqCst);
        self.queues.iter().for_each(|q| q.store(NO_VECTOR, SeqCst));
    }

    fn of_queue(&self, q: u32) -> Option<&AtomicU16> {
        self.queues.get(q as usize)
    }
}

impl Messages for Vectors {
    fn take(&self, cause: Cause) -> bool {
        if !self.irq.by_message() {
            return false;
        }
        let vector = match cause {
            Cause::Config => Some(&self.config),
            Cause::Used(q) => self.of_queue(q.into()),
        };
        self.irq.send(vector.map_or(NO_VECTOR, |v| v.load(SeqCst)));
        true
    }
}

/// A device's place on a PCI bus, before there is the device.
pub struct PciPlace {
    vectors: Arc<Vectors>,
    home: Arc<Home>,
    pin: bool,
}

impl PciPlace {
    /// For a device of kind `D`, whose memory is to be in `window`. It interrupts by messages to `sink` where the board
    /// takes those, else by `pin`.
    pub fn new<D: Device>(pin: IrqLine, sink: Option<Arc<dyn MsiSink>>, window: Range<u64>) -> PciPlace {
        let has_pin = sink.is_none();
        let queues = D::QUEUES.iter().map(|_| AtomicU16::new(NO_VECTOR)).collect();
        let irq = Interrupts::new(pin, sink, D::QUEUES.len() + 1);
        let vectors = Arc::new(Vectors { irq, config: AtomicU16::new(NO_VECTOR), queues });
        PciPlace { vectors, home: Home::new(area::SIZE.into(), window), pin: has_pin }
    }

    /// What the device is to be wired to.
    pub fn wiring(&self, ram: GuestRam) -> Wiring {
        let irq = IrqLine::new(self.vectors.irq.clone(), 0);
        Wiring { ram, irq, messages: Some(self.vectors.clone()) }
    }
}

/// A virtio device as a function of a PCI bus.
pub struct VirtioPci<D: Device> {
    virtio: Shared<Virtio<D>>,
    header: Header,
    vectors: Arc<Vectors>,
    home: Arc<Home>,
    access: [u32; 3],
    /// Where in configuration space those two capabilities are.
    window_at: u8,
    msix_at: Option<u8>,
}

/// The body of a capability that says where one of virtio's structures is (§4.1.4).
fn structure(kind: u8, at: u64, length: u64, more: &[u8]) -> Capability {
    let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
    body.extend((at as u32).to_le_bytes());
    body.extend((length as u32).to_le_bytes());
    body.extend(more);
    Capability { id: VENDOR_SPECIFIC, body }
}

/// Class, subclass and interface of virtio device `id`.
fn class(id: u32) -> u32 {
    match id {
        1 => 0x02_0000,
        2 => 0x01_0000,
        3 => 0x07_8000,
        _ => 0x00_ff00,
    }
}

impl<D: Device> VirtioPci<D> {
    /// Puts `device`, which was wired to `place`, there.
    pub fn new(device: &Shared<Virtio<D>>, place: PciPlace) -> VirtioPci<D> {
        let PciPlace { vectors, home, pin } = place;
        let own = lock(device).config_len();
        let mut capabilities = vec![
            // Last in importance, first in place: it is the one whose place matters here.
            structure(5, 0, 0, &[0; 4]),
            structure(1, area::COMMON, common::LENGTH, &[]),
            structure(2, area::NOTIFY, 4, &[0; 4]),
            structure(3, area::STATUS, 4, &[]),
        ];
        if own > 0 {
            capabilities.push(structure(4, area::DEVICE, own, &[]));
        }
        let messages = vectors.irq.vectors() > 0;
        if messages {
            let mut body = vec![0; 2];
            body.extend((area::TABLE as u32).to_le_bytes());
            body.extend((area::PENDING as u32).to_le_bytes());
            capabilities.push(Capability { id: MSI_X, body });
        }
        let id = Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE + D::ID as u16,
            revision: 1,
            class: class(D::ID),
            subsystem: [VENDOR, FIRST_DEVICE + D::ID as u16],
            pin,
            memory: area::SIZE,
        };
        let (header, places) = Header::new(&id, &capabilities);
        let window_at = places.first().copied().unwrap_or(0);
        let msix_at = places.last().copied().filter(|_| messages);
        VirtioPci { virtio: device.clone(), header, vectors, home, access: [0; 3], window_at, msix_at }
    }

    /// Where its memory is.
    pub fn home(&self) -> Arc<Home> {
        self.home.clone()
    }

    fn irq(&self) -> &Interrupts {
        &self.vectors.irq
    }

    /// The vector register of the selected queue.
    fn queue_vector(&self, v: &Virtio<D>) -> Option<&AtomicU16> {
        self.vectors.of_queue(v.core.s.queue_sel)
    }

    /// 32 bits of the common configuration.
    fn read_common(&self, at: u64) -> u32 {
        let mut v = lock(&self.virtio);
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let (sel, queues) = (v.core.s.queue_sel as u16, D::QUEUES.len() as u16);
        let vector = self.queue_vector(&v).map_or(NO_VECTOR, |q| q.load(SeqCst));
        let generation = v.core.s.config_generation as u8;
        let (status, features_sel, driver_sel) =
            (v.core.s.status, v.core.s.device_features_sel, v.core.s.driver_features_sel);
        match at {
            common::FEATURES_SEL => features_sel,
            0x04 => read_register(&mut v, reg::DEVICE_FEATURES),
            common::DRIVER_SEL => driver_sel,
            common::DRIVER_FEATURES => half(v.core.s.driver_features, driver_sel),
            common::CONFIG_VECTOR => pair(self.vectors.config.load(SeqCst), queues),
            common::STATUS => pair(u16::from(status) | u16::from(generation) << 8, sel),
            common::QUEUE_SIZE => pair(v.core.selected().map_or(0, |q| q.num), vector),
            // Of the notification offset nothing depends: the multiplier is 0.
            common::QUEUE_ENABLE => v.core.selected().map_or(0, |q| q.ready.into()),
            common::QUEUE_ADDRESSES..common::LENGTH => {
                let which = (at - common::QUEUE_ADDRESSES) / 8;
                let address = v.core.selected().map_or(0, |q| match which {
                    0 => q.desc,
                    1 => q.avail,
                    _ => q.used,
                });
                half(address, u32::from(at & 4 != 0))
            }
            _ => 0,
        }
    }

    fn write_common(&self, at: u64, size: u8, value: u32) {
        let mut v = lock(&self.virtio);
        let register = match (at, size) {
            (common::FEATURES_SEL, 4) => reg::DEVICE_FEATURES_SEL,
            (common::DRIVER_SEL, 4) => reg::DRIVER_FEATURES_SEL,
            (common::DRIVER_FEATURES, 4) => reg::DRIVER_FEATURES,
            (common::STATUS, 1) => {
                if value == 0 {
                    self.vectors.forget();
                }
                reg::STATUS
            }
            (common::QUEUE_SEL, 2) => reg::QUEUE_SEL,
            (common::QUEUE_SIZE, 2) => reg::QUEUE_NUM,
            // Only a reset disables a queue (§4.1.4.3.2).
            (common::QUEUE_ENABLE, 2) if value == 1 => reg::QUEUE_READY,
            (common::QUEUE_ADDRESSES..common::LENGTH, 4) => {
                let (which, high) = ((at - common::QUEUE_ADDRESSES) / 8, at & 4);
                reg::QUEUE_DESC + (reg::QUEUE_AVAIL - reg::QUEUE_DESC) * which + high
            }
            (common::CONFIG_VECTOR, 2) => {
                return self.vectors.config.store(self.irq().vector(value as u16), SeqCst);
            }
            (common::QUEUE_VECTOR, 2) => {
                let vector = self.irq().vector(value as u16);
                return self.queue_vector(&v).into_iter().for_each(|q| q.store(vector, SeqCst));
            }
            _ => return,
        };
        write_register(&mut v, register, value);
    }

    /// The interrupt status, which is read away (§4.1.4.5).
    fn take_status(&self) -> u8 {
        let mut v = lock(&self.virtio);
        let isr = std::mem::take(&mut v.core.s.isr);
        v.settle();
        isr
    }

    /// 32 bits of the function's memory.
    fn read_word(&self, at: u64) -> u32 {
        let offset = at % area::LENGTH;
        match at - offset {
            area::COMMON => self.read_common(offset),
            area::TABLE if self.msix_at.is_some() => self.irq().read_table(offset),
            area::PENDING if self.msix_at.is_some() => self.irq().read_pending(offset),
            _ => 0,
        }
    }

    fn write_word(&self, at: u64, size: u8, value: u32) {
        let offset = at % area::LENGTH;
        match at - offset {
            area::COMMON => self.write_common(offset, size, value),
            area::NOTIFY if offset == 0 => lock(&self.virtio).core.notify(value & 0xffff),
            area::TABLE if self.msix_at.is_some() && size == 4 => self.irq().write_table(offset, value),
            _ => {}
        }
    }

    /// The access that the window in configuration space describes, if it is one that there can be (§4.1.4.9).
    fn through_window(&self) -> Option<(u64, u8)> {
        let [bar, offset, length] = self.access;
        let fits =
            bar == 0 && matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length) && offset < area::SIZE;
        fits.then_some((offset.into(), length as u8))
    }
}

impl<D: Device> Function for VirtioPci<D> {
    fn read_config(&mut self, at: u8) -> u32 {
        let word = self.header.read(at, self.irq().level());
        if Some(at) == self.msix_at {
            return word & 0xffff | u32::from(self.irq().control()) << 16;
        }
        match at.wrapping_sub(self.window_at) {
            4 => word | self.access[0],
            8 => self.access[1],
            12 => self.access[2],
            16 => self.through_window().map_or(0, |(at, size)| self.read_memory(at, size) as u32),
            _ => word,
        }
    }

    fn write_config(&mut self, at: u8, mask: u32, value: u32) {
        if Some(at) == self.msix_at {
            return self.irq().set_control((mask >> 16) as u16, (value >> 16) as u16);
        }
        let put = |old: &mut u32, writable: u32| {
            *old = *old & !(mask & writable) | value & mask & writable;
        };
        match at.wrapping_sub(self.window_at) {
            4 => put(&mut self.access[0], 0xff),
            8 => put(&mut self.access[1], u32::MAX),
            12 => put(&mut self.access[2], u32::MAX),
            16 => {
                if let Some((at, size)) = self.through_window() {
                    self.write_memory(at, size, (value & mask).into());
                }
            }
            _ => self.header.write(at, mask, value),
        }
        self.settle();
    }

    fn read_memory(&mut self, offset: u64, size: u8) -> u64 {
        let mask = if size >= 8 { u64::MAX } else { (1 << (8 * u32::from(size))) - 1 };
        let value = match offset & !(area::LENGTH - 1) {
            area::STATUS if offset == area::STATUS => self.take_status().into(),
            area::DEVICE => lock(&self.virtio).read_config(offset - area::DEVICE, size),
            _ => {
                let word = |at: u64| u64::from(self.read_word(at));
                let high = if size == 8 { word((offset & !3) + 4) } else { 0 };
                (word(offset & !3) | high << 32) >> (8 * (offset & 3))
            }
        };
        value & mask
    }

    fn write_memory(&mut self, offset: u64, size: u8, value: u64) {
        if size == 8 {
            self.write_word(offset, 4, value as u32);
            self.write_word(offset + 4, 4, (value >> 32) as u32);
        } else {
            self.write_word(offset, size, value as u32);
        }
    }
}

impl<D: Device> Stateful for VirtioPci<D> {
    type State = PciState;

    fn state(&self) -> PciState {
        PciState {
            header: self.header.s.clone(),
            msix: self.irq().state(),
            config_vector: self.vectors.config.load(SeqCst),
            queue_vectors: self.vectors.queues.iter().map(|q| q.load(SeqCst)).collect(),
            access: self.access,
        }
    }

    fn reset_state(&self) -> PciState {
        PciState {
            header: Header::fresh(),
            msix: self.irq().fresh(),
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; self.vectors.queues.len()],
            access: [0; 3],
        }
    }

    fn check(&self, s: &PciState) -> Result<(), StateError> {
        let bad = |why: String| Err(StateError::Invalid { id: "virtio-pci".into(), why });
        if !self.header.accepts(&s.header) {
            return bad(format!("command {:#x}, BAR {:#x}", s.header.command, s.header.bar));
        }
        if !self.irq().accepts(&s.msix, D::QUEUES_ONCE + 1) {
            return bad(format!("{} messages, control {:#x}", s.msix.table.len(), s.msix.control));
        }
        // An older build's device had fewer.
        if !(D::QUEUES_ONCE..=D::QUEUES.len()).contains(&s.queue_vectors.len()) {
            return bad(format!(
                "{} queues where a {} has {}",
                s.queue_vectors.len(),
                D::NAME,
                D::QUEUES.len()
            ));
        }
        let vectors = s.queue_vectors.iter().chain([&s.config_vector]);
        match vectors.into_iter().find(|v| self.irq().vector(**v) != **v) {
            Some(vector) => bad(format!("there is no vector {vector}")),
            None if s.access[0] > 0xff => bad(format!("there is no BAR {}", s.access[0])),
            None => Ok(()),
        }
    }

    fn set_state(&mut self, s: PciState) {
        let PciState { header, msix, config_vector, queue_vectors, access } = s;
        (self.header.s, self.access) = (header, access);
        self.vectors.config.store(config_vector, SeqCst);
        let queue_vectors = queue_vectors.into_iter().chain(std::iter::repeat(NO_VECTOR));
        self.vectors.queues.iter().zip(queue_vectors).for_each(|(to, from)| to.store(from, SeqCst));
        self.irq().set_state(msix);
    }

    fn settle(&mut self) {
        self.home.set(self.header.base());
        self.irq().set_no_pin(self.header.no_pin());
    }
}
