//! Several harts on one memory, each on a thread of its own.

use super::fixture::*;
use crate::interp::BlockCache;
use crate::{Hart, HartConfig};
use std::sync::Arc;
use strata_engine::{Entry, ManualClock, NoBus, Privilege, Stop, Vcpu};
use strata_isa::{Insn, Op, encode};
use strata_memory::GuestRam;

const COUNTER: u64 = BASE + 0x1000;
const LOCK: u64 = BASE + 0x1040;
const PLAIN: u64 = BASE + 0x1080;

/// Where each hart stores, and what it then read, a line a round.
const STORED: [u64; 2] = [BASE + 0x10_0000, BASE + 0x14_0000];
const READ: [u64; 2] = [BASE + 0x18_0000, BASE + 0x1c_0000];

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
                let (me, other) = (id as usize, 1 - id as usize);
                let x = &mut hart.core().x;
                (x[8], x[9], x[18]) = (STORED[me], STORED[other], READ[me]);
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

const STARTS: i32 = 500;

#[test]
fn a_release_on_lr_orders_it_after_an_earlier_store() {
    // The store-buffering litmus. a0: the start line; s0 (x8): own cells; s1 (x9): the other's; s2 (x18): results; t0
    // (x5): rounds left; t1 (x6): 1; t2 (x7): how far the start line must be.
    let lr_aqrl =
        encode(&Insn { op: Op::LrD, rd: 28, rs1: 9, rs2: 0, rs3: 0, rm: 3, len: 4, imm: 0, raw: 0 });
    let ram = on_two_harts(&[
        addi(5, 0, STARTS),
        addi(6, 0, 1),
        addi(7, 0, 2),
        // Together.
        insn(Op::AmoaddD, 0, 10, 6, 0),
        insn(Op::Ld, 28, 10, 0, 0),
        insn(Op::Blt, 0, 28, 7, -4),
        insn(Op::Sd, 0, 8, 6, 0),
        lr_aqrl.unwrap(),
        insn(Op::Sd, 0, 18, 28, 0),
        addi(8, 8, 64),
        addi(9, 9, 64),
        addi(18, 18, 64),
        addi(7, 7, 2),
        addi(5, 5, -1),
        insn(Op::Bne, 0, 5, 0, -44),
    ]);
    let lost = (0..STARTS as u64).filter(|n| READ.iter().all(|r| word(&ram, r + 64 * n) == 0)).count();
    assert_eq!(lost, 0, "rounds in which neither hart saw the other's store");
}

#[test]
fn a_word_of_code_is_fetched_in_one_piece() {
    // The other hart stores two instructions by turns, which differ in both halves: a0 is where.
    let (one, two) = (addi(0, 0, 0), insn(Op::Jal, 0, 0, 0, 0x7f000));
    let mut m = Machine::kernel(&[one]);
    let ram = m.ram.clone();
    let writer = [insn(Op::Sw, 0, 10, 6, 0), insn(Op::Sw, 0, 10, 7, 0), insn(Op::Jal, 0, 0, 0, -8)];
    m.code(BASE + 0x1000, &writer);
    let config = HartConfig::with_machine_as_firmware(1);
    let mut hart = Hart::new(config, ram, Arc::new(NoBus), Arc::new(ManualClock::default()));
    hart.boot(Entry { pc: BASE + 0x1000, args: [BASE, 0, 0], privilege: Privilege::Kernel });
    (hart.core().x[6], hart.core().x[7]) = (one.into(), two.into());
    let writer = hart.shared().clone();
    let t = std::thread::spawn(move || hart.run());
    while word(&m.ram, BASE) as u32 == one {
        std::thread::yield_now();
    }
    let (core, mut cache) = (m.core(), BlockCache::new(false));
    let mut torn = None;
    for n in 0..500_000 {
        let block = if n % 16 == 0 {
            core.fence_i();
            cache.find(core)
        } else {
            cache.alone(core)
        };
        let raw = cache.code(block.unwrap())[0].raw;
        torn = torn.or((raw != one && raw != two).then_some(raw));
    }
    writer.kick();
    t.join().unwrap();
    assert_eq!(torn, None);
}
