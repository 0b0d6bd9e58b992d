//! The board `x86-micro`: a PC with nothing on it that a guest of today can do without.
//!
//! Its kernel begins without firmware, finds ACPI tables (`acpi.rs`) and, where they say, a few devices. RAM begins at 0; what
//! does not fit below the devices goes on at 4 GiB.

use crate::row::{BUILT, ROOM};
use crate::{Acpi, Lines, PartId, Place, Row, Space};

/// Most vCPUs: the one-byte APIC ids of the table that lists them, of which 255 means all.
pub const MAX_VCPUS: u32 = 254;
/// Slots for virtio devices.
pub const VIRTIO_SLOTS: u64 = 8;

/// Where the rest of it begins.
const HIGH_RAM: u64 = 1 << 32;

const PORTS: Row = Row { space: Space::Ports, widths: 1, ..BUILT };
const KERNELS: Row = Row { widths: 4, ..ROOM };

/// The table: ports, then memory, each by address.
#[rustfmt::skip]
static TABLE: [Row; 11] = [
    Row { part: PartId::I8042, name: "i8042", base: 0x60, size: 5,
          about: "the reset line of a keyboard controller; no keyboard", ..PORTS },
    Row { part: PartId::Cmos, name: "cmos", base: 0x70, size: 2, lines: Lines::Each(8),
          acpi: Some(Acpi { name: "RTC_", hid: "PNP0B00", cid: None }),
          about: "the date, without alarms, and 114 bytes of memory", ..PORTS },
    Row { part: PartId::Uart0, name: "uart0", base: 0x3f8, size: 8, lines: Lines::Each(4),
          acpi: Some(Acpi { name: "COM1", hid: "PNP0501", cid: None }),
          about: "the console", ..PORTS },
    Row { part: PartId::AcpiSleep, name: "acpi-sleep", base: 0x600, size: 2,
          about: "powers off", ..PORTS },
    Row { part: PartId::VirtioMmio, name: "virtio-mmio", base: 0xd000_0000, size: 0x1000, count: VIRTIO_SLOTS,
          lines: Lines::Each(16), widths: 1 + 2 + 4 + 8,
          acpi: Some(Acpi { name: "VIO", hid: "LNRO0005", cid: None }),
          about: "slots for virtio devices; an empty one answers with device id 0", ..BUILT },
    Row { part: PartId::VmGenId, name: "vmgenid", base: 0xd010_0000, size: 0x1000, lines: Lines::Each(9),
          widths: 1 + 2 + 4 + 8,
          acpi: Some(Acpi { name: "VGEN", hid: "STRA0001", cid: Some("VM_Gen_Counter") }),
          about: "tells a guest that it was cloned or has gone back", ..BUILT },
    Row { part: PartId::PcieEcam, name: "pcie-ecam", base: 0xe000_0000, size: 0x10_0000, widths: 1 + 2 + 4,
          acpi: Some(Acpi { name: "PCI0", hid: "PNP0A08", cid: Some("PNP0A03") }),
          about: "configuration space of a PCIe host bridge with one bus, where virtio devices are on PCI", ..BUILT },
    Row { part: PartId::PcieMmio, name: "pcie-mmio", base: 0xe800_0000, size: 0x800_0000, widths: 1 + 2 + 4 + 8,
          about: "memory of PCIe devices", ..BUILT },
    Row { part: PartId::IoApic, name: "ioapic", base: 0xfec0_0000, size: 0x1000,
          about: "interrupt controller of 24 lines; the engine's", ..KERNELS },
    Row { part: PartId::LocalApic, name: "local-apic", base: 0xfee0_0000, size: 0x1000,
          about: "interrupt controller of each processor; the engine's", ..KERNELS },
    // Last, since its size is the machine's; its place is `ram_regions`.
    Row { part: PartId::Ram, name: "ram", base: 0, size: 0, widths: 1 + 2 + 4 + 8,
          about: "main memory, up to 3 GiB of it here and the rest from 4 GiB on", ..BUILT },
];

/// Lines that legacy devices have on any PC.
const LEGACY_LINES: u32 = 16;

/// The board.
pub struct X86Micro;

impl X86Micro {
    /// Where RAM ends at the latest below 4 GiB, and the devices begin.
    pub const LOW_RAM_END: u64 = 0xc000_0000;

    /// The whole table.
    pub fn rows() -> &'static [Row] {
        &TABLE
    }

    /// The row of `part`, if it is on this board.
    pub fn row(part: PartId) -> Option<&'static Row> {
        TABLE.iter().find(|r| r.part == part)
    }

    /// Where place `index` of `part` is on its bus; none if there is no such place.
    pub fn place(part: PartId, index: u64) -> Option<Place> {
        let row = Self::row(part)?;
        let base = row.address(index)?;
        Some(Place { name: row.place_name(index), base, size: row.size, offset: 0, widths: row.widths })
    }

    /// Interrupt line of place `index` of `part`: an input of the I/O APIC.
    pub fn line(part: PartId, index: u64) -> Option<u32> {
        Self::row(part)?.line(index)
    }

    /// First address and length of each region that `len` bytes of RAM make.
    pub fn ram_regions(len: u64) -> Vec<(u64, u64)> {
        let low = len.min(Self::LOW_RAM_END);
        let regions = [(0, low), (HIGH_RAM, len - low)];
        regions.into_iter().filter(|(_, len)| *len > 0).collect()
    }

    /// Whether a line is triggered by level, and stays high until the guest has served it; others are by edge, as on any PC.
    pub(crate) fn by_level(line: u32) -> bool {
        line >= LEGACY_LINES || Self::line(PartId::VmGenId, 0) == Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_do_not_overlap_and_no_line_is_given_twice() {
        let rows = X86Micro::rows();
        for (i, a) in rows.iter().enumerate() {
            for b in rows.iter().take(i).filter(|b| b.space == a.space) {
                assert!(a.base >= b.end() || b.base >= a.end(), "{} and {}", a.name, b.name);
                assert!(a.all_lines().all(|l| !b.all_lines().contains(&l)), "{} and {}", a.name, b.name);
            }
            let devices = a.space == Space::Memory && a.part != PartId::Ram;
            assert!(
                !devices || (X86Micro::LOW_RAM_END..HIGH_RAM).contains(&a.base) && a.end() <= HIGH_RAM,
                "{}",
                a.name
            );
            assert!(a.all_lines().all(|l| l < 24), "{}", a.name);
        }
    }

    #[test]
    fn memory_leaves_room_for_devices() {
        assert_eq!(X86Micro::ram_regions(1 << 30), [(0, 1 << 30)]);
        assert_eq!(X86Micro::ram_regions(3 << 30), [(0, 3 << 30)]);
        assert_eq!(X86Micro::ram_regions(5 << 30), [(0, 3 << 30), (4 << 30, 2 << 30)]);
        let place = X86Micro::place(PartId::VirtioMmio, 7).unwrap();
        assert_eq!((place.base, place.name.as_str()), (0xd000_7000, "virtio-mmio7"));
        assert_eq!(X86Micro::line(PartId::VirtioMmio, 7), Some(23));
        assert!(X86Micro::place(PartId::VirtioMmio, 8).is_none() && X86Micro::row(PartId::Plic).is_none());
    }
}
