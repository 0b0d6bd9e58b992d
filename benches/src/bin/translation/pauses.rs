//! How long a guest is held up by what has to be done at once.

use crate::guests::{BASE, DATA, Guest, chain, insn, load};
use anyhow::Result;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use strata_engine::{Counted, Mail, Vcpu};
use strata_isa::Op;
use strata_state::Stateful;
use strata_translator::Options;
use strata_translator::figures::FIGURES;

/// Host code in use when it is dropped: nearly all there is room for.
const FULL: u64 = 31 << 20;
/// As much as the boot of a distribution makes.
const USUAL: u64 = 4 << 20;
/// Blocks at once, before anything is hot.
const AHEAD: Options = Options { hot: 0, awaited: 0, code_size: 32 << 20 };

/// A row: the median of some pauses, in nanoseconds, and the longest.
fn print(what: &str, of: &str, mut ns: Vec<u64>) {
    ns.sort_unstable();
    let us = |n: u64| n as f64 / 1e3;
    let longest = ns.last().copied().unwrap_or(0);
    println!("| {what} | {of} | {:.1} | {:.1} |", us(ns[ns.len() / 2]), us(longest));
}

/// All of them.
pub fn all(rounds: usize) -> Result<()> {
    let usual = chain(15_000, 8)?;
    for others in [false, true] {
        doubts(&usual, USUAL, "4 MiB of code", rounds, others)?;
    }
    for (of, blocks, len) in [("32 MiB, blocks of 8", 120_000, 8), ("32 MiB, blocks of 1", 450_000, 1)] {
        let code = chain(blocks, len)?;
        for others in [false, true] {
            doubts(&code, FULL, of, rounds, others)?;
        }
        flushes(&code, of, rounds)?;
    }
    fences(rounds)
}

/// Runs until there is so much host code, from none.
fn fill(guest: &mut Guest, amount: u64) {
    guest.hart.settle();
    let code = FIGURES.code.load(Relaxed);
    guest.run_while(|| FIGURES.code.load(Relaxed) - code < amount);
}

/// The code memory is full: everything goes. And on the way there, the unit that takes longest, as lists grow.
fn flushes(code: &[u32], of: &str, rounds: usize) -> Result<()> {
    let mut making = Vec::new();
    let mut each = |_| {
        let mut guest = Guest::new(code, AHEAD)?;
        FIGURES.translating.take_longest_ns();
        fill(&mut guest, FULL);
        making.push(FIGURES.translating.take_longest_ns());
        let n = FIGURES.flushing.times();
        FIGURES.flushing.take_longest_ns();
        guest.run_while(|| FIGURES.flushing.times() == n);
        Ok(FIGURES.flushing.take_longest_ns())
    };
    let flushing = (0..rounds).map(&mut each).collect::<Result<_>>()?;
    print("translating one path on the way there", of, making);
    print("eviction", of, flushing);
    Ok(())
}

/// All pages of code are written from outside; or a fence.i finds that another hart may have.
fn doubts(code: &[u32], amount: u64, of: &str, rounds: usize, others: bool) -> Result<()> {
    let mut guest = Guest::new(code, AHEAD)?;
    let mut other = guest.ram.register_hart();
    if others {
        other.enter(|| ());
    } else {
        drop(other);
    }
    let mut comparing = Vec::new();
    let mut each = |_| {
        fill(&mut guest, amount);
        FIGURES.doubting.take_longest_ns();
        if others {
            guest.hart.shared().send(Mail::FenceI);
        } else {
            guest.ram.written(BASE, 4 * code.len() as u64);
        }
        FIGURES.comparing.take_longest_ns();
        guest.hart.run_for(1 << 14);
        comparing.push(FIGURES.comparing.take_longest_ns());
        FIGURES.doubting.take_longest_ns()
    };
    let ns = (0..rounds).map(&mut each).collect();
    print(
        if others { "fence.i, another hart may have written" } else { "all pages of code written" },
        of,
        ns,
    );
    if amount == USUAL {
        print("comparing one path after that", of, comparing);
    }
    Ok(())
}

