//! `sstatus`, which a kernel reads and writes at each system call: interrupts on and off, floating point off, access to
//! user memory on and off. And the ways between the modes.
//!
//! ```text
//!   mov   rdx, [mstatus]
//!   ...   rax = what it becomes
//!   call  set_status ── not so simple ──► the interpreter's instance
//!   call  read_status, if the old value is wanted
//! ```
//! SUM changes the context, for which there is other code: where an instruction changes it and nothing else, the unit ends
//! with a jump to a unit of the other context. The pieces that are called are in `crossings.rs`.

use super::cold::Cold;
use super::value::{Leaf, V};
use super::{Emitter, Stop};
use crate::crossings;
use crate::layout;
use strata_isa::ops::CsrOp;
use strata_isa::{Effect, Insn, Op};
use strata_riscv::tier::{DataContext, Privilege, status};
use strata_x64::{Alu, Cc, Gpr, Size};

/// Number of the register.
pub(super) const SSTATUS: u16 = 0x100;

impl Emitter<'_> {
    /// Whether `insn` accesses `sstatus` in S mode.
    pub(super) fn is_status(&self, insn: &Insn) -> bool {
        insn.op.effect() == Effect::Csr
            && insn.imm as u16 == SSTATUS
            && self.job.privilege == Privilege::Supervisor
    }

    /// The piece that changes the mode as `insn` does, for the end of a path.
    pub(super) fn crossing(&self, insn: &Insn) -> Option<u64> {
        match (insn.op, self.job.privilege) {
            _ if !self.last() => None,
            (Op::Ecall, Privilege::User) => Some(self.to.crossings.ecall),
            (Op::Sret, Privilege::Supervisor) => Some(self.to.crossings.sret),
            _ => None,
        }
    }

    /// The context in which the code behind this instruction runs, if the instruction does nothing but change it.
    fn other_context(&self, op: CsrOp, src: V) -> Option<DataContext> {
        if !self.last() || src.known() != Some(status::SUM as i64) {
            return None;
        }
        match (op, self.job.context) {
            (CsrOp::Set, DataContext::Supervisor) => Some(DataContext::SupervisorSum),
            (CsrOp::Clear, DataContext::SupervisorSum) => Some(DataContext::Supervisor),
            _ => None,
        }
    }

    /// Reads and writes `sstatus`.
    pub(super) fn status_csr(&mut self, op: CsrOp, src: V, write: bool) -> Result<V, Stop> {
        let mstatus = layout::modes().mstatus;
        self.take(Gpr::Rax);
        self.take(Gpr::Rdx);
        self.asm.mov_rm(Size::Q, Gpr::Rdx, mstatus);
        let wanted = self.step().insn.rd != 0;
        if !write {
            return Ok(self.read_status(wanted));
        }
        if let Some(context) = self.other_context(op, src) {
            return Ok(self.change_context(context, wanted));
        }
        let src = self.leaf(src);
        let all = status::SSTATUS as i32;
        if let Leaf::Const(c) = src {
            self.asm.mov_ri(Gpr::Rax, c & i64::from(all));
        } else {
            let r = self.reg(src, Gpr::Rax);
            if r != Gpr::Rax {
                self.asm.mov_rr(Size::D, Gpr::Rax, r);
            }
            self.asm.alu_ri(Alu::And, Size::D, Gpr::Rax, all);
        }
        match op {
            CsrOp::Set => self.asm.alu_rr(Alu::Or, Size::Q, Gpr::Rax, Gpr::Rdx),
            CsrOp::Clear => {
                self.asm.not(Size::Q, Gpr::Rax);
                self.asm.alu_rr(Alu::And, Size::Q, Gpr::Rax, Gpr::Rdx);
            }
            CsrOp::Write => {
                self.asm.mov_rr(Size::Q, Gpr::Rcx, Gpr::Rdx);
                self.asm.alu_ri(Alu::And, Size::Q, Gpr::Rcx, !all);
                self.asm.alu_rr(Alu::Or, Size::Q, Gpr::Rax, Gpr::Rcx);
            }
        }
        self.asm.call_abs(self.to.crossings.set_status);
        let (miss, join, site) = (self.asm.label(), self.asm.label(), self.site());
        self.asm.jcc(Cc::Ne, miss);
        self.cold.push(Cold::Instance { from: miss, join, site });
        self.join = Some(join);
        Ok(self.read_status(wanted))
    }

    /// What `sstatus` reads as where `mstatus` is in rdx.
    fn read_status(&mut self, wanted: bool) -> V {
        if wanted {
            self.asm.call_abs(self.to.crossings.read_status);
        }
        V::Leaf(Leaf::Tmp(Gpr::Rax))
    }

    /// Turns SUM over, of `mstatus` in rdx. What comes next is the unit's end.
    fn change_context(&mut self, context: DataContext, wanted: bool) -> V {
        let old = self.read_status(wanted);
        let modes = layout::modes();
        self.asm.alu_mi(Alu::Xor, Size::D, modes.mstatus, status::SUM as i32);
        self.asm.mov_mi(Size::Q, modes.data, context as i32);
        crossings::select_jumps(self.asm, context);
        self.now.changes_context = true;
        old
    }
}
