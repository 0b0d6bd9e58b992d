use super::blk::{header, spy};
use super::driver::*;
use crate::pci::{Ecam, Function, Window};
use crate::virtio::blk::request;
use crate::virtio::{Built, Device, PciPlace, VirtioPci, rng};
use crate::{Mmio, Shared};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use strata_engine::{Bus, IrqLine, MsiSink, SeededEntropy};
use strata_state::{Part, Schema, StateError, laws};

const WINDOW: u64 = 0x4000_0000;
const BAR: u64 = WINDOW + 0x1_8000;
/// Configuration space of device 2.
const DEVICE: u64 = 2 << 15;

#[derive(Default)]
struct Sent(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Sent {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

/// A bus with one device on it.
struct Bench {
    ecam: Mutex<Ecam>,
    window: Window,
    function: Shared<dyn Function>,
    sent: Arc<Sent>,
}

impl Bench {
    fn config(&self, at: u64, size: u8) -> u64 {
        self.ecam.lock().unwrap().read(DEVICE + at, size)
    }
    fn set_config(&self, at: u64, size: u8, value: u64) {
        self.ecam.lock().unwrap().write(DEVICE + at, size, value);
    }
    fn r(&self, at: u64, size: u8) -> u64 {
        self.window.read(BAR + at, size).unwrap()
    }
    fn w(&self, at: u64, size: u8, value: u64) {
        self.window.write(BAR + at, size, value).unwrap();
    }
    /// Capabilities by their links: id, place.
    fn capabilities(&self) -> Vec<(u64, u64)> {
        let (mut at, mut found) = (self.config(0x34, 1), vec![]);
        while at != 0 {
            found.push((self.config(at, 1), at));
            at = self.config(at + 1, 1);
        }
        found
    }
    fn msix(&self) -> u64 {
        self.capabilities().into_iter().find(|(id, _)| *id == 0x11).unwrap().1
    }
    /// Turns messages on, with the data of row n being 0x40 + n.
    fn messages_on(&self, rows: u64) {
        self.set_config(self.msix() + 2, 2, 0x8000);
        for n in 0..rows {
            self.w(0x4000 + 16 * n, 8, 0xfee0_0000);
            self.w(0x4008 + 16 * n, 8, 0x40 + n);
        }
    }
    fn sent(&self) -> Vec<u32> {
        self.sent.0.lock().unwrap().drain(..).map(|(_, data)| data).collect()
    }
}

/// The registers of the MMIO transport where the PCI transport has them, so that the same driver drives both.
struct Translated(Arc<Bench>);

impl Mmio for Translated {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let (at, size) = match offset {
            0x10 => (4, 4),
            0x44 => (0x1c, 2),
            0x70 => (0x14, 1),
            0x100.. => (0x2000 + offset - 0x100, size),
            _ => panic!("the driver reads {offset:#x}"),
        };
        self.0.r(at, size)
    }
    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        let (at, size) = match offset {
            0x14 => (0, 4),
            0x24 => (8, 4),
            0x20 => (0xc, 4),
            0x70 => (0x14, 1),
            0x30 => (0x16, 2),
            0x38 => (0x18, 2),
            0x44 => (0x1c, 2),
            0x50 => (0x3000, 2),
            0x80 | 0x84 => (0x20 + offset - 0x80, 4),
            0x90 | 0x94 => (0x28 + offset - 0x90, 4),
            0xa0 | 0xa4 => (0x30 + offset - 0xa0, 4),
            _ => panic!("the driver writes {offset:#x}"),
        };
        self.0.w(at, size, value);
    }
}

impl Part for Translated {
    fn record_id(&self) -> &'static str {
        self.0.function.lock().unwrap().record_id()
    }
    fn save(&self) -> Vec<u8> {
        self.0.function.lock().unwrap().save()
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.0.function.lock().unwrap().load(bytes)
    }
    fn reset(&mut self) {
        self.0.function.lock().unwrap().reset();
    }
    fn describe(&self, out: &mut Schema) {
        self.0.function.lock().unwrap().describe(out);
    }
}

/// A device on a bus, its BAR set and memory on; by messages, or by its pin.
fn on_pci<D: Device>(
    messages: bool,
    make: impl FnOnce(crate::virtio::Wiring) -> std::io::Result<Built<D>>,
) -> (Driver<D>, Arc<Bench>) {
    let (ram, wire, sent) = (ram(), Arc::new(Wire::default()), Arc::new(Sent::default()));
    let sink = messages.then(|| sent.clone() as Arc<dyn MsiSink>);
    let place = PciPlace::new::<D>(IrqLine::new(wire.clone(), 0), sink, WINDOW..WINDOW + 0x10_0000);
    let built = make(place.wiring(ram.clone())).unwrap();
    let function = Arc::new(Mutex::new(VirtioPci::new(&built.virtio, place)));
    let (mut ecam, mut window) = (Ecam::default(), Window::default());
    window.add(function.lock().unwrap().home(), function.clone());
    ecam.add(2, function.clone());
    let bench = Arc::new(Bench { ecam: Mutex::new(ecam), window, function, sent });
    bench.set_config(0x10, 4, BAR);
    bench.set_config(4, 2, 6);
    let device = Arc::new(Mutex::new(Translated(bench.clone())));
    (Driver::of(ram, device, built, wire), bench)
}

