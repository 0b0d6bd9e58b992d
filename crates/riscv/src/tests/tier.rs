//! The seam to a second tier, with a small one: it executes single instructions on the core, from one page only.

use super::fixture::*;
use crate::tier::{Core, Ran, Tier};
use crate::{Hart, HartConfig};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use strata_engine::{Counted, Entry, ManualClock, NoBus, Privilege, Stop, Vcpu};
use strata_isa::Op;
use strata_isa::ops::Width;
use strata_isa::sem::execute;
use strata_memory::GuestRam;
use strata_state::Part;

/// Where the tier has code: everything else is cold.
const HOT: u64 = BASE + 0x1000;

#[derive(Default)]
struct Seen {
    executed: AtomicU64,
    forgotten: AtomicU64,
    /// Start, instructions and bytes of interpreted blocks.
    blocks: Mutex<Vec<(u64, usize, u64)>>,
}

struct Stepper(Arc<Seen>);

impl Tier for Stepper {
    fn run(&mut self, core: &mut Core) -> Ran {
        if core.pc & !0xfff != HOT {
            return Ran::Cold;
        }
        while core.pc & !0xfff == HOT && core.retired < core.poll_at.min(core.limit) {
            let raw = match core.fetch_page(core.pc) {
                Ok(p) => p.page.load(core.pc, Width::U32) as u32,
                Err(exit) => return Ran::Stopped { exit, raw: 0 },
            };
            let Ok(insn) = strata_isa::decode(raw) else {
                return Ran::Stopped { exit: crate::tier::Exit::Illegal, raw };
            };
            core.next = core.pc + u64::from(insn.len);
            core.retired += 1;
            if let Err(exit) = execute(core, &insn) {
                core.retired -= 1;
                return Ran::Stopped { exit, raw };
            }
            core.x[0] = 0;
            core.pc = core.next;
            self.0.executed.fetch_add(1, Relaxed);
        }
        Ran::Yield
    }
    fn interpreted(&mut self, _: &mut Core, pc: u64, insns: usize, bytes: u64) {
        self.0.blocks.lock().unwrap().push((pc, insns, bytes));
    }
    fn forget(&mut self) {
        self.0.forgotten.fetch_add(1, Relaxed);
    }
}

fn hart(seen: &Arc<Seen>, ram: &GuestRam) -> Hart {
    let tier = Box::new(Stepper(seen.clone()));
    let clock = Arc::new(ManualClock::default());
    let mut h = Hart::with_tier(HartConfig::new(0), ram.clone(), Arc::new(NoBus), clock, Some(tier));
    h.boot(Entry { pc: BASE, args: [0; 3], privilege: Privilege::Firmware });
    h
}

fn load(ram: &GuestRam, at: u64, words: &[u32]) {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    ram.load(at, &bytes).unwrap();
}

/// Cold code calls hot code, which counts x5 up and falls into an illegal instruction; the handler is cold.
fn call_and_trap(ram: &GuestRam) {
    load(ram, BASE, &[addi(5, 0, 1), addi(5, 5, 1), insn(Op::Jal, 0, 0, 0, 0x1000 - 8)]);
    load(ram, HOT, &[addi(5, 5, 1), addi(5, 5, 1), 0xffff_ffff]);
    load(ram, BASE + 0x800, &[insn(Op::Jal, 0, 0, 0, 0)]);
}

#[test]
fn the_tier_runs_what_it_has_and_is_told_of_the_rest() {
    let (seen, ram) = (Arc::<Seen>::default(), GuestRam::single(BASE, SIZE).unwrap());
    call_and_trap(&ram);
    let mut h = hart(&seen, &ram);
    h.core().csr.mtvec = BASE + 0x800;
    assert_eq!(h.run_for(1000), Stop::Kicked);
    let c = h.core();
    assert_eq!((c.x[5], c.csr.mcause, c.csr.mepc, c.csr.mtval), (4, 2, HOT + 8, 0xffff_ffff));
    assert_eq!((c.pc, c.retired), (BASE + 0x800, 1000));
    assert_eq!(seen.executed.load(Relaxed), 2);
    // The first block comes right after a poll, and is not told; what follows is.
    let blocks = seen.blocks.lock().unwrap();
    assert!(!blocks.is_empty() && blocks.iter().all(|&b| b == (BASE + 0x800, 1, 4)));
}

#[test]
fn counts_and_registers_do_not_depend_on_the_tier() {
    for insns in 1..20 {
        let (seen, ram) = (Arc::<Seen>::default(), GuestRam::single(BASE, SIZE).unwrap());
        call_and_trap(&ram);
        let mut tiered = hart(&seen, &ram);
        let mut plain =
            Hart::new(HartConfig::new(0), ram.clone(), Arc::new(NoBus), Arc::new(ManualClock::default()));
        plain.boot(Entry { pc: BASE, args: [0; 3], privilege: Privilege::Firmware });
        for h in [&mut tiered, &mut plain] {
            h.core().csr.mtvec = BASE + 0x800;
            assert_eq!(h.run_for(insns), Stop::Kicked);
        }
        assert!(tiered.save() == plain.save(), "after {insns} instructions");
    }
}

#[test]
fn replaced_registers_are_told() {
    let (seen, ram) = (Arc::<Seen>::default(), GuestRam::single(BASE, SIZE).unwrap());
    let mut h = hart(&seen, &ram);
    let before = seen.forgotten.load(Relaxed);
    let saved = h.save();
    h.load(&saved).unwrap();
    assert!(seen.forgotten.load(Relaxed) > before);
}
