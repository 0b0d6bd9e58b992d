//! What is owed to integer registers: work that is put off until somebody could see that it was not done.
//!
//! *Signs.* The results of 32-bit instructions are sign-extended. Most are used by such instructions again, which do not
//! look at the upper half: it stays owed, and is made when a use needs it, or where the unit is left. A register of which
//! it is known that its value is that of its low half is a *word*; two words are compared as such, and what `and`, `or`,
//! `xor` make of words are words.
//!
//! *Halves* of rotations and of zero extensions (`rotations.rs`) are shifts which the next instructions make one with
//! another shift. What the first of them leaves in its register is hardly ever looked at, but has to be there if it is.
//!
//! Whatever leaves the unit, or calls a helper, pays first ([`Emitter::settle`]): in cold code, for the state that the
//! path was in where it branched off. Cold code that comes back has paid what the path still owes. Signs and halves can be
//! paid twice; not so halves of the register that they are owed to, which are paid before an instruction that may call.

use super::Emitter;
use super::float::bits;
use super::rotations::{Half, Joined, may_call};
use super::value::{Leaf, V};
use crate::registers::slot;
use crate::unit::Step;
use strata_isa::ops::{Bin, Reg, Un, Width};
use strata_isa::{Effect, Insn, Op};
use strata_x64::{Gpr, Shift, Size};

/// Holds nothing wherever something is paid: before an instruction, and where a unit is left or a helper called, whose
/// arguments are in rax and rdx.
const FREE: Gpr = Gpr::Rcx;
/// Most halves at a time: those of the four rotations that a round of ChaCha has side by side.
const HALVES: usize = 8;

/// Sets of guest registers: bit `r` for register `r`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owed {
    /// Their value is the sign extension of its low half.
    pub words: u32,
    /// Words of which only the low half is there; the upper may be anything.
    pub signs: u32,
    /// Registers that have their old value still, and are owed half a rotation of another's.
    pub halves: [Option<Half>; HALVES],
}

/// How much of a register is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// All, and it is not known to be a word.
    Not,
    /// All of a word.
    Whole,
    /// The low half of a word.
    Low,
}

/// What is decided of an instruction before its text runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Now {
    /// The one operation that it makes of shifts that have not been done.
    pub joined: Option<Joined>,
    /// The shift that it is, if that can wait.
    pub waits: Option<Half>,
    /// Registers of which it only takes the low half.
    pub low: u32,
    /// It compares low halves.
    pub compares_words: bool,
    /// The upper half of what is computed is not wanted.
    pub word_only: bool,
    /// What comes next runs in another context.
    pub changes_context: bool,
}

impl Owed {
    /// Of register `r`.
    fn word(&self, r: Reg) -> Word {
        match (self.words >> r & 1, self.signs >> r & 1) {
            (_, 1) => Word::Low,
            (1, _) => Word::Whole,
            _ => Word::Not,
        }
    }

    pub(super) fn is_word(&self, leaf: Leaf) -> bool {
        match leaf {
            Leaf::Const(c) => i32::try_from(c).is_ok(),
            Leaf::X(r) => self.words >> r & 1 != 0,
            Leaf::Tmp(_) => false,
        }
    }

    fn is_low(&self, leaf: Leaf) -> bool {
        matches!(leaf, Leaf::X(r) if self.signs >> r & 1 != 0)
    }

    /// What `r` is owed half of.
    pub(super) fn half(&self, r: Reg) -> Option<Half> {
        self.halves.iter().flatten().find(|h| h.rd == r).copied()
    }

    fn drop_half(&mut self, r: Reg) {
        self.halves.iter_mut().for_each(|h| _ = h.take_if(|h| h.rd == r));
    }
}

/// By register, the last step that writes it.
pub(super) fn last_writes(steps: &[Step]) -> [usize; 32] {
    let mut last = [0; 32];
    for (n, step) in steps.iter().enumerate() {
        bits(step.insn.x_writes()).for_each(|r| last[usize::from(r)] = n);
    }
    last
}

/// Whether computing `v` can extend it, unlike what is only low because its operands are.
pub(super) fn is_extended(v: V) -> bool {
    use Bin::*;
    matches!(v, V::Bin(AddW | SubW | MulW | SllW | SrlW | SraW | RolW | RorW, ..) | V::Un(Un::SextW, _))
}

