//! The board `x86-micro` on KVM: the kernel's machine and chips, vCPUs, the few devices of a PC.
//!
//! The kernel has the machine's interrupt chips, so what a device's wire or message ends in is theirs. A write to a virtio
//! device's notification register is a doorbell of the kernel's: it wakes the device's worker and is no exit.

use super::wiring::{Builder, LateBus, Lines};
use super::{BuildError, Engine, Platform, Side};
use crate::console::DebugConsole;
use crate::cpus::{SharedVcpu, lock};
use crate::harts::Harts;
use crate::loader::{Placement, pc};
use crate::machine::PowerOn;
use crate::spec::MachineSpec;
use crate::timekeeper::Timekeeper;
use crate::unseen::Unseen;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use strata_board::PartId;
use strata_devices::acpi_sleep::AcpiSleep;
use strata_devices::cmos::Cmos;
use strata_devices::i8042::I8042;
use strata_devices::virtio::{Doorbell, NOTIFY};
use strata_devices::vmgenid::VmGenId;
use strata_devices::{Shared, SystemSink};
use strata_engine::{Clock, Entropy, GuestClock, MsiSink, Vcpu};
use strata_kvm::cpuid::CpuModel;
use strata_kvm::{Buses, Chips, Host, KvmClock, KvmVcpu, Messages, Vm};
use strata_memory::GuestRam;

/// Offset of a virtio slot's notification register (virtio 1.3, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// See the module.
pub(super) struct X86 {
    spec: MachineSpec,
    placement: Placement,
    vm: Arc<Vm>,
    /// Until they are a part of the machine.
    chips: Option<Chips>,
    lines: Arc<strata_kvm::IrqLines>,
    vmgenid: Option<Shared<VmGenId>>,
}

impl X86 {
    /// Makes the kernel's machine and its vCPUs.
    pub(super) fn new(
        spec: &MachineSpec,
        placement: Placement,
        ram: &GuestRam,
    ) -> Result<(X86, Engine), BuildError> {
        let vm = Vm::new(Arc::new(Host::open()?), ram.clone())?;
        let chips = Chips::new(vm.clone())?;
        let (memory, ports) = (Arc::<LateBus>::default(), Arc::<LateBus>::default());
        let buses = Buses { memory: memory.clone(), ports: ports.clone() };
        let model = spec.processor.as_deref().map_or(Ok(CpuModel::Host), str::parse)?;
        let make = |id| -> Result<Box<dyn Vcpu>, BuildError> {
            let vcpu = KvmVcpu::new(vm.clone(), id, spec.harts, &model, buses.clone())?;
            Ok(Box::new(vcpu))
        };
        let vcpus = (0..spec.harts).map(make).collect::<Result<_, _>>()?;
        let clock = Arc::new(KvmTime { guest: GuestClock::stopped_at(0), kvm: KvmClock::new(vm.clone()) });
        let unseen: Arc<dyn Unseen> = Arc::new(Logged(vm.clone()));
        let lines = chips.lines();
        let messages: Option<Arc<dyn MsiSink>> = Some(Arc::new(Messages::new(vm.clone())));
        let side = X86 { spec: spec.clone(), placement, vm, chips: Some(chips), lines, vmgenid: None };
        let engine =
            Engine { vcpus, clock, memory, ports, tier: "kvm", note: None, unseen: Some(unseen), messages };
        Ok((side, engine))
    }
}