/// Forgetting translations of addresses: a hart that has filled its TLBs in every mode is told to.
fn fences(rounds: usize) -> Result<()> {
    let code = every_mode()?;
    let pause = |mail: fn() -> Mail| -> Result<Vec<u64>> {
        let each = |_| {
            let mut guest = Guest::new(&code, Options::default())?;
            guest.hart.run_for(20_000);
            let start = Instant::now();
            guest.hart.shared().send(mail());
            guest.hart.run_for(1);
            Ok(u64::try_from(start.elapsed().as_nanos())?)
        };
        (0..rounds).map(each).collect()
    };
    let of = "TLBs filled in U, S, S with SUM, M";
    print("sfence.vma of all", of, pause(|| Mail::FenceVma { start: 0, size: u64::MAX, asid: None })?);
    print("pages to be marked dirty anew", of, pause(|| Mail::DropPages)?);
    print("fence.i", of, pause(|| Mail::FenceI)?);
    Ok(())
}

const MTVEC: i32 = 0x305;
const MSTATUS: i32 = 0x300;
const MEPC: i32 = 0x341;
const SSTATUS: i32 = 0x100;
const SEPC: i32 = 0x141;
/// Pages walked: as many as a data TLB has entries.
const PAGES: u64 = strata_riscv::tier::DATA_ENTRIES as u64;

/// Writes a word to each of many pages in M, S, S with SUM, and U; then stays in M.
fn every_mode() -> Result<Vec<u32>> {
    const T: u8 = 9;
    let csr = |op, n, r| insn(op, 0, r, 0, n);
    let mut code = Vec::new();
    let walk = |code: &mut Vec<u32>| -> Result<()> {
        code.extend(load(5, DATA)?);
        code.extend(load(6, DATA + PAGES * 4096)?);
        code.extend([
            insn(Op::Lui, 7, 0, 0, 4096)?,
            insn(Op::Sd, 0, 5, 0, 0)?,
            insn(Op::Add, 5, 5, 7, 0)?,
            insn(Op::Bne, 0, 5, 6, -8)?,
        ]);
        Ok(())
    };
    // Goes down one mode, to what follows.
    let down = |code: &mut Vec<u32>, pc: i32, back: Op| -> Result<()> {
        code.extend([
            insn(Op::Auipc, T, 0, 0, 0)?,
            insn(Op::Addi, T, T, 0, 16)?,
            csr(Op::Csrrw, pc, T)?,
            insn(back, 0, 0, 0, 0)?,
        ]);
        Ok(())
    };
    // All of memory for all modes; traps lead to the very end.
    code.extend([insn(Op::Addi, T, 0, 0, -1)?, insn(Op::Srli, T, T, 0, 10)?, csr(Op::Csrrw, 0x3b0, T)?]);
    code.extend([insn(Op::Addi, T, 0, 0, 0x1f)?, csr(Op::Csrrw, 0x3a0, T)?]);
    let handler = code.len();
    code.extend([0; 4]);
    walk(&mut code)?;
    code.extend([insn(Op::Lui, T, 0, 0, 0x1000)?, csr(Op::Csrrc, MSTATUS, T)?]);
    code.extend([insn(Op::Srli, T, T, 0, 1)?, csr(Op::Csrrs, MSTATUS, T)?]);
    down(&mut code, MEPC, Op::Mret)?;
    walk(&mut code)?;
    code.extend([insn(Op::Lui, T, 0, 0, 1 << 18)?, csr(Op::Csrrs, SSTATUS, T)?]);
    walk(&mut code)?;
    code.extend([insn(Op::Addi, T, 0, 0, 0x100)?, csr(Op::Csrrc, SSTATUS, T)?]);
    down(&mut code, SEPC, Op::Sret)?;
    walk(&mut code)?;
    code.push(insn(Op::Ecall, 0, 0, 0, 0)?);
    let end = BASE + 4 * code.len() as u64;
    code.push(insn(Op::Jal, 0, 0, 0, 0)?);
    code[handler..handler + 3].copy_from_slice(&load(T, end)?);
    code[handler + 3] = csr(Op::Csrrw, MTVEC, T)?;
    Ok(code)
}
