//! Work that is put off (`emit/owed.rs`) and registers that are lent (`emit/loans.rs`), cut at every place of small loops:
//! by faults, branches, calls of helpers that come back, ends of pages. Whoever the loop is left to writes all registers
//! down, so that none that was not there is missed because it is written again.
//!
//! ```text
//!   top:   ld x18, next of a table      mostly a good address, now and then a bad one
//!          fmv.d.x f1, x18
//!          …the shape, with a cut somewhere in it…
//!          j top
//!   LOG:   all registers to a log, j top     where faults and branches lead
//! ```

use super::fixture::*;
use super::lockstep::*;
use strata_isa::Op::{self, *};

/// In reach of branches from wherever the loop lies.
const LOG: u64 = BASE + 0x800;
const TABLE: u64 = DATA + 0x2000;
const LOGGED: u64 = DATA + 0x4000;
const ROUNDS: u64 = 120;
/// What shapes compute with. Those from 28 on have no host register of their own, and borrow those of the first two.
const REGISTERS: [u8; 12] = [2, 8, 9, 10, 11, 12, 13, 14, 15, 28, 29, 30];

fn op2(op: Op, rd: u8, rs1: u8, rs2: u8) -> u32 {
    insn(op, rd, rs1, rs2, 0)
}

fn imm(op: Op, rd: u8, rs1: u8, n: i32) -> u32 {
    insn(op, rd, rs1, 0, n)
}

/// Paths in which something is owed, nearly all the time.
fn shapes() -> Vec<(&'static str, Vec<u32>)> {
    vec![
        (
            "rotation",
            vec![
                imm(Srliw, 10, 12, 7),
                imm(Slliw, 28, 12, 25),
                op2(Or, 10, 10, 28),
                op2(Addw, 12, 10, 13),
                imm(Addi, 28, 10, 0),
            ],
        ),
        (
            "rotation in place",
            vec![
                imm(Slliw, 11, 12, 25),
                imm(Srliw, 12, 12, 7),
                op2(Xor, 12, 12, 11),
                imm(Addiw, 12, 12, 77),
                imm(Addi, 11, 12, 0),
            ],
        ),
        (
            "wide rotation in place, in memory",
            vec![
                imm(Slli, 28, 29, 13),
                imm(Srli, 29, 29, 51),
                op2(Add, 29, 28, 29),
                imm(Addi, 29, 29, 1234),
                op2(Addw, 28, 29, 10),
            ],
        ),
        (
            "extensions",
            vec![
                op2(Addw, 12, 12, 13),
                imm(Slli, 12, 12, 32),
                imm(Srli, 12, 12, 29),
                imm(Slli, 10, 13, 48),
                imm(Srai, 10, 10, 48),
                op2(Sub, 13, 12, 10),
            ],
        ),
        (
            "halves of halves in place",
            vec![
                imm(Slli, 10, 12, 32),
                imm(Slli, 11, 12, 40),
                imm(Slli, 12, 12, 32),
                imm(Srli, 12, 12, 30),
                imm(Srli, 11, 11, 24),
                imm(Srli, 10, 10, 32),
                op2(Add, 12, 12, 11),
                imm(Addi, 12, 12, 99),
            ],
        ),
        (
            "two in place side by side",
            vec![
                imm(Slliw, 10, 12, 16),
                imm(Slliw, 28, 29, 20),
                imm(Srliw, 12, 12, 16),
                imm(Srliw, 29, 29, 12),
                op2(Or, 12, 12, 10),
                op2(Or, 29, 28, 29),
                op2(Addw, 12, 12, 29),
                op2(Xor, 29, 29, 12),
            ],
        ),
        (
            "operands in place that are left there",
            vec![
                imm(Slliw, 11, 12, 25),
                imm(Srliw, 12, 12, 7),
                op2(Xor, 10, 12, 11),
                imm(Slli, 29, 29, 32),
                imm(Srli, 28, 29, 29),
                op2(Addw, 13, 10, 13),
                op2(Sub, 12, 13, 12),
                op2(Xor, 29, 29, 12),
            ],
        ),
        (
            "an operand that is written by a shift that waits",
            vec![
                imm(Srliw, 10, 12, 7),
                imm(Slliw, 11, 12, 25),
                op2(Or, 10, 10, 11),
                imm(Slliw, 12, 13, 9),
                imm(Srliw, 28, 13, 23),
                op2(Or, 12, 12, 28),
                op2(Xor, 13, 11, 10),
                op2(Add, 13, 13, 12),
            ],
        ),
        (
            "a word that the interpreter's instance writes over",
            vec![
                op2(Addw, 10, 12, 13),
                imm(Slli, 14, 12, 40),
                insn(OrcB, 10, 14, 0, 0),
                imm(Addiw, 28, 10, 0),
                op2(Xor, 13, 13, 28),
                op2(Add, 12, 12, 13),
            ],
        ),
        (
            "a half that is dead soon",
            vec![
                imm(Slliw, 11, 12, 25),
                imm(Srliw, 10, 12, 7),
                op2(Or, 12, 10, 11),
                imm(Addi, 14, 14, 3),
                imm(Addi, 11, 0, 5),
                op2(Xor, 13, 13, 10),
                imm(Addiw, 12, 12, 7),
            ],
        ),
        (
            "a half that is wanted by itself",
            vec![
                imm(Srli, 11, 12, 40),
                imm(Slli, 28, 12, 24),
                op2(Xor, 13, 13, 28),
                op2(Or, 10, 28, 11),
                op2(Add, 12, 10, 13),
                imm(Sltiu, 11, 28, 1),
            ],
        ),
        (
            "an operand that is written before the halves meet",
            vec![
                imm(Slliw, 11, 12, 9),
                imm(Srliw, 28, 12, 23),
                op2(Add, 12, 12, 13),
                op2(Addw, 10, 11, 28),
                op2(Xor, 13, 12, 10),
            ],
        ),
        (
            "signs",
            vec![
                op2(Addw, 10, 12, 13),
                op2(Subw, 28, 10, 13),
                op2(Xor, 11, 10, 28),
                imm(Addi, 14, 11, 0),
                imm(Sraiw, 29, 11, 3),
                op2(Sltu, 15, 11, 29),
                imm(Xori, 14, 14, -1),
                op2(Mulw, 12, 14, 10),
                op2(Add, 13, 14, 28),
            ],
        ),
        (
            "signs that come from a register in place",
            vec![
                op2(Addw, 12, 12, 13),
                imm(Slli, 12, 12, 40),
                imm(Srli, 11, 12, 3),
                op2(Subw, 28, 11, 13),
                imm(Slli, 28, 28, 33),
                op2(Add, 12, 28, 11),
                imm(Addi, 12, 12, 5),
                imm(Andi, 29, 28, 0x7ff),
                imm(Sltiu, 15, 28, 1),
            ],
        ),
    ]
}

