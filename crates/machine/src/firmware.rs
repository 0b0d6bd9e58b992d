//! The machine as its harts' firmware: carries out what a firmware call (`sbi.rs`) asks of memory, console and other harts.

use crate::cpus::{Cpus, SharedVcpu, lock, wait};
use crate::gate::Want;
use crate::sbi::{self, Answer, HartStatus, SbiHost};
use std::time::Duration;
use strata_devices::SystemEvent;
use strata_engine::{Entry, Mail};
use strata_memory::{Access, Acquired};

/// How often a firmware call tries again to write to a full console.
const CONSOLE_RETRY: Duration = Duration::from_millis(1);

/// Bit of a supervisor software interrupt in `mip`.
const SSIP: u32 = 1;

/// Answers the call of `hart` with registers a0 to a7. Gives false if the hart executes nothing more although it is
/// started: it has ended or reset the machine.
#[must_use]
pub(crate) fn answer(cpus: &Cpus, hart: usize, vcpu: &SharedVcpu, args: [u64; 8]) -> bool {
    let mut host = Host { cpus, hart, vcpu };
    match sbi::call(&mut host, args) {
        Answer::Return(error, value) => {
            if let Some(caller) = lock(vcpu).firmware_calls() {
                caller.finish_call(error as u64, value);
            }
            true
        }
        Answer::NoReturn => cpus.harts.status(hart) != HartStatus::Started,
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
        if let Some(caller) = lock(self.vcpu).firmware_calls() {
            caller.set_guest_timer(at);
        }
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
        if let Some(vcpus) = &self.cpus.one_thread {
            // None of them runs now.
            return vcpus.iter().for_each(|v| lock(v).serve_mail());
        }
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
        if self.cpus.one_thread.is_some() {
            // Whoever makes room runs on this very thread, and how soon must not be seen.
            self.cpus.console.push(byte);
            return true;
        }
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
