//! Which CSRs the generator names, and what may be written to each.
//!
//! Anything may be written to most. A few would take the harness its ground away or make the log depend on time;
//! for these, [`Policy`] says what is left out. The harness sets them back after the slot.

use crate::diff::layout::{CODE, NOWHERE, RAM, STUBS, TABLES};
use strata_isa::random::SplitMix64;

/// What the generator may do with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any value.
    Any,
    /// Any value but for the widths of registers, which QEMU lets change.
    Status,
    /// Any value; the harness puts it back afterwards.
    Restore,
    /// The trap vector of M mode: only its mode bits change.
    Vector,
    /// Address of an instruction.
    Pc,
    /// No table but the program's own.
    Satp,
    /// Never locked.
    PmpCfg,
    /// A moment in the past or far in the future.
    Deadline,
    /// Runs by itself: what is read is dropped, nothing is written but where that traps.
    Counter,
}

use Policy::*;

/// A register or a run of them.
const TABLE: &[(u16, u16, Policy)] = &[
    (0x001, 0x003, Any),
    (0x100, 0x100, Status),
    (0x104, 0x104, Restore),
    (0x105, 0x105, Restore),
    (0x106, 0x106, Restore),
    (0x10a, 0x10a, Restore),
    (0x140, 0x140, Any),
    (0x141, 0x141, Pc),
    (0x142, 0x143, Any),
    (0x144, 0x144, Restore),
    (0x14d, 0x14d, Deadline),
    (0x180, 0x180, Satp),
    (0x300, 0x300, Status),
    (0x301, 0x301, Any),
    (0x302, 0x303, Restore),
    (0x304, 0x304, Any),
    (0x305, 0x305, Vector),
    (0x306, 0x306, Restore),
    (0x30a, 0x30a, Restore),
    (0x340, 0x340, Any),
    (0x341, 0x341, Pc),
    (0x342, 0x343, Any),
    (0x344, 0x344, Restore),
    (0x3a0, 0x3a3, PmpCfg),
    (0x3b0, 0x3bf, Restore),
    (0xb00, 0xb00, Counter),
    (0xb02, 0xb1f, Counter),
    (0x320, 0x33f, Counter),
    (0xc00, 0xc1f, Counter),
    (0xf11, 0xf15, Any),
    (0x7a0, 0x7a5, Any),
    (0x747, 0x747, Any),
    (0xda0, 0xda0, Any),
    (0x5a8, 0x5a8, Any),
];

/// All registers of the table.
pub fn all() -> impl Iterator<Item = u16> {
    TABLE.iter().flat_map(|(first, last, _)| *first..=*last)
}

/// What may be done with `n`; a number outside the table is one that neither engine has.
pub fn policy(n: u16) -> Policy {
    TABLE.iter().find(|(first, last, _)| (*first..=*last).contains(&n)).map_or(Any, |(_, _, p)| *p)
}

/// Registers that have a stub, through which lists write them.
pub const STUBBED: [u16; 39] = [
    0x100, 0x104, 0x105, 0x106, 0x10a, 0x140, 0x141, 0x142, 0x143, 0x144, 0x14d, 0x180, 0x302, 0x303, 0x304,
    0x305, 0x306, 0x30a, 0x340, 0x344, 0x3a0, 0x3a2, 0x3b0, 0x3b1, 0x3b2, 0x3b3, 0x3b4, 0x3b5, 0x3b6, 0x3b7,
    0x3b8, 0x3b9, 0x3ba, 0x3bb, 0x3bc, 0x3bd, 0x3be, 0x3bf, 0x320,
];

/// The stubs' code: two instructions each; the last one is `sfence.vma`.
pub fn stubs() -> Vec<u32> {
    const RET: u32 = 0x8067;
    const SFENCE_VMA: u32 = 0x1200_0073;
    let writes = STUBBED.iter().map(|n| u32::from(*n) << 20 | 5 << 15 | 1 << 12 | 0x73);
    writes.chain([SFENCE_VMA]).flat_map(|insn| [insn, RET]).collect()
}

/// The stub that writes `n`.
///
/// # Panics
/// If there is none: the generator asks for what it has.
pub fn stub(n: u16) -> u64 {
    let at = STUBBED.iter().position(|s| *s == n);
    STUBS + 8 * at.unwrap_or_else(|| panic!("no stub for CSR {n:#x}")) as u64
}

/// The stub of `sfence.vma`.
pub fn fence() -> u64 {
    STUBS + 8 * STUBBED.len() as u64
}

/// What a CSR instruction finds in its source register. `whole` is whether the value replaces the register rather than
/// changing bits of it.
pub fn source(rng: &mut SplitMix64, n: u16, whole: bool) -> u64 {
    let any = super::operands::integer(rng);
    let r = rng.next_u64();
    match policy(n) {
        Vector => r & 3 | if whole { RAM + 64 * harness_trap_line() } else { 0 },
        Pc if whole && r & 1 == 0 => CODE + (r >> 8 & 0xf_fffe),
        Satp => {
            let mode = *rng.pick(&[0, 1, 8, 9, 10, 15]).unwrap_or(&8) << 60;
            let asid = r & 0xffff << 44;
            let table = [0, NOWHERE, TABLES, TABLES + 0x1000, u64::MAX >> 8][(r & 0xff) as usize % 5] >> 12;
            mode | asid | if whole { table } else { 0 }
        }
        Status => any & !(0xf << 32),
        PmpCfg => r & 0x7f7f_7f7f_7f7f_7f7f,
        Deadline => {
            if whole {
                [0, 1, u64::MAX, 1 << 62][(r & 3) as usize]
            } else {
                (r & 1) << 63
            }
        }
        _ => any,
    }
}

/// Number of the 64-byte line, from the start of RAM, where the harness has its trap handler; the image builder
/// checks it against the harness itself.
pub fn harness_trap_line() -> u64 {
    2
}

/// What a stub's address does, for reports.
pub fn stub_name(address: u64) -> String {
    match STUBBED.get((address.wrapping_sub(STUBS) / 8) as usize) {
        Some(n) => strata_isa::csr_name(*n).unwrap_or_else(|| format!("{n:#x}")),
        None => "sfence.vma".into(),
    }
}
