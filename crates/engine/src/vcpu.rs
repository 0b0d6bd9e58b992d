//! One virtual processor, as the machine drives it.

use crate::VcpuShared;
use crate::hot::{HotPath, HotPaths, Portion};
use std::sync::Arc;
use strata_state::Part;

/// Why [`Vcpu::run`] came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It was kicked, or [`Counted::run_for`] has done its count.
    Kicked,
    /// It waits for an interrupt. Only [`Counted::run_for`] says so; [`Vcpu::run`] sleeps.
    Idle,
    /// The guest calls the firmware that the machine itself is (RISC-V SBI: `ecall` from S mode without an M-mode
    /// firmware). The machine answers through [`Vcpu::firmware_calls`] and runs on. Arguments are a0 to a7.
    FirmwareCall([u64; 8]),
    /// A page of guest memory is not there yet; run again when it may be.
    Wait,
    /// The vCPU can never go on by itself: it traps into a handler that it cannot fetch, or the engine met what it cannot
    /// carry out. The text tells registers and cause.
    Stuck(String),
}

/// Privilege at a vCPU's first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The most privileged mode, as after reset: firmware. RISC-V: M mode. x86: real mode.
    Firmware,
    /// Kernel mode, address translation off. RISC-V: S mode, with the machine as its firmware. x86: 32-bit protected mode
    /// with flat segments, as PVH and the 32-bit boot protocol of Linux begin a kernel.
    Kernel,
}

/// Where and how a vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First instruction, a guest physical address; translation is off.
    pub pc: u64,
    /// First three argument registers. RISC-V: a0, a1, a2. x86: EAX, EBX, ESI.
    pub args: [u64; 3],
    /// Mode.
    pub privilege: Privilege,
}

/// A virtual processor. Its thread owns it; all else goes through [`VcpuShared`].
///
/// As a [`Part`], its state is every register the guest can see; `load` leaves it ready to run on.
pub trait Vcpu: Part + Send {
    /// Executes guest instructions until something needs the machine.
    fn run(&mut self) -> Stop;
    /// The shared part.
    fn shared(&self) -> &Arc<VcpuShared>;
    /// Serves mail without running: called while the machine is paused, or while it waits for others' mail.
    fn serve_mail(&mut self);
    /// Resets the vCPU and puts it at `entry`.
    fn boot(&mut self, entry: Entry);
    /// Instructions retired since power-on; 0 from an engine that does not count them.
    fn retired(&self) -> u64;
    /// What a deterministic machine needs; none from an engine that cannot stop at a count.
    fn counted(&mut self) -> Option<&mut dyn Counted> {
        None
    }
    /// What answers [`Stop::FirmwareCall`]; none from an engine that never stops with one.
    fn firmware_calls(&mut self) -> Option<&mut dyn FirmwareCalls> {
        None
    }
    /// Registers for a person to read.
    fn describe_registers(&self) -> String;
    /// What another run of this guest could begin with; nothing from an engine that has no use for it.
    fn hot_paths(&self) -> Vec<HotPath> {
        let (mut all, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let portion = self.hot_paths_from(from);
            all.extend(portion.paths);
            next = portion.next;
        }
        all
    }
    /// The same in portions, none of which takes longer than a guest may be held up: it may run between two of them.
    fn hot_paths_from(&self, _from: usize) -> Portion {
        Portion::default()
    }
    /// Gives it what an earlier run has found hot, in place of what it was given before: hints, of which no guest can see
    /// whether they are followed.
    fn warm(&mut self, _paths: &Arc<HotPaths>) {}
}

/// A vCPU that counts its instructions and can be stopped by that count.
pub trait Counted {
    /// As [`Vcpu::run`], but never sleeps, and stops as if kicked after exactly `insns` more retired instructions. Where
    /// the machine's clock counts instructions, and nobody else changes what it sees meanwhile, such a run repeats:
    /// what the guest sees does not depend on how a run is cut into calls, nor on how the engine works inside.
    fn run_for(&mut self, insns: u64) -> Stop;
    /// The time, in nanoseconds of the machine's clock, of the first timer that would end its waiting; `u64::MAX` for
    /// none.
    fn wakes_at(&self) -> u64;
}

/// A vCPU whose guest calls the machine as its firmware.
pub trait FirmwareCalls {
    /// Gives the results of a [`Stop::FirmwareCall`] (RISC-V a0, a1).
    fn finish_call(&mut self, error: u64, value: u64);
    /// Sets the supervisor's timer (SBI TIME), in ticks; `u64::MAX` is never.
    fn set_guest_timer(&mut self, at: u64);
}
