//! ACPI tables of `x86-micro` from its rows: how its guests learn what is where.
//!
//! ```text
//!  RSDP ─► XSDT ─► FADT ─► DSDT   reduced hardware: no fixed registers but sleep and reset; the devices
//!               ├► MADT           processors and the I/O APIC
//!               └► MCFG           where a PCI bus has its configuration space, if there is one
//! ```
//! All in one block that begins with the RSDP. ACPI 6.5: 5.2 for the tables, 4.1 for reduced hardware, 5.6.9 for the event
//! device, by which a guest hears of a new VM generation ID.

use crate::{Acpi, PartId, Row, Space, Transport, X86Micro};
use acpi_tables::aml::{
    AddressSpace as Range, AddressSpaceCacheable, Arg, Device, EISAName, Equal, IO, If, Interrupt,
    Memory32Fixed, Method, Name, Notify, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use strata_devices::acpi_sleep::SOFT_OFF;

const OEM: [u8; 6] = *b"STRATA";
const TABLE: [u8; 8] = *b"X86MICRO";
const REVISION: u32 = 1;
/// Tables stand at multiples of this.
const ALIGN: usize = 16;
/// What a guest writes to the keyboard controller's command port to reset.
const RESET_VALUE: u8 = 0xfe;
/// No VGA, no CMOS clock missing, no keyboard controller: bits of the boot flags (5.2.9.3).
const NO_VGA: u16 = 1 << 2;

/// A table's bytes.
fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The tables for a machine of `vcpus` whose virtio devices are reached by `transport`, to be put at `at`, which is the
/// RSDP's address.
pub fn tables(vcpus: u32, transport: Transport, at: u64) -> Vec<u8> {
    let mut block = vec![0; Rsdp::len().next_multiple_of(ALIGN)];
    let mut add = |table: Vec<u8>| {
        let address = at + block.len() as u64;
        block.extend(table);
        block.resize(block.len().next_multiple_of(ALIGN), 0);
        address
    };
    let dsdt = add(dsdt(transport));
    let fadt = add(fadt(dsdt));
    let madt = add(madt(vcpus));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    let mcfg = (transport == Transport::Pci).then(|| add(mcfg()));
    [fadt, madt].into_iter().chain(mcfg).for_each(|table| xsdt.add_entry(table));
    let xsdt = add(bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    block.iter_mut().zip(rsdp).for_each(|(to, from)| *to = from);
    block
}

fn port(part: PartId, offset: u64) -> GAS {
    let base = X86Micro::row(part).map_or(0, |r| r.base);
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, base + offset)
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.reset_reg = port(PartId::I8042, 4);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(PartId::AcpiSleep, 0);
    fadt.sleep_status_reg = port(PartId::AcpiSleep, 1);
    fadt.iapc_boot_arch = NO_VGA.into();
    bytes(&fadt.finalize())
}

fn madt(vcpus: u32) -> Vec<u8> {
    let address = |part| X86Micro::row(part).map_or(0, |r| r.base as u32);
    let local = LocalInterruptController::Address(address(PartId::LocalApic));
    let mut madt = MADT::new(OEM, TABLE, REVISION, local);
    for id in (0..vcpus).filter_map(|id| u8::try_from(id).ok()) {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, address(PartId::IoApic), 0));
    bytes(&madt)
}

fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(X86Micro::row(PartId::PcieEcam).map_or(0, |r| r.base), 0, 0, 0);
    bytes(&mcfg)
}

/// Bytes of AML that are already there.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn dsdt(transport: Transport) -> Vec<u8> {
    let devices: Vec<Raw> = X86Micro::rows()
        .iter()
        .filter(|row| transport.has(row.part))
        .filter_map(|row| Some((row, row.acpi.as_ref()?)))
        .flat_map(|(row, acpi)| (0..row.count).map(move |n| Raw(device(row, acpi, n))))
        .collect();
    let events = Raw(event_device());
    let children = devices.iter().chain([&events]).map(|d| d as &dyn Aml).collect();
    let off = Package::new(vec![&SOFT_OFF]);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, 2, OEM, TABLE, REVISION);
    Name::new("_S5_".into(), &off).to_aml_bytes(&mut dsdt);
    Scope::new("\\_SB_".into(), children).to_aml_bytes(&mut dsdt);
    dsdt.as_slice().to_vec()
}

/// Bytes of a table's header.
const HEADER: u32 = 36;

/// The host bridge with its one bus and its window, and a device that keeps others from its configuration space, as Linux
/// wants to be told (PCI Firmware Specification 3.3, 4.1.2).
fn host_bridge(row: &Row, acpi: &Acpi) -> Vec<u8> {
    let eisa = |name: &'static str, id: &str| Name::new(name.into(), &EISAName::new(id));
    let number = |name: &'static str| Name::new(name.into(), &0_u32);
    let (hid, cid) = (eisa("_HID", acpi.hid), eisa("_CID", acpi.cid.unwrap_or(acpi.hid)));
    let (uid, segment, bus) = (number("_UID"), number("_SEG"), number("_BBN"));
    let window = X86Micro::row(PartId::PcieMmio).map_or(0..0, |r| r.base as u32..r.end() as u32);
    let buses = Range::new_bus_number(0_u16, 0);
    let last = window.end.saturating_sub(1);
    let memory = Range::new_memory(AddressSpaceCacheable::NotCacheable, true, window.start, last, None);
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&buses, &memory]));
    let mut both = bytes(&Device::new(acpi.name.into(), vec![&hid, &cid, &uid, &segment, &bus, &resources]));
    let (hid, range) = (eisa("_HID", "PNP0C02"), Memory32Fixed::new(true, row.base as u32, row.size as u32));
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&range]));
    both.extend(bytes(&Device::new("ECAM".into(), vec![&hid, &uid, &resources])));
    both
}