/// What cuts, and what is bad for it.
fn cuts(at: u64) -> Vec<(&'static str, u32, u64)> {
    let nowhere = 0x1000;
    let over_the_end = DATA + 0xffd;
    let to_log = (LOG as i64 - at as i64) as i32;
    vec![
        ("load", imm(Lw, 9, 18, 0), nowhere),
        ("store", op2(Sd, 0, 18, 13), nowhere),
        ("atomic", op2(AmoaddW, 9, 18, 13), nowhere),
        ("load over the end", imm(Ld, 9, 18, 0), over_the_end),
        ("store over the end", op2(Sw, 0, 18, 13), over_the_end),
        ("misaligned atomic", op2(AmoxorW, 9, 18, 13), DATA + 2),
        ("branch", insn(Bltu, 0, 18, 20, to_log), nowhere),
        ("csr of the interpreter's", imm(Csrrs, 9, 0, 0xb02u32 as i32), nowhere),
        ("not a number", insn(FcvtWD, 9, 1, 0, 0), 0x7ff8 << 48),
        ("division", op2(Div, 9, 13, 21), nowhere),
    ]
}

/// Runs `shape` with `cut` before its instruction `at`, from `base`.
fn run(shape: &[u32], at: usize, base: u64, cut: impl Fn(u64) -> (u32, u64), what: &str) {
    let mut body = vec![imm(Ld, 18, 19, 0), imm(Addi, 19, 19, 8), insn(FmvDX, 1, 18, 0, 0)];
    body.extend(&shape[..at]);
    let (word, bad) = cut(base + 4 * body.len() as u64);
    body.push(word);
    body.extend(&shape[at..]);
    body.push(insn(Jal, 0, 0, 0, -4 * body.len() as i32));
    let mut log: Vec<u32> =
        REGISTERS.iter().enumerate().map(|(n, r)| insn(Sd, 0, 31, *r, 8 * n as i32)).collect();
    log.push(imm(Addi, 31, 31, 128));
    log.push(insn(Jal, 0, 0, 0, (base as i64 - LOG as i64) as i32 - 4 * log.len() as i32));
    let table = (0..ROUNDS + 8)
        .map(|n| if n >= 24 && n % 8 == 5 { bad } else { DATA + 0x100 + n % 16 * 8 + n / 3 % 2 * 4096 });
    let table = table.flat_map(u64::to_le_bytes).collect();
    let mut all = Lockstep::new(base, &[(base, code(&body)), (LOG, code(&log)), (TABLE, table)]);
    all.set(|s| {
        REGISTERS
            .iter()
            .for_each(|r| s.x[usize::from(*r)] = 0x9e37_79b9_7f4a_7c15u64.rotate_left(5 * u32::from(*r)));
        (s.mtvec, s.mstatus) = (LOG, s.mstatus | 3 << 13);
        (s.x[19], s.x[20], s.x[31]) = (TABLE, DATA, LOGGED);
    });
    let len = body.len() as u64;
    let mut left = (ROUNDS - 8) * len;
    for n in [220, 7, 300, len - 1, len + 1].into_iter().cycle() {
        // Pages are found anew, one after the other.
        all.set(|_| {});
        all.run(n.min(left), what);
        left -= n.min(left);
        if left == 0 {
            break;
        }
    }
    all.compare_memory(what);
}

