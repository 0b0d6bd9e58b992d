//! vCPUs, memory, interrupt controllers and the device, on an engine: as little of a machine as the scenarios need.

use super::device::{Alone, BASE, DOORBELL, Device, LINE, Ports, SIZE, within};
use super::program::{RISCV_BASE, X86_BASE};
use anyhow::{Context, Result, bail};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use strata_devices::aclint::Aclint;
use strata_devices::plic::Plic;
use strata_devices::{Mmio, Shared};
use strata_engine::{Bus, BusFault, Entry, GuestClock, IrqLine, Mail, Privilege, Stop, Vcpu, VcpuShared};
use strata_kvm::cpuid::CpuModel;
use strata_kvm::{Buses, Cause, Chips, Exits, Host, Kind, KvmClock, KvmVcpu, Vm};
use strata_memory::{GuestRam, PAGE};
use strata_riscv::{Hart, HartConfig};
use strata_state::Part;

/// Guest memory of a rig, in bytes.
const MEMORY: u64 = 4 << 20;

/// An engine that scenarios run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// RISC-V by the interpreter alone.
    Interpreter,
    /// RISC-V with hot paths translated.
    Translator,
    /// x86-64 on KVM.
    Kvm,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Interpreter => "interpreter",
            Engine::Translator => "translator",
            Engine::Kvm => "kvm",
        })
    }
}

impl Engine {
    /// Why a scenario may fail here without this being an error of ours; none where every one must pass.
    pub fn excuse(self) -> Option<String> {
        if self != Engine::Kvm {
            return None;
        }
        match strata_kvm::probe() {
            Ok(report) if report.speed.kind() == Kind::Emulated => {
                Some(format!("this /dev/kvm interprets guest kernel code ({:.1} MIPS)", report.speed.mips))
            }
            _ => None,
        }
    }

    fn base(self) -> u64 {
        if self == Engine::Kvm { X86_BASE } else { RISCV_BASE }
    }
}

/// What an engine has beside its vCPUs.
enum Side {
    Soft { plic: Shared<Plic>, aclint: Shared<Aclint>, clock: Arc<GuestClock> },
    Kvm { vm: Arc<Vm>, chips: Mutex<Chips>, clock: KvmClock, exits: Vec<Arc<Exits>>, ports: Arc<Ports> },
}

type Cpu = Mutex<Box<dyn Vcpu>>;

/// See the module.
pub struct Rig {
    /// Which engine.
    pub engine: Engine,
    /// Guest memory.
    pub ram: GuestRam,
    /// The device.
    pub device: Arc<Device>,
    cpus: Vec<Cpu>,
    shared: Vec<Arc<VcpuShared>>,
    side: Side,
}

/// What a rig is at one moment.
pub struct Saved {
    cpus: Vec<Vec<u8>>,
    side: Vec<Vec<u8>>,
    clock: u64,
    ports: [u8; 4],
    device: (u64, [u8; 8]),
    memory: Vec<u8>,
}

fn lock<T: ?Sized>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

/// The bus of the soft engine's rig, filled once the harts are there.
#[derive(Default)]
struct SoftBus(OnceLock<(Arc<Device>, Shared<Aclint>, Shared<Plic>)>);

impl SoftBus {
    fn with<R>(
        &self,
        gpa: u64,
        mut mmio: impl FnMut(&mut dyn Mmio, u64) -> R,
        device: impl FnOnce(&Device, u64) -> R,
    ) -> Result<R, BusFault> {
        let (own, aclint, plic) = self.0.get().ok_or(BusFault)?;
        if let Some(at) = within(gpa, BASE, SIZE) {
            return Ok(device(own, at));
        }
        if let Some(at) = within(gpa, 0x200_0000, 0x1_0000) {
            return Ok(mmio(&mut *lock(aclint), at));
        }
        let at = within(gpa, 0xc00_0000, 0x60_0000).ok_or(BusFault)?;
        Ok(mmio(&mut *lock(plic), at))
    }
}

impl Bus for SoftBus {
    fn read(&self, gpa: u64, size: u8) -> Result<u64, BusFault> {
        self.with(gpa, |d, at| d.read(at, size), |d, at| d.read(at, size))
    }
    fn write(&self, gpa: u64, size: u8, value: u64) -> Result<(), BusFault> {
        self.with(gpa, |d, at| d.write(at, size, value), |d, at| d.write(at, size, value))
    }
}

impl Rig {
    /// A rig with `count` vCPUs and `program` in memory, nothing of which has run.
    pub fn new(engine: Engine, count: u32, program: &[u8]) -> Result<Rig> {
        let ram = GuestRam::single(if engine == Engine::Kvm { 0 } else { engine.base() }, MEMORY)?;
        ram.load(engine.base(), program)?;
        let device = Arc::new(Device::new(ram.clone()));
        let rig = match engine {
            Engine::Kvm => Rig::kvm(count, ram, device)?,
            _ => Rig::soft(engine, count, ram, device)?,
        };
        rig.device.connect(rig.line());
        Ok(rig)
    }

