//! Fuzz targets: plain functions over bytes, for any fuzzer and for the tests.

use super::virtqueue::{Popped, QueueState, RingFeatures};
use super::{Built, Device, Wiring, blk, console, net, rng};
use crate::{Mmio, Shared, Wake, Worker};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use strata_block::MemDisk;
use strata_engine::{IrqLine, SeededEntropy};
use strata_memory::{GuestRam, PAGE, Presence};
use strata_net::NetBackend;
use strata_state::laws;

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

fn erase<D: Device>(built: Built<D>) -> (Shared<dyn Mmio>, Box<dyn Worker>) {
    (built.device, built.worker)
}

fn make(kind: u8, wiring: Wiring) -> std::io::Result<(Shared<dyn Mmio>, Box<dyn Worker>)> {
    Ok(match kind % 4 {
        0 => erase(blk(wiring, Box::new(MemDisk::new(0x4000)), "fuzz")?),
        1 => erase(net(wiring, Box::new(Echo(VecDeque::new(), Wake::new()?)), [2, 0, 0, 0, 0, 1])?),
        2 => erase(rng(wiring, Box::new(SeededEntropy(3)))?),
        _ => {
            let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
            let ((input, keyboard), (_, output)) = (pipe()?, pipe()?);
            rustix::io::write(&keyboard, b"typed")?;
            erase(console(wiring, input, output)?)
        }
    })
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
    let wiring = Wiring { ram: ram.clone(), irq: IrqLine::unconnected() };
    // A host without a descriptor is no finding.
    let Ok((device, mut worker)) = make(kind, wiring) else { return };
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
                let mut d = (RAM + 0x4000 + 0x40 * u64::from(v0)).to_le_bytes().to_vec();
                d.extend(u32::from(v1).saturating_mul(if v2 & 1 == 0 { 1 } else { 16 }).to_le_bytes());
                d.extend([z & 7, 0, z >> 3, 0]);
                poke(RAM + 0x1000 * u64::from(y & 1) + 16 * u64::from(x & 15), &d);
            }
            // An entry of the available ring, and its index.
            6 => {
                let avail = RAM + 0x1000 * u64::from(y & 1) + AVAIL;
                poke(avail + 4 + 2 * u64::from(x & 15), &[z & 15, 0]);
                poke(avail + 2, &[v[0], 0]);
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
    fn the_corpus_and_random_drivers_break_nothing() {
        run(fuzz_mmio_device, "mmio_device", 3000, 800);
    }
}