impl Side for X86 {
    fn vcpu_name(&self) -> &'static str {
        "cpu"
    }

    fn lines(&self) -> Lines {
        let lines = self.lines.clone();
        Box::new(move |n| strata_engine::IrqLine::new(lines.clone(), n))
    }

    /// Everything but virtio and the generation ID, which comes after it on this board.
    fn platform(&mut self, b: &mut Builder, p: Platform) -> Result<Arc<dyn DebugConsole>, BuildError> {
        // Before whatever drives their lines.
        if let Some(chips) = self.chips.take() {
            b.part("chips", chips);
        }
        let clock: Arc<dyn Clock> = b.clock.clone();
        b.add(PartId::I8042, 0, Arc::new(Mutex::new(I8042::new(p.sink.clone()))));
        b.add(PartId::Cmos, 0, Arc::new(Mutex::new(Cmos::new(clock))));
        let console = b.add_uart((Some(p.console.input), p.console.output))?;
        b.add(PartId::AcpiSleep, 0, Arc::new(Mutex::new(AcpiSleep::new(p.sink))));
        self.vmgenid = Some(p.vmgenid);
        Ok(console)
    }

    fn last(&mut self, b: &mut Builder, _sink: &SystemSink) -> Result<(), BuildError> {
        if let Some(vmgenid) = self.vmgenid.take() {
            b.add(PartId::VmGenId, 0, vmgenid);
        }
        for (home, bell) in b.pci.iter().flat_map(|p| &p.doorbells) {
            let (vm, bell) = (self.vm.clone(), bell.clone());
            home.on_move(move |old, new| move_doorbell(&vm, &bell, old, new));
        }
        for (slot, bell) in b.doorbells.iter().filter(|_| b.pci.is_none()) {
            if let Some(place) = b.board.place(PartId::VirtioMmio, *slot) {
                self.vm.add_doorbell(place.base + QUEUE_NOTIFY, None, bell)?;
            }
        }
        Ok(())
    }

    fn power_on(
        self: Box<Self>,
        vcpus: &[SharedVcpu],
        harts: &Arc<Harts>,
        _entropy: Box<dyn Entropy>,
    ) -> PowerOn {
        let X86 { spec, placement, vm, .. } = *self;
        // The others wait in the kernel until the first one starts them: all of them run, as far as the machine is concerned.
        harts.start_all();
        let first = vcpus.first().cloned();
        Box::new(move || {
            let entry = pc::load(vm.ram(), &placement, &spec.cmdline, (spec.harts, spec.transport))?;
            if let Some(first) = &first {
                lock(first).boot(entry);
            }
            Ok(())
        })
    }
}

/// A guest may move its devices onto each other for as long as it likes: no more than this is said of it.
const MOST_WARNINGS: u64 = 16;
static MOVES_REFUSED: AtomicU64 = AtomicU64::new(0);

/// A device's notification register goes from one BAR to another. Where the kernel refuses, notifications are exits.
fn move_doorbell(vm: &Vm, bell: &Doorbell, old: Option<u64>, new: Option<u64>) {
    let removed = old.map_or(Ok(()), |base| vm.remove_doorbell(base + NOTIFY, None, bell));
    let added = new.map_or(Ok(()), |base| vm.add_doorbell(base + NOTIFY, None, bell));
    if let Err(e) = removed.and(added)
        && MOVES_REFUSED.fetch_add(1, Relaxed) < MOST_WARNINGS
    {
        tracing::warn!("a PCI device's notifications will be slow: {e}");
    }
}

/// The machine's time where KVM shows its guests a clock: that one leads, for it is the one that they have seen.
struct KvmTime {
    guest: GuestClock,
    kvm: KvmClock,
}

impl Clock for KvmTime {
    fn now(&self) -> u64 {
        self.guest.now()
    }
}

impl Timekeeper for KvmTime {
    fn start(&self) -> Result<(), String> {
        self.kvm.set(self.guest.now());
        self.kvm.release().map_err(|e| e.to_string())?;
        self.guest.start();
        Ok(())
    }
    fn stop(&self) -> Result<(), String> {
        self.guest.stop();
        self.kvm.hold().map_err(|e| e.to_string())?;
        if let Some(now) = self.kvm.held_at() {
            self.guest.set(now);
        }
        Ok(())
    }
    fn set(&self, ns: u64) {
        self.guest.set(ns);
    }
    fn passed(&self, ns: u64) -> Result<(), String> {
        self.kvm.advance(ns).map_err(|e| e.to_string())
    }
}

/// What vCPUs of the kernel have written.
struct Logged(Arc<Vm>);

impl Unseen for Logged {
    fn collect(&self) -> Result<(), String> {
        // Writes from before the log are in the host's own account of memory.
        if self.0.log_dirty(true).map_err(|e| e.to_string())? {
            self.0.ram().mark_populated();
        }
        self.0.collect_dirty().map(drop).map_err(|e| e.to_string())
    }
    fn is_logged(&self) -> bool {
        self.0.logs_dirty()
    }
    fn stop_log(&self) -> Result<(), String> {
        self.0.log_dirty(false).map(drop).map_err(|e| e.to_string())
    }
}
