//! One vCPU on KVM, behind the engine contract.
//!
//! ```text
//!  run ─► attention? ─► KVM_RUN ─► an access ─► bus ─┐   the access is finished inside the next KVM_RUN;
//!   ▲         │ kicked             │ interrupted     │   so before `run` returns, it is entered once more
//!   └─────────┴────────────────────┴─────────────────┘   with `immediate_exit`, and then the state is whole
//! ```
//! Interrupt pins, timers and firmware calls of the contract are not used: the kernel's chips do that. A vCPU that halts
//! sleeps in the kernel.

use crate::cpuid::{CpuModel, Leaves};
use crate::exits::{Cause, Exits};
use crate::kick::Kicker;
use crate::seen::{check_flags, is_another_rate};
use crate::state::{self, VcpuState};
use crate::{KvmError, Vm};
use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use strata_engine::{Bus, Entry, Privilege, Stop, Vcpu, VcpuShared};
use strata_state::{Part, Record, Schema, StateError, read_record, write_record};

/// Where a vCPU's accesses go that are not RAM.
#[derive(Clone)]
pub struct Buses {
    /// By guest physical address.
    pub memory: Arc<dyn Bus>,
    /// By port number.
    pub ports: Arc<dyn Bus>,
}

/// A vCPU. The order of the fields is the order in which they go: its descriptor before the machine's memory.
pub struct KvmVcpu {
    fd: VcpuFd,
    /// The page shared with the kernel, for as long as `fd` is open.
    page: *mut kvm_run,
    buses: Buses,
    shared: Arc<VcpuShared>,
    kicker: Arc<Kicker>,
    exits: Arc<Exits>,
    cpuid: Leaves,
    power_on: VcpuState,
    /// An access has been answered, and the kernel has not taken the answer yet.
    owes: bool,
    /// What the host's kernel refused while there was nobody to tell.
    failed: Option<String>,
    id: u32,
    vm: Arc<Vm>,
}

// SAFETY: the page is mapped by `fd` and used through it, or for the one byte that `Kicker` sets atomically and the fields
// that are read while the vCPU does not run; nothing of it belongs to a thread.
unsafe impl Send for KvmVcpu {}

