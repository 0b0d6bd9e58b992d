//! Where a path of translated code can be cut: by a fault in its middle, an interrupt at any of its instructions, a page's
//! end, a page that is remapped or replaced under it, the limits of its length, and a cache that is full.

use super::fixture::*;
use super::lockstep::*;
use strata_engine::Vcpu;
use strata_isa::Op::{self, *};
use strata_isa::random::SplitMix64;

/// Where traps lead in these programs.
const HANDLER: u64 = BASE + 0x8000;
/// A routine that is remapped or replaced.
const ROUTINE: u64 = BASE + 0x4000;
const RET: u32 = 0x8067;

fn addi(rd: u8, rs1: u8, imm: i32) -> u32 {
    insn(Addi, rd, rs1, 0, imm)
}

/// `op rs2 to or from 0(rs1)`, whatever the form of `op`.
fn access(op: Op, data: u8, base: u8) -> u32 {
    match op {
        Sb | Sh | Sw | Sd | Fsw | Fsd => insn(op, 0, base, data, 0),
        LrW | LrD => insn(op, data, base, 0, 0),
        AmoaddW | AmoaddD | AmoswapD | AmomaxuW | ScD => insn(op, data, base, 7, 0),
        _ => insn(op, data, base, 0, 0),
    }
}

/// A hot loop of accesses through x8, of which one goes through x18, whose 40th value is bad.
fn one_bad(op: Op, at: usize, bad: u64) -> Lockstep {
    let mut body = vec![insn(Ld, 18, 19, 0, 0), addi(19, 19, 8)];
    for n in 0..12 {
        if n == at {
            body.push(access(op, 9, 18));
        }
        body.push(match n % 4 {
            0 => insn(Add, 10, 10, 9, 0),
            1 => insn(Sd, 0, 8, 10, 8 * n as i32),
            2 => insn(Ld, 11 + n as u8 % 3, 8, 0, 8 * n as i32 - 8),
            _ => insn(Bltu, 0, 20, 10, 8),
        });
    }
    body.push(insn(Jal, 0, 0, 0, -4 * body.len() as i32));
    let good = DATA + 0x100;
    let table = (0..64).map(|n| if n == 40 { bad } else { good + n * 8 });
    let table: Vec<u8> = table.flat_map(u64::to_le_bytes).collect();
    // Counts, and goes on behind the fault.
    let handler = [
        addi(31, 31, 1),
        insn(Csrrs, 30, 0, 0, 0x341),
        addi(30, 30, 4),
        insn(Csrrw, 0, 30, 0, 0x341),
        insn(Mret, 0, 0, 0, 0),
    ];
    let parts = [(BASE, code(&body)), (HANDLER, code(&handler)), (DATA + 0x2000, table)];
    let mut all = Lockstep::new(BASE, &parts);
    all.set(|s| {
        (s.mtvec, s.mstatus) = (HANDLER, s.mstatus | 3 << 13);
        (s.x[7], s.x[8], s.x[9], s.x[19], s.x[20]) = (3, DATA, 77, DATA + 0x2000, 1 << 40);
    });
    all
}

#[test]
fn faults_in_mid_path_leave_exact_state() {
    let ops =
        [Lb, Lhu, Lw, Ld, Flw, Fld, Sb, Sh, Sw, Sd, Fsd, LrW, LrD, ScD, AmoaddW, AmoaddD, AmoswapD, AmomaxuW];
    // Nothing there; not aligned; over the ends of a page and of RAM; around zero.
    let places = [0x1000, DATA + 1, DATA + 0xffd, BASE + SIZE - 3, u64::MAX - 2];
    for (n, op) in ops.into_iter().enumerate() {
        for (m, bad) in places.into_iter().enumerate() {
            let at = [0, 5, 11][(n + m) % 3];
            let what = format!("{op:?} number {at} at {bad:#x}");
            let mut all = one_bad(op, at, bad);
            // The 40th round and what follows, instruction by instruction.
            all.run(40 * 15 - 8, &what);
            for _ in 0..20 {
                all.run(1, &what);
            }
            all.run(150, &what);
            all.compare_memory(&what);
        }
    }
}

#[test]
fn instructions_that_stop_do_so_at_their_place() {
    // Once hot, the path meets what it did not hold when it was made: a branch leads to each.
    for last in
        [0xffff_ffff, 0x73, 0x10_0073, insn(Csrrs, 5, 0, 0, 0x7c0), 0x0000_2073, insn(Wfi, 0, 0, 0, 0)]
    {
        let mut body = vec![addi(5, 5, 1), insn(Bltu, 0, 5, 6, 12), last, addi(7, 7, 1)];
        body.push(insn(Xor, 10, 10, 5, 0));
        body.push(insn(Jal, 0, 0, 0, -4 * body.len() as i32));
        let handler = [addi(31, 31, 1), addi(5, 0, 0), insn(Csrrw, 0, 8, 0, 0x341), insn(Mret, 0, 0, 0, 0)];
        let mut all = Lockstep::new(BASE, &[(BASE, code(&body)), (HANDLER, code(&handler))]);
        all.set(|s| (s.mtvec, s.x[6], s.x[8]) = (HANDLER, 100, BASE));
        let what = format!("{last:#x}");
        let s = all.run(390, &what);
        assert_eq!(s.x[31], 0);
        for _ in 0..40 {
            all.run(1, &what);
        }
        all.run(10_000, &what);
    }
}