    fn soft(engine: Engine, count: u32, ram: GuestRam, device: Arc<Device>) -> Result<Rig> {
        let clock = Arc::new(GuestClock::stopped_at(0));
        let bus = Arc::new(SoftBus::default());
        let mut cpus: Vec<Cpu> = Vec::new();
        for id in 0..count {
            let second = match engine {
                Engine::Translator => Some(strata_translator::tier()?),
                _ => None,
            };
            let config = HartConfig::new(id.into());
            let hart = Hart::with_tier(config, ram.clone(), bus.clone(), clock.clone(), second);
            cpus.push(Mutex::new(Box::new(hart)));
        }
        let shared: Vec<_> = cpus.iter().map(|c| lock(c).shared().clone()).collect();
        let plic = Arc::new(Mutex::new(Plic::new(shared.clone())));
        let aclint = Arc::new(Mutex::new(Aclint::new(shared.clone(), clock.clone())));
        let _ = bus.0.set((device.clone(), aclint.clone(), plic.clone()));
        Ok(Rig { engine, ram, device, cpus, shared, side: Side::Soft { plic, aclint, clock } })
    }

    fn kvm(count: u32, ram: GuestRam, device: Arc<Device>) -> Result<Rig> {
        let vm = Vm::new(Arc::new(Host::open()?), ram.clone())?;
        let ports = Arc::new(Ports::default());
        let buses = Buses { memory: Arc::new(Alone(device.clone())), ports: ports.clone() };
        let (mut cpus, mut exits): (Vec<Cpu>, Vec<_>) = Default::default();
        for id in 0..count {
            let cpu = KvmVcpu::new(vm.clone(), id, count, &CpuModel::Host, buses.clone())?;
            exits.push(cpu.exits());
            cpus.push(Mutex::new(Box::new(cpu)));
        }
        let shared = cpus.iter().map(|c| lock(c).shared().clone()).collect();
        let (chips, clock) = (Mutex::new(Chips::new(vm.clone())?), KvmClock::new(vm.clone()));
        let side = Side::Kvm { vm, chips, clock, exits, ports };
        Ok(Rig { engine: Engine::Kvm, ram, device, cpus, shared, side })
    }

    /// A wire to the device's line.
    pub fn line(&self) -> IrqLine {
        match &self.side {
            Side::Soft { plic, .. } => Plic::irq_line(plic, LINE),
            Side::Kvm { chips, .. } => lock(chips).line(LINE),
        }
    }

    /// Puts every vCPU at the program's first instruction.
    pub fn boot(&self, scenario: u64) {
        for (cpu, id) in self.cpus.iter().zip(0..) {
            let (args, privilege) = match self.engine {
                Engine::Kvm => ([id, scenario, 0], Privilege::Kernel),
                _ => ([id, scenario, 0], Privilege::Firmware),
            };
            lock(cpu).boot(Entry { pc: self.engine.base(), args, privilege });
        }
    }

    /// Runs all vCPUs, a thread each, until `until` holds, and stops them. It is looked at often.
    ///
    /// # Errors
    /// That takes more than `limit`, a vCPU is stuck, or one does not stop when it is kicked.
    pub fn run(&self, limit: Duration, until: impl Fn(&Rig) -> bool) -> Result<()> {
        let (over, stuck) = (AtomicBool::new(false), Mutex::new(None));
        self.clock(true)?;
        let came = std::thread::scope(|threads| {
            for cpu in &self.cpus {
                let (over, stuck) = (&over, &stuck);
                threads.spawn(move || {
                    while !over.load(SeqCst) {
                        match lock(cpu).run() {
                            Stop::Kicked => {}
                            other => {
                                *lock(stuck) = Some(other);
                                return;
                            }
                        }
                    }
                });
            }
            let begun = Instant::now();
            let mut came = until(self);
            while !came && begun.elapsed() < limit && lock(&stuck).is_none() {
                std::thread::sleep(Duration::from_micros(200));
                came = until(self);
            }
            over.store(true, SeqCst);
            self.shared.iter().for_each(|s| s.kick());
            came
        });
        self.clock(false)?;
        if let Some(stop) = lock(&stuck).take() {
            bail!("a vCPU stopped: {stop:?}");
        }
        if !came {
            bail!("not done after {limit:?}, progress {}\n{}", self.device.progress(), self.describe());
        }
        Ok(())
    }

    fn clock(&self, on: bool) -> Result<()> {
        match (&self.side, on) {
            (Side::Soft { clock, .. }, true) => clock.start(),
            (Side::Soft { clock, .. }, false) => clock.stop(),
            (Side::Kvm { clock, .. }, true) => clock.release()?,
            (Side::Kvm { clock, .. }, false) => clock.hold()?,
        }
        Ok(())
    }

    /// Runs until the guest ends the scenario, which must be well.
    ///
    /// # Errors
    /// It does not, or ends with the line of a check.
    pub fn finish(&self, limit: Duration) -> Result<()> {
        self.run(limit, |r| r.device.end().is_some())?;
        match self.device.end() {
            Some(0) => Ok(()),
            end => bail!("the guest's check in line {} failed\n{}", end.unwrap_or(0), self.describe()),
        }
    }