fn random(w: crate::virtio::Wiring) -> std::io::Result<Built<crate::virtio::rng::Rng>> {
    rng(w, Box::new(SeededEntropy(1)))
}

#[test]
fn a_function_says_which_device_it_is_and_where_its_registers_are() {
    let disk = spy();
    let (_d, b) = on_pci(true, disk.make());
    assert_eq!((b.config(0, 4), b.config(8, 4), b.config(0x2c, 4)), (0x1042_1af4, 0x0100_0001, 0x1042_1af4));
    assert_eq!(b.config(0x3c, 4), 0, "no pin where messages are taken");
    let structures: Vec<_> = b
        .capabilities()
        .into_iter()
        .filter(|(id, _)| *id == 9)
        .map(|(_, at)| (b.config(at + 3, 1), b.config(at + 4, 1), b.config(at + 8, 4), b.config(at + 2, 1)))
        .collect();
    assert_eq!(
        structures,
        [(5, 0, 0, 20), (1, 0, 0, 16), (2, 0, 0x3000, 20), (3, 0, 0x1000, 16), (4, 0, 0x2000, 16)]
    );
    let msix = b.msix();
    assert_eq!((b.config(msix + 2, 2), b.config(msix + 4, 4), b.config(msix + 8, 4)), (1, 0x4000, 0x5000));
    b.set_config(0x10, 4, u64::from(u32::MAX));
    assert_eq!(b.config(0x10, 4), 0xffff_8000);
    let (_d, b) = on_pci(false, random);
    assert_eq!((b.config(0, 4), b.config(0x3c, 4)), (0x1044_1af4, 0x100));
    assert!(
        b.capabilities().iter().all(|(id, at)| *id == 9 && b.config(at + 3, 1) != 4),
        "nothing of its own"
    );
}

#[test]
fn the_common_configuration_reads_back_in_its_own_widths() {
    let (mut d, b) = on_pci(true, random);
    let features = d.offered();
    d.negotiate(features);
    // The reset before has put the first one back.
    assert_eq!([(0, 4), (8, 4), (0xc, 4)].map(|(at, size)| b.r(at, size)), [0, 1, 1]);
    assert_eq!([(0x12, 2), (0x14, 1), (0x16, 2), (0x18, 2)].map(|(at, size)| b.r(at, size)), [1, 11, 0, 64]);
    d.place_queue(0, 16);
    let base = d.base(0);
    assert_eq!([0x20, 0x28, 0x30].map(|at| b.r(at, 8)), [base, base + 0x4000, base + 0x8000]);
    assert_eq!((b.r(0x18, 4), b.r(0x1e, 2)), (0xffff_0010, 0));
    // No such queue.
    b.w(0x16, 2, 7);
    assert_eq!(
        [(0x18, 2), (0x1a, 2), (0x1c, 2), (0x20, 4)].map(|(at, size)| b.r(at, size)),
        [0, 0xffff, 0, 0]
    );
    b.w(0x16, 2, 0);
    // Another width, and what only reads.
    b.w(0x14, 4, 0);
    b.w(0x18, 1, 4);
    b.w(0x12, 2, 9);
    b.w(0x4, 4, 9);
    assert_eq!((b.r(0x14, 1), b.r(0x18, 2), b.r(0x12, 2)), (11, 16, 1));
    b.w(0x1c, 2, 1);
    b.w(0x1c, 2, 0);
    assert_eq!(b.r(0x1c, 2), 1, "only a reset disables a queue");
    b.w(0x14, 1, 0);
    assert_eq!((b.r(0x1c, 2), b.r(0x18, 2), b.r(0x14, 1)), (0, 64, 0));
}

#[test]
fn requests_are_told_by_the_pin_until_the_status_is_read() {
    let disk = spy();
    let (mut d, b) = on_pci(false, disk.make());
    let features = d.offered();
    d.init(features, 16);
    assert_eq!(d.config(0, 8), 64, "sectors");
    let (head, data, status) = (d.buffer(&header(request::IN, 1)), d.room(512), d.room(1));
    let level = |d: &Driver<_>| d.wire.level.load(SeqCst);
    assert_eq!(d.request(0, &[(head, 16, false), (data, 512, true), (status, 1, true)]), 513);
    assert!(level(&d) && b.config(6, 2) & 8 != 0);
    b.set_config(4, 2, 0x406);
    assert!(!level(&d), "the driver forbids it");
    b.set_config(4, 2, 6);
    assert_eq!((level(&d), b.r(0x1000, 1), b.r(0x1000, 1), level(&d)), (true, 1, 0, false));
}

