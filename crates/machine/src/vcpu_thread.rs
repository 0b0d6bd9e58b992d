//! The thread of one vCPU: runs it, answers its firmware calls, and stops at the gate.
//!
//! Wherever it waits (parked, stopped by HSM, stuck, in a remote fence), it goes on serving mail, so that two harts
//! that wait for each other never wait for ever.

use crate::console::DebugConsole;
use crate::gate::{Gate, Member, Want};
use crate::harts::Harts;
use crate::lifecycle::Event;
use crate::sbi::{self, Answer, HartStatus, SbiHost};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strata_devices::{SystemEvent, SystemSink};
use strata_engine::{Entry, Mail, Stop, Vcpu, VcpuShared};
use strata_memory::{Access, Acquired, GuestRam};

/// A vCPU as its thread and (while parked) the driver share it.
pub(crate) type SharedVcpu = Arc<Mutex<Box<dyn Vcpu>>>;

/// How long to wait before trying again when a page of guest memory is not there yet.
const PAGE_RETRY: Duration = Duration::from_millis(1);

/// How often a firmware call tries again to write to a full console.
const CONSOLE_RETRY: Duration = Duration::from_millis(1);

/// Bit of a supervisor software interrupt in `mip`.
const SSIP: u32 = 1;

/// What all vCPU threads of a machine share.
pub(crate) struct Cpus {
    pub(crate) shared: Vec<Arc<VcpuShared>>,
    pub(crate) harts: Arc<Harts>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) system: SystemSink,
    pub(crate) ram: GuestRam,
    pub(crate) console: Arc<dyn DebugConsole>,
}

/// Where devices and firmware calls end or reset the machine: all vCPUs stop at once, so that the guest does not
/// execute past its own power-off, and the driver is told.
pub(crate) fn system_sink(gate: Arc<Gate>, vcpus: Vec<Arc<VcpuShared>>) -> SystemSink {
    Arc::new(move |event| {
        gate.happened(match event {
            SystemEvent::PowerOff(code) => Event::PowerOff(code),
            SystemEvent::Reset => Event::Reset,
        });
        vcpus.iter().for_each(|v| v.kick());
    })
}

impl Cpus {
    fn nobody_goes_on(&self, why: String) {
        self.gate.happened(Event::Stuck(why));
    }
}

/// Runs vCPU number `hart`, which is `member` of the gate, until the gate says exit.
pub(crate) fn run(cpus: &Cpus, member: &Member, hart: usize, vcpu: &SharedVcpu) {
    let Some(shared) = cpus.shared.get(hart).cloned() else { return };
    loop {
        match member.ask() {
            Want::Exit => return,
            Want::Park => {
                wait(&shared, vcpu, None);
                continue;
            }
            Want::Run => {}
        }
        if let Some(entry) = cpus.harts.take_entry(hart) {
            lock(vcpu).boot(entry);
        }
        if cpus.harts.status(hart) != HartStatus::Started || cpus.harts.is_stuck(hart) {
            wait(&shared, vcpu, None);
            continue;
        }
        let stop = lock(vcpu).run();
        match stop {
            // `run` sleeps instead of being idle.
            Stop::Kicked | Stop::Idle => {}
            Stop::Wait => wait(&shared, vcpu, Some(PAGE_RETRY)),
            Stop::FirmwareCall(args) => firmware_call(cpus, hart, vcpu, args),
            Stop::Stuck(why) => {
                if cpus.harts.stuck(hart) {
                    cpus.nobody_goes_on(why);
                }
            }
        }
    }
}

fn lock(vcpu: &SharedVcpu) -> std::sync::MutexGuard<'_, Box<dyn Vcpu>> {
    vcpu.lock().unwrap_or_else(|e| e.into_inner())
}

/// Waits for attention, then serves mail. The kick is taken too: whoever kicked wants the gate looked at, which the
/// caller does next.
fn wait(shared: &VcpuShared, vcpu: &SharedVcpu, at_most: Option<Duration>) {
    shared.sleep(at_most);
    shared.take_attention();
    shared.take_kick();
    lock(vcpu).serve_mail();
}

