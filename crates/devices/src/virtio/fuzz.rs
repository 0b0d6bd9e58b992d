//! Fuzz targets: plain functions over bytes, for any fuzzer and for the tests.

use super::blk::Blk;
use super::console::Console;
use super::net::Net;
use super::rng::Rng;
use super::virtqueue::{Popped, QueueState, RingFeatures};
use super::{Built, Device, PciPlace, VirtioPci, Wiring, blk, console, net, rng};
use crate::pci::{Ecam, Window};
use crate::{Mmio, Shared, Wake, Worker};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strata_block::MemDisk;
use strata_engine::{Bus, IrqLine, MsiSink, SeededEntropy};
use strata_memory::{GuestRam, PAGE, Presence};
use strata_net::NetBackend;
use strata_state::{Part, laws};

const RAM: u64 = 0x8000_0000;
const RAM_SIZE: u64 = 0x1_0000;
/// Where `fuzz_mmio_device` puts the rings of queue `q`: 0x1000 bytes each, table, available ring, used ring.
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;

/// Takes chains from a queue whose memory is `data`, reads and writes them whole, and completes them.
///
/// # Panics
/// When a chain breaks what it promises: that is the finding.
pub fn fuzz_virtqueue(data: &[u8]) {
    let Some((&[size, flags, desc, avail, used, absent, a, b], memory)) = data.split_first_chunk() else {
        return;
    };
    let Ok(ram) = GuestRam::single(RAM, RAM_SIZE) else { return };
    if ram.load(RAM, memory.get(..RAM_SIZE as usize).unwrap_or(memory)).is_err() {
        return;
    }
    let features = RingFeatures { event_idx: flags & 1 != 0, indirect: flags & 2 != 0 };
    let mut q = QueueState::new(1 << (size % 9));
    q.desc = RAM + 16 * u64::from(desc);
    q.avail = RAM + 2 * u64::from(avail);
    q.used = RAM + 0x8000 + 4 * u64::from(used);
    q.next_avail = u16::from_le_bytes([a, b]);
    if q.check(256, &ram).is_err() {
        return;
    }
    if flags & 4 != 0
        && let Some(r) = ram.regions().first()
    {
        r.pages().set_presence(usize::from(absent % 16), Presence::Absent);
    }
    let (mut spare, mut bytes) = (Vec::new(), vec![0; 0x1000]);
    for round in 0..32u8 {
        let before = q.clone();
        match q.pop(&ram, features, &mut spare) {
            Ok(Popped::Chain(chain)) => {
                assert!(chain.head() < q.num, "head {} in a queue of {}", chain.head(), q.num);
                let (mut reader, mut read) = (chain.reader(), 0);
                loop {
                    match reader.read(&mut bytes) {
                        0 => break,
                        n => read += n as u64,
                    }
                }
                assert_eq!(read, chain.readable_len());
                let filled = chain.writer().fill(u64::MAX, &mut bytes, |b| b.fill(round));
                assert_eq!(filled, chain.writable_len());
                let head = chain.head();
                chain.recycle(&mut spare);
                if q.publish(&ram, features, std::iter::once((head, filled as u32))).is_err() {
                    return;
                }
            }
            Ok(Popped::Wait) => {
                assert_eq!(q, before, "a parked queue moves nothing");
                let Some(r) = ram.regions().first() else { return };
                r.pages().set_presence(usize::from(absent % 16), Presence::Private);
            }
            Ok(Popped::Empty) | Err(_) => return,
        }
    }
}

/// A network on which every frame comes back.
struct Echo(VecDeque<Vec<u8>>, Wake);

impl NetBackend for Echo {
    fn send(&mut self, frame: &[u8]) {
        if self.0.len() < 16 {
            self.0.push_back(frame.to_vec());
        }
    }
    fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        let frame = self.0.pop_front()?;
        buf.iter_mut().zip(&frame).for_each(|(to, from)| *to = *from);
        Some(frame.len())
    }
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }
    fn poll(&mut self, _now: Instant) -> Option<Duration> {
        None
    }
}

/// Where a device is put, and what comes of that.
trait Put {
    type Made;
    fn wiring<D: Device>(&mut self) -> Wiring;
    fn put<D: Device>(self, built: Built<D>) -> Self::Made;
}

