//! What lies behind the path of a unit with floating point.

use super::{Emitter, fs};
use crate::emit::memory::Miss;
use crate::layout;
use crate::registers::slot;
use crate::unit::Leave;
use strata_isa::ops::{Fmt, Reg, Width};
use strata_x64::{Alu, Cc, Fop, Gpr, Label, Shift, Size, Xmm};

/// A piece of cold code. What is held where it comes from is noted apart.
#[derive(Clone, Copy)]
pub(in crate::emit) enum Piece {
    /// Leaves the unit before the instruction at `pc`.
    Away { from: Label, pc: u64, refund: i32, why: Leave },
    /// A result that is not a number.
    Nan { from: Label, join: Label, x: Xmm, fmt: Fmt },
    /// The interpreter's instance does the instruction.
    Redo { from: Label, join: Label, site: u64, rd: Reg, result: Redone },
    /// The least or the greatest of two that are equal, or not ordered.
    Equal { from: Label, nan: Label, join: Label, operands: [Xmm; 2], x: Xmm, min: bool },
    /// From an unsigned integer that is negative as a signed one.
    Large { from: Label, join: Label, source: Gpr, x: Xmm, fmt: Fmt },
    /// A load that missed.
    Load { miss: Miss, join: Label, width: Width, x: Xmm, site: u64 },
}

/// Where the path expects the result of what the interpreter's instance does.
#[derive(Clone, Copy)]
pub(in crate::emit) enum Redone {
    X(Gpr),
    F(Xmm, Fmt),
}

impl Emitter<'_> {
    pub(in crate::emit) fn float_piece(&mut self, piece: Piece) {
        match piece {
            Piece::Away { from, pc, refund, why } => {
                self.asm.bind(from);
                self.give_back(refund);
                self.set_pc(pc);
                self.leave(why, 0);
            }
            Piece::Nan { from, join, x, fmt } => {
                self.asm.bind(from);
                match fmt {
                    Fmt::S => {
                        self.asm.mov_ri(Gpr::Rax, 0x7fc0_0000);
                        self.asm.movd_xr(x, Gpr::Rax);
                    }
                    Fmt::D => {
                        self.asm.mov_ri(Gpr::Rax, 0x7ff8 << 48);
                        self.asm.movq_xr(x, Gpr::Rax);
                    }
                }
                self.asm.jmp(join);
            }
            Piece::Redo { from, join, site, rd, result } => {
                self.asm.bind(from);
                self.call(self.to.interpret, site);
                match result {
                    Redone::F(x, fmt) => self.asm.fmov_xm(fs(fmt), x, layout::f(rd)),
                    Redone::X(d) if self.host(rd).is_none() && rd != 0 => {
                        self.asm.mov_rm(Size::Q, d, slot(rd))
                    }
                    Redone::X(_) => {}
                }
                self.asm.jmp(join);
            }
            Piece::Equal { from, nan, join, operands: [a, b], x, min } => {
                self.asm.bind(from);
                self.asm.jcc(Cc::P, nan);
                // They differ in the sign of zero at most.
                let other = if x == b { a } else { b };
                if x != a && x != b {
                    self.asm.fmov_xx(x, a);
                }
                if min {
                    self.asm.orps_xx(x, other);
                } else {
                    self.asm.andps_xx(x, other);
                }
                self.asm.jmp(join);
            }
            Piece::Large { from, join, source, x, fmt } => {
                self.asm.bind(from);
                // Half of it, in which the bit that is lost still shows that something was; then twice that.
                self.asm.mov_rr(Size::Q, Gpr::Rcx, source);
                self.asm.mov_rr(Size::Q, Gpr::Rdx, source);
                self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::Rcx, 1);
                self.asm.alu_ri(Alu::And, Size::D, Gpr::Rdx, 1);
                self.asm.alu_rr(Alu::Or, Size::Q, Gpr::Rcx, Gpr::Rdx);
                self.asm.xorps_xx(x, x);
                self.asm.cvtsi2f(fs(fmt), Size::Q, x, Gpr::Rcx);
                self.asm.fop_xx(Fop::Add, fs(fmt), x, x);
                self.asm.jmp(join);
            }
            Piece::Load { miss, join, width, x, site } => {
                self.refill(miss);
                self.call_load(miss.address, width, site);
                self.asm.movq_xr(x, Gpr::Rax);
                self.asm.jmp(join);
            }
        }
    }
}
