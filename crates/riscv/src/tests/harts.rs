//! Several harts on one memory, each on a thread of its own.

use super::fixture::*;
use crate::{Hart, HartConfig};
use std::sync::Arc;
use strata_engine::{Entry, ManualClock, NoBus, Privilege, Stop, Vcpu};
use strata_isa::Op;
use strata_memory::GuestRam;

const COUNTER: u64 = BASE + 0x1000;
const LOCK: u64 = BASE + 0x1040;
const PLAIN: u64 = BASE + 0x1080;

/// Runs `body` on two harts until both call their firmware; gives the RAM.
fn on_two_harts(body: &[u32]) -> GuestRam {
    let ram = GuestRam::single(BASE, SIZE).unwrap();
    let code = [body, &[bare(Op::Ecall)]].concat();
    let bytes: Vec<u8> = code.iter().flat_map(|w| w.to_le_bytes()).collect();
    ram.load(BASE, &bytes).unwrap();
    std::thread::scope(|s| {
        for id in 0..2 {
            let ram = ram.clone();
            s.spawn(move || {
                let config = HartConfig::with_machine_as_firmware(id);
                let mut hart = Hart::new(config, ram, Arc::new(NoBus), Arc::new(ManualClock::default()));
                hart.boot(Entry { pc: BASE, args: [COUNTER, LOCK, PLAIN], privilege: Privilege::Kernel });
                assert!(matches!(hart.run(), Stop::FirmwareCall(_)));
            });
        }
    });
    ram
}

fn word(ram: &GuestRam, at: u64) -> u64 {
    let mut b = [0; 8];
    ram.peek(at, &mut b).unwrap();
    u64::from_le_bytes(b)
}

const ROUNDS: i32 = 2000;

#[test]
fn atomic_additions_lose_nothing() {
    // a0: counter; t0 (x5): rounds left; t1 (x6): 1.
    let ram = on_two_harts(&[
        addi(5, 0, ROUNDS),
        addi(6, 0, 1),
        insn(Op::AmoaddD, 0, 10, 6, 0),
        insn(Op::LrD, 7, 10, 0, 0), // and once more by LR/SC
        insn(Op::Add, 7, 7, 6, 0),
        insn(Op::ScD, 28, 10, 7, 0),
        insn(Op::Bne, 0, 28, 0, -12),
        addi(5, 5, -1),
        insn(Op::Bne, 0, 5, 0, -24),
    ]);
    assert_eq!(word(&ram, COUNTER), 2 * 2 * ROUNDS as u64);
}

#[test]
fn a_spinlock_of_swaps_and_fences_guards_plain_memory() {
    // a1: lock; a2: plain counter. 1 is taken.
    let ram = on_two_harts(&[
        addi(5, 0, ROUNDS),
        addi(6, 0, 1),
        insn(Op::AmoswapW, 7, 11, 6, 0),
        insn(Op::Bne, 0, 7, 0, -4),
        insn(Op::Fence, 0, 0, 0, 0x23), // r,rw
        insn(Op::Ld, 7, 12, 0, 0),
        addi(7, 7, 1),
        insn(Op::Sd, 0, 12, 7, 0),
        insn(Op::Fence, 0, 0, 0, 0x31), // rw,w
        insn(Op::Sw, 0, 11, 0, 0),
        addi(5, 5, -1),
        insn(Op::Bne, 0, 5, 0, -36),
    ]);
    assert_eq!(word(&ram, PLAIN), 2 * ROUNDS as u64);
}
