//! The board `riscv-virt`: the memory map of QEMU's `virt` machine.

use crate::row::{BUILT, ROOM};
use crate::{Lines, Node, PartId, Place, Prop, Row, Transport};
use strata_devices::plic::SOURCES;

/// Most harts: the PLIC's 6 MiB have room for the registers of 1024 contexts, two a hart.
pub const MAX_HARTS: u32 = 512;
/// Slots for virtio devices.
pub const VIRTIO_SLOTS: u64 = 8;

/// Handles of the device-tree nodes that others name.
pub(crate) mod handle {
    pub const PLIC: u32 = 1;
    pub const SYSCON: u32 = 2;
    /// From here on: two a hart, the hart and its interrupt controller.
    pub const HARTS: u32 = 3;
}

/// Pins of a hart, as its interrupt controller numbers them (the bits of `mip`).
mod pin {
    pub const MACHINE_SOFTWARE: u32 = 3;
    pub const MACHINE_TIMER: u32 = 7;
    pub const SUPERVISOR_EXTERNAL: u32 = 9;
    pub const MACHINE_EXTERNAL: u32 = 11;
}

/// The table, by address, in the order of [`PartId`].
#[rustfmt::skip]
const ROWS: [Row; PartId::Ram as usize + 1] = [
    Row { part: PartId::BootRom, name: "boot-rom", base: 0x1000, size: 0xf000,
          about: "the reset vector's ROM; harts start where the machine puts them", ..ROOM },
    Row { part: PartId::Syscon, name: "syscon", base: 0x10_0000, size: 0x1000, widths: 2 + 4,
          node: Some(Node { name: "test", compatible: &["sifive,test1", "sifive,test0", "syscon"],
                            props: &[("phandle", Prop::Handle(handle::SYSCON))] }),
          root_nodes: &[
              Node { name: "poweroff", compatible: &["syscon-poweroff"],
                     props: &[("regmap", Prop::U32(handle::SYSCON)), ("offset", Prop::U32(0)),
                              ("value", Prop::U32(0x5555))] },
              Node { name: "reboot", compatible: &["syscon-reboot"],
                     props: &[("regmap", Prop::U32(handle::SYSCON)), ("offset", Prop::U32(0)),
                              ("value", Prop::U32(0x7777))] },
          ],
          about: "powers off (0x5555, or 0x3333 with a code of failure) and resets (0x7777)", ..BUILT },
    Row { part: PartId::Rtc, name: "rtc", base: 0x10_1000, size: 0x1000, lines: Lines::Each(11), widths: 4,
          node: Some(Node { name: "rtc", compatible: &["google,goldfish-rtc"], props: &[] }),
          about: "the date, with an alarm", ..BUILT },
    Row { part: PartId::VmGenId, name: "vmgenid", base: 0x10_2000, size: 0x1000, lines: Lines::Each(12),
          widths: 1 + 2 + 4 + 8,
          node: Some(Node { name: "vmgenid", compatible: &["microsoft,vmgenid"], props: &[] }),
          about: "tells a guest that it was cloned or has gone back; QEMU has nothing here", ..BUILT },
    Row { part: PartId::Clint, name: "clint", base: 0x200_0000, size: 0x1_0000, widths: 4 + 8,
          node: Some(Node { name: "clint", compatible: &["sifive,clint0", "riscv,clint0"],
                            props: &[("interrupts-extended",
                                      Prop::HartPins(&[pin::MACHINE_SOFTWARE, pin::MACHINE_TIMER]))] }),
          about: "software interrupts and timer of M mode", ..BUILT },
    Row { part: PartId::PciePio, name: "pcie-pio", base: 0x300_0000, size: 0x1_0000,
          about: "port I/O of a PCIe host bridge", ..ROOM },
    Row { part: PartId::Plic, name: "plic", base: 0xc00_0000, size: 0x60_0000, widths: 4,
          node: Some(Node { name: "plic", compatible: &["sifive,plic-1.0.0", "riscv,plic0"],
                            props: &[("phandle", Prop::Handle(handle::PLIC)),
                                     ("riscv,ndev", Prop::U32(SOURCES - 1)),
                                     ("interrupts-extended",
                                      Prop::HartPins(&[pin::MACHINE_EXTERNAL, pin::SUPERVISOR_EXTERNAL])),
                                     ("interrupt-controller", Prop::Flag),
                                     ("#interrupt-cells", Prop::U32(1)),
                                     ("#address-cells", Prop::U32(0))] }),
          about: "interrupt controller, contexts M and S of every hart", ..BUILT },
    Row { part: PartId::Uart0, name: "uart0", base: 0x1000_0000, size: 0x100, lines: Lines::Each(10),
          widths: 1 + 2 + 4 + 8,
          node: Some(Node { name: "serial", compatible: &["ns16550a"],
                            props: &[("clock-frequency", Prop::U32(3_686_400))] }),
          about: "the console", ..BUILT },
    Row { part: PartId::VirtioMmio, name: "virtio-mmio", base: 0x1000_1000, size: 0x1000, count: VIRTIO_SLOTS,
          lines: Lines::Each(1), widths: 1 + 2 + 4 + 8,
          node: Some(Node { name: "virtio_mmio", compatible: &["virtio,mmio"], props: &[] }),
          about: "slots for virtio devices; an empty one answers with device id 0", ..BUILT },
    Row { part: PartId::FwCfg, name: "fw-cfg", base: 0x1010_0000, size: 0x18,
          about: "QEMU's configuration device, which this board does without", ..ROOM },
    Row { part: PartId::Flash, name: "flash", base: 0x2000_0000, size: 0x200_0000, count: 2,
          about: "two banks of flash memory", ..ROOM },
    Row { part: PartId::PcieEcam, name: "pcie-ecam", base: 0x3000_0000, size: 0x1000_0000,
          lines: Lines::Shared { first: 32, count: 4 }, widths: 1 + 2 + 4,
          node: Some(Node { name: "pci", compatible: &["pci-host-ecam-generic"],
                            props: &[("device_type", Prop::Text("pci")),
                                     ("#address-cells", Prop::U32(3)), ("#size-cells", Prop::U32(2)),
                                     ("#interrupt-cells", Prop::U32(1)),
                                     ("linux,pci-domain", Prop::U32(0)),
                                     ("bus-range", Prop::Cells(&[0, 0xff])),
                                     ("dma-coherent", Prop::Flag),
                                     ("ranges", Prop::Window),
                                     ("interrupt-map-mask", Prop::Cells(&[0x1800, 0, 0, 7])),
                                     ("interrupt-map", Prop::PinMap)] }),
          about: "configuration space of a PCIe host bridge, where virtio devices are on PCI", ..BUILT },
    Row { part: PartId::PcieMmio, name: "pcie-mmio", base: 0x4000_0000, size: 0x4000_0000, widths: 1 + 2 + 4 + 8,
          about: "memory of PCIe devices", ..BUILT },
    Row { part: PartId::Ram, name: "ram", base: 0x8000_0000, size: 0, widths: 1 + 2 + 4 + 8,
          about: "main memory, up to the machine's size", ..BUILT },
];

