//! From a description and open resources to a machine: the one place where engine, board, devices and memory meet.
//!
//! Order: RAM; harts on a bus that is still empty; interrupt controllers on the harts; devices on those; the bus,
//! filled from the board's rows; the files, loaded; the threads. Parts are registered in board order, with those that
//! are on no board among them: "sbi", "clock" and, in a deterministic machine, "schedule" and "randomness" after the harts, "htif" last.

use crate::console::DebugConsole;
use crate::cpus::{SharedVcpu, system_sink};
use crate::deterministic::{Counted, NS_PER_INSN, Schedule, SchedulePart, WALL_START};
use crate::gate::Gate;
use crate::harts::{Harts, HartsPart};
use crate::loader::{HtifSymbols, LoadError};
use crate::machine::{Assembled, Machine, NamedPart, Rebuild, TreeMaker, VcpuPart, mailbox};
use crate::randomness::{RandomnessPart, Stream};
use crate::spec::{
    ConsoleFds, MAX_HARTS, MAX_MEMORY, MIN_MEMORY, MachineSpec, Resources, Restore, SlotDevice,
};
use crate::tier::{self, Tier, TierError};
use crate::timekeeper::{ClockPart, Timekeeper};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use strata_board::fdt::{self, FdtSpec};
use strata_board::{MmioBus, PartId, RiscvVirt, VIRTIO_SLOTS};
use strata_devices::aclint::Aclint;
use strata_devices::goldfish_rtc::{GoldfishRtc, RtcWorker};
use strata_devices::htif::Htif;
use strata_devices::plic::Plic;
use strata_devices::serial::{Serial, SerialLink, SerialWorker};
use strata_devices::syscon::Syscon;
use strata_devices::uart16550::Uart16550;
use strata_devices::virtio::{self, Built, Doorbell, EmptySlot, Wiring};
use strata_devices::vmgenid::VmGenId;
use strata_devices::{Mmio, Shared, SystemSink, Worker};
use strata_engine::{Bus, BusFault, Clock, CountedClock, Entropy, GuestClock, IrqLine, Vcpu, VcpuShared};
use strata_memory::GuestRam;
use strata_riscv::{CACHE_BLOCK, HartConfig, MMU_TYPE, isa_extensions_list, isa_string};

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A number in the description is impossible.
    #[error("{0}")]
    Spec(String),
    /// The harts cannot be run in the way that was asked for.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// A kernel, firmware or initrd cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Guest memory cannot be made.
    #[error(transparent)]
    Memory(#[from] strata_memory::MemoryError),
    /// The device tree cannot be made.
    #[error("the machine's device tree cannot be made: {0}")]
    Tree(#[from] fdt::FdtError),
    /// The state to begin with cannot be loaded.
    #[error("the machine's saved state cannot be loaded: {0}")]
    State(#[from] strata_state::StateError),
    /// Two devices collide on the bus.
    #[error(transparent)]
    Bus(#[from] strata_board::BusError),
    /// The host gives no descriptor for a device.
    #[error("the host refused a descriptor for a device: {0}")]
    Device(std::io::Error),
    /// The host starts no thread.
    #[error("the host started no thread for the machine: {0}")]
    Thread(std::io::Error),
}

/// The bus, filled after the harts that hold it were made.
#[derive(Default)]
struct LateBus(OnceLock<MmioBus>);

impl Bus for LateBus {
    fn read(&self, gpa: u64, size: u8) -> Result<u64, BusFault> {
        self.0.get().ok_or(BusFault)?.read(gpa, size)
    }
    fn write(&self, gpa: u64, size: u8, value: u64) -> Result<(), BusFault> {
        self.0.get().ok_or(BusFault)?.write(gpa, size, value)
    }
}

/// Registers of the UART, and the bit of LSR that says that a byte has been received.
const RBR: u64 = 0;
const LSR: u64 = 5;
const LSR_READY: u64 = 1;

/// The debug console: output goes into the UART's own stream; input is read from the UART's registers, as firmware on
/// this board does it. So a driver that reads the UART itself takes the bytes that a debug console would have given.
struct UartConsole {
    link: Arc<SerialLink>,
    uart: Shared<Uart16550>,
}

impl DebugConsole for UartConsole {
    fn write(&self, bytes: &[u8]) -> usize {
        self.link.send(bytes)
    }
    fn push(&self, byte: u8) {
        self.link.push(byte);
    }
    fn read(&self, limit: usize) -> Vec<u8> {
        let mut uart = self.uart.lock().unwrap_or_else(|e| e.into_inner());
        let mut byte = || (uart.read(LSR, 1) & LSR_READY != 0).then(|| uart.read(RBR, 1) as u8);
        std::iter::from_fn(&mut byte).take(limit).collect()
    }
}

/// What grows while devices are added.
struct Builder {
    ram: GuestRam,
    clock: Arc<dyn Timekeeper>,
    /// Output leaves between two quanta, or not before the next.
    deterministic: bool,
    plic: Shared<Plic>,
    bus: strata_board::BusBuilder,
    parts: Vec<NamedPart>,
    workers: Vec<Box<dyn Worker>>,
    doorbells: Vec<Doorbell>,
}

impl Builder {
    fn line(&self, part: PartId, index: u64) -> IrqLine {
        RiscvVirt::line(part, index).map_or_else(IrqLine::unconnected, |n| Plic::irq_line(&self.plic, n))
    }

    /// Puts `device` where the board has it, and registers it.
    fn add<D: Mmio + 'static>(&mut self, part: PartId, index: u64, device: Shared<D>) {
        if let Some(place) = RiscvVirt::place(part, index) {
            self.parts.push(NamedPart { name: place.name.clone(), part: device.clone() });
            self.bus = std::mem::take(&mut self.bus).add(place, device);
        }
    }

    fn add_serial<D: Serial + Send + 'static>(&mut self, worker: SerialWorker<D>) {
        let worker = if self.deterministic { worker.without_gathering() } else { worker };
        self.workers.push(Box::new(worker));
    }

    fn add_virtio<D: virtio::Device>(&mut self, slot: u64, built: Built<D>) {
        self.add(PartId::VirtioMmio, slot, built.device);
        self.workers.push(built.worker);
        self.doorbells.push(built.doorbell);
    }
}

/// Checks `spec`, puts the machine together, loads its files or the state to begin with, and starts its threads, at the
/// gate.
///
/// # Errors
/// Anything wrong with the description, the files or what the host gives.
pub fn build(spec: &MachineSpec, resources: Resources) -> Result<Machine, BuildError> {
    check(spec, &resources)?;
    let Resources { tier, code_size, pace, restore, placement, console, disks, nics, entropy, boot_entropy } =
        resources;
    let Begin { ram, state, generation, passed } = memory(spec, restore)?;
    let (entropy, mut boot_entropy) = (Stream::new(entropy), Stream::new(boot_entropy));
    let mut id = [0; 16];
    boot_entropy.fill(&mut id);
    let counted = spec.deterministic.then(|| Counted {
        clock: Arc::new(CountedClock::new(NS_PER_INSN, WALL_START)),
        schedule: Arc::new(Schedule::new(spec.harts)),
        pace,
    });
    let clock: Arc<dyn Timekeeper> = match &counted {
        Some(c) => c.clock.clone(),
        None => Arc::new(GuestClock::stopped_at(0)),
    };
    let bus = Arc::new(LateBus::default());
    let (driver, inbox) = mailbox();
    let gate = Gate::new(driver.clone());

    let kernel_only = placement.firmware.is_none();
    let chosen = tier::choose(tier, Tier::best(), |tier| -> Result<Vec<Box<dyn Vcpu>>, _> {
        let make = |id| {
            let config =
                if kernel_only { HartConfig::with_machine_as_firmware(id) } else { HartConfig::new(id) };
            tier::hart((tier, code_size), config, ram.clone(), bus.clone(), clock.clone())
        };
        (0..u64::from(spec.harts)).map(make).collect()
    })?;
    let shared: Vec<Arc<VcpuShared>> = chosen.made.iter().map(|v| v.shared().clone()).collect();
    let vcpus: Vec<SharedVcpu> = chosen.made.into_iter().map(|v| Arc::new(Mutex::new(v))).collect();
    let harts = Arc::new(Harts::new(vcpus.len()));
    let sink = system_sink(gate.clone(), shared.clone());

    let plic = Arc::new(Mutex::new(Plic::new(shared.clone())));
    let bus_builder = MmioBus::builder();
    let mut b = Builder {
        ram,
        clock,
        deterministic: spec.deterministic,
        plic,
        bus: bus_builder,
        parts: vec![],
        workers: vec![],
        doorbells: vec![],
    };
    for (i, v) in vcpus.iter().enumerate() {
        b.parts.push(NamedPart { name: format!("hart{i}"), part: Arc::new(Mutex::new(VcpuPart(v.clone()))) });
    }
    b.parts.push(NamedPart { name: "sbi".into(), part: Arc::new(Mutex::new(HartsPart(harts.clone()))) });
    b.parts.push(NamedPart { name: "clock".into(), part: Arc::new(Mutex::new(ClockPart(b.clock.clone()))) });
    if let Some(c) = &counted {
        let part = Arc::new(Mutex::new(SchedulePart(c.schedule.clone())));
        b.parts.push(NamedPart { name: "schedule".into(), part });
        let part = Arc::new(Mutex::new(RandomnessPart::new(entropy.clone(), boot_entropy.clone())));
        b.parts.push(NamedPart { name: "randomness".into(), part });
    }
    let htif = placement.firmware.as_ref().map(|f| f.htif()).transpose()?.flatten();
    // A program with HTIF has its console there; the UART then only prints.
    let ConsoleFds { input, output } = console;
    let (uart_input, htif) = match htif {
        Some(words) => (None, Some((words, input, output.try_clone().map_err(BuildError::Device)?))),
        None => (Some(input), None),
    };
    let vmgenid = VmGenId::new(id, b.line(PartId::VmGenId, 0));
    let vmgenid = Arc::new(Mutex::new(vmgenid));
    let debug = add_platform(&mut b, &shared, vmgenid.clone(), (uart_input, output), &sink)?;
    add_slots(&mut b, spec, disks, nics, Box::new(entropy))?;
    if let Some((words, input, output)) = htif {
        add_htif(&mut b, words, (input, output), &sink)?;
    }
    bus.0.set(b.bus.build()?).map_err(|_| BuildError::Spec("the bus was filled twice".into()))?;

    let mut rebuild = Rebuild {
        ram: b.ram,
        parts: Arc::new(b.parts),
        vcpus,
        harts,
        placement,
        tree: tree_maker(spec),
        entropy: Box::new(boot_entropy),
    };
    if state.is_none() {
        rebuild.load()?;
    }
    let machine = Machine::spawn(Assembled {
        rebuild,
        tier: chosen.tier,
        note: chosen.note,
        shared,
        workers: b.workers,
        clock: b.clock,
        counted,
        console: debug,
        doorbells: b.doorbells,
        gate,
        system: sink,
        inbox,
        driver,
        #[cfg(test)]
        bus,
    })?;
    if let Some(state) = state {
        machine.load_state_after(&state, passed)?;
    }
    if let Some(id) = generation {
        let told = machine.told.clone();
        let when_read = move || {
            let _ = told.get_or_init(Instant::now);
        };
        vmgenid.lock().unwrap_or_else(|e| e.into_inner()).renew(id, when_read);
    }
    Ok(machine)
}

/// What a machine begins with.
struct Begin {
    ram: GuestRam,
    /// If it is not that of power-on.
    state: Option<Vec<u8>>,
    generation: Option<[u8; 16]>,
    passed: u64,
}

/// RAM, and the state that belongs to it if it is not that of power-on.
fn memory(spec: &MachineSpec, restore: Option<Restore>) -> Result<Begin, BuildError> {
    let Some(Restore { ram, state, generation, passed }) = restore else {
        let ram = GuestRam::single(RiscvVirt::ram_base(), spec.memory)?;
        return Ok(Begin { ram, state: None, generation: None, passed: 0 });
    };
    if passed > 0 && spec.deterministic {
        return Err(BuildError::Spec(
            "its time comes from its instructions, and cannot have passed without them".into(),
        ));
    }
    match ram.regions() {
        [r] if (r.gpa(), r.size()) == (RiscvVirt::ram_base(), spec.memory) => {
            Ok(Begin { ram, state: Some(state), generation, passed })
        }
        _ => Err(BuildError::Spec("the saved memory is not as large as the machine's".into())),
    }
}

fn check(spec: &MachineSpec, resources: &Resources) -> Result<(), BuildError> {
    let bad = |why: String| Err(BuildError::Spec(why));
    if spec.harts == 0 || spec.harts > MAX_HARTS {
        return bad(format!("a machine has 1 to {MAX_HARTS} harts, not {}", spec.harts));
    }
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&spec.memory) || !spec.memory.is_multiple_of(4096) {
        return bad(format!(
            "a machine has {} MiB to {} GiB of memory in whole pages, not {} bytes",
            MIN_MEMORY >> 20,
            MAX_MEMORY >> 30,
            spec.memory
        ));
    }
    for (i, (slot, device)) in spec.slots.iter().enumerate() {
        if u64::from(*slot) >= VIRTIO_SLOTS {
            return bad(format!("there is no virtio slot {slot}; this board has {VIRTIO_SLOTS}"));
        }
        if spec.slots.iter().take(i).any(|(s, _)| s == slot) {
            return bad(format!(
                "virtio slot {slot} is wanted twice; this board has room for {VIRTIO_SLOTS} devices"
            ));
        }
        let there = match device {
            SlotDevice::Disk(n) => *n < resources.disks.len(),
            SlotDevice::Net(n) => *n < resources.nics.len(),
            SlotDevice::Rng => true,
        };
        if !there {
            return bad(format!("virtio slot {slot} names a device that was not given: {device:?}"));
        }
    }
    Ok(())
}

