//! Which instructions the emitter does by itself. All others are the interpreter's, in place.

use super::value::{Leaf, V};
use super::{Emitter, Stop, float};
use crate::layout;
use strata_isa::ops::{Bin, CsrOp};
use strata_isa::{Effect, Insn, Op};
use strata_riscv::tier::Privilege;
use strata_x64::{Mem, Size};

/// Whether what follows such an instruction is found anew every time: it may change the mode, the translation or the
/// code.
pub(crate) fn always_leaves(insn: &Insn) -> bool {
    matches!(insn.op.effect(), Effect::System | Effect::FenceVma)
}

impl Emitter<'_> {
    /// Whether the text can be run for `insn`.
    pub(super) fn has_rule(&self, insn: &Insn) -> bool {
        let f = &self.features;
        match insn.op {
            Op::OrcB => return false,
            Op::Clz | Op::Clzw => return f.lzcnt,
            Op::Ctz | Op::Ctzw | Op::Andn => return f.bmi1,
            Op::Cpop | Op::Cpopw => return f.popcnt,
            _ => {}
        }
        match insn.op.effect() {
            Effect::Pure | Effect::Load(_) | Effect::Store(_) => true,
            Effect::Amo(_) | Effect::Reserve(_) | Effect::Conditional(_) => true,
            Effect::Jump | Effect::JumpTo | Effect::Branch | Effect::Fence => true,
            Effect::FpLoad(_) | Effect::FpStore(_) => true,
            Effect::Fp => float::has_rule(insn, f),
            Effect::Csr => self.plain(insn.imm as u16).is_some() || self.is_status(insn),
            _ => false,
        }
    }

    /// Where a CSR lies that is only memory, if the present mode may reach it.
    fn plain(&self, n: u16) -> Option<Mem> {
        let needs = n >> 8 & 3;
        let has = match self.job.privilege {
            Privilege::User => 0,
            Privilege::Supervisor => 1,
            Privilege::Machine => 3,
        };
        if has >= needs { layout::csr(n) } else { None }
    }

    /// Reads and writes a CSR that is only memory.
    pub(super) fn plain_csr(
        &mut self,
        op: CsrOp,
        n: u16,
        src: V,
        read: bool,
        write: bool,
    ) -> Result<V, Stop> {
        let Some(at) = self.plain(n) else { return Err(Stop::Illegal) };
        let is_pc = n & 0xff == 0x41;
        let old = self.tmp();
        if read || op != CsrOp::Write {
            self.asm.mov_rm(Size::Q, old, at);
        }
        if write {
            let src = self.leaf(src);
            let new = self.tmp();
            match op {
                CsrOp::Write => self.mov(new, src),
                CsrOp::Set => self.bin_to(Bin::Or, Leaf::Tmp(old), src, new),
                CsrOp::Clear => {
                    self.mov(new, src);
                    self.asm.not(Size::Q, new);
                    self.asm.alu_rr(strata_x64::Alu::And, Size::Q, new, old);
                }
            }
            if is_pc {
                self.asm.alu_ri(strata_x64::Alu::And, Size::Q, new, -2);
            }
            self.asm.mov_mr(Size::Q, at, new);
        }
        Ok(if read { V::Leaf(Leaf::Tmp(old)) } else { V::Leaf(Leaf::Const(0)) })
    }
}
