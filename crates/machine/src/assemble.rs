//! From a description and open resources to a machine: the one place where engine, board, devices and memory meet.
//!
//! ```text
//!  RAM ─► Side::new     vCPUs on buses that are still empty, a clock          riscv.rs | x86.rs
//!      ─► platform      interrupt controllers, then the devices on their lines
//!      ─► slots         virtio, there or on a PCI bus                         wiring.rs, pci.rs
//!      ─► last          what lies over or after those
//!      ─► the buses, filled ─► the files, loaded ─► the threads
//! ```
//! Parts are registered in board order, with those that are on no board among them: "sbi" and "clock" after the vCPUs and,
//! in a deterministic machine, "schedule" and "randomness"; "chips" before the devices of `x86-micro`; "htif" last.

mod pci;
mod riscv;
mod wiring;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod x86;

use crate::console::DebugConsole;
use crate::cpus::{SharedVcpu, system_sink};
use crate::deterministic::{Counted, NS_PER_INSN, Schedule, SchedulePart, WALL_START};
use crate::gate::Gate;
use crate::harts::{Harts, HartsPart};
use crate::loader::LoadError;
use crate::machine::{Assembled, Machine, PowerOn, Rebuild, VcpuPart, mailbox};
use crate::randomness::{RandomnessPart, Stream};
use crate::spec::{
    ConsoleFds, MAX_HARTS, MAX_MEMORY, MIN_MEMORY, MachineSpec, Resources, Restore, SlotDevice,
};
use crate::tier::TierError;
use crate::timekeeper::{ClockPart, Timekeeper};
use crate::unseen::Unseen;
use pci::Pci;
use riscv::Riscv;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use strata_board::{Board, MmioBus, Transport, VIRTIO_SLOTS, fdt};
use strata_devices::vmgenid::VmGenId;
use strata_devices::{Shared, SystemSink};
use strata_engine::{CountedClock, Entropy, GuestClock, MsiSink, Vcpu, VcpuShared};
use strata_memory::{Backing, GuestRam, RegionSpec};
use wiring::{Builder, LateBus, Lines};