/// Everything but virtio and HTIF.
fn add_platform(
    b: &mut Builder,
    shared: &[Arc<VcpuShared>],
    vmgenid: Shared<VmGenId>,
    (input, output): (Option<OwnedFd>, OwnedFd),
    sink: &SystemSink,
) -> Result<Arc<dyn DebugConsole>, BuildError> {
    let clock: Arc<dyn Clock> = b.clock.clone();
    b.add(PartId::Syscon, 0, Arc::new(Mutex::new(Syscon::new(sink.clone()))));
    let rtc = GoldfishRtc::new(clock.clone(), b.line(PartId::Rtc, 0)).map_err(BuildError::Device)?;
    let rtc = Arc::new(Mutex::new(rtc));
    b.workers.push(Box::new(RtcWorker::new(rtc.clone())));
    b.add(PartId::Rtc, 0, rtc);
    b.add(PartId::VmGenId, 0, vmgenid);
    b.add(PartId::Clint, 0, Arc::new(Mutex::new(Aclint::new(shared.to_vec(), clock))));
    b.add(PartId::Plic, 0, b.plic.clone());

    let link = SerialLink::new().map_err(BuildError::Device)?;
    let uart = Arc::new(Mutex::new(Uart16550::new(b.line(PartId::Uart0, 0), link.clone())));
    let worker = SerialWorker::new("uart0", uart.clone(), link.clone(), input, Some(output));
    b.add_serial(worker.map_err(BuildError::Device)?);
    b.add(PartId::Uart0, 0, uart.clone());
    Ok(Arc::new(UartConsole { link, uart }))
}

