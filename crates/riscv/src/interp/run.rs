//! The loop: look for attention, let the second tier run (`tier.rs`), or else find a block and run it, deal with what
//! stopped it.
//!
//! Retired instructions are counted when a block is entered, all at once; the part that did not run is given back when
//! an instruction stops it. So the count is exact wherever anyone can look.
//!
//! Between blocks the loop looks at one word of the shared part and at one number: [`Core::poll_at`], in retired
//! instructions. Reading the clock costs as much as a dozen instructions, so timers are looked at every [`Core::quantum`]
//! instructions, and at once when the guest has moved a deadline.

use super::block::{Block, BlockCache, MAX_INSNS};
use crate::config::NS_PER_TICK;
use crate::core::Core;
use crate::csr::envcfg;
use crate::tier::{Ran, Tier};
use crate::trap::{Cause, Exit, irq};
use std::time::Duration;
use strata_engine::{Mail, Stop};
use strata_isa::Insn;
use strata_isa::sem::execute;

/// Instructions between two looks at the clock: some 15 microseconds of the interpreter.
pub(crate) const QUANTUM: u64 = 4096;
/// The same for a second tier, which is several times as fast. It looks at the attention word more often.
pub(crate) const TIER_QUANTUM: u64 = 8 * QUANTUM;
/// Longest sleep at a time; a deadline beyond it is looked at again then.
const LONGEST_SLEEP: u64 = 3_600_000_000_000;
/// From that many pages on, a remote fence forgets everything instead of page by page.
const MANY_PAGES: u64 = 32;

