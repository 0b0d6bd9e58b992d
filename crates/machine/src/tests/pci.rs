//! Machines with virtio on a PCI bus, through the buses that a guest uses.

use super::guest::*;
use super::parts::laws;
use crate::{Machine, MachineSpec, Transport};
use strata_board::{PartId, RiscvVirt};
use strata_engine::Bus;

/// A machine whose program does nothing.
pub(super) fn on_pci(deterministic: bool) -> (Machine, Console) {
    let mut a = Asm::default();
    a.jump(0);
    let spec = MachineSpec { transport: Transport::Pci, deterministic, ..spec(2) };
    machine_of(&spec, None, kernel_placement(&a.image()))
}

/// A guest's view of the bus.
pub(super) struct Pci<'a> {
    pub bus: &'a dyn Bus,
    pub ecam: u64,
    pub window: u64,
}

impl Pci<'_> {
    pub fn config(&self, device: u64, at: u64, size: u8) -> u64 {
        self.bus.read(self.ecam + (device << 15) + at, size).unwrap()
    }
    pub fn set_config(&self, device: u64, at: u64, size: u8, value: u64) {
        self.bus.write(self.ecam + (device << 15) + at, size, value).unwrap();
    }
    /// Gives `device` a place in the window, by its number; gives that.
    pub fn place(&self, device: u64) -> u64 {
        let bar = self.window + device * 0x1_0000;
        self.set_config(device, 0x10, 4, bar);
        self.set_config(device, 4, 2, 6);
        bar
    }
    /// Writes to the common configuration of the device at `bar`: place, width, value.
    pub fn common(&self, bar: u64, writes: &[(u64, u8, u64)]) {
        writes.iter().for_each(|(at, size, value)| self.bus.write(bar + at, *size, *value).unwrap());
    }
}

fn view(m: &Machine) -> Pci<'_> {
    let base = |part| RiscvVirt::place(part, 0).unwrap().base;
    Pci { bus: &*m.bus, ecam: base(PartId::PcieEcam), window: base(PartId::PcieMmio) }
}

/// Brings the entropy source of slot 7 up with a queue of four, whose one buffer is 16 bytes long, and offers it. The rings
/// lie from `at` on.
pub(super) fn ask_for_random(m: &Machine, pci: &Pci<'_>, at: u64, vector: Option<u64>) -> u64 {
    let bar = pci.place(8);
    let vectors = vector.map(|v| (0x1a, 2, v));
    let writes = [
        (0x14, 1, 3),
        (8, 4, 1),
        (0xc, 4, 1),
        (0x14, 1, 11),
        (0x16, 2, 0),
        (0x18, 2, 4),
        (0x20, 4, at),
        (0x28, 4, at + 0x100),
        (0x30, 4, at + 0x200),
        (0x1c, 2, 1),
    ];
    pci.common(bar, &writes);
    vectors.iter().for_each(|w| pci.common(bar, &[*w]));
    pci.common(bar, &[(0x14, 1, 15)]);
    let mut descriptor = (at + 0x300).to_le_bytes().to_vec();
    descriptor.extend([16, 0, 0, 0, 2, 0, 0, 0]);
    m.ram().load(at, &descriptor).unwrap();
    m.ram().load(at + 0x104, &[0, 0]).unwrap();
    m.ram().load(at + 0x102, &[1, 0]).unwrap();
    bar
}

#[test]
fn each_slot_is_the_device_after_it() {
    let (m, _console) = on_pci(false);
    let pci = view(&m);
    let ids: Vec<_> = (0..10).map(|device| pci.config(device, 0, 4)).collect();
    let none = u64::from(u32::MAX);
    let [disk, net, rng] = [0x1042_1af4, 0x1041_1af4, 0x1044_1af4];
    assert_eq!(ids, [0x0008_1b36, disk, none, none, none, none, none, net, rng, none]);
    assert!((1..9).all(|d| ids[d as usize] == none || pci.config(d, 0x3d, 1) == 1), "each has its pin");
    assert!(m.bus.read(RiscvVirt::place(PartId::VirtioMmio, 0).unwrap().base, 4).is_err(), "no slots");
    let names: Vec<_> = m.parts().iter().map(|p| p.name.as_str()).collect();
    let at = names.iter().position(|n| *n == "uart0").unwrap();
    let on_bus =
        ["pci-function0", "virtio-pci0", "pci-function6", "virtio-pci6", "pci-function7", "virtio-pci7"];
    assert_eq!(names[at + 1..at + 7], on_bus);
    assert_eq!(names[at + 7..], ["pci-bridge", "pcie-ecam"]);
}

#[test]
fn a_request_is_served_and_told_by_the_devices_wire() {
    let (m, _console) = on_pci(false);
    let pci = view(&m);
    m.start().unwrap();
    // Slot 7 is device 8, whose pin is wire 0: line 32 of the PLIC.
    let pending = || m.bus.read(RiscvVirt::place(PartId::Plic, 0).unwrap().base + 0x1004, 4).unwrap() & 1;
    let rings = RAM + 0x80_0000;
    let bar = ask_for_random(&m, &pci, rings, None);
    assert_eq!(pending(), 0);
    m.bus.write(bar + 0x3000, 2, 0).unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while word(&m, rings + 0x200) >> 16 & 0xffff != 1 || pending() == 0 {
        assert!(std::time::Instant::now() < end, "not served within 20 s");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_ne!(word(&m, rings + 0x300), 0, "no random bytes");
    m.pause().unwrap();
    let states = m.save().unwrap();
    let (other, _other_console) = on_pci(false);
    other.load(&states).unwrap();
    assert_eq!(other.save().unwrap(), states);
    let there = view(&other);
    assert_eq!(
        (there.config(8, 0x10, 4), other.bus.read(bar + 0x14, 1)),
        (bar, Ok(15)),
        "its BAR is where it was"
    );
    assert_eq!((other.bus.read(bar + 0x1000, 1), other.bus.read(bar + 0x1000, 1)), (Ok(1), Ok(0)));
}

#[test]
fn parts_keep_the_laws_and_states_of_slots_are_refused() {
    let (m, _console) = on_pci(true);
    laws(&m);
    let pci = view(&m);
    for device in [1, 7, 8] {
        let bar = pci.place(device);
        pci.common(bar, &[(0x14, 1, 3), (0x16, 2, 1), (0x10, 2, 1)]);
    }
    let before = m.save().unwrap();
    laws(&m);
    m.load(&before).unwrap();
    assert_eq!(m.save().unwrap(), before);
    let mut a = Asm::default();
    a.jump(0);
    let (slots, _slots_console) = kernel(2, &a.image());
    let e = m.load(&slots.save().unwrap()).unwrap_err().to_string();
    assert!(e.contains("virtio-mmio0"), "{e}");
}