impl KvmVcpu {
    /// Makes vCPU number `id` of `count`, with processor `model`.
    ///
    /// # Errors
    /// There are too many, the host lacks a flag of the model, or the kernel refuses a step.
    pub fn new(
        vm: Arc<Vm>,
        id: u32,
        count: u32,
        model: &CpuModel,
        buses: Buses,
    ) -> Result<KvmVcpu, KvmError> {
        let most = vm.host.max_vcpus();
        if count as usize > most {
            return Err(KvmError::Vcpus { asked: count, most });
        }
        let cpuid = model.leaves(&vm.host, id, count)?;
        let mut fd = vm.fd.create_vcpu(id.into()).map_err(KvmError::at("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&cpuid.to_kernel()?).map_err(KvmError::at("KVM_SET_CPUID2"))?;
        let power_on = state::read(&fd, cpuid.rows())?;
        let page: *mut kvm_run = fd.get_kvm_run();
        let kicker = Arc::new(Kicker::default());
        let shared = Arc::new(VcpuShared::with_alarm({
            let kicker = kicker.clone();
            move || kicker.kick()
        }));
        vm.counters.add(&fd)?;
        let exits = Arc::default();
        let (owes, failed) = (false, None);
        Ok(KvmVcpu { fd, page, buses, shared, kicker, exits, cpuid, power_on, owes, failed, id, vm })
    }

    /// Its exits so far.
    pub fn exits(&self) -> Arc<Exits> {
        self.exits.clone()
    }

    /// Every register.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn state(&self) -> Result<VcpuState, KvmError> {
        state::read(&self.fd, self.cpuid.rows())
    }

    /// Sets every register.
    ///
    /// # Errors
    /// The state is not of a vCPU that this host can run, or the kernel refuses part of it.
    pub fn set_state(&mut self, s: &VcpuState) -> Result<(), StateError> {
        let invalid = |why: String| StateError::Invalid { id: VcpuState::ID.into(), why };
        s.check().map_err(invalid)?;
        let leaves = Leaves::from_rows(&s.cpuid);
        let refused = |e: KvmError| invalid(e.to_string());
        check_flags(&leaves.flags(), &self.vm.host).map_err(refused)?;
        if leaves.rows() != self.cpuid.rows() {
            let list = leaves.to_kernel().map_err(refused)?;
            self.fd.set_cpuid2(&list).map_err(KvmError::at("KVM_SET_CPUID2")).map_err(refused)?;
            self.cpuid = leaves;
        }
        if is_another_rate(s.tsc_khz, self.fd.get_tsc_khz().unwrap_or(0)) {
            self.fd.set_tsc_khz(s.tsc_khz).map_err(KvmError::at("KVM_SET_TSC_KHZ")).map_err(refused)?;
        }
        state::write(&self.fd, s).map_err(refused)?;
        if let Some(counter) = s.msrs.counter().filter(|_| self.id == 0) {
            self.vm.counters.set(counter);
        }
        self.owes = false;
        Ok(())
    }

    fn immediate_exit(&self) -> *const AtomicU8 {
        // SAFETY: the page is mapped for as long as `fd` is open; only the byte's address is taken.
        unsafe { (&raw const (*self.page).immediate_exit).cast() }
    }

    fn set_immediate_exit(&self, on: bool) {
        // SAFETY: the byte is valid, see above, and this process touches it only atomically.
        unsafe { (*self.immediate_exit()).store(on.into(), SeqCst) };
    }

    /// Executes guest code until something comes up. None: go on.
    fn enter(&mut self) -> Option<Stop> {
        self.owes = false;
        let (cause, stop) = match self.fd.run() {
            Ok(VcpuExit::MmioRead(gpa, data)) => {
                self.owes = true;
                read(&*self.buses.memory, gpa, data);
                (Cause::MemoryRead, None)
            }
            Ok(VcpuExit::MmioWrite(gpa, data)) => {
                self.owes = true;
                write(&*self.buses.memory, gpa, data);
                (Cause::MemoryWrite, None)
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                self.owes = true;
                // A string instruction hands over many elements at once.
                // SAFETY: the kernel has just filled this member, and the exit's data lies elsewhere in the mapping.
                let size = unsafe { (*self.page).__bindgen_anon_1.io.size };
                data.chunks_mut(usize::from(size).max(1))
                    .for_each(|d| read(&*self.buses.ports, port.into(), d));
                (Cause::PortRead, None)
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                self.owes = true;
                // SAFETY: as above.
                let size = unsafe { (*self.page).__bindgen_anon_1.io.size };
                data.chunks(usize::from(size).max(1)).for_each(|d| write(&*self.buses.ports, port.into(), d));
                (Cause::PortWrite, None)
            }
            Ok(VcpuExit::Intr) => (Cause::Interrupted, None),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => (Cause::Interrupted, None),
            Ok(VcpuExit::Shutdown) => (Cause::Other, Some(TRIPLE_FAULT.to_owned())),
            Ok(VcpuExit::InternalError) => (Cause::Other, Some(internal_error(self.page))),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                (Cause::Other, Some(format!("processor {cpu} refuses its state, reason {reason:#x}")))
            }
            Ok(other) => (Cause::Other, Some(format!("an exit that this engine does not know: {other:?}"))),
            Err(e) => (Cause::Other, Some(format!("KVM_RUN failed: {e}"))),
        };
        self.exits.count(cause);
        stop.map(|why| Stop::Stuck(format!("{why}\n{}", self.describe_registers())))
    }

    /// Lets the kernel take the answer to the last access, so that the state is that of between two instructions.
    fn finish_access(&mut self) -> Option<Stop> {
        while self.owes {
            self.set_immediate_exit(true);
            if let stop @ Some(_) = self.enter() {
                return stop;
            }
        }
        None
    }
}

/// AMD processors forget their registers at that, as at a reset.
const TRIPLE_FAULT: &str =
    "a triple fault (registers as after INIT are an AMD host's, which keeps no others)";

