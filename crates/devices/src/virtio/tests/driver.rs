//! A driver for tests: rings in guest memory, registers through `Mmio`, one worker turned by hand.

use crate::virtio::{Built, Device, Doorbell, Virtio, Wiring, status};
use crate::{Mmio, Shared, Worker};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use strata_engine::{IrqLine, IrqSink};
use strata_memory::{GuestRam, PAGE, Presence};

pub const RAM: u64 = 0x8000_0000;
pub const RAM_SIZE: u64 = 2 << 20;
/// Queue `q` has its three areas in pages of their own from here + `q` * 0x10000.
const RINGS: u64 = RAM;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x8000;
const HEAP: u64 = RAM + 0x8_0000;

pub const EVENT_IDX: u64 = 1 << 29;
pub const INDIRECT: u64 = 1 << 28;
pub const VERSION_1: u64 = 1 << 32;

#[derive(Default)]
pub struct Wire {
    pub level: AtomicBool,
    pub edges: AtomicU32,
}

impl IrqSink for Wire {
    fn set_line(&self, _line: u32, level: bool) {
        if !self.level.swap(level, SeqCst) && level {
            self.edges.fetch_add(1, SeqCst);
        }
    }
}

pub fn ram() -> GuestRam {
    GuestRam::single(RAM, RAM_SIZE).unwrap()
}

pub fn wiring(ram: &GuestRam) -> (Wiring, Arc<Wire>) {
    let wire = Arc::new(Wire::default());
    (Wiring { ram: ram.clone(), irq: IrqLine::new(wire.clone(), 0), messages: None }, wire)
}

#[derive(Clone, Copy)]
pub struct Queue {
    pub num: u16,
    next_desc: u16,
    pub avail_idx: u16,
    pub last_used: u16,
}

pub struct Driver<D: Device> {
    pub ram: GuestRam,
    pub dev: Shared<dyn Mmio>,
    pub virtio: Shared<Virtio<D>>,
    pub worker: Box<dyn Worker>,
    pub doorbell: Doorbell,
    pub wire: Arc<Wire>,
    pub queues: Vec<Queue>,
    pub features: u64,
    heap: u64,
}

/// A buffer for a descriptor: address, length, and whether the device writes it.
pub type Buf = (u64, u32, bool);

impl<D: Device> Driver<D> {
    pub fn new(make: impl FnOnce(Wiring) -> std::io::Result<Built<D>>) -> Driver<D> {
        Driver::on(ram(), make)
    }

    pub fn on(ram: GuestRam, make: impl FnOnce(Wiring) -> std::io::Result<Built<D>>) -> Driver<D> {
        let (wiring, wire) = wiring(&ram);
        let built = make(wiring).unwrap();
        let device = built.device.clone();
        Driver::of(ram, device, built, wire)
    }

    /// Of a device whose registers are `device`.
    pub fn of(ram: GuestRam, device: Shared<dyn Mmio>, built: Built<D>, wire: Arc<Wire>) -> Driver<D> {
        let Built { virtio, worker, doorbell, .. } = built;
        Driver {
            ram,
            dev: device,
            virtio,
            worker,
            doorbell,
            wire,
            queues: Vec::new(),
            features: 0,
            heap: HEAP,
        }
    }

    /// Made and initialized with all features but those in `without`.
    pub fn ready(make: impl FnOnce(Wiring) -> std::io::Result<Built<D>>, without: u64) -> Driver<D> {
        let mut d = Driver::new(make);
        let features = d.offered() & !without;
        d.init(features, 16);
        d
    }

    pub fn r(&self, offset: u64) -> u32 {
        self.dev.lock().unwrap().read(offset, 4) as u32
    }
    pub fn w(&self, offset: u64, value: u32) {
        self.dev.lock().unwrap().write(offset, 4, value.into());
    }
    pub fn config(&self, offset: u64, size: u8) -> u64 {
        self.dev.lock().unwrap().read(0x100 + offset, size)
    }

    pub fn offered(&self) -> u64 {
        self.w(0x14, 0);
        let low = self.r(0x10);
        self.w(0x14, 1);
        u64::from(low) | u64::from(self.r(0x10)) << 32
    }

    pub fn negotiate(&mut self, features: u64) {
        self.w(0x70, 0);
        self.w(0x70, 1);
        self.w(0x70, 3);
        self.w(0x24, 0);
        self.w(0x20, features as u32);
        self.w(0x24, 1);
        self.w(0x20, (features >> 32) as u32);
        self.w(0x70, 11);
        self.features = features;
    }

    pub fn place_queue(&mut self, q: u16, num: u16) {
        let base = self.base(q);
        self.w(0x30, q.into());
        self.w(0x38, num.into());
        for (reg, gpa) in [(0x80, base), (0x90, base + AVAIL), (0xa0, base + USED)] {
            self.w(reg, gpa as u32);
            self.w(reg + 4, (gpa >> 32) as u32);
        }
    }

    pub fn init(&mut self, features: u64, num: u16) {
        self.negotiate(features);
        assert_eq!(self.r(0x70), 11, "FEATURES_OK");
        self.queues.clear();
        for q in 0..D::QUEUES.len() as u16 {
            self.ram.load(self.base(q), &vec![0; 0x1_0000]).unwrap();
            self.place_queue(q, num);
            assert_eq!(self.r(0x44), 0);
            self.w(0x44, 1);
            assert_eq!(self.r(0x44), 1);
            self.queues.push(Queue { num, next_desc: 0, avail_idx: 0, last_used: 0 });
        }
        self.w(0x70, 15);
        assert_eq!(self.r(0x70), 15);
    }