/// Why a machine cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A number in the description is impossible.
    #[error("{0}")]
    Spec(String),
    /// The harts cannot be run in the way that was asked for.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The host's KVM cannot run it.
    #[error(transparent)]
    Kvm(#[from] strata_kvm::KvmError),
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

/// What an engine gives.
struct Engine {
    vcpus: Vec<Box<dyn Vcpu>>,
    clock: Arc<dyn Timekeeper>,
    /// The buses that the vCPUs hold.
    memory: Arc<LateBus>,
    ports: Arc<LateBus>,
    /// A word for how it runs them.
    tier: &'static str,
    note: Option<String>,
    unseen: Option<Arc<dyn Unseen>>,
    /// Where interrupts by message go, if it takes them.
    messages: Option<Arc<dyn MsiSink>>,
}

/// What the devices of a board are connected to.
struct Platform {
    console: ConsoleFds,
    vmgenid: Shared<VmGenId>,
    sink: SystemSink,
}

/// The part of putting a machine together that each board has of its own.
trait Side {
    /// What a vCPU is called, before its number.
    fn vcpu_name(&self) -> &'static str;
    /// Where wires end.
    fn lines(&self) -> Lines;
    /// Adds interrupt controllers and devices, in board order.
    fn platform(&mut self, b: &mut Builder, p: Platform) -> Result<Arc<dyn DebugConsole>, BuildError>;
    /// Adds what comes after virtio.
    fn last(&mut self, b: &mut Builder, sink: &SystemSink) -> Result<(), BuildError>;
    /// What loads the files and readies the vCPUs, at power-on and at every reset.
    fn power_on(
        self: Box<Self>,
        vcpus: &[SharedVcpu],
        harts: &Arc<Harts>,
        entropy: Box<dyn Entropy>,
    ) -> PowerOn;
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
    let (driver, inbox) = mailbox();
    let gate = Gate::new(driver.clone());

    let (mut side, engine): (Box<dyn Side>, Engine) = match spec.board {
        Board::RiscvVirt => {
            let clock: Arc<dyn Timekeeper> = match &counted {
                Some(c) => c.clock.clone(),
                None => Arc::new(GuestClock::stopped_at(0)),
            };
            let (side, engine) = Riscv::new(spec, placement, (tier, code_size), &ram, clock)?;
            (Box::new(side), engine)
        }
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Board::X86Micro => {
            let (side, engine) = x86::X86::new(spec, placement, &ram)?;
            (Box::new(side), engine)
        }
        #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
        Board::X86Micro => return Err(strata_kvm::KvmError::Absent.into()),
    };
    let shared: Vec<Arc<VcpuShared>> = engine.vcpus.iter().map(|v| v.shared().clone()).collect();
    let vcpus: Vec<SharedVcpu> = engine.vcpus.into_iter().map(|v| Arc::new(Mutex::new(v))).collect();
    let harts = Arc::new(Harts::new(vcpus.len()));
    let sink = system_sink(gate.clone(), shared.clone());

    let mut b = Builder {
        board: spec.board,
        ram,
        clock: engine.clock,
        deterministic: spec.deterministic,
        lines: side.lines(),
        memory: MmioBus::builder(),
        ports: MmioBus::builder(),
        parts: vec![],
        workers: vec![],
        doorbells: vec![],
        pci: None,
    };
    if spec.transport == Transport::Pci {
        b.pci = Pci::new(spec.board, engine.messages, &b.lines);
    }
    for (i, v) in vcpus.iter().enumerate() {
        b.part(format!("{}{i}", side.vcpu_name()), VcpuPart(v.clone()));
    }
    if spec.board == Board::RiscvVirt {
        b.part("sbi", HartsPart(harts.clone()));
    }
    b.part("clock", ClockPart(b.clock.clone()));
    if let Some(c) = &counted {
        b.part("schedule", SchedulePart(c.schedule.clone()));
        b.part("randomness", RandomnessPart::new(entropy.clone(), boot_entropy.clone()));
    }
    let line = b.line(strata_board::PartId::VmGenId, 0);
    let vmgenid = Arc::new(Mutex::new(VmGenId::new(id, line)));
    let debug = side.platform(&mut b, Platform { console, vmgenid: vmgenid.clone(), sink: sink.clone() })?;
    b.add_slots(spec, disks, nics, Box::new(entropy))?;
    side.last(&mut b, &sink)?;
    engine.memory.fill(b.memory.build()?)?;
    engine.ports.fill(b.ports.build()?)?;

    let mut rebuild = Rebuild {
        ram: b.ram,
        parts: Arc::new(b.parts),
        power_on: side.power_on(&vcpus, &harts, Box::new(boot_entropy)),
        vcpus,
        harts,
    };
    if state.is_none() {
        (rebuild.power_on)()?;
    }
    let machine = Machine::spawn(Assembled {
        rebuild,
        board: spec.board,
        tier: engine.tier,
        note: engine.note,
        unseen: engine.unseen,
        shared,
        workers: b.workers,
        clock: b.clock,
        counted,
        console: debug,
        doorbells: b.doorbells.into_iter().map(|(_, bell)| bell).collect(),
        gate,
        system: sink,
        inbox,
        driver,
        #[cfg(test)]
        bus: engine.memory,
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
        let regions = spec.board.ram_regions(spec.memory).into_iter();
        let regions = regions.map(|(gpa, len)| Ok(RegionSpec { gpa, len, backing: Backing::memfd(len)? }));
        let ram = GuestRam::new(regions.collect::<Result<_, strata_memory::MemoryError>>()?)?;
        return Ok(Begin { ram, state: None, generation: None, passed: 0 });
    };
    if passed > 0 && spec.deterministic {
        return Err(BuildError::Spec(
            "its time comes from its instructions, and cannot have passed without them".into(),
        ));
    }
    let regions: Vec<_> = ram.regions().iter().map(|r| (r.gpa(), r.size())).collect();
    if regions != spec.board.ram_regions(spec.memory) {
        return Err(BuildError::Spec("the saved memory is not as large as the machine's".into()));
    }
    Ok(Begin { ram, state: Some(state), generation, passed })
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
    if spec.board == Board::X86Micro && spec.deterministic {
        return bad(
            "KVM cannot stop after a number of instructions: only the software engine's runs repeat".into()
        );
    }
    if spec.board == Board::RiscvVirt && spec.processor.is_some() {
        return bad("processor models are KVM's; this machine runs on the software engine".into());
    }
    if spec.board == Board::X86Micro && resources.tier.is_some() {
        return bad("tiers are the software engine's; this machine runs on KVM".into());
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