#[test]
fn all_that_is_owed_is_there_wherever_a_path_is_cut() {
    for (name, shape) in shapes() {
        for at in 0..=shape.len() {
            for n in 0..cuts(BASE).len() {
                // Some over the end of a page, at the cut.
                let base = if (at + n) % 3 == 0 { BASE + 0x1000 - 4 * (at as u64 + 3) } else { BASE };
                let what = format!("{name}, {} before {at}, from {base:#x}", cuts(BASE)[n].0);
                let cut = |pc| {
                    let (_, word, bad) = cuts(pc)[n];
                    (word, bad)
                };
                run(&shape, at, base, cut, &what);
            }
        }
    }
}

#[test]
fn a_long_straight_path_gives_back_what_it_borrowed() {
    // Longer than any path, so that none comes back to its start.
    let mut shape = Vec::new();
    for n in 0..24 {
        shape.extend([
            op2(Addw, 28, 29, 30),
            imm(Slliw, 10, 28, 1 + n),
            imm(Srliw, 28, 28, 31 - n),
            op2(Or, 28, 28, 10),
            op2(Xor, 29, 29, 28),
            op2(Subw, 30, 30, 29),
        ]);
        // Those that lend are used as well.
        if n % 9 == 4 {
            shape.extend([op2(Xor, 8, 8, 28), op2(Addw, 2, 8, 30)]);
        }
    }
    for at in [3, 27, 64, 101, shape.len()] {
        // All but the branch, which does not reach so far.
        for n in (0..cuts(BASE).len()).filter(|n| cuts(BASE)[*n].0 != "branch") {
            let what = format!("{} before {at} of a long path", cuts(BASE)[n].0);
            run(&shape, at, BASE, |pc| (cuts(pc)[n].1, cuts(pc)[n].2), &what);
        }
    }
}

#[test]
fn conditional_stores_of_one_hart_fail_where_they_should() {
    // x8 and x9 lead to two places; x10 takes what was reserved, x13 whether what was tried failed.
    let next = |r| [imm(Slli, 13, 13, 1), op2(Add, 13, 13, r), imm(Addi, 12, 12, 1)];
    let tries: [(u8, Vec<u32>); 8] = [
        (11, vec![op2(LrW, 10, 8, 0), op2(ScW, 11, 8, 12)]),
        (28, vec![op2(ScW, 28, 8, 12)]),
        (11, vec![op2(LrD, 10, 8, 0), op2(ScW, 11, 8, 12)]),
        (29, vec![op2(LrW, 10, 8, 0), op2(Sw, 0, 8, 12), op2(ScW, 29, 8, 14)]),
        // The upper half alone has changed.
        (11, vec![op2(LrD, 10, 9, 0), insn(Sw, 0, 9, 12, 4), op2(ScD, 11, 9, 14)]),
        (11, vec![op2(LrW, 10, 9, 0), insn(Sw, 0, 9, 12, 4), op2(ScW, 11, 9, 12)]),
        (28, vec![op2(LrD, 10, 8, 0), op2(ScD, 28, 9, 12)]),
        (10, vec![op2(LrD, 10, 9, 0), op2(ScD, 0, 9, 28), op2(ScD, 10, 9, 13)]),
    ];
    let mut body: Vec<u32> = tries.into_iter().flat_map(|(r, t)| t.into_iter().chain(next(r))).collect();
    body.push(insn(Jal, 0, 0, 0, -4 * body.len() as i32));
    let mut all = Lockstep::new(BASE, &[(BASE, code(&body))]);
    all.set(|s| (s.x[8], s.x[9], s.x[12], s.x[14]) = (DATA, DATA + 64, 1 << 40, 7));
    for n in [1, 2000, 77, 46, 1000] {
        let s = all.run(n, "conditional stores");
        assert!(n != 2000 || s.x[13] != 0 && s.x[13] != u64::MAX);
        all.compare_memory("conditional stores");
    }
}
