//! Where control goes: along the path, away from it, or by a register's value.

use super::Emitter;
use super::cold::Cold;
use super::value::{Leaf, V, short};
use crate::crossings;
use crate::layout::{self, Word, word};
use strata_isa::ops::{Cond, Reg};
use strata_x64::{Alu, Cc, Gpr, Size};

fn condition(c: Cond) -> Cc {
    match c {
        Cond::Eq => Cc::E,
        Cond::Ne => Cc::Ne,
        Cond::Lt => Cc::L,
        Cond::Ge => Cc::Ge,
        Cond::Ltu => Cc::B,
        Cond::Geu => Cc::Ae,
    }
}

/// The condition on (b, a) that is this one on (a, b).
fn swapped(cc: Cc) -> Cc {
    match cc {
        Cc::L => Cc::G,
        Cc::Ge => Cc::Le,
        Cc::B => Cc::A,
        Cc::Ae => Cc::Be,
        other => other,
    }
}

impl Emitter<'_> {
    /// A conditional branch: the path goes one way, cold code the other.
    pub(super) fn branch_to(&mut self, cond: Cond, a: V, b: V, off: i64) {
        let step = self.step();
        let fall = step.pc.wrapping_add(step.insn.len.into());
        let taken = step.pc.wrapping_add(off as u64);
        let decided = a.known().zip(b.known()).map(|(a, b)| cond.eval(a as u64, b as u64));
        if taken != fall && decided != Some(step.next == taken) {
            let (mut a, mut b) = (self.leaf(a), self.leaf(b));
            let mut cc = condition(cond);
            if matches!(a, Leaf::Const(_)) {
                std::mem::swap(&mut a, &mut b);
                cc = swapped(cc);
            }
            self.compare(self.compared(), a, b);
            let along = step.next == taken;
            let away = self.asm.label();
            self.asm.jcc(if along { cc.not() } else { cc }, away);
            // This instruction has completed; those after it have not.
            let refund = self.remaining() - 1;
            let target = if along { fall } else { taken };
            self.cold.push(Cold::Away { from: away, refund, target, checked: self.checked });
            if let (Leaf::X(r), Leaf::Const(c)) = (a, b)
                && cc == Cc::E
                && along
            {
                self.know(r, c);
            }
        }
        if self.last() {
            self.go(step.next);
        }
    }

    fn know(&mut self, r: Reg, c: i64) {
        self.consts[usize::from(r & 31)] = Some(c);
    }

    /// A jump to a known place.
    pub(super) fn jump_off(&mut self) {
        let step = self.step();
        if self.last() {
            self.go(step.next);
        }
    }

    /// A jump to where a value leads.
    pub(super) fn jump_value(&mut self, target: V) {
        let step = self.step();
        if let Some(c) = target.known()
            && c as u64 == step.next
        {
            if self.last() {
                self.go(step.next);
            }
            return;
        }
        self.value_to(target, Gpr::Rax);
        if self.last() {
            self.gone = true;
            self.look_up();
            return;
        }
        match short(step.next as i64) {
            Some(i) => self.asm.alu_ri(Alu::Cmp, Size::Q, Gpr::Rax, i),
            None => {
                self.asm.mov_ri(Gpr::Rcx, step.next as i64);
                self.asm.alu_rr(Alu::Cmp, Size::Q, Gpr::Rax, Gpr::Rcx);
            }
        }
        let away = self.asm.label();
        self.asm.jcc(Cc::Ne, away);
        let refund = self.remaining() - 1;
        self.cold.push(Cold::Indirect { from: away, refund });
    }

    /// Goes to the unit at the address in rax, by the jump cache.
    pub(super) fn look_up(&mut self) {
        self.settle();
        self.asm.mov_rm(Size::Q, Gpr::Rdx, word(Word::Jumps));
        let miss = self.asm.label();
        crossings::jump(self.asm, miss);
        self.cold.push(Cold::Leave { from: miss });
    }

    /// Writes the program counter.
    pub(super) fn set_pc(&mut self, pc: u64) {
        match short(pc as i64) {
            Some(i) => self.asm.mov_mi(Size::Q, layout::pc(), i),
            None => {
                self.asm.mov_ri(Gpr::Rax, pc as i64);
                self.asm.mov_mr(Size::Q, layout::pc(), Gpr::Rax);
            }
        }
    }
}