    /// Registers of all vCPUs. Only while none runs.
    pub fn describe(&self) -> String {
        self.cpus.iter().map(|c| lock(c).describe_registers()).collect()
    }

    /// Eight bytes of guest memory.
    pub fn word(&self, gpa: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.ram.peek(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Word `n` of those that the guest shares with the host: counters of both processors, sum.
    pub fn shared_word(&self, n: u64) -> Result<u64> {
        self.word(self.word(self.engine.base() + 8)? + 8 * n)
    }

    /// Sets such a word.
    pub fn set_shared_word(&self, n: u64, value: u64) -> Result<()> {
        let at = self.word(self.engine.base() + 8)? + 8 * n;
        Ok(self.ram.load(at, &value.to_le_bytes())?)
    }

    /// Begins an epoch of the dirty map: what is written from now on is dirty since then. Only while nothing runs.
    pub fn begin_epoch(&self) -> Result<u32> {
        if let Side::Kvm { vm, .. } = &self.side {
            vm.log_dirty(true)?;
            vm.collect_dirty()?;
        }
        let region = self.ram.regions().first().context("no memory")?;
        let epoch = region.pages().begin_epoch();
        for cpu in &self.cpus {
            let mut cpu = lock(cpu);
            cpu.shared().send(Mail::DropPages);
            cpu.serve_mail();
        }
        Ok(epoch)
    }

    /// The pages from `gpa` on, `count` of them, that are dirty since `epoch`. Only while nothing runs.
    pub fn dirty(&self, epoch: u32, gpa: u64, count: u64) -> Result<Vec<u64>> {
        if let Side::Kvm { vm, .. } = &self.side {
            vm.collect_dirty()?;
        }
        let region = self.ram.regions().first().context("no memory")?;
        let first = (gpa - region.gpa()) / PAGE;
        let is_dirty = |n: &u64| region.pages().dirty_since((first + n) as usize, epoch);
        Ok((0..count).filter(is_dirty).collect())
    }

    /// Has writes to the doorbell counted by `bell`.
    pub fn doorbell(&self, bell: OwnedFd) -> Result<()> {
        match &self.side {
            Side::Kvm { vm, .. } => vm.add_doorbell(BASE + DOORBELL, Some(1), &bell)?,
            Side::Soft { .. } => self.device.set_bell(bell),
        }
        Ok(())
    }

    /// Has the counting up of `fd` raise the device's interrupt: by the kernel, or by whoever counts it up, through the wire
    /// that this gives.
    pub fn interrupt_by(&self, fd: &OwnedFd) -> Result<Option<IrqLine>> {
        match &self.side {
            Side::Kvm { vm, .. } => vm.add_interrupt(LINE, fd.as_fd()).map(|()| None).map_err(Into::into),
            Side::Soft { .. } => Ok(Some(self.line())),
        }
    }

    /// Writes that left guest code for the device; none where that is not counted.
    pub fn memory_writes(&self) -> Option<u64> {
        match &self.side {
            Side::Kvm { exits, .. } => Some(exits.iter().map(|e| e.of(Cause::MemoryWrite)).sum()),
            Side::Soft { .. } => None,
        }
    }

    fn with_parts<R>(&self, mut f: impl FnMut(&mut dyn Part) -> R) -> Vec<R> {
        match &self.side {
            Side::Soft { plic, aclint, .. } => vec![f(&mut *lock(plic)), f(&mut *lock(aclint))],
            Side::Kvm { chips, .. } => vec![f(&mut *lock(chips))],
        }
    }

    /// Everything that the guest can see. Only while nothing runs.
    pub fn save(&self) -> Result<Saved> {
        let region = self.ram.regions().first().context("no memory")?;
        let mut memory = vec![0; region.size() as usize];
        self.ram.peek(region.gpa(), &mut memory)?;
        let (clock, ports) = match &self.side {
            Side::Soft { clock, .. } => (strata_engine::Clock::now(&**clock), [0; 4]),
            Side::Kvm { clock, ports, .. } => (clock.held_at().context("the clock runs")?, *lock(&ports.0)),
        };
        let cpus = self.cpus.iter().map(|c| lock(c).save()).collect();
        let side = self.with_parts(|p| p.save());
        Ok(Saved { cpus, side, clock, ports, device: self.device.state(), memory })
    }

    /// Takes a state. Only while nothing runs.
    pub fn load(&self, saved: &Saved) -> Result<()> {
        let region = self.ram.regions().first().context("no memory")?;
        self.ram.load(region.gpa(), &saved.memory)?;
        match &self.side {
            Side::Soft { clock, .. } => clock.set(saved.clock),
            Side::Kvm { clock, ports, .. } => {
                clock.set(saved.clock);
                *lock(&ports.0) = saved.ports;
            }
        }
        for (cpu, state) in self.cpus.iter().zip(&saved.cpus) {
            lock(cpu).load(state)?;
        }
        let mut states = saved.side.iter();
        for outcome in self.with_parts(|p| states.next().map(|s| p.load(s))).into_iter().flatten() {
            outcome?;
        }
        self.device.set_state(saved.device);
        Ok(())
    }
}