/// Place `n` of `row` as a device with its resources.
fn device(row: &Row, acpi: &Acpi, n: u64) -> Vec<u8> {
    if row.part == PartId::PcieEcam {
        return host_bridge(row, acpi);
    }
    let name = if row.count == 1 { acpi.name.to_owned() } else { format!("{}{n:X}", acpi.name) };
    let hid = if acpi.hid.starts_with("PNP") {
        Name::new("_HID".into(), &EISAName::new(acpi.hid))
    } else {
        Name::new("_HID".into(), &acpi.hid)
    };
    let uid = Name::new("_UID".into(), &(n as u32));
    let (base, size) = (row.address(n).unwrap_or(0), row.size);
    let memory = Memory32Fixed::new(true, base as u32, size as u32);
    let ports = IO::new(base as u16, base as u16, 1, size as u8);
    let range: &dyn Aml = if row.space == Space::Ports { &ports } else { &memory };
    let line = row.line(n).filter(|_| row.part != PartId::VmGenId).map(interrupt);
    let resources: Vec<&dyn Aml> = [range].into_iter().chain(line.iter().map(|l| l as &dyn Aml)).collect();
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(resources));
    let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &resources];
    let cid = acpi.cid.map(|cid| Name::new("_CID".into(), &cid));
    children.extend(cid.iter().map(|c| c as &dyn Aml));
    // The generation ID's interface gives its address by a name of its own, as two halves.
    let halves = (base as u32, (base >> 32) as u32);
    let address = Package::new(vec![&halves.0, &halves.1]);
    let address = Name::new("ADDR".into(), &address);
    if row.part == PartId::VmGenId {
        children.push(&address);
    }
    bytes(&Device::new(name.as_str().into(), children))
}

fn interrupt(line: u32) -> Interrupt {
    Interrupt::new(true, !X86Micro::by_level(line), false, false, line)
}

/// The event device: it has the generation ID's interrupt, and tells that of it.
fn event_device() -> Vec<u8> {
    let line = X86Micro::line(PartId::VmGenId, 0).unwrap_or(0);
    let hid = Name::new("_HID".into(), &"ACPI0013");
    let uid = Name::new("_UID".into(), &0_u32);
    let wire = interrupt(line);
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&wire]));
    let (source, changed, generation) = (Arg(0), 0x80_u8, Path::new("\\_SB_.VGEN"));
    let ours = Equal::new(&source, &line);
    let tell = Notify::new(&generation, &changed);
    let tell = If::new(&ours, vec![&tell]);
    let event = Method::new("_EVT".into(), 1, true, vec![&tell]);
    bytes(&Device::new("GED_".into(), vec![&hid, &uid, &resources, &event]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0xe_0000;

    fn word(block: &[u8], at: u64, len: usize) -> u64 {
        let at = (at - AT) as usize;
        block[at..at + len].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))
    }

    /// A table's bytes, whose sum must be 0.
    fn table(block: &[u8], at: u64) -> &[u8] {
        let len = word(block, at + 4, 4) as usize;
        let bytes = &block[(at - AT) as usize..][..len];
        assert_eq!(bytes.iter().fold(0_u8, |s, b| s.wrapping_add(*b)), 0, "{:?}", &bytes[..4]);
        bytes
    }

    #[test]
    fn every_table_is_reached_from_the_first_and_adds_up() {
        for vcpus in [1, 2, 64] {
            let block = tables(vcpus, Transport::Mmio, AT);
            assert_eq!(&block[..8], b"RSD PTR ");
            assert_eq!(block[..20].iter().fold(0_u8, |s, b| s.wrapping_add(*b)), 0);
            let xsdt = word(&block, AT + 24, 8);
            assert_eq!(&table(&block, xsdt)[..4], b"XSDT");
            let (fadt, madt) = (word(&block, xsdt + 36, 8), word(&block, xsdt + 44, 8));
            assert_eq!(&table(&block, fadt)[..4], b"FACP");
            assert_eq!(&table(&block, madt)[..4], b"APIC");
            assert_eq!(table(&block, madt).len(), 44 + 8 * vcpus as usize + 12);
            let dsdt = word(&block, fadt + 140, 8);
            let dsdt = table(&block, dsdt);
            assert_eq!(&dsdt[..4], b"DSDT");
            let has = |text: &[u8]| dsdt.windows(text.len()).any(|w| w == text);
            assert!(
                has(b"VIO0")
                    && has(b"VIO7")
                    && has(b"LNRO0005")
                    && has(b"VM_Gen_Counter")
                    && has(b"ACPI0013")
                    && !has(b"PCI0")
            );
        }
    }

    #[test]
    fn a_pci_bus_is_in_the_tables_where_there_is_one() {
        let block = tables(2, Transport::Pci, AT);
        let xsdt = word(&block, AT + 24, 8);
        assert_eq!(table(&block, xsdt).len(), 36 + 3 * 8);
        let mcfg = table(&block, word(&block, xsdt + 52, 8));
        assert_eq!(&mcfg[..4], b"MCFG");
        // Base, segment, first and last bus (PCI Firmware Specification 3.3, table 4-3).
        assert_eq!(mcfg[44..56], [0, 0, 0, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let dsdt = table(&block, word(&block, word(&block, xsdt + 36, 8) + 140, 8));
        let has = |text: &[u8]| dsdt.windows(text.len()).any(|w| w == text);
        // The window: a 32-bit memory range from its first to its last byte.
        let window = [0, 0, 0, 0xe8, 0xff, 0xff, 0xff, 0xef];
        assert!(has(b"PCI0") && has(b"ECAM") && has(b"_BBN") && has(&window) && !has(b"VIO0"));
    }
}