#[test]
fn requests_are_told_by_the_message_that_the_driver_chose() {
    let (mut d, b) = on_pci(true, random);
    b.messages_on(2);
    assert_eq!([(0x10, 0), (0x1a, 7)].map(|(at, v)| (b.w(at, 2, v), b.r(at, 2)).1), [0, 0xffff]);
    let features = d.offered();
    d.init(features, 16);
    // `init` resets, which forgets vectors.
    assert_eq!((b.r(0x10, 2), b.r(0x1a, 2)), (0xffff, 0xffff));
    let gpa = d.room(32);
    assert_eq!(d.request(0, &[(gpa, 32, true)]), 32);
    assert_eq!(b.sent(), [0_u32; 0]);
    b.w(0x1a, 2, 1);
    b.w(0x10, 2, 0);
    assert_eq!(d.request(0, &[(gpa, 32, true)]), 32);
    assert_eq!((b.sent(), b.r(0x1000, 1)), (vec![0x41], 0));
    // The config's, when the device needs a reset.
    let avail = d.avail(0);
    d.ram.load(avail + 2, &[0, 0x40]).unwrap();
    d.kick(0);
    d.doorbell.ring();
    d.turn();
    assert!(d.needs_reset());
    assert_eq!((b.sent(), d.wire.level.load(SeqCst)), (vec![0x40], false));
}

#[test]
fn configuration_space_has_a_window_to_the_registers() {
    let (_d, b) = on_pci(true, random);
    let at = b.capabilities().into_iter().find(|(_, at)| b.config(at + 3, 1) == 5).unwrap().1;
    let look = |offset: u64, length: u64| {
        b.set_config(at + 8, 4, offset);
        b.set_config(at + 12, 4, length);
    };
    // Even while its memory does not answer.
    b.set_config(4, 2, 0);
    look(0x14, 1);
    b.set_config(at + 16, 1, 3);
    assert_eq!(b.config(at + 16, 4), 3);
    b.set_config(4, 2, 6);
    assert_eq!(b.r(0x14, 1), 3);
    for (offset, length) in [(0x14, 3), (0x15, 2), (0x8000, 4), (0x14, 0), (u64::from(u32::MAX), 1)] {
        look(offset, length);
        b.set_config(at + 16, 4, 0);
        assert_eq!(b.config(at + 16, 4), 0, "{offset:#x} {length}");
    }
    look(0x14, 1);
    b.set_config(at + 4, 1, 1);
    assert_eq!((b.config(at + 16, 4), b.r(0x14, 1)), (0, 3), "another BAR");
}

#[test]
fn a_device_goes_on_elsewhere_with_its_place_and_its_vectors() {
    let (mut d, b) = on_pci(true, random);
    let features = d.offered();
    d.init(features, 16);
    b.messages_on(2);
    b.w(0x1a, 2, 1);
    b.w(0x4000 + 16 + 12, 4, 1);
    let gpa = d.room(8);
    d.request(0, &[(gpa, 8, true)]);
    assert_eq!((b.sent(), b.r(0x5000, 4)), (vec![], 2), "it is masked");
    let saved = [b.function.lock().unwrap().save(), d.virtio.lock().unwrap().save()];

    let (e, c) = on_pci(true, random);
    c.set_config(0x10, 4, 0);
    c.function.lock().unwrap().load(&saved[0]).unwrap();
    e.virtio.lock().unwrap().load(&saved[1]).unwrap();
    assert_eq!((c.sent(), c.r(0x14, 1), c.r(0x5000, 4)), (vec![], 15, 2), "its BAR is where it was");
    c.w(0x4000 + 16 + 12, 4, 0);
    assert_eq!(c.sent(), [0x41]);

    // What does not fit is refused, and changes nothing.
    let (_f, by_pin) = on_pci(false, random);
    let before = by_pin.function.lock().unwrap().save();
    assert!(by_pin.function.lock().unwrap().load(&saved[0]).is_err(), "messages go nowhere there");
    assert_eq!(by_pin.function.lock().unwrap().save(), before);
    let disk = spy();
    let (_g, card) = on_pci(true, super::net::silent());
    assert!(card.function.lock().unwrap().load(&saved[0]).is_err(), "two queues there");
    let (_h, other) = on_pci(true, disk.make());
    assert_eq!(other.function.lock().unwrap().load(&saved[0]), Ok(()), "the place is any device's");
    assert_eq!(laws::check(&mut *b.function.lock().unwrap()), Ok(()));
    assert_eq!((b.r(0x14, 1), b.config(4, 2)), (0xff, 0), "after a reset it is nowhere");
}
