//! What a row of a board's table says.

/// The parts of all boards. Those of `riscv-virt` come first, in the order of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartId {
    /// Reset vector and boot ROM.
    BootRom,
    /// Power-off and reset register.
    Syscon,
    /// Real-time clock.
    Rtc,
    /// Device that tells a guest that it was cloned.
    VmGenId,
    /// Software interrupts and machine timer.
    Clint,
    /// PCIe port I/O.
    PciePio,
    /// Interrupt controller.
    Plic,
    /// The console's UART.
    Uart0,
    /// A slot for a virtio device.
    VirtioMmio,
    /// QEMU's configuration device.
    FwCfg,
    /// Flash memory.
    Flash,
    /// PCIe configuration space.
    PcieEcam,
    /// PCIe memory.
    PcieMmio,
    /// Main memory.
    Ram,
    /// Keyboard controller of a PC, for its reset line.
    I8042,
    /// Real-time clock of a PC.
    Cmos,
    /// Sleep registers of reduced ACPI hardware.
    AcpiSleep,
    /// Interrupt controller for all processors, which is the engine's.
    IoApic,
    /// Interrupt controller of each processor, which is the engine's.
    LocalApic,
}

/// How a guest reaches virtio devices. A board has room for either; a machine has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// By registers in slots at fixed addresses, of which firmware tells.
    #[default]
    Mmio,
    /// As functions of a PCI bus, which the guest looks for.
    Pci,
}

impl Transport {
    /// Whether machines with this transport have `part`.
    pub fn has(self, part: PartId) -> bool {
        match part {
            PartId::VirtioMmio => self == Transport::Mmio,
            PartId::PcieEcam | PartId::PcieMmio => self == Transport::Pci,
            _ => true,
        }
    }
}

/// Which addresses a row's are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Guest physical memory.
    Memory,
    /// x86 ports.
    Ports,
}

/// A device in the ACPI namespace: what is in it beside its resources, which follow from the row.
#[derive(Clone, Copy, Debug)]
pub struct Acpi {
    /// Name: four letters, or three in a series, whose number is added.
    pub name: &'static str,
    /// `_HID`: a PNP id, or a string.
    pub hid: &'static str,
    /// `_CID`, if it has one.
    pub cid: Option<&'static str>,
}

/// The access widths that a range answers to: the set of 1, 2, 4 and 8 as the sum of its members. An access in
/// another width, or not naturally aligned, is an access fault.
pub type Widths = u8;

/// The interrupt lines of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// None.
    None,
    /// One line of the interrupt controller for each of the row's places, in order from this number on.
    Each(u32),
    /// `count` lines from `first` on, shared by what is behind the row.
    Shared {
        /// First line.
        first: u32,
        /// How many.
        count: u32,
    },
}

/// A device-tree node: what is in it beside `reg`, `interrupts` and `interrupt-parent`, which follow from the row.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Name; where the node has an address, that is added.
    pub name: &'static str,
    /// The `compatible` strings, most specific first.
    pub compatible: &'static [&'static str],
    /// Further properties.
    pub props: &'static [(&'static str, Prop)],
}

/// The value of a property.
#[derive(Clone, Copy, Debug)]
pub enum Prop {
    /// No value.
    Flag,
    /// A cell.
    U32(u32),
    /// The node's own handle: `phandle`.
    Handle(u32),
    /// For every hart, its interrupt controller and these of its pins in turn.
    HartPins(&'static [u32]),
    /// Cells.
    Cells(&'static [u32]),
    /// A text.
    Text(&'static str),
    /// For the devices of a PCI bus, the wire of each of their pins: `interrupt-map`.
    PinMap,
    /// The address range behind a PCI host bridge: `ranges`.
    Window,
}

/// One row: a device, or a series of equal ones, or room kept for one.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which part.
    pub part: PartId,
    /// Name of the part, in state and messages; in a series a number is added.
    pub name: &'static str,
    /// First guest physical address.
    pub base: u64,
    /// Bytes of one place; 0 for RAM, whose size the machine's description says.
    pub size: u64,
    /// Places, one after the other.
    pub count: u64,
    /// Which addresses those are.
    pub space: Space,
    /// Interrupt lines.
    pub lines: Lines,
    /// Access widths.
    pub widths: Widths,
    /// Whether the device exists; otherwise its room is kept and accesses fault.
    pub built: bool,
    /// The node below `/soc`.
    pub node: Option<Node>,
    /// Nodes below the root that come with it.
    pub root_nodes: &'static [Node],
    /// The device in the ACPI namespace.
    pub acpi: Option<Acpi>,
    /// What it is, for a person.
    pub about: &'static str,
}

/// A row to start from: room for a device that is not built.
pub(crate) const ROOM: Row = Row {
    part: PartId::BootRom,
    name: "",
    base: 0,
    size: 0,
    count: 1,
    space: Space::Memory,
    lines: Lines::None,
    widths: 0,
    built: false,
    node: None,
    root_nodes: &[],
    acpi: None,
    about: "",
};
/// The same for one that is.
pub(crate) const BUILT: Row = Row { built: true, ..ROOM };

impl Row {
    /// First address of place `index`.
    pub fn address(&self, index: u64) -> Option<u64> {
        (index < self.count).then(|| self.base + index * self.size)
    }

    /// Address after the last one.
    pub fn end(&self) -> u64 {
        self.base + self.count * self.size
    }

    /// Interrupt line of place `index`.
    pub fn line(&self, index: u64) -> Option<u32> {
        match self.lines {
            Lines::Each(first) if index < self.count => Some(first + index as u32),
            _ => None,
        }
    }

    /// All interrupt lines.
    pub fn all_lines(&self) -> std::ops::Range<u32> {
        match self.lines {
            Lines::None => 0..0,
            Lines::Each(first) => first..first + self.count as u32,
            Lines::Shared { first, count } => first..first + count,
        }
    }

    /// Name of place `index`.
    pub fn place_name(&self, index: u64) -> String {
        if self.count == 1 { self.name.to_owned() } else { format!("{}{index}", self.name) }
    }
}
