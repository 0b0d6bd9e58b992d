//! Two shifts and a junction that are one rotation, and two shifts that are one extension: RV64GC has instructions for
//! neither.
//!
//! ```text
//!   srliw t, x, n     slliw u, x, 32 - n     or d, t, u        d = x rotated right by n
//!   slli  t, x, 32    srli  d, t, 32 - n                       d = low half of x, times 2^n
//! ```
//! The plan finds them in the path, whatever lies between; the first shifts are then owed (`owed.rs`).

use super::Emitter;
use super::owed::Word;
use super::value::Leaf;
use crate::registers::slot;
use crate::unit::Step;
use strata_isa::ops::Reg;
use strata_isa::{Effect, Insn, Op};
use strata_x64::{Gpr, Shift, Size};

/// A shift that has not been done: `rd = of << by`, or `of >> by`, in 32 or 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Half {
    pub rd: Reg,
    pub of: Reg,
    pub left: bool,
    pub by: u8,
    pub size: Size,
}

impl Half {
    /// What `insn` does, if it is such a shift. None shifts by nothing.
    fn of(insn: &Insn) -> Option<Half> {
        let (left, size) = match insn.op {
            Op::Slliw => (true, Size::D),
            Op::Srliw => (false, Size::D),
            Op::Slli => (true, Size::Q),
            Op::Srli => (false, Size::Q),
            _ => return None,
        };
        let by = insn.imm as u8 & 63;
        let fits = by != 0 && insn.rd != 0 && insn.rs1 != 0;
        fits.then_some(Half { rd: insn.rd, of: insn.rs1, left, by, size })
    }

    /// Whether it is of the register that it is owed to, so that it can be paid once only.
    pub(super) fn is_in_place(self) -> bool {
        self.rd == self.of
    }

    fn bits(self) -> u8 {
        if self.size == Size::D { 32 } else { 64 }
    }

    /// How far right both together rotate, where each has what the other lost.
    fn rotation(self, other: Half) -> Option<u8> {
        let one = self.of == other.of && self.size == other.size && self.left != other.left;
        let right = if self.left { other.by } else { self.by };
        (one && self.by + other.by == self.bits()).then_some(right)
    }

    /// What `insn` makes of it, if that is one extension.
    fn extension(self, insn: &Insn) -> Option<Extension> {
        let by = insn.imm as u8 & 63;
        if !self.left || self.size != Size::Q || insn.rs1 != self.rd {
            return None;
        }
        let size = match self.by {
            32 => Size::D,
            48 if by == 48 => Size::W,
            56 if by == 56 => Size::B,
            _ => return None,
        };
        match insn.op {
            Op::Srli => Some(Extension { size, signed: false, right: i16::from(by) - i16::from(self.by) }),
            Op::Srai if by == self.by => Some(Extension { size, signed: true, right: 0 }),
            _ => None,
        }
    }
}

/// What an instruction makes of shifts that have not been done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Joined {
    Rotation { of: Reg, size: Size, right: u8 },
    Extension(Reg, Extension),
}

/// The low `size` of a register, extended to 64 bits and shifted right, or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    size: Size,
    signed: bool,
    right: i16,
}

/// Whether the two operands are joined without carries or in a way in which they do not matter: no bit is in both.
fn joins(op: Op) -> bool {
    matches!(op, Op::Or | Op::Xor | Op::Add | Op::Addw)
}

/// Whether a helper may do a part of the instruction, and the path go on behind it.
pub(super) fn may_call(insn: &Insn) -> bool {
    !matches!(insn.op.effect(), Effect::Pure | Effect::Branch | Effect::Jump | Effect::JumpTo | Effect::Fence)
}

/// Which steps' shifts can wait.
#[derive(Debug, Default)]
pub(crate) struct Halves(Vec<u16>);