    pub fn base(&self, q: u16) -> u64 {
        RINGS + u64::from(q) * 0x1_0000
    }
    pub fn avail(&self, q: u16) -> u64 {
        self.base(q) + AVAIL
    }
    pub fn used_ring(&self, q: u16) -> u64 {
        self.base(q) + USED
    }

    /// Memory of `len` bytes for a buffer, from a page of its own.
    pub fn buffer(&mut self, bytes: &[u8]) -> u64 {
        let at = self.heap;
        self.heap += (bytes.len() as u64).next_multiple_of(PAGE).max(PAGE);
        assert!(self.heap <= RAM + RAM_SIZE);
        self.ram.load(at, bytes).unwrap();
        at
    }

    /// Memory of `len` bytes that the device has not written.
    pub fn room(&mut self, len: usize) -> u64 {
        self.buffer(&vec![0xee; len])
    }

    pub fn bytes(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut b = vec![0; len];
        self.ram.peek(gpa, &mut b).unwrap();
        b
    }
    pub fn u16(&self, gpa: u64) -> u16 {
        u16::from_le_bytes(self.bytes(gpa, 2).try_into().unwrap())
    }
    pub fn u32(&self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.bytes(gpa, 4).try_into().unwrap())
    }

    pub fn desc(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut d = addr.to_le_bytes().to_vec();
        d.extend(len.to_le_bytes());
        d.extend(flags.to_le_bytes());
        d.extend(next.to_le_bytes());
        self.ram.load(table + 16 * u64::from(index), &d).unwrap();
    }

    /// Puts `head` into the available ring.
    pub fn offer(&mut self, q: u16, head: u16) {
        let avail = self.avail(q);
        let queue = &mut self.queues[usize::from(q)];
        let slot = u64::from(queue.avail_idx % queue.num);
        queue.avail_idx = queue.avail_idx.wrapping_add(1);
        let idx = queue.avail_idx;
        self.ram.load(avail + 4 + 2 * slot, &head.to_le_bytes()).unwrap();
        self.ram.load(avail + 2, &idx.to_le_bytes()).unwrap();
    }

    /// Lays a chain into consecutive descriptors and offers it; gives its head.
    pub fn add(&mut self, q: u16, bufs: &[Buf]) -> u16 {
        let table = self.base(q);
        let Queue { num, next_desc, .. } = self.queues[usize::from(q)];
        let at = |i: usize| (next_desc + i as u16) % num;
        for (i, &(addr, len, write)) in bufs.iter().enumerate() {
            let more = i + 1 < bufs.len();
            self.desc(table, at(i), addr, len, u16::from(more) | u16::from(write) << 1, at(i + 1));
        }
        self.queues[usize::from(q)].next_desc = at(bufs.len());
        self.offer(q, next_desc);
        next_desc
    }

    /// The same through an indirect table.
    pub fn add_indirect(&mut self, q: u16, bufs: &[Buf]) -> u16 {
        let table = self.room(16 * bufs.len());
        for (i, &(addr, len, write)) in bufs.iter().enumerate() {
            let more = i + 1 < bufs.len();
            self.desc(table, i as u16, addr, len, u16::from(more) | u16::from(write) << 1, i as u16 + 1);
        }
        let Queue { num, next_desc, .. } = self.queues[usize::from(q)];
        self.desc(self.base(q), next_desc, table, 16 * bufs.len() as u32, 4, 0);
        self.queues[usize::from(q)].next_desc = (next_desc + 1) % num;
        self.offer(q, next_desc);
        next_desc
    }

    pub fn kick(&self, q: u16) {
        self.w(0x50, q.into());
    }

    /// Turns the worker until it has no more to do at once.
    pub fn turn(&mut self) {
        for _ in 0..10_000 {
            if self.worker.turn() != Some(Duration::ZERO) {
                return;
            }
        }
        panic!("the worker never comes to rest");
    }

    pub fn used(&mut self, q: u16) -> Option<(u16, u32)> {
        let ring = self.used_ring(q);
        let Queue { num, last_used, .. } = self.queues[usize::from(q)];
        if self.u16(ring + 2) == last_used {
            return None;
        }
        self.queues[usize::from(q)].last_used = last_used.wrapping_add(1);
        // The event that brings the next interrupt (§2.7.10); harmless where the feature is not in use.
        let event = self.avail(q) + 4 + 2 * u64::from(num);
        self.ram.load(event, &last_used.wrapping_add(1).to_le_bytes()).unwrap();
        let at = ring + 4 + 8 * u64::from(last_used % num);
        Some((self.u32(at) as u16, self.u32(at + 4)))
    }

    /// Adds, kicks, turns; gives the written length.
    pub fn request(&mut self, q: u16, bufs: &[Buf]) -> u32 {
        let head = self.add(q, bufs);
        self.kick(q);
        self.turn();
        let (id, len) = self.used(q).expect("a completion");
        assert_eq!(id, head);
        len
    }

    pub fn needs_reset(&self) -> bool {
        self.r(0x70) as u8 & status::NEEDS_RESET != 0
    }

    pub fn set_presence(&self, gpa: u64, to: Presence) {
        set_presence(&self.ram, gpa, to);
    }
}

pub fn set_presence(ram: &GuestRam, gpa: u64, to: Presence) {
    ram.regions()[0].pages().set_presence(((gpa - RAM) / PAGE) as usize, to);
}