/// The same, once in memory.
static TABLE: [Row; ROWS.len()] = ROWS;

/// Every part has its row where its number says, and rows stand by address without overlap.
const _: () = {
    let mut i = 0;
    while i < ROWS.len() {
        assert!(ROWS[i].part as usize == i, "a row is out of the order of PartId");
        assert!(
            i == 0 || ROWS[i - 1].base + ROWS[i - 1].count * ROWS[i - 1].size <= ROWS[i].base,
            "rows overlap"
        );
        i += 1;
    }
};

/// The board.
pub struct RiscvVirt;

impl RiscvVirt {
    /// Frequency of the `time` CSR and of MTIME, in Hz.
    pub const TIMEBASE: u32 = (1_000_000_000 / strata_devices::aclint::TICK_NS) as u32;

    /// The whole table, by address.
    pub fn rows() -> &'static [Row] {
        &TABLE
    }

    /// The row of `part`.
    pub fn row(part: PartId) -> &'static Row {
        &TABLE[part as usize]
    }

    /// First address of RAM.
    pub fn ram_base() -> u64 {
        Self::row(PartId::Ram).base
    }

    /// Where place `index` (0, or the slot of a series) of `part` is on the bus; none if there is no such place.
    pub fn place(part: PartId, index: u64) -> Option<Place> {
        let row = Self::row(part);
        let base = row.address(index)?;
        Some(Place { name: row.place_name(index), base, size: row.size, offset: 0, widths: row.widths })
    }

    /// Interrupt line of place `index` of `part`.
    pub fn line(part: PartId, index: u64) -> Option<u32> {
        Self::row(part).line(index)
    }

    /// Where HTIF's two words lie, over RAM, for a program with these symbols (8-byte aligned; `fromhost` only if it
    /// has one). The pages are to be marked as trapped in RAM. As a part it is called "htif", after all others.
    pub fn htif(tohost: u64, fromhost: Option<u64>) -> Vec<Place> {
        let word =
            |name: &str, base, offset| Place { name: name.into(), base, size: 8, offset, widths: 4 + 8 };
        let from = fromhost.map(|at| word("fromhost", at, strata_devices::htif::FROMHOST));
        [word("tohost", tohost, 0)].into_iter().chain(from).collect()
    }

    /// Names of all parts with state, in the order in which they are saved: the harts, then the devices by address.
    /// Every virtio slot has its name here, whether a device is in it or not. (Of a machine with virtio on PCI, the slots
    /// are not there; after the others come the two parts of each device, by slot, and the bridge.)
    pub fn parts_in_order(harts: u32) -> Vec<String> {
        let devices =
            TABLE.iter().filter(|r| r.built && r.part != PartId::Ram && Transport::Mmio.has(r.part));
        let places = devices.flat_map(|r| (0..r.count).map(|i| r.place_name(i)));
        (0..harts).map(|h| format!("hart{h}")).chain(places).collect()
    }
}