/// Makes a device of one of the kinds and puts it somewhere.
fn make<P: Put>(kind: u8, mut place: P) -> std::io::Result<P::Made> {
    Ok(match kind % 4 {
        0 => {
            let wiring = place.wiring::<Blk>();
            place.put(blk(wiring, Box::new(MemDisk::new(0x4000)), "fuzz")?)
        }
        1 => {
            let wiring = place.wiring::<Net>();
            place.put(net(wiring, Box::new(Echo(VecDeque::new(), Wake::new()?)), [2, 0, 0, 0, 0, 1])?)
        }
        2 => {
            let wiring = place.wiring::<Rng>();
            place.put(rng(wiring, Box::new(SeededEntropy(3)))?)
        }
        _ => {
            let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
            let ((input, keyboard), (_, output)) = (pipe()?, pipe()?);
            rustix::io::write(&keyboard, b"typed")?;
            let wiring = place.wiring::<Console>();
            place.put(console(wiring, input, output)?)
        }
    })
}

/// Behind MMIO registers.
struct OnMmio(GuestRam);

impl Put for OnMmio {
    type Made = (Shared<dyn Mmio>, Box<dyn Worker>);
    fn wiring<D: Device>(&mut self) -> Wiring {
        Wiring { ram: self.0.clone(), irq: IrqLine::unconnected(), messages: None }
    }
    fn put<D: Device>(self, built: Built<D>) -> Self::Made {
        (built.device, built.worker)
    }
}

/// Takes messages, which no fuzzer looks at.
struct Lost;

impl MsiSink for Lost {
    fn send(&self, _address: u64, _data: u32) {}
}

/// On a PCI bus, as device 1.
struct OnPci(GuestRam, bool, Option<PciPlace>);

/// Configuration space, the window, both parts of the device, its worker.
type OnBus = (Ecam, Window, [Shared<dyn Part>; 2], Box<dyn Worker>);

impl Put for OnPci {
    type Made = Option<OnBus>;
    fn wiring<D: Device>(&mut self) -> Wiring {
        let sink = self.1.then(|| Arc::new(Lost) as Arc<dyn MsiSink>);
        let place = PciPlace::new::<D>(IrqLine::unconnected(), sink, WINDOW..WINDOW + 0x10_0000);
        let wiring = place.wiring(self.0.clone());
        self.2 = Some(place);
        wiring
    }
    fn put<D: Device>(self, built: Built<D>) -> Self::Made {
        let function = Arc::new(Mutex::new(VirtioPci::new(&built.virtio, self.2?)));
        let (mut ecam, mut window) = (Ecam::default(), Window::default());
        window.add(super::core::lock(&function).home(), function.clone());
        ecam.add(1, function.clone());
        Some((ecam, window, [function, built.virtio], built.worker))
    }
}

/// Where functions have their memory, and configuration space of device 1.
const WINDOW: u64 = 0x4000_0000;
const DEVICE_1: u64 = 1 << 15;

/// What a driver writes to make something available in queue `y & 1`: the entry `x` of its ring, and its index.
fn available([x, y, z]: [u8; 3], index: u8) -> [(u64, [u8; 2]); 2] {
    let avail = RAM + 0x1000 * u64::from(y & 1) + AVAIL;
    [(avail + 4 + 2 * u64::from(x & 15), [z & 15, 0]), (avail + 2, [index, 0])]
}

/// Where a descriptor of queue `y & 1` is, and what it is: a buffer by its number and length, index, flags and next from `x`
/// and `z`.
fn descriptor([x, y, z]: [u8; 3], buffer: u8, len: u32) -> (u64, Vec<u8>) {
    let mut d = (RAM + 0x4000 + 0x40 * u64::from(buffer)).to_le_bytes().to_vec();
    d.extend(len.to_le_bytes());
    d.extend([z & 7, 0, z >> 3, 0]);
    (RAM + 0x1000 * u64::from(y & 1) + 16 * u64::from(x & 15), d)
}

/// Registers, in the order in which a driver writes them to bring queue `q` up with `features`.
fn bring_up(features: u64, q: u64) -> Vec<(u64, u64)> {
    let base = RAM + 0x1000 * q;
    let mut writes =
        vec![(0x70, 3), (0x24, 0), (0x20, features), (0x24, 1), (0x20, features >> 32), (0x70, 11)];
    writes.extend([(0x30, q), (0x38, 16), (0x80, base), (0x90, base + AVAIL), (0xa0, base + USED)]);
    writes.extend([(0x44, 1), (0x70, 15)]);
    writes
}