/// Runs until something needs the machine.
pub(crate) fn run(core: &mut Core, cache: &mut BlockCache, tier: Option<&mut (dyn Tier + 'static)>) -> Stop {
    core.awake();
    let stop = run_on(core, cache, tier);
    core.quiet.leave();
    stop
}

fn run_on(core: &mut Core, cache: &mut BlockCache, mut tier: Option<&mut (dyn Tier + 'static)>) -> Stop {
    core.poll_soon();
    loop {
        core.alone = std::mem::take(&mut core.next_alone);
        let mut careful = core.alone;
        if core.shared.attention() || core.retired >= core.poll_at {
            match poll(core) {
                Some(stop) => return stop,
                // Also where a limit is far: one block is not felt.
                None => careful |= core.limit != u64::MAX,
            }
        }
        if let Some(tier) = &mut tier
            && !careful
        {
            match tier.run(core) {
                Ran::Cold => {}
                Ran::Yield => continue,
                Ran::Stopped { exit, raw } => match core.dispatch_exit(exit, raw) {
                    Some(stop) => return stop,
                    None => continue,
                },
            }
        }
        let block = match cache.at_hand(core) {
            Some(block) if !careful => block,
            _ => match if careful { carefully(core, cache) } else { cache.find(core) } {
                Ok(block) => block,
                Err(exit) => match stopped(core, &[], 0, exit) {
                    Some(stop) => return stop,
                    None => continue,
                },
            },
        };
        let insns = cache.code(block);
        core.next = core.pc.wrapping_add(block.size.into());
        core.retired = core.retired.wrapping_add(insns.len() as u64);
        if let Err((at, exit)) = run_block(core, insns) {
            match stopped(core, insns, at, exit) {
                Some(stop) => return stop,
                None => continue,
            }
        }
        core.x[0] = 0;
        let began = std::mem::replace(&mut core.pc, core.next);
        if let Some(tier) = &mut tier
            && !careful
        {
            tier.interpreted(core, began, insns.len(), block.size.into());
        }
    }
}

/// The block at `core.pc`, unless it goes beyond the next limit or deadline, or is to be one instruction: that instruction.
#[cold]
#[inline(never)]
fn carefully(core: &mut Core, cache: &mut BlockCache) -> Result<Block, Exit> {
    if !core.alone {
        let block = cache.at_hand(core).map_or_else(|| cache.find(core), Ok)?;
        if cache.code(block).len() as u64 <= core.limit.min(core.clock_at).saturating_sub(core.retired) {
            return Ok(block);
        }
        core.alone = true;
    }
    cache.alone(core)
}

/// Runs a block's instructions; where one stops, tells which and why.
#[inline(always)]
fn run_block(core: &mut Core, insns: &[Insn]) -> Result<(), (usize, Exit)> {
    let mut left = insns.iter();
    while let Some(insn) = left.next() {
        if let Err(exit) = execute(core, insn) {
            return Err((insns.len() - left.len() - 1, exit));
        }
    }
    Ok(())
}

/// Instruction `at` of `insns` (or, without any, the fetch) did not complete: gives the rest back, and sees to it.
#[cold]
#[inline(never)]
fn stopped(core: &mut Core, insns: &[Insn], at: usize, exit: Exit) -> Option<Stop> {
    core.retired = core.retired.wrapping_sub((insns.len() - at) as u64);
    // Only the last instruction's length was changed by the block builder, and it is not among these.
    let before: u64 = insns.iter().take(at).map(|i| u64::from(i.len)).sum();
    core.pc = core.pc.wrapping_add(before);
    core.dispatch_exit(exit, insns.get(at).map_or(0, |i| i.raw))
}

impl Core {
    /// The instruction at `pc`, whose bits are `raw`, did not complete; `retired` is exact. Takes its trap, or tells why
    /// the machine is needed.
    fn dispatch_exit(&mut self, exit: Exit, raw: u32) -> Option<Stop> {
        self.x[0] = 0;
        let (cause, tval) = match exit {
            Exit::Wait => return Some(Stop::Wait),
            Exit::Alone => {
                self.next_alone = true;
                return None;
            }
            Exit::Call => {
                self.pc = self.pc.wrapping_add(4);
                return Some(Stop::FirmwareCall(std::array::from_fn(|n| self.x[10 + n])));
            }
            Exit::Illegal => (Cause::Illegal, raw.into()),
            Exit::Trap => match self.raised {
                (Cause::Breakpoint, _) => (Cause::Breakpoint, self.pc),
                raised => raised,
            },
        };
        if self.take_trap(cause, tval) {
            return None;
        }
        let registers = self.describe();
        Some(Stop::Stuck(format!(
            "hart {} traps at the first instruction of its own trap handler {:#x}, cause {} (tval {tval:#x})\n\
             {registers}",
            self.config.hart_id, self.pc, cause as u8
        )))
    }
}

impl Core {
    fn next_poll(&self) -> u64 {
        if self.limit == u64::MAX {
            self.clock_at
        } else {
            // Near a limit or a deadline the loop comes here for every block, and runs none that goes beyond.
            self.clock_at.min(self.limit).saturating_sub(MAX_INSNS as u64)
        }
    }

    /// Whether the loop has to look at interrupts before the next instruction. Where a poll was asked for only to see what
    /// is pending now, and nothing is that is enabled, that is all there was to do, and the next one is due as before.
    pub fn poll_is_due(&mut self) -> bool {
        if self.poll_at > self.retired && !self.shared.attention() {
            return false;
        }
        let mip = self.csr.mip | self.pins() | self.timers;
        if self.shared.attention() || self.waiting || self.retired >= self.clock_at || mip & self.csr.mie != 0
        {
            return true;
        }
        self.poll_at = self.next_poll();
        self.poll_at <= self.retired
    }
}

/// Serves mail.
pub(crate) fn serve_mail(core: &mut Core) {
    let shared = core.shared.clone();
    shared.serve_mail(|mail| match mail {
        Mail::FenceI => core.fence_i(),
        Mail::FenceVma { start, size, asid } => {
            let first = start & !0xfff;
            let pages = (start & 0xfff).saturating_add(size).div_ceil(4096);
            if pages < MANY_PAGES {
                let each = (0..pages).map(|n| first.wrapping_add(n * 4096));
                each.for_each(|va| core.mmu.fence(core.csr.satp, Some(va), asid));
            } else {
                core.mmu.fence(core.csr.satp, None, asid);
            }
        }
        Mail::DropPages => core.mmu.forget_pages(),
    });
}

/// Attention, timers, WFI, interrupts.
#[cold]
#[inline(never)]
fn poll(core: &mut Core) -> Option<Stop> {
    core.shared.set_retired(core.retired);
    core.quiesce();
    loop {
        if core.shared.take_attention() {
            core.clock_at = 0;
            serve_mail(core);
        }
        if core.shared.take_kick() {
            return Some(Stop::Kicked);
        }
        if core.retired >= core.clock_at {
            core.timers = core.pending() & (irq::MTI | timer_bit(core));
            core.clock_at = next_look(core);
        }
        if core.retired >= core.limit {
            return Some(Stop::Kicked);
        }
        core.poll_at = core.next_poll();
        let mip = core.csr.mip | core.pins() | core.timers;
        if core.waiting {
            if mip & core.csr.mie == 0 {
                if core.limit != u64::MAX {
                    return Some(Stop::Idle);
                }
                let until = sleep_time(core);
                core.quiet.leave();
                core.shared.wait(until, &mut core.vigil);
                core.awake();
                core.clock_at = 0;
                continue;
            }
            core.waiting = false;
        }
        core.take_interrupt(mip);
        return None;
    }
}

/// STIP, if the comparison drives it.
fn timer_bit(core: &Core) -> u64 {
    if core.csr.menvcfg & envcfg::STCE != 0 { irq::STI } else { 0 }
}

/// When to read the clock again, in retired instructions. Where time is counted in them, that is when the next timer
/// becomes due.
fn next_look(core: &Core) -> u64 {
    let count_at = |ticks: u64| core.clock.count_at(ticks.saturating_mul(NS_PER_TICK));
    let supervisor = if timer_bit(core) != 0 { core.csr.stimecmp } else { u64::MAX };
    match (count_at(core.shared.timer()), count_at(supervisor)) {
        (Some(a), Some(b)) => {
            // One that is due already is among the timers that were seen.
            [a, b].into_iter().filter(|at| *at > core.retired).min().unwrap_or(u64::MAX)
        }
        _ => core.retired.saturating_add(core.quantum),
    }
}

/// When WFI ends at the latest, in nanoseconds: with the first timer that could wake it, if any.
pub(crate) fn wakes_at(core: &Core) -> u64 {
    let mie = core.csr.mie;
    let machine = if mie & irq::MTI != 0 { core.shared.timer() } else { u64::MAX };
    let supervisor = if mie & timer_bit(core) != 0 { core.csr.stimecmp } else { u64::MAX };
    machine.min(supervisor).saturating_mul(NS_PER_TICK)
}

/// How long WFI may sleep.
fn sleep_time(core: &Core) -> Option<Duration> {
    let at = wakes_at(core);
    (at != u64::MAX).then(|| Duration::from_nanos(at.saturating_sub(core.clock.now()).min(LONGEST_SLEEP)))
}
