//! The device tree of a machine: the board's rows and what the machine's description adds.
//!
//! Devicetree Specification v0.4; Linux's bindings for `riscv/cpus`, `sifive,clint`, `sifive,plic-1.0.0`,
//! `syscon-poweroff`, `virtio/mmio`. The same tree serves all three ways in: as a kernel's (the machine being the
//! firmware), as a firmware's and as a bare-metal program's. The M-mode contexts are in it either way, as in QEMU's: a
//! kernel in S mode leaves them alone.

use crate::riscv_virt::handle;
use crate::{Lines, MAX_HARTS, Node, PartId, Prop, RiscvVirt, Row, Transport};
use vm_fdt::FdtWriter;

/// Longest command line, in bytes. More than any kernel takes, and a bound on the tree's size.
pub const BOOTARGS_LIMIT: usize = 4095;
/// Most bytes of seed; kernels ask for 32 or 64.
pub const SEED_LIMIT: usize = 4096;

/// What the tree says beside the board's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdtSpec {
    /// Harts, 1 to [`MAX_HARTS`].
    pub harts: u32,
    /// The whole ISA as one string ("rv64imafdc_zicsr…"), for readers of `riscv,isa`.
    pub isa: String,
    /// The base of it ("rv64i"), for readers of `riscv,isa-base`.
    pub isa_base: String,
    /// Its extensions ("i", "m", …, "zicbom"), for readers of `riscv,isa-extensions`.
    pub isa_extensions: Vec<String>,
    /// Largest translation mode ("riscv,sv48").
    pub mmu_type: String,
    /// Bytes of a cache block for Zicbom.
    pub cbom_block: Option<u32>,
    /// Bytes of a cache block for Zicboz.
    pub cboz_block: Option<u32>,
    /// How virtio devices are reached.
    pub transport: Transport,
    /// Bytes of RAM, from the board's base on.
    pub ram_len: u64,
    /// The kernel's command line; empty: none.
    pub bootargs: String,
    /// First address of the initial RAM disk, and the one after its last.
    pub initrd: Option<(u64, u64)>,
    /// Randomness for the guest's own generator; empty: none.
    pub rng_seed: Vec<u8>,
    /// Randomness for the place of the kernel.
    pub kaslr_seed: Option<u64>,
}