/// Drives one device through `data`: the first byte chooses it, then eight bytes a step are a register access, a
/// write to guest memory, a turn of the worker, a page that goes or comes, or a save and load. Ends with the laws of
/// parts.
///
/// # Panics
/// When a device breaks a law: that is the finding.
pub fn fuzz_mmio_device(data: &[u8]) {
    let Some((&kind, steps)) = data.split_first() else { return };
    let Ok(ram) = GuestRam::single(RAM, RAM_SIZE) else { return };
    // A host without a descriptor is no finding.
    let Ok((device, mut worker)) = make(kind, OnMmio(ram.clone())) else { return };
    let mut device = super::core::lock(&device);
    let dev = &mut *device;
    let mut offered = 0;
    for sel in [1, 0] {
        dev.write(0x14, 4, sel);
        offered = offered << 32 | dev.read(0x10, 4);
    }
    for step in steps.as_chunks::<8>().0 {
        let [what, x, y, z, v @ ..] = *step;
        let value = u64::from(u32::from_le_bytes(v));
        let near = RAM + (value & 0xfff8);
        let poke = |gpa: u64, bytes: &[u8]| drop(ram.load(gpa, bytes));
        match what % 12 {
            0 => dev.write(u64::from(x) & 0xfc, 4, value),
            1 => dev.write(u64::from(x) | u64::from(y & 1) << 8, 1 << (z & 3), near),
            2 => {
                let size = 1 << (z & 3);
                let got = dev.read(u64::from(x) | u64::from(y & 1) << 8, size);
                assert!(size == 8 || got >> (8 * size) == 0, "a read of {size} bytes gives {got:#x}");
            }
            3 => bring_up(offered & !(u64::from(x) << 24), u64::from(y & 1))
                .into_iter()
                .for_each(|(reg, v)| dev.write(reg, 4, v)),
            // A descriptor of queue `y & 1`: index, flags and next from `x` and `z`.
            4 | 5 => {
                let [v0, v1, v2, _] = v;
                let len = u32::from(v1) * if v2 & 1 == 0 { 1 } else { 16 };
                let (at, bytes) = descriptor([x, y, z], v0, len);
                poke(at, &bytes);
            }
            // An entry of the available ring, and its index.
            6 => {
                for (at, bytes) in available([x, y, z], v[0]) {
                    poke(at, &bytes);
                }
            }
            7 => poke(near, step),
            8 => {
                dev.write(0x50, 4, u64::from(x & 3));
                // The worker locks the device behind its registers, never the registers.
                let _ = worker.turn();
            }
            9 => {
                let to = if z & 1 == 0 { Presence::Private } else { Presence::Absent };
                if let Some(r) = ram.regions().first() {
                    r.pages().set_presence(usize::from(x) % (RAM_SIZE / PAGE) as usize, to);
                }
            }
            10 => {
                let saved = dev.save();
                assert_eq!(dev.load(&saved), Ok(()), "what was saved loads");
            }
            _ => {
                let mut saved = dev.save();
                let at = usize::from(u16::from_le_bytes([x, y])) % saved.len().max(1);
                if let Some(b) = saved.get_mut(at) {
                    *b ^= z;
                }
                let _ = dev.load(&saved);
            }
        }
    }
    let _ = worker.turn();
    if let Err(law) = laws::check(dev) {
        panic!("{law}");
    }
}

/// Common configuration, in the order in which a driver writes it to bring queue `q` up: offset, width, value.
fn bring_up_on_pci(features: u64, q: u64) -> Vec<(u64, u8, u64)> {
    let base = RAM + 0x1000 * q;
    let mut writes = vec![(0x14, 1, 3), (8, 4, 0), (0xc, 4, features), (8, 4, 1), (0xc, 4, features >> 32)];
    writes.extend([(0x14, 1, 11), (0x10, 2, 0), (0x16, 2, q), (0x18, 2, 16), (0x1a, 2, q + 1)]);
    writes.extend([(0x20, 4, base), (0x28, 4, base + AVAIL), (0x30, 4, base + USED), (0x1c, 2, 1)]);
    writes.extend([(0x14, 1, 15)]);
    writes
}

