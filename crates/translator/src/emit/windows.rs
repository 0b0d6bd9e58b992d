//! Which accesses of a path are expected to stay on one page: those by the same pointer.
//!
//! A pointer is what a register was given by an instruction, or held when the path began; adding a constant to it leaves
//! it the same pointer. All its reads look through one window of the data TLB (`strata_riscv`), all its writes through
//! another, so that the check compares with a place known now, and in a loop with a register (`loans.rs`).
//!
//! ```text
//!   lea  rdx, [base + offset]
//!   and  rdx, -4096 | (size - 1)      a misaligned address fails the comparison, and with it one over a page's end
//!   cmp  rdx, [window's tag] ── differs ──► cold: fill the window from the TLB, or call the slow path
//!   mov  rcx, [window's addend]
//!   mov  result, [rcx + base + offset]
//! ```
//! A wrong guess costs time only: the page that a window shows is compared on each access.

use crate::unit::Step;
use strata_isa::{Effect, Op};
use strata_riscv::tier::WINDOWS;

/// A window: its number, and whether it is one for writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Below [`WINDOWS`].
    pub number: u8,
    /// For stores.
    pub write: bool,
}

/// Registers that nearly always hold the same pointer, wherever a path begins: the stack's, the globals', the thread's.
const LASTING: [u8; 3] = [2, 3, 4];

/// The window of each step that may access memory by `rs1`; of the others it means nothing.
pub(crate) fn plan(steps: &[Step]) -> Vec<u8> {
    let Some(first) = steps.first() else { return Vec::new() };
    let mut pointers: [u64; 32] = std::array::from_fn(|r| {
        let r = r as u8;
        if LASTING.contains(&r) { u64::from(r) } else { first.pc << 6 | u64::from(r) }
    });
    steps
        .iter()
        .map(|step| {
            let insn = &step.insn;
            let base = pointers[usize::from(insn.rs1 & 31)];
            let given = match insn.op {
                Op::Addi => base,
                // All that is on one page of constants is one pointer's.
                Op::Lui => insn.imm as u64 >> 12 << 6 | 32,
                Op::Auipc => step.pc.wrapping_add(insn.imm as u64) >> 12 << 6 | 32,
                _ => step.pc << 6 | 33,
            };
            let written = insn.x_writes();
            for (r, pointer) in pointers.iter_mut().enumerate() {
                if written >> r & 1 != 0 {
                    *pointer = given;
                }
            }
            number(base)
        })
        .collect()
}

/// What a step accesses through a window, if it does.
pub(crate) fn accesses(step: &Step) -> Option<bool> {
    match step.insn.op.effect() {
        Effect::Load(_) | Effect::FpLoad(_) => Some(false),
        Effect::Store(_) | Effect::FpStore(_) => Some(true),
        _ => None,
    }
}

/// Spreads pointers over the windows. Those of [`LASTING`] have their own.
fn number(pointer: u64) -> u8 {
    if pointer < 32 {
        return pointer as u8 & 3;
    }
    let hash = pointer.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let shared = WINDOWS as u64 - 4;
    (4 + hash * shared / (1 << 32)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_isa::Insn;

    fn step(op: Op, rd: u8, rs1: u8, imm: i32) -> Step {
        let insn = Insn { op, rd, rs1, rs2: 0, rs3: 0, rm: 0, len: 4, imm, raw: 0 };
        Step { pc: 0x1000 + imm as u64 * 4, insn, next: 0, pages: 1 }
    }

    #[test]
    fn a_pointer_stays_the_same_when_a_constant_is_added() {
        let steps = [
            step(Op::Ld, 11, 10, 1),
            step(Op::Addi, 12, 10, 2),
            step(Op::Ld, 13, 12, 3),
            step(Op::Ld, 14, 11, 4),
            step(Op::Ld, 14, 2, 5),
            step(Op::Addi, 2, 2, 6),
            step(Op::Ld, 14, 2, 7),
        ];
        let w = plan(&steps);
        assert_eq!(w[0], w[2]);
        assert_ne!(w[0], w[3], "another pointer; their places differ for these addresses");
        assert_eq!([w[4], w[6]], [2, 2]);
        assert!(w.iter().all(|w| usize::from(*w) < WINDOWS));
    }
}