/// A loop with branches both ways, a call, memory, and multiplication: some 30 instructions a round.
fn mixed() -> Vec<u32> {
    let mut c = vec![
        insn(Andi, 6, 5, 0, 3),
        insn(Beq, 0, 6, 0, 12),
        insn(Mul, 10, 10, 5, 0),
        insn(Sd, 0, 8, 10, 0),
        insn(Ld, 11, 8, 0, 0),
        insn(Jal, 1, 0, 0, 16),
        addi(5, 5, 1),
        insn(Xor, 12, 12, 10, 0),
    ];
    c.push(insn(Jal, 0, 0, 0, -4 * c.len() as i32));
    // The routine.
    c.extend([
        insn(Slli, 13, 5, 0, 3),
        insn(Andi, 13, 13, 0, 0x7f8),
        insn(Add, 13, 13, 8, 0),
        insn(AmoaddD, 14, 13, 5, 0),
        insn(Divu, 15, 14, 6, 0),
        insn(Blt, 0, 15, 14, 8),
        insn(Add, 12, 12, 15, 0),
        RET,
    ]);
    c
}

#[test]
fn a_timer_can_fire_at_every_instruction() {
    // Notes where it was, and sets no timer; the test does.
    let handler = [
        insn(Csrrs, 30, 0, 0, 0x341),
        insn(Csrrs, 29, 0, 0, 0xb02u32 as i32),
        insn(Add, 31, 31, 30, 0),
        insn(Csrrc, 0, 28, 0, 0x304),
        insn(Mret, 0, 0, 0, 0),
    ];
    // Over the end of a page, and not.
    for base in [BASE, BASE + 0xfde] {
        let mut all = Lockstep::new(base, &[(base, code(&mixed())), (HANDLER, code(&handler))]);
        all.set(|s| {
            (s.mtvec, s.mstatus) = (HANDLER, s.mstatus | 1 << 3);
            (s.x[8], s.x[28]) = (DATA, 1 << 7);
        });
        all.each(|hart, _| hart.shared().set_timer(u64::MAX));
        let mut s = all.run(3000, "warm");
        for after in 1..90 {
            let due = s.retired + after;
            all.set(|s| s.mie = 1 << 7);
            all.each(|hart, _| hart.shared().set_timer(due));
            s = all.run(100 + after % 7, &format!("timer after {after} from {base:#x}"));
            assert_eq!((s.mie, s.mcause), (0, 1 << 63 | 7), "no interrupt after {after}");
        }
        all.compare_memory("timers");
    }
}

#[test]
fn every_count_can_end_a_run() {
    let base = BASE + 0xff0;
    let mut all = Lockstep::new(base, &[(base, code(&mixed()))]);
    all.set(|s| s.x[8] = DATA);
    all.run(3000, "warm");
    for n in (1..200).chain(1..50) {
        let before = all.run(0, "nothing").retired;
        let after = all.run(n, "exact").retired;
        assert_eq!(after - before, n);
    }
}

#[test]
fn devices_that_write_code_are_noticed() {
    // The routine's page holds data too, which the guest writes.
    let mut main = vec![insn(Jalr, 1, 8, 0, 0), insn(Sd, 0, 8, 10, 64), insn(FenceI, 0, 0, 0, 0)];
    main.push(insn(Jal, 0, 0, 0, -4 * main.len() as i32));
    let routine = |n: i32| code(&[addi(10, 10, n), insn(Ld, 11, 8, 0, 64), RET]);
    let mut all = Lockstep::new(BASE, &[(BASE, code(&main)), (ROUTINE, routine(1))]);
    all.set(|s| s.x[8] = ROUTINE);
    let mut rng = SplitMix64::new(5);
    for round in 0..300 {
        let s = all.run(1 + rng.below(200), &format!("round {round}"));
        // Just before fence.i, so that all see it at the same moment.
        let left = (BASE + 8).wrapping_sub(s.pc);
        if left <= 4 {
            all.run(left / 4, "to fence.i");
            all.each(|_, ram| ram.load(ROUTINE, &routine(round)).unwrap());
        }
    }
    assert!(all.run(0, "end").x[10] > 1000);
    all.compare_memory("devices");
}