/// What the kernel says about an instruction that it could not carry out.
fn internal_error(page: *const kvm_run) -> String {
    // SAFETY: the page is mapped while its vCPU lives, and after this exit the kernel has filled this member.
    let e = unsafe { (*page).__bindgen_anon_1.internal };
    let words = e.data.iter().take((e.ndata as usize).min(e.data.len()));
    let data: Vec<String> = words.map(|w| format!("{w:x}")).collect();
    match e.suberror {
        kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => {
            format!("the host's KVM cannot carry out an instruction [{}]", data.join(" "))
        }
        other => format!("an internal error of the host's KVM, number {other} [{}]", data.join(" ")),
    }
}

/// Reads `data.len()` bytes; where nothing answers, all bits are set, as on a bus that nobody drives.
fn read(bus: &dyn Bus, at: u64, data: &mut [u8]) {
    let size = data.len();
    if matches!(size, 1 | 2 | 4 | 8) {
        let value = bus.read(at, size as u8).unwrap_or(u64::MAX);
        data.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    } else {
        for (byte, at) in data.iter_mut().zip(at..) {
            *byte = bus.read(at, 1).unwrap_or(u64::MAX) as u8;
        }
    }
}

/// Writes likewise; what nobody takes is lost.
fn write(bus: &dyn Bus, at: u64, data: &[u8]) {
    let size = data.len();
    if matches!(size, 1 | 2 | 4 | 8) {
        let value = data.iter().rev().fold(0, |value, b| value << 8 | u64::from(*b));
        let _ = bus.write(at, size as u8, value);
    } else {
        for (byte, at) in data.iter().zip(at..) {
            let _ = bus.write(at, 1, (*byte).into());
        }
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self) -> Stop {
        if let Some(why) = &self.failed {
            return Stop::Stuck(why.clone());
        }
        // SAFETY: the page outlives the guard, which ends in this call.
        let _running = unsafe { self.kicker.running(self.immediate_exit()) };
        loop {
            // Cleared before the word is looked at: a kick after that sets it again.
            self.set_immediate_exit(false);
            if self.shared.take_attention() {
                self.serve_mail();
                if self.shared.take_kick() {
                    return self.finish_access().unwrap_or(Stop::Kicked);
                }
            }
            if let Some(stop) = self.enter() {
                return stop;
            }
        }
    }
    fn shared(&self) -> &Arc<VcpuShared> {
        &self.shared
    }
    /// Fences are the processor's own affair, and rights to write are the kernel's: there is nothing to forget.
    fn serve_mail(&mut self) {
        self.shared.serve_mail(|_| {});
    }
    fn boot(&mut self, entry: Entry) {
        let mut s = self.power_on.clone();
        let [rax, rbx, rsi] = entry.args;
        s.general.rip = match entry.privilege {
            Privilege::Firmware => s.system.make_real(entry.pc),
            Privilege::Kernel => {
                s.system.make_flat();
                entry.pc
            }
        };
        (s.general.rax, s.general.rbx, s.general.rsi) = (rax, rbx, rsi);
        s.activity = 0;
        self.failed = self.set_state(&s).err().map(|e| e.to_string());
    }
    fn retired(&self) -> u64 {
        0
    }
    fn describe_registers(&self) -> String {
        match self.state() {
            Ok(s) => format!("{}{}", s.general, s.system),
            Err(e) => format!("its registers cannot be read: {e}\n"),
        }
    }
}

impl Part for KvmVcpu {
    fn record_id(&self) -> &'static str {
        VcpuState::ID
    }
    /// Nothing, which no load accepts, if the kernel gives nothing.
    fn save(&self) -> Vec<u8> {
        self.state().map(|s| write_record(&s)).unwrap_or_else(|e| {
            tracing::error!("a vCPU's state: {e}");
            Vec::new()
        })
    }
    fn load(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.set_state(&read_record(bytes)?)?;
        self.failed = None;
        Ok(())
    }
    fn reset(&mut self) {
        let power_on = self.power_on.clone();
        self.failed = self.set_state(&power_on).err().map(|e| e.to_string());
    }
    fn describe(&self, out: &mut Schema) {
        VcpuState::describe_fields(out);
    }
}