/// Drives one device on a PCI bus through `data`: the first byte chooses it and how it interrupts, then eight bytes a step
/// are an access to configuration space or to the window, a write to guest memory, a turn of the worker, or a save and
/// load of either of its parts. Ends with the laws of parts.
///
/// # Panics
/// When a device breaks a law: that is the finding.
pub fn fuzz_pci_device(data: &[u8]) {
    let Some((&kind, steps)) = data.split_first() else { return };
    let Ok(ram) = GuestRam::single(RAM, RAM_SIZE) else { return };
    // A host without a descriptor is no finding.
    let Ok(Some((mut ecam, window, parts, mut worker))) = make(kind, OnPci(ram.clone(), kind & 4 != 0, None))
    else {
        return;
    };
    ecam.write(DEVICE_1 + 0x10, 4, WINDOW);
    ecam.write(DEVICE_1 + 4, 2, 6);
    let poke = |gpa: u64, bytes: &[u8]| drop(ram.load(gpa, bytes));
    let put = |at: u64, size: u8, value: u64| {
        let written = window.write(WINDOW + at, size, value);
        assert_eq!(written, Ok(()), "what nobody takes is lost");
    };
    for step in steps.as_chunks::<8>().0 {
        let [what, x, y, z, v @ ..] = *step;
        let (value, size) = (u64::from(u32::from_le_bytes(v)), 1_u8 << (z & 3));
        let place = u64::from(u16::from_le_bytes([x, y]) & 0x7fff);
        // Mostly in the first bytes of an area.
        let register = (place & 0x7000 | place & 0x7f) & !(u64::from(size) - 1);
        let part = |n: u8| super::core::lock(&parts[usize::from(n & 1)]);
        match what % 12 {
            0 => ecam.write(DEVICE_1 | u64::from(x) & !(u64::from(size.min(4)) - 1), size.min(4), value),
            1 => {
                let (at, size) = (u64::from(x) | u64::from(y) << 12, size.min(4));
                let got = ecam.read(at & !(u64::from(size) - 1), size);
                assert!(got >> (8 * size) == 0, "a read of {size} bytes gives {got:#x}");
            }
            2 => {
                let got = window.read(WINDOW + register, size).unwrap_or(u64::MAX);
                assert!(size == 8 || got >> (8 * size) == 0, "a read of {size} bytes gives {got:#x}");
            }
            3 => put(register, size, value | u64::from(x) << 32),
            4 => bring_up_on_pci(3 << 28 | 1 << 32, u64::from(y & 1))
                .into_iter()
                .for_each(|(at, size, v)| put(at, size, v)),
            // A descriptor of queue `y & 1`, the available ring, and its index.
            5 => {
                let (at, bytes) = descriptor([x, y, z], v[0], v[1].into());
                poke(at, &bytes);
            }
            6 => {
                for (at, bytes) in available([x, y, z], v[0]) {
                    poke(at, &bytes);
                }
            }
            7 => {
                put(0x3000, 2, u64::from(x & 3));
                let _ = worker.turn();
            }
            8 => {
                // Messages on, row `x` of the table open.
                ecam.write(DEVICE_1 + u64::from(y & 0xfc), 4, value);
                put(0x4000 + 16 * u64::from(x & 3) + 12, 4, u64::from(z & 1));
            }
            9 => {
                let saved = part(x).save();
                assert_eq!(part(x).load(&saved), Ok(()), "what was saved loads");
            }
            10 => {
                let mut saved = part(z).save();
                let at = usize::from(u16::from_le_bytes([x, y])) % saved.len().max(1);
                if let Some(b) = saved.get_mut(at) {
                    *b ^= v[0];
                }
                let _ = part(z).load(&saved);
            }
            _ => part(x).reset(),
        }
    }
    let _ = worker.turn();
    for part in &parts {
        if let Err(law) = laws::check(&mut *super::core::lock(part)) {
            panic!("{law}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_engine::{Entropy, SeededEntropy};

    fn run(target: fn(&[u8]), name: &str, rounds: usize, longest: usize) {
        let dir = format!("{}/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
        let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path()).collect();
        assert!(!files.is_empty());
        let mut random = SeededEntropy(name.len() as u64);
        for f in files {
            let seed = std::fs::read(f).unwrap();
            target(&seed);
            // A few changed bytes lead off the paths that a seed already walks.
            for _ in 0..rounds / 8 {
                let mut data = seed.clone();
                for _ in 0..3 {
                    let mut r = [0; 3];
                    random.fill(&mut r);
                    let at = usize::from(u16::from_le_bytes([r[0], r[1]])) % data.len();
                    data[at] = r[2];
                }
                target(&data);
            }
        }
        for round in 0..rounds {
            let mut data = vec![0; round % longest];
            random.fill(&mut data);
            target(&data);
        }
    }

    #[test]
    fn the_corpus_and_random_queues_break_nothing() {
        run(fuzz_virtqueue, "virtqueue", 3000, 1200);
    }

    #[test]
    fn the_corpus_and_random_drivers_on_pci_break_nothing() {
        run(fuzz_pci_device, "pci_device", 3000, 800);
    }

    #[test]
    fn the_corpus_and_random_drivers_break_nothing() {
        run(fuzz_mmio_device, "mmio_device", 3000, 800);
    }
}