#[test]
fn more_code_written_than_can_be_doubted_is_forgotten() {
    // Blocks that lead to each other; all of them are replaced at once.
    const BLOCKS: usize = 400;
    let chain = |n: i32| {
        let mut words = [addi(10, 10, n), insn(Jal, 0, 0, 0, 4)].repeat(BLOCKS);
        words.push(RET);
        code(&words)
    };
    let main = [insn(Jalr, 1, 8, 0, 0), insn(FenceI, 0, 0, 0, 0), insn(Jal, 0, 0, 0, -8)];
    let first = BASE + 0x1_0000;
    let mut all = Lockstep::new(BASE, &[(BASE, code(&main)), (first, chain(1))]);
    all.set(|s| s.x[8] = first);
    let mut sum = 0;
    for n in 1..60 {
        all.each(|_, ram| ram.load(first, &chain(n)).unwrap());
        for _ in 0..1 + n % 20 {
            sum += n as u64 * BLOCKS as u64;
            let s = all.run(2 * BLOCKS as u64 + 4, &format!("round {n}"));
            assert_eq!((s.x[10], s.pc), (sum, BASE));
        }
    }
}

#[test]
fn a_full_cache_begins_anew_and_nothing_is_lost() {
    // Far more functions than the least cache holds, called in an order that data decides.
    const FUNCTIONS: u64 = 1500;
    let (table, first) = (DATA, BASE + 0x1_0000);
    let mut functions = Vec::new();
    for n in 0..FUNCTIONS as i32 {
        functions.extend([
            addi(10, 10, n & 0x3ff),
            insn(Sd, 0, 9, 10, n & 0x3f8),
            insn(Ld, 11, 9, 0, (n * 24) & 0x3f8),
            insn(Xor, 10, 10, 11, 0),
            insn(Mulhsu, 12, 10, 11, 0),
            insn(Add, 10, 10, 12, 0),
            RET,
            RET,
        ]);
    }
    let entries: Vec<u8> = (0..FUNCTIONS).flat_map(|n| (first + n * 32).to_le_bytes()).collect();
    let main = [
        insn(Remu, 5, 10, 7, 0),
        insn(Slli, 5, 5, 0, 3),
        insn(Add, 5, 5, 8, 0),
        insn(Ld, 5, 5, 0, 0),
        insn(Jalr, 1, 5, 0, 0),
        addi(10, 10, 13),
        insn(Jal, 0, 0, 0, -24),
    ];
    let parts = [(BASE, code(&main)), (first, code(&functions)), (table, entries)];
    let mut all = Lockstep::new(BASE, &parts);
    all.set(|s| (s.x[7], s.x[8], s.x[9]) = (FUNCTIONS, table, DATA + 0x8000));
    let mut rng = SplitMix64::new(11);
    for _ in 0..100 {
        all.run(1 + rng.below(10_000), "crowd");
    }
    all.compare_memory("crowd");
}

#[test]
fn the_longest_and_the_widest_paths_run() {
    // Straight: 2000 instructions of which each needs much host code.
    let mut straight = Vec::new();
    for n in 0..250u8 {
        let r = 9 + n % 9;
        straight.extend([
            insn(Mulhsu, r, r + 1, 20, 0),
            insn(Div, r + 1, r, 21, 0),
            insn(Remw, r + 2, r, 22, 0),
            insn(Sd, 0, 8, r, i32::from(n) * 8),
            insn(Lw, 23, 8, 0, i32::from(n) * 4),
            insn(AmomaxD, 24, 8, r, 0),
            insn(Sraw, 25, r, 23, 0),
            insn(Bne, 0, r, r, 8),
        ]);
    }
    straight.push(insn(Jal, 0, 0, 0, -4 * straight.len() as i32));
    let mut all = Lockstep::new(BASE, &[(BASE, code(&straight))]);
    all.set(|s| (8..26).for_each(|n| s.x[n] = if n == 8 { DATA } else { 0x1234_5678_9abc_def1 << n }));
    for n in [1, 60, 119, 120, 121, 1999, 2001, 6003, 40_000, 333] {
        all.run(n, "straight");
    }
    all.compare_memory("straight");
    // Wide: a ring over 40 pages, three instructions on each.
    let page = |n: u64| {
        let back = if n == 39 { -39 * 4096 - 8 } else { 4096 - 8 };
        (BASE + n * 4096, code(&[addi(5, 5, 1), insn(Xor, 6, 6, 5, 0), insn(Jal, 0, 0, 0, back)]))
    };
    let parts: Vec<_> = (0..40).map(page).collect();
    let mut all = Lockstep::new(BASE, &parts);
    for n in [1, 2, 3, 120, 20_000, 7, 6000, 11] {
        all.run(n, "wide");
    }
}

#[test]
fn the_most_negative_number_is_subtracted() {
    let mut body = vec![addi(5, 0, 1), insn(Slli, 5, 5, 0, 63), insn(Sub, 6, 7, 5, 0), insn(Xor, 7, 7, 6, 0)];
    body.push(insn(Jal, 0, 0, 0, -4 * body.len() as i32));
    let mut all = Lockstep::new(BASE, &[(BASE, code(&body))]);
    all.set(|s| s.x[7] = 12345);
    all.run(500, "sub");
}