fn firmware_call(cpus: &Cpus, hart: usize, vcpu: &SharedVcpu, args: [u64; 8]) {
    let mut host = Host { cpus, hart, vcpu };
    match sbi::call(&mut host, args) {
        Answer::Return(error, value) => lock(vcpu).finish_call(error as u64, value),
        Answer::NoReturn => {
            // A power-off or reset, which an unpause may overtake: this hart executes nothing more.
            if cpus.harts.status(hart) == HartStatus::Started {
                let Some(shared) = cpus.shared.get(hart) else { return };
                while cpus.gate.want() == Want::Run {
                    wait(shared, vcpu, None);
                }
            }
        }
    }
}

/// The machine as one calling hart's firmware sees it.
struct Host<'a> {
    cpus: &'a Cpus,
    hart: usize,
    vcpu: &'a SharedVcpu,
}

impl SbiHost for Host<'_> {
    fn harts(&self) -> u64 {
        self.cpus.shared.len() as u64
    }
    fn this_hart(&self) -> u64 {
        self.hart as u64
    }
    fn status(&self, hart: u64) -> HartStatus {
        self.cpus.harts.status(hart as usize)
    }
    fn start(&mut self, hart: u64, entry: Entry) -> bool {
        let started = self.cpus.harts.start(hart as usize, entry);
        if started && let Some(s) = self.cpus.shared.get(hart as usize) {
            s.kick();
        }
        started
    }
    fn stop_this(&mut self) {
        if self.cpus.harts.stop(self.hart) {
            let registers = lock(self.vcpu).describe_registers();
            self.cpus.nobody_goes_on(format!(
                "every hart has stopped itself, and none is left to start one\n{registers}"
            ));
        }
    }
    fn set_timer(&mut self, at: u64) {
        lock(self.vcpu).set_guest_timer(at);
    }
    fn send_ipi(&mut self, hart: u64) {
        if let Some(s) = self.cpus.shared.get(hart as usize) {
            s.latch(SSIP);
        }
    }
    fn fence(&mut self, harts: &[u64], mail: Mail) {
        let tickets: Vec<_> = harts
            .iter()
            .filter_map(|h| self.cpus.shared.get(*h as usize))
            .map(|s| (s, s.send(mail)))
            .collect();
        let mut spins = 0u32;
        while !tickets.iter().all(|(s, t)| s.has_served(*t)) {
            lock(self.vcpu).serve_mail();
            if self.cpus.gate.want() == Want::Exit {
                return;
            }
            // A running hart answers within a block; a sleeping one must first be scheduled.
            spins += 1;
            if spins < 200 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
    fn system(&mut self, event: SystemEvent) {
        (self.cpus.system)(event);
    }
    fn console_write(&mut self, gpa: u64, len: u64) -> Option<u64> {
        match self.cpus.ram.acquire(gpa, len, Access::Read).ok()? {
            // Nothing written is a partial write: the caller comes again.
            Acquired::Wait => Some(0),
            Acquired::Ready(slice) => {
                let mut bytes = vec![0; len as usize];
                slice.copy_to(&mut bytes);
                Some(self.cpus.console.write(&bytes) as u64)
            }
        }
    }
    fn console_read(&mut self, gpa: u64, len: u64) -> Option<u64> {
        match self.cpus.ram.acquire(gpa, len, Access::Write).ok()? {
            Acquired::Wait => Some(0),
            Acquired::Ready(slice) => {
                let bytes = self.cpus.console.read(len as usize);
                slice.copy_from(&bytes);
                self.cpus.ram.written_slice(&slice);
                Some(bytes.len() as u64)
            }
        }
    }
    fn console_put(&mut self, byte: u8) -> bool {
        let Some(shared) = self.cpus.shared.get(self.hart) else { return false };
        // It waits for whoever reads the console, but a pause does not wait with it.
        while self.cpus.console.write(&[byte]) == 0 {
            if self.cpus.gate.want() != Want::Run {
                return false;
            }
            wait(shared, self.vcpu, Some(CONSOLE_RETRY));
        }
        true
    }
    fn is_ram(&self, gpa: u64) -> bool {
        self.cpus.ram.contains(gpa, 1)
    }
}