/// Whether the instruction compares its operands.
fn compares(op: Op) -> bool {
    use Op::*;
    matches!(op, Beq | Bne | Blt | Bge | Bltu | Bgeu | Slt | Sltu | Slti | Sltiu)
}

/// The registers of which `insn` takes the low half only, or could, as `words` are.
fn low(insn: &Insn, words: u32) -> u32 {
    use Op::*;
    let all = insn.x_reads();
    let (first, second) = (1u32 << (insn.rs1 & 31), 1u32 << (insn.rs2 & 31));
    let if_words = if all & !words == 0 { all } else { 0 };
    match insn.op {
        Addw | Subw | Addiw | Slliw | Srliw | Sraiw | Sllw | Srlw | Sraw | Mulw => all,
        Sb | Sh | Sw => second & !first & all,
        And | Or | Xor | Ori | Xori => if_words,
        Andi if insn.imm >= 0 => all,
        Andi => if_words,
        Addi if insn.imm == 0 => all,
        Slli if insn.imm >= 32 => all,
        op if compares(op) => if_words,
        _ => 0,
    }
}

impl Emitter<'_> {
    /// Before an instruction that has a rule: what it reads is there, and what is owed of what it writes is paid.
    pub(super) fn prepare(&mut self, insn: &Insn) {
        self.now = Now { joined: self.joins_halves(insn), ..Now::default() };
        self.now.waits = self.waiting_half(insn);
        if self.place.owed == Owed::default() {
            return;
        }
        // A half in place leaves its register as it is.
        if !self.now.waits.is_some_and(Half::is_in_place) {
            bits(insn.x_writes()).for_each(|r| self.release(r));
        }
        if may_call(insn) {
            let halves = self.place.owed.halves;
            halves.into_iter().flatten().filter(|h| h.is_in_place()).for_each(|h| self.pay_half(h));
        }
        let owed = self.place.owed;
        self.now.low = low(insn, owed.words);
        self.now.compares_words = compares(insn.op) && insn.x_reads() & !owed.words == 0;
        if self.now.joined.is_none() {
            bits(insn.x_reads()).for_each(|r| self.want(r));
        }
    }

    /// The size in which this instruction compares.
    pub(super) fn compared(&self) -> Size {
        if self.now.compares_words { Size::D } else { Size::Q }
    }

    /// Whether nothing is owed to `r` that this instruction would miss.
    pub(super) fn may_read(&self, r: Reg) -> bool {
        let owed = &self.place.owed;
        owed.half(r).is_none() && owed.signs & !self.now.low & 1 << r == 0
    }

    /// Pays what this instruction needs of `r`.
    fn want(&mut self, r: Reg) {
        if let Some(half) = self.place.owed.half(r) {
            self.pay_half(half);
        }
        if self.place.owed.signs & !self.now.low & 1 << r != 0 {
            self.pay_sign(r);
        }
    }

    /// Pays what needs the value of `r`, which is about to be written.
    fn release(&mut self, r: Reg) {
        for half in self.place.owed.halves.into_iter().flatten() {
            if half.of != r || half.is_in_place() {
                continue;
            }
            if self.is_dead(half.rd) {
                self.change(|p| p.owed.drop_half(half.rd));
            } else {
                self.pay_half(half);
            }
        }
    }

    /// Whether nobody can see what `r` holds before it is written again.
    fn is_dead(&self, r: Reg) -> bool {
        for (n, step) in self.job.steps.iter().enumerate().skip(self.at) {
            let insn = &step.insn;
            let joined = n == self.at && self.now.joined.is_some();
            let read = insn.x_reads() >> r & 1 != 0 && !joined;
            if read || usize::from(step.pages) > self.checked || insn.op.effect() != Effect::Pure {
                return false;
            }
            if insn.x_writes() >> r & 1 != 0 {
                return true;
            }
        }
        false
    }

    /// Whether one more shift can be put off.
    pub(super) fn has_room(&self) -> bool {
        self.place.owed.halves.contains(&None)
    }

    /// Puts off a shift, for which there is room.
    pub(super) fn owe(&mut self, half: Half) {
        let mut owed = self.place.owed;
        owed.drop_half(half.rd);
        if let Some(free) = owed.halves.iter_mut().find(|h| h.is_none()) {
            *free = Some(half);
        }
        // Of what its register holds, nothing counts any more.
        owed.words &= !(1 << half.rd);
        if !half.is_in_place() {
            owed.signs &= !(1 << half.rd);
        }
        self.consts[usize::from(half.rd & 31)] = None;
        self.change(|p| p.owed = owed);
    }

    /// Register `r` has been written.
    pub(super) fn wrote(&mut self, r: Reg, word: Word) {
        let mut owed = self.place.owed;
        owed.drop_half(r);
        owed.words = owed.words & !(1 << r) | u32::from(word != Word::Not) << r;
        owed.signs = owed.signs & !(1 << r) | u32::from(word == Word::Low) << r;
        if owed != self.place.owed {
            self.change(|p| p.owed = owed);
        }
    }

    /// How much of a register is there once `v` has been written to it without the upper half where that is not wanted.
    pub(super) fn word_of(&self, v: V) -> Word {
        use Bin::*;
        let owed = &self.place.owed;
        let whole_if = |yes: bool| if yes { Word::Whole } else { Word::Not };
        match v {
            V::Leaf(Leaf::X(s)) => owed.word(s),
            V::Leaf(l) => whole_if(owed.is_word(l)),
            V::Bin(SrlW, _, Leaf::Const(c)) if c & 31 != 0 => Word::Whole,
            v if is_extended(v) => Word::Low,
            V::Bin(Slt | Sltu | Eq, ..) | V::Bin(DivW | DivuW | RemW | RemuW, ..) => Word::Whole,
            V::Bin(And, _, Leaf::Const(c)) if (0..1 << 31).contains(&c) => Word::Whole,
            V::Bin(And | Or | Xor, a, b) if owed.is_word(a) && owed.is_word(b) => {
                if owed.is_low(a) || owed.is_low(b) { Word::Low } else { Word::Whole }
            }
            V::Un(Un::SextB | Un::SextH | Un::ZextB | Un::ZextH, _) => Word::Whole,
            V::Loaded(_, w) => whole_if(!matches!(w, Width::U32 | Width::I64)),
            _ => Word::Not,
        }
    }

    /// Pays all.
    pub(super) fn pay_all(&mut self) {
        let owed = self.place.owed;
        for half in owed.halves.into_iter().flatten() {
            if self.place.owed.half(half.rd).is_some() {
                self.pay_half(half);
            }
        }
        for r in bits(self.place.owed.signs) {
            self.pay_sign(r);
        }
    }

    fn pay_sign(&mut self, r: Reg) {
        match self.host(r) {
            Some(h) => self.asm.movsx_rr(h, Size::D, h),
            None => {
                self.asm.movsx_rm(FREE, Size::D, slot(r));
                self.asm.mov_mr(Size::Q, slot(r), FREE);
            }
        }
        self.change(|p| p.owed.signs &= !(1 << r));
    }

    fn pay_half(&mut self, half: Half) {
        // Where it lies, there is what others may be owed half of.
        if half.is_in_place() {
            self.release(half.rd);
        }
        match self.host(half.rd) {
            Some(h) => self.shift_half(half, h),
            None => {
                self.shift_half(half, FREE);
                self.asm.mov_mr(Size::Q, slot(half.rd), FREE);
            }
        }
        let word = match (half.size, half.left) {
            (Size::D, true) => Word::Low,
            (Size::D, false) => Word::Whole,
            _ => Word::Not,
        };
        self.wrote(half.rd, word);
    }

    fn shift_half(&mut self, half: Half, d: Gpr) {
        match self.host(half.of) {
            Some(s) if s == d && half.size == Size::Q => {}
            Some(s) => self.asm.mov_rr(half.size, d, s),
            None => self.asm.mov_rm(half.size, d, slot(half.of)),
        }
        let shift = if half.left { Shift::Shl } else { Shift::Shr };
        self.asm.shift_ri(shift, half.size, d, half.by);
    }
}