/// Why a device tree cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FdtError {
    /// Not a possible number of harts.
    #[error("{0} harts cannot be described; give 1 to {MAX_HARTS}")]
    Harts(u32),
    /// Not a possible size of RAM.
    #[error("{0} bytes of RAM from {base:#x} on cannot be described", base = RiscvVirt::ram_base())]
    Ram(u64),
    /// The initial RAM disk is not in RAM.
    #[error("the initial RAM disk at {start:#x}..{end:#x} does not lie in RAM")]
    Initrd {
        /// First address.
        start: u64,
        /// Address after the last.
        end: u64,
    },
    /// A text or seed is too long.
    #[error("the {what} is {len} bytes long; at most {limit} fit")]
    TooLong {
        /// Which.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A text is empty or holds a NUL or another control character.
    #[error("the {0} is empty or holds a control character")]
    Text(&'static str),
    /// The writer refused.
    #[error("the device tree cannot be written: {0}")]
    Writer(String),
}

impl From<vm_fdt::Error> for FdtError {
    fn from(e: vm_fdt::Error) -> FdtError {
        FdtError::Writer(e.to_string())
    }
}

type Result<T> = std::result::Result<T, FdtError>;

/// Builds the flattened tree of a `riscv-virt` machine.
///
/// # Errors
/// What of `spec` cannot be described.
pub fn build(spec: &FdtSpec) -> Result<Vec<u8>> {
    check(spec)?;
    let mut w = FdtWriter::new()?;
    let root = w.begin_node("")?;
    w.property_u32("#address-cells", 2)?;
    w.property_u32("#size-cells", 2)?;
    w.property_string("compatible", "riscv-virtio")?;
    w.property_string("model", "riscv-virtio,strata")?;
    let console = node_path(RiscvVirt::row(PartId::Uart0));
    let aliases = w.begin_node("aliases")?;
    w.property_string("serial0", &console)?;
    w.end_node(aliases)?;
    chosen(&mut w, spec, &console)?;
    memory(&mut w, spec)?;
    cpus(&mut w, spec)?;
    for node in RiscvVirt::rows().iter().flat_map(|r| r.root_nodes) {
        let n = w.begin_node(node.name)?;
        contents(&mut w, node, None, spec.harts)?;
        w.end_node(n)?;
    }
    let soc = w.begin_node("soc")?;
    w.property_u32("#address-cells", 2)?;
    w.property_u32("#size-cells", 2)?;
    w.property_string("compatible", "simple-bus")?;
    w.property_null("ranges")?;
    for row in RiscvVirt::rows().iter().filter(|r| spec.transport.has(r.part)) {
        if let Some(node) = &row.node {
            (0..row.count).try_for_each(|i| device(&mut w, row, node, i, spec.harts))?;
        }
    }
    w.end_node(soc)?;
    w.end_node(root)?;
    Ok(w.finish()?)
}

fn check(spec: &FdtSpec) -> Result<()> {
    if spec.harts == 0 || spec.harts > MAX_HARTS {
        return Err(FdtError::Harts(spec.harts));
    }
    let base = RiscvVirt::ram_base();
    let top = base.checked_add(spec.ram_len).filter(|_| spec.ram_len > 0);
    let top = top.ok_or(FdtError::Ram(spec.ram_len))?;
    if let Some((start, end)) = spec.initrd.filter(|&(s, e)| s < base || e <= s || e > top) {
        return Err(FdtError::Initrd { start, end });
    }
    let short = |what, len, limit| {
        if len > limit { Err(FdtError::TooLong { what, len, limit }) } else { Ok(()) }
    };
    short("kernel command line", spec.bootargs.len(), BOOTARGS_LIMIT)?;
    short("random seed", spec.rng_seed.len(), SEED_LIMIT)?;
    if spec.bootargs.contains('\0') {
        return Err(FdtError::Text("kernel command line"));
    }
    let text = |what, s: &str| {
        short(what, s.len(), BOOTARGS_LIMIT)?;
        if s.is_empty() || s.contains(char::is_control) { Err(FdtError::Text(what)) } else { Ok(()) }
    };
    text("ISA string", &spec.isa)?;
    text("ISA base", &spec.isa_base)?;
    text("MMU type", &spec.mmu_type)?;
    short("list of extensions", spec.isa_extensions.len(), 1000)?;
    spec.isa_extensions.iter().try_for_each(|e| text("name of an extension", e))
}

fn chosen(w: &mut FdtWriter, spec: &FdtSpec, console: &str) -> Result<()> {
    let node = w.begin_node("chosen")?;
    w.property_string("stdout-path", console)?;
    if !spec.bootargs.is_empty() {
        w.property_string("bootargs", &spec.bootargs)?;
    }
    if let Some((start, end)) = spec.initrd {
        w.property_u64("linux,initrd-start", start)?;
        w.property_u64("linux,initrd-end", end)?;
    }
    if !spec.rng_seed.is_empty() {
        w.property("rng-seed", &spec.rng_seed)?;
    }
    if let Some(seed) = spec.kaslr_seed {
        w.property_u64("kaslr-seed", seed)?;
    }
    Ok(w.end_node(node)?)
}

fn memory(w: &mut FdtWriter, spec: &FdtSpec) -> Result<()> {
    let base = RiscvVirt::ram_base();
    let node = w.begin_node(&format!("memory@{base:x}"))?;
    w.property_string("device_type", "memory")?;
    w.property_array_u64("reg", &[base, spec.ram_len])?;
    Ok(w.end_node(node)?)
}

/// Handles of hart `hart` and of its interrupt controller.
fn hart_handles(hart: u32) -> (u32, u32) {
    (handle::HARTS + 2 * hart, handle::HARTS + 2 * hart + 1)
}

fn cpus(w: &mut FdtWriter, spec: &FdtSpec) -> Result<()> {
    let cpus = w.begin_node("cpus")?;
    w.property_u32("#address-cells", 1)?;
    w.property_u32("#size-cells", 0)?;
    w.property_u32("timebase-frequency", RiscvVirt::TIMEBASE)?;
    (0..spec.harts).try_for_each(|hart| cpu(w, spec, hart))?;
    let map = w.begin_node("cpu-map")?;
    let cluster = w.begin_node("cluster0")?;
    for hart in 0..spec.harts {
        let core = w.begin_node(&format!("core{hart}"))?;
        w.property_u32("cpu", hart_handles(hart).0)?;
        w.end_node(core)?;
    }
    w.end_node(cluster)?;
    w.end_node(map)?;
    Ok(w.end_node(cpus)?)
}

fn cpu(w: &mut FdtWriter, spec: &FdtSpec, hart: u32) -> Result<()> {
    let (own, controller) = hart_handles(hart);
    let cpu = w.begin_node(&format!("cpu@{hart:x}"))?;
    w.property_string("device_type", "cpu")?;
    w.property_u32("reg", hart)?;
    w.property_string("status", "okay")?;
    w.property_string("compatible", "riscv")?;
    w.property_phandle(own)?;
    w.property_string("riscv,isa", &spec.isa)?;
    w.property_string("riscv,isa-base", &spec.isa_base)?;
    if !spec.isa_extensions.is_empty() {
        w.property_string_list("riscv,isa-extensions", spec.isa_extensions.clone())?;
    }
    w.property_string("mmu-type", &spec.mmu_type)?;
    for (name, size) in
        [("riscv,cbom-block-size", spec.cbom_block), ("riscv,cboz-block-size", spec.cboz_block)]
    {
        if let Some(size) = size {
            w.property_u32(name, size)?;
        }
    }
    let intc = w.begin_node("interrupt-controller")?;
    w.property_u32("#interrupt-cells", 1)?;
    w.property_null("interrupt-controller")?;
    w.property_string("compatible", "riscv,cpu-intc")?;
    w.property_phandle(controller)?;
    w.end_node(intc)?;
    Ok(w.end_node(cpu)?)
}

/// Path of the node of a row with a single place.
fn node_path(row: &Row) -> String {
    format!("/soc/{}@{:x}", row.node.map_or(row.name, |n| n.name), row.base)
}

fn device(w: &mut FdtWriter, row: &Row, node: &Node, index: u64, harts: u32) -> Result<()> {
    let base = row.base + index * row.size;
    let n = w.begin_node(&format!("{}@{base:x}", node.name))?;
    w.property_array_u64("reg", &[base, row.size])?;
    if let (Some(line), Lines::Each(_)) = (row.line(index), row.lines) {
        w.property_u32("interrupts", line)?;
        w.property_u32("interrupt-parent", handle::PLIC)?;
    }
    contents(w, node, Some(row), harts)?;
    Ok(w.end_node(n)?)
}

/// Kinds of address on a PCI bus (IEEE Std 1275, PCI binding, 2.2.1.1): memory of 32 bits.
const PCI_MEMORY: u32 = 0x0200_0000;
/// Where a device's number stands in an address of configuration space.
const PCI_DEVICE_SHIFT: u32 = 11;
/// Pins of a PCI device.
const PCI_PINS: u32 = 4;

/// `interrupt-map`: pin p of device n is wire (n + p) mod 4, for the four numbers that the mask leaves apart.
fn pin_map(row: &Row) -> Vec<u32> {
    let first = row.all_lines().start;
    let pins = (0..PCI_PINS).flat_map(|device| (0..PCI_PINS).map(move |pin| (device, pin)));
    let wire = |(device, pin)| {
        let line = first + (device + pin) % PCI_PINS;
        [device << PCI_DEVICE_SHIFT, 0, 0, pin + 1, handle::PLIC, line]
    };
    pins.flat_map(wire).collect()
}

/// `ranges`: the window, at the same address on both sides.
fn window() -> Vec<u32> {
    let Row { base, size, .. } = RiscvVirt::row(PartId::PcieMmio);
    let halves = |v: u64| [(v >> 32) as u32, v as u32];
    [&[PCI_MEMORY][..], &halves(*base), &halves(*base), &halves(*size)].concat()
}

fn contents(w: &mut FdtWriter, node: &Node, row: Option<&Row>, harts: u32) -> Result<()> {
    w.property_string_list("compatible", node.compatible.iter().map(|s| s.to_string()).collect())?;
    for (name, value) in node.props {
        match *value {
            Prop::Flag => w.property_null(name)?,
            Prop::U32(v) => w.property_u32(name, v)?,
            Prop::Handle(v) => w.property_phandle(v)?,
            Prop::Text(text) => w.property_string(name, text)?,
            Prop::Cells(cells) => w.property_array_u32(name, cells)?,
            Prop::PinMap => w.property_array_u32(name, &row.map_or(vec![], pin_map))?,
            Prop::Window => w.property_array_u32(name, &window())?,
            Prop::HartPins(pins) => {
                let cells = |h| pins.iter().flat_map(move |&p| [hart_handles(h).1, p]);
                w.property_array_u32(name, &(0..harts).flat_map(cells).collect::<Vec<_>>())?;
            }
        }
    }
    Ok(())
}
