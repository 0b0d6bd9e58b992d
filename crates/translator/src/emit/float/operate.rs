//! Arithmetic, comparisons and moves.

use super::cold::{Piece, Redone};
use super::{Emitter, X0, X1, X2, form, fs};
use crate::emit::cold::Cold;
use crate::emit::value::{Leaf, V, XmmForm};
use strata_isa::ops::{Fmt, Fp, Reg};
use strata_x64::{Alu, Cc, Fma, Fop, Gpr, Label, Shift, Size, Xmm};

fn number(v: V) -> Reg {
    match v {
        V::F(r) => r,
        _ => 0,
    }
}

impl Emitter<'_> {
    /// One operation. The instruction's own destination is where its result is put, if it has a home.
    pub(in crate::emit) fn float(&mut self, op: Fp, fmt: Fmt, rm: u8, [a, b, c]: [V; 3]) -> V {
        use Fp::*;
        match op {
            Add => self.arithmetic(Fop::Add, fmt, a, b),
            Sub => self.arithmetic(Fop::Sub, fmt, a, b),
            Mul => self.arithmetic(Fop::Mul, fmt, a, b),
            Div => self.arithmetic(Fop::Div, fmt, a, b),
            Sqrt => self.square_root(fmt, a),
            // The names differ: RISC-V's "nmsub" is −(a·b)+c.
            Madd => self.fused(Fma::Madd, fmt, [a, b, c]),
            Msub => self.fused(Fma::Msub, fmt, [a, b, c]),
            Nmsub => self.fused(Fma::Nmadd, fmt, [a, b, c]),
            Nmadd => self.fused(Fma::Nmsub, fmt, [a, b, c]),
            Min | Max => self.least_or_greatest(op, fmt, a, b),
            Sgnj | Sgnjn | Sgnjx => self.sign(op, fmt, a, b),
            Eq | Lt | Le => self.comparison(op, fmt, a, b),
            Class => self.class(fmt, a),
            ToW | ToWu | ToL | ToLu => self.integer_of(op, fmt, rm, a),
            FromW | FromWu | FromL | FromLu => self.float_of(op, fmt, rm, a),
            Convert => self.convert(fmt, a),
            MoveToX => self.move_to_x(fmt, a),
            MoveFromX => self.move_from_x(fmt, a),
        }
    }

    /// The canonical NaN, if `x` is any. Until now its flags are the guest's: NV for a signalling one or without operand.
    pub(super) fn canonical(&mut self, x: Xmm, fmt: Fmt) -> V {
        let (from, join) = (self.asm.label(), self.asm.label());
        self.asm.ucomis_xx(fs(fmt), x, x);
        self.asm.jcc(Cc::P, from);
        self.asm.bind(join);
        self.cold.push(Cold::Float(Piece::Nan { from, join, x, fmt }));
        V::Xmm(x, form(fmt))
    }

    /// Has the interpreter's instance do all of this instruction when `from` is jumped to; the result joins at `join`. No
    /// operand may have been changed before the jump.
    pub(super) fn redo(&mut self, from: Label, join: Label, result: Redone) {
        let (site, rd) = (self.site(), self.step().insn.rd);
        self.cold.push(Cold::Float(Piece::Redo { from, join, site, rd, result }));
    }

    /// `a op b` on the host, into the destination if its old value is not needed any more before that.
    fn combine_f(&mut self, op: Fop, fmt: Fmt, a: Xmm, b: Xmm) -> Xmm {
        let d = self.f_destination();
        let symmetric = !matches!(op, Fop::Sub | Fop::Div);
        let (x, other) = match () {
            () if d == a => (a, b),
            () if d == b && symmetric => (b, a),
            () if d == b => (X0, b),
            () => (d, b),
        };
        if x != a && x != b {
            self.asm.fmov_xx(x, a);
        }
        self.asm.fop_xx(op, fs(fmt), x, other);
        x
    }

    fn arithmetic(&mut self, op: Fop, fmt: Fmt, a: V, b: V) -> V {
        let a = self.operand_f(a, fmt, X0);
        let b = self.operand_f(b, fmt, X1);
        let x = self.combine_f(op, fmt, a, b);
        self.canonical(x, fmt)
    }

    fn square_root(&mut self, fmt: Fmt, a: V) -> V {
        let a = self.operand_f(a, fmt, X0);
        let d = self.f_destination();
        if d != a {
            self.asm.fmov_xx(d, a);
        }
        self.asm.fop_xx(Fop::Sqrt, fs(fmt), d, d);
        self.canonical(d, fmt)
    }

    /// A NaN is done again: the host does not raise NV for infinity times zero plus a quiet NaN.
    fn fused(&mut self, kind: Fma, fmt: Fmt, abc: [V; 3]) -> V {
        let rd = self.step().insn.rd;
        let reads_rd = abc.iter().any(|v| number(*v) == rd);
        let a = self.operand_f(abc[0], fmt, X0);
        let b = self.operand_f(abc[1], fmt, X1);
        let c = self.operand_f(abc[2], fmt, X2);
        let x = if reads_rd { X0 } else { self.f_destination() };
        if x != a {
            self.asm.fmov_xx(x, a);
        }
        self.asm.fma213(kind, fs(fmt), x, b, c);
        let (from, join) = (self.asm.label(), self.asm.label());
        self.asm.ucomis_xx(fs(fmt), x, x);
        self.asm.jcc(Cc::P, from);
        self.redo(from, join, Redone::F(x, fmt));
        self.asm.bind(join);
        V::Xmm(x, form(fmt))
    }

    /// Equal operands (which may be zeros of different signs) and NaNs are apart.
    fn least_or_greatest(&mut self, op: Fp, fmt: Fmt, a: V, b: V) -> V {
        let a = self.operand_f(a, fmt, X0);
        let b = self.operand_f(b, fmt, X1);
        let (from, join, nan) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.ucomis_xx(fs(fmt), a, b);
        self.asm.jcc(Cc::E, from);
        let fop = if op == Fp::Min { Fop::Min } else { Fop::Max };
        let x = self.combine_f(fop, fmt, a, b);
        self.cold.push(Cold::Float(Piece::Equal {
            from,
            nan,
            join,
            operands: [a, b],
            x,
            min: op == Fp::Min,
        }));
        self.redo(nan, join, Redone::F(x, fmt));
        self.asm.bind(join);
        V::Xmm(x, form(fmt))
    }

    /// The sign bit alone.
    fn sign_mask(&mut self, x: Xmm, fmt: Fmt) {
        match fmt {
            Fmt::S => {
                self.asm.mov_ri(Gpr::Rax, 1 << 31);
                self.asm.movd_xr(x, Gpr::Rax);
            }
            Fmt::D => {
                self.asm.mov_ri(Gpr::Rax, i64::MIN);
                self.asm.movq_xr(x, Gpr::Rax);
            }
        }
    }

    fn sign(&mut self, op: Fp, fmt: Fmt, a: V, b: V) -> V {
        let same = number(a) == number(b);
        let a = self.operand_f(a, fmt, X0);
        if same {
            if op == Fp::Sgnj {
                return V::Xmm(a, form(fmt));
            }
            self.sign_mask(X2, fmt);
            match op {
                Fp::Sgnjn => self.asm.xorps_xx(X2, a),
                _ => self.asm.andnps_xx(X2, a),
            }
            return V::Xmm(X2, form(fmt));
        }
        let b = self.operand_f(b, fmt, X1);
        if op == Fp::Sgnjx {
            self.sign_mask(X2, fmt);
            self.asm.andps_xx(X2, b);
        } else {
            // Where the sign differs from what it is to be, it is flipped. The second operand is not needed any more.
            self.asm.fmov_xx(X2, a);
            self.asm.xorps_xx(X2, b);
            self.sign_mask(X1, fmt);
            match op {
                Fp::Sgnj => self.asm.andps_xx(X2, X1),
                _ => self.asm.andnps_xx(X2, X1),
            }
        }
        self.asm.xorps_xx(X2, a);
        V::Xmm(X2, form(fmt))
    }

    /// The quiet and the signalling comparison raise NV as the guest's do.
    fn comparison(&mut self, op: Fp, fmt: Fmt, a: V, b: V) -> V {
        let a = self.operand_f(a, fmt, X0);
        let b = self.operand_f(b, fmt, X1);
        let d = self.x_destination();
        match op {
            Fp::Eq => {
                self.asm.ucomis_xx(fs(fmt), a, b);
                self.asm.setcc(Cc::Np, Gpr::Rdx);
                self.asm.setcc(Cc::E, Gpr::Rcx);
                self.asm.alu_rr(Alu::And, Size::D, Gpr::Rdx, Gpr::Rcx);
                self.asm.movzx_rr(d, Size::B, Gpr::Rdx);
            }
            _ => {
                // Unordered is "below".
                self.asm.comis_xx(fs(fmt), b, a);
                self.asm.setcc(if op == Fp::Lt { Cc::A } else { Cc::Ae }, d);
                self.asm.movzx_rr(d, Size::B, d);
            }
        }
        V::Leaf(Leaf::Tmp(d))
    }

    /// A class's number is 4 and the distance from zero; those of negative numbers mirror them. NaNs are done again.
    fn class(&mut self, fmt: Fmt, a: V) -> V {
        let a = self.operand_f(a, fmt, X0);
        let d = self.x_destination();
        let (from, join) = (self.asm.label(), self.asm.label());
        // The magnitude, at the top of the register.
        let (infinity, normal) = match fmt {
            Fmt::S => {
                self.asm.movd_rx(Gpr::Rdx, a);
                self.asm.shift_ri(Shift::Shl, Size::Q, Gpr::Rdx, 33);
                (0xff << 56, 1 << 56)
            }
            Fmt::D => {
                self.asm.movq_rx(Gpr::Rdx, a);
                self.asm.shift_ri(Shift::Shl, Size::Q, Gpr::Rdx, 1);
                (0x7ff << 53, 1 << 53)
            }
        };
        self.asm.mov_ri(d, 7);
        self.asm.mov_ri(Gpr::Rcx, infinity);
        self.asm.alu_rr(Alu::Cmp, Size::Q, Gpr::Rdx, Gpr::Rcx);
        self.asm.jcc(Cc::A, from);
        self.asm.alu_ri(Alu::Sbb, Size::D, d, 0);
        self.asm.mov_ri(Gpr::Rcx, normal);
        self.asm.alu_rr(Alu::Cmp, Size::Q, Gpr::Rdx, Gpr::Rcx);
        self.asm.alu_ri(Alu::Sbb, Size::D, d, 0);
        self.asm.alu_ri(Alu::Cmp, Size::Q, Gpr::Rdx, 1);
        self.asm.alu_ri(Alu::Sbb, Size::D, d, 0);
        // 7 less the number, if negative.
        match fmt {
            Fmt::S => {
                self.asm.movd_rx(Gpr::Rcx, a);
                self.asm.shift_ri(Shift::Sar, Size::D, Gpr::Rcx, 31);
            }
            Fmt::D => {
                self.asm.movq_rx(Gpr::Rcx, a);
                self.asm.shift_ri(Shift::Sar, Size::Q, Gpr::Rcx, 63);
            }
        }
        self.asm.alu_ri(Alu::And, Size::D, Gpr::Rcx, 7);
        self.asm.alu_rr(Alu::Xor, Size::D, Gpr::Rcx, d);
        self.asm.mov_ri(d, 1);
        self.asm.shlx(Size::Q, d, d, Gpr::Rcx);
        self.redo(from, join, Redone::X(d));
        self.asm.bind(join);
        V::Leaf(Leaf::Tmp(d))
    }

    fn move_to_x(&mut self, fmt: Fmt, a: V) -> V {
        let r = number(a);
        let d = self.x_destination();
        match (fmt, self.home_f(r)) {
            (Fmt::D, _) => self.f_to(r, d),
            (Fmt::S, Some(x)) => {
                self.asm.movd_rx(d, x);
                self.asm.movsx_rr(d, Size::D, d);
            }
            (Fmt::S, None) => self.asm.movsx_rm(d, Size::D, crate::layout::f(r)),
        }
        V::Leaf(Leaf::Tmp(d))
    }

    fn move_from_x(&mut self, fmt: Fmt, a: V) -> V {
        let leaf = self.leaf(a);
        let from = self.reg(leaf, Gpr::Rax);
        let x = self.f_destination();
        match fmt {
            Fmt::S => {
                self.asm.movd_xr(x, from);
                V::Xmm(x, XmmForm::Single)
            }
            Fmt::D => {
                self.asm.movq_xr(x, from);
                V::Xmm(x, XmmForm::Whole)
            }
        }
    }
}