impl Halves {
    /// Of a path.
    pub fn plan(steps: &[Step]) -> Halves {
        let mut plan = Halves::default();
        if !steps.iter().any(|s| Half::of(&s.insn).is_some()) {
            return plan;
        }
        let mut waiting: [Option<(u16, Half)>; 32] = [None; 32];
        for (n, step) in steps.iter().enumerate() {
            let insn = &step.insn;
            let operands = [insn.rs1, insn.rs2].map(|r| waiting[usize::from(r & 31)]);
            if let [Some((a, left)), Some((b, right))] = operands
                && joins(insn.op)
                && fits(insn.op, left, right)
            {
                plan.0.extend([a, b]);
            } else if let Some((a, half)) = operands[0]
                && half.extension(insn).is_some()
            {
                plan.0.push(a);
            }
            let (reads, writes) = (insn.x_reads(), insn.x_writes());
            let new = Half::of(insn);
            for (r, place) in waiting.iter_mut().enumerate() {
                // A shift of what it is written over with is one more half of it.
                let gone = |h: Half| {
                    writes >> h.of & 1 != 0 && new.is_none_or(|n| n.of != h.of)
                        || h.is_in_place() && may_call(insn)
                };
                place.take_if(|(_, h)| (reads | writes) >> r & 1 != 0 || gone(*h));
            }
            if let Some(half) = new {
                waiting[usize::from(half.rd)] = Some((n as u16, half));
            }
        }
        plan.0.sort_unstable();
        plan
    }

    fn can_wait(&self, step: usize) -> bool {
        self.0.binary_search(&(step as u16)).is_ok()
    }
}

/// Whether `op` joins both to a rotation.
fn fits(op: Op, a: Half, b: Half) -> bool {
    a.rotation(b).is_some() && (op != Op::Addw || a.size == Size::D)
}

impl Emitter<'_> {
    /// What `insn` makes of shifts that have not been done, if that is one operation.
    pub(super) fn joins_halves(&self, insn: &Insn) -> Option<Joined> {
        let owed = &self.place.owed;
        let half = owed.half(insn.rs1).filter(|_| insn.rd != 0)?;
        if let Some(extension) = half.extension(insn) {
            return Some(Joined::Extension(half.of, extension));
        }
        let other = owed.half(insn.rs2).filter(|o| joins(insn.op) && fits(insn.op, half, *o))?;
        Some(Joined::Rotation { of: half.of, size: half.size, right: half.rotation(other)? })
    }

    /// Does this instruction as a part of a rotation or an extension, if it is one.
    pub(super) fn rotation(&mut self) -> bool {
        let insn = self.step().insn;
        match self.now.joined.take() {
            Some(Joined::Rotation { of, size, right }) => {
                let d = self.host(insn.rd).unwrap_or(Gpr::Rax);
                let s = self.reg(Leaf::X(of), d);
                self.asm.rorx(size, d, s, right);
                self.place_half(insn.rd, d, if size == Size::D { Word::Low } else { Word::Not });
                true
            }
            Some(Joined::Extension(of, extension)) => {
                self.extend_part(insn.rd, of, extension);
                true
            }
            None => {
                let Some(half) = self.now.waits.take() else { return false };
                self.owe(half);
                true
            }
        }
    }

    /// The shift that `insn` is, if it can wait.
    pub(super) fn waiting_half(&self, insn: &Insn) -> Option<Half> {
        let known = |h: &Half| self.consts[usize::from(h.of)].is_some();
        let can_wait = self.halves.can_wait(self.at) && self.now.joined.is_none() && self.has_room();
        Half::of(insn).filter(|h| can_wait && !known(h))
    }

    fn extend_part(&mut self, rd: Reg, of: Reg, e: Extension) {
        let d = self.host(rd).unwrap_or(Gpr::Rax);
        let s = self.reg(Leaf::X(of), d);
        match (e.signed, e.size) {
            (true, size) => self.asm.movsx_rr(d, size, s),
            (false, Size::D) => self.asm.mov_rr(Size::D, d, s),
            (false, size) => self.asm.movzx_rr(d, size, s),
        }
        match e.right {
            0 => {}
            right @ 1.. => self.asm.shift_ri(Shift::Shr, Size::Q, d, right as u8),
            left => self.asm.shift_ri(Shift::Shl, Size::Q, d, -left as u8),
        }
        let word = e.signed || e.size != Size::D || e.right > 0;
        self.place_half(rd, d, if word { Word::Whole } else { Word::Not });
    }

    /// The result of halves, which is in `d`, goes to `rd`.
    fn place_half(&mut self, rd: Reg, d: Gpr, word: Word) {
        if self.host(rd).is_none() {
            self.asm.mov_mr(Size::Q, slot(rd), d);
        }
        self.consts[usize::from(rd & 31)] = None;
        self.wrote(rd, word);
    }
}