/// The HTIF words lie over RAM, wherever the program has them.
fn add_htif(
    b: &mut Builder,
    symbols: HtifSymbols,
    (input, output): (OwnedFd, OwnedFd),
    sink: &SystemSink,
) -> Result<(), BuildError> {
    let link = SerialLink::new().map_err(BuildError::Device)?;
    let device = Arc::new(Mutex::new(Htif::new(b.ram.clone(), link.clone(), sink.clone())));
    let worker = SerialWorker::new("htif", device.clone(), link, Some(input), Some(output));
    b.add_serial(worker.map_err(BuildError::Device)?);
    b.parts.push(NamedPart { name: "htif".into(), part: device.clone() });
    for place in RiscvVirt::htif(symbols.tohost, Some(symbols.fromhost)) {
        b.ram.trap(place.base)?;
        b.bus = std::mem::take(&mut b.bus).add(place, device.clone());
    }
    Ok(())
}

fn add_slots(
    b: &mut Builder,
    spec: &MachineSpec,
    disks: Vec<Box<dyn strata_block::Disk>>,
    nics: Vec<crate::spec::Nic>,
    entropy: Box<dyn strata_engine::Entropy>,
) -> Result<(), BuildError> {
    let mut disks: Vec<_> = disks.into_iter().map(Some).collect();
    let mut nics: Vec<_> = nics.into_iter().map(Some).collect();
    let mut entropy = Some(entropy);
    for slot in 0..VIRTIO_SLOTS {
        let device = spec.slots.iter().find(|(s, _)| u64::from(*s) == slot).map(|(_, d)| *d);
        let wiring = Wiring { ram: b.ram.clone(), irq: b.line(PartId::VirtioMmio, slot) };
        let taken = |n: usize| BuildError::Spec(format!("device {n} is in two virtio slots"));
        match device {
            Some(SlotDevice::Disk(n)) => {
                let disk = disks.get_mut(n).and_then(Option::take).ok_or_else(|| taken(n))?;
                let built =
                    virtio::blk(wiring, disk, &format!("strata-disk{n}")).map_err(BuildError::Device)?;
                b.add_virtio(slot, built);
            }
            Some(SlotDevice::Net(n)) => {
                let nic = nics.get_mut(n).and_then(Option::take).ok_or_else(|| taken(n))?;
                let built = virtio::net(wiring, nic.backend, nic.mac).map_err(BuildError::Device)?;
                b.add_virtio(slot, built);
            }
            Some(SlotDevice::Rng) => {
                let source = entropy.take().ok_or_else(|| taken(0))?;
                b.add_virtio(slot, virtio::rng(wiring, source).map_err(BuildError::Device)?);
            }
            None => b.add(PartId::VirtioMmio, slot, Arc::new(Mutex::new(EmptySlot))),
        }
    }
    Ok(())
}

fn tree_maker(spec: &MachineSpec) -> TreeMaker {
    let spec = spec.clone();
    Box::new(move |initrd, seed| {
        let (kaslr, rng) = seed.split_at(8);
        Ok(fdt::build(&FdtSpec {
            harts: spec.harts,
            isa: isa_string(&HartConfig::new(0)),
            isa_base: "rv64i".into(),
            isa_extensions: isa_extensions_list(),
            mmu_type: MMU_TYPE.into(),
            cbom_block: Some(CACHE_BLOCK as u32),
            cboz_block: Some(CACHE_BLOCK as u32),
            ram_len: spec.memory,
            bootargs: spec.cmdline.clone(),
            initrd,
            rng_seed: rng.to_vec(),
            kaslr_seed: kaslr.try_into().ok().map(u64::from_le_bytes),
        })?)
    })
}
