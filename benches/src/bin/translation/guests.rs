//! Programs for measuring, and harts that run them.
//!
//! They are chains of blocks, a jump to the next one at the end of each, for ever: as much code as one likes.

use anyhow::{Context, Result};
use std::sync::Arc;
use strata_engine::{Counted, Entry, GuestClock, NoBus, Privilege, Vcpu};
use strata_isa::random::SplitMix64;
use strata_isa::{Insn, Op, encode};
use strata_memory::GuestRam;
use strata_riscv::{Hart, HartConfig};
use strata_translator::Options;

/// First address of RAM, and of the program.
pub const BASE: u64 = 0x8000_0000;
const SIZE: u64 = 64 << 20;
/// Data that programs read and write, in registers as [`POINTER`].
pub const DATA: u64 = BASE + (48 << 20);
const POINTER: u8 = 8;
const SCRATCH: [u8; 8] = [10, 11, 12, 13, 14, 15, 28, 29];

/// The bits of an instruction.
pub fn insn(op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> Result<u32> {
    encode(&Insn { op, rd, rs1, rs2, rs3: 0, rm: 0, len: 4, imm, raw: 0 })
        .with_context(|| format!("encoding {op:?}"))
}

/// Loads `value`, which has 31 bits.
pub fn load(rd: u8, value: u64) -> Result<[u32; 3]> {
    let value = value as i64;
    let low = (value << 52 >> 52) as i32;
    let high = (value - i64::from(low)) as i32;
    // `lui` gives a negative number from bit 31 on; the upper half is cleared after it.
    Ok([insn(Op::Lui, rd, 0, 0, high)?, insn(Op::Addi, rd, rd, 0, low)?, insn(Op::AddUw, rd, rd, 0, 0)?])
}

/// A chain of `blocks` blocks of `len` instructions each, the jump included. It first writes every page of itself, so that
/// harts have cached the right to.
pub fn chain(blocks: usize, len: usize) -> Result<Vec<u32>> {
    let mut rng = SplitMix64::new(1);
    let mut code = load(POINTER, DATA)?.to_vec();
    code.extend(load(5, BASE + 4092)?);
    code.extend(load(6, BASE + 4092 + ((4 * (blocks * len) as u64) & !4095))?);
    code.extend([
        insn(Op::Lui, 7, 0, 0, 4096)?,
        insn(Op::Lw, 9, 5, 0, 0)?,
        insn(Op::Sw, 0, 5, 9, 0)?,
        insn(Op::Add, 5, 5, 7, 0)?,
        insn(Op::Bne, 0, 5, 6, -12)?,
    ]);
    let begin = code.len();
    let order = scattered(blocks, &mut rng);
    code.push(jump(0, order[0] as i64 * len as i64 + 1)?);
    let mut body = vec![0; blocks * len];
    let nexts = order.iter().skip(1).copied().chain([blocks]);
    for (&n, next) in order.iter().zip(nexts) {
        let (at, end) = (n * len, n * len + len - 1);
        for word in &mut body[at..end] {
            *word = ordinary(&mut rng)?;
        }
        body[end] = jump(end as i64, (next * len) as i64)?;
    }
    code.extend(body);
    // Round again.
    code.extend(load(1, BASE + 4 * begin as u64)?);
    code.push(insn(Op::Jalr, 0, 1, 0, 0)?);
    Ok(code)
}

/// A jump from one word to another.
fn jump(from: i64, to: i64) -> Result<u32> {
    insn(Op::Jal, 0, 0, 0, i32::try_from(4 * (to - from))?)
}

/// The numbers up to `n`, each somewhere else but near enough for a jump to the next: what belongs to one page is not made
/// in one go, and does not lie together.
fn scattered(n: usize, rng: &mut SplitMix64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for window in order.chunks_mut(1 << 14) {
        for i in (1..window.len()).rev() {
            window.swap(i, rng.below(i as u64 + 1) as usize);
        }
    }
    order
}

/// An instruction as compilers choose them.
fn ordinary(rng: &mut SplitMix64) -> Result<u32> {
    let mut r = || SCRATCH[rng.below(SCRATCH.len() as u64) as usize];
    let (d, a, b) = (r(), r(), r());
    let at = rng.below(128) as i32 * 8;
    match rng.below(10) {
        0..=2 => insn(Op::Addi, d, a, 0, at),
        3 => insn(Op::Add, d, a, b, 0),
        4 => insn(Op::Slli, d, a, 0, at / 64),
        5 => insn(Op::Addw, d, a, b, 0),
        6 => insn(Op::And, d, a, b, 0),
        7 => insn(Op::Ld, d, POINTER, 0, at),
        8 => insn(Op::Lw, d, POINTER, 0, at),
        _ => insn(Op::Sd, 0, POINTER, a, at),
    }
}

/// A hart in M mode on nothing but RAM.
pub struct Guest {
    pub hart: Hart,
    pub ram: GuestRam,
}

impl Guest {
    /// With `code` at its first address.
    pub fn new(code: &[u32], options: Options) -> Result<Guest> {
        let ram = GuestRam::single(BASE, SIZE)?;
        let bytes: Vec<u8> = code.iter().flat_map(|w| w.to_le_bytes()).collect();
        ram.load(BASE, &bytes)?;
        let clock = Arc::new(GuestClock::stopped_at(0));
        let tier = strata_translator::tier_with(options)?;
        let mut hart = Hart::with_tier(HartConfig::new(0), ram.clone(), Arc::new(NoBus), clock, Some(tier));
        hart.boot(Entry { pc: BASE, args: [0; 3], privilege: Privilege::Firmware });
        Ok(Guest { hart, ram })
    }

    /// Runs on, some instructions at a time, while `more` says so.
    pub fn run_while(&mut self, mut more: impl FnMut() -> bool) {
        while more() {
            self.hart.run_for(1 << 14);
        }
    }
}
