//! Conversions between the formats, and between numbers and integers.
//!
//! The host gives one value for all numbers that an integer cannot hold, the guest the nearest that it can; both raise
//! the invalid flag alone. To unsigned integers the host converts by way of wider signed ones, which would hold numbers
//! that are not in range, and raise flags for them; so the range is looked at first there, as an integer comparison of
//! the bits, in which negative numbers and NaNs are large.

use super::cold::{Piece, Redone};
use super::plan::{DYNAMIC, TO_ZERO};
use super::{Emitter, X0, X1, form, fs};
use crate::emit::cold::Cold;
use crate::emit::value::{Leaf, V};
use strata_isa::ops::{Fmt, Fp};
use strata_x64::{Alu, Cc, Fs, Gpr, Label, Shift, Size, Xmm};

/// The bits of the greatest number that is in range whatever the rounding, below which all numbers from zero are.
fn greatest(op: Fp, fmt: Fmt) -> i64 {
    let bits_of = |n: f64| match fmt {
        Fmt::S => i64::from((n as f32).to_bits()),
        Fmt::D => n.to_bits() as i64,
    };
    match (op, fmt) {
        (Fp::ToWu, Fmt::D) => bits_of(4294967295.0),
        (Fp::ToWu, Fmt::S) => bits_of(4294967040.0),
        // Below 2^63, where the wider signed integers end.
        (Fp::ToLu, _) => bits_of(9223372036854775808.0) - 1,
        // Of what is to be rounded by a mode that is not on: well in range.
        (Fp::ToW, _) => bits_of(1073741824.0),
        _ => bits_of(4611686018427387904.0),
    }
}

impl Emitter<'_> {
    /// To format `fmt` from the other one.
    pub(super) fn convert(&mut self, fmt: Fmt, a: V) -> V {
        let d = self.f_destination();
        let (from, a) = match fmt {
            Fmt::S => (Fs::D, self.operand_f(a, Fmt::D, X0)),
            Fmt::D => (Fs::S, self.operand_f(a, Fmt::S, X0)),
        };
        if d != a {
            // The conversion keeps the upper half, and would wait for it.
            self.asm.xorps_xx(d, d);
        }
        self.asm.cvt_f2f(from, d, a);
        self.canonical(d, fmt)
    }

    /// Jumps away unless the bits of `a` (of its magnitude, where `signed`) are at most `limit`.
    fn within(&mut self, fmt: Fmt, a: Xmm, signed: bool, limit: i64, away: Label) {
        match fmt {
            Fmt::S => {
                self.asm.movd_rx(Gpr::Rcx, a);
                if signed {
                    self.asm.btr_ri(Size::D, Gpr::Rcx, 31);
                }
                self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::Rcx, limit as i32);
            }
            Fmt::D => {
                self.asm.movq_rx(Gpr::Rcx, a);
                if signed {
                    self.asm.btr_ri(Size::Q, Gpr::Rcx, 63);
                }
                self.asm.mov_ri(Gpr::Rdx, limit);
                self.asm.alu_rr(Alu::Cmp, Size::Q, Gpr::Rcx, Gpr::Rdx);
            }
        }
        self.asm.jcc(Cc::A, away);
    }

    pub(super) fn integer_of(&mut self, op: Fp, fmt: Fmt, rm: u8, a: V) -> V {
        let a = self.operand_f(a, fmt, X0);
        let d = self.x_destination();
        let (from, join) = (self.asm.label(), self.asm.label());
        let signed = matches!(op, Fp::ToW | Fp::ToL);
        let by_name = rm != DYNAMIC && rm != TO_ZERO;
        let size = if op == Fp::ToW { Size::D } else { Size::Q };
        if !signed || by_name {
            self.within(fmt, a, signed, greatest(op, fmt), from);
        }
        if by_name {
            // This raises what is to be raised; then nothing is left to be rounded. The host numbers these modes alike,
            // but for the direction.
            let mode = match rm {
                2 => 1,
                3 => 2,
                _ => 0,
            };
            self.asm.rounds(fs(fmt), X1, a, mode);
            self.asm.cvttf2si(fs(fmt), size, d, X1);
        } else if rm == TO_ZERO {
            self.asm.cvttf2si(fs(fmt), size, d, a);
        } else {
            self.asm.cvtf2si(fs(fmt), size, d, a);
        }
        if signed && !by_name {
            // Of all integers only the least overflows here: it is in range, or stands for what is not.
            self.asm.alu_ri(Alu::Cmp, size, d, 1);
            self.asm.jcc(Cc::O, from);
        }
        if matches!(op, Fp::ToW | Fp::ToWu) {
            self.asm.movsx_rr(d, Size::D, d);
        }
        self.redo(from, join, Redone::X(d));
        self.asm.bind(join);
        V::Leaf(Leaf::Tmp(d))
    }

    pub(super) fn float_of(&mut self, op: Fp, fmt: Fmt, rm: u8, a: V) -> V {
        let leaf = self.leaf(a);
        let x = self.f_destination();
        let (from, join) = (self.asm.label(), self.asm.label());
        let mut source = self.reg(leaf, Gpr::Rax);
        let mut size = Size::Q;
        match op {
            Fp::FromW => size = Size::D,
            Fp::FromWu => {
                self.asm.mov_rr(Size::D, Gpr::Rax, source);
                source = Gpr::Rax;
            }
            _ => {}
        }
        let exact = fmt == Fmt::D && matches!(op, Fp::FromW | Fp::FromWu);
        if !exact && rm != DYNAMIC {
            self.unless_exact(op, fmt, source, from);
            self.redo(from, join, Redone::F(x, fmt));
        } else if op == Fp::FromLu {
            self.asm.test_rr(Size::Q, source, source);
            self.asm.jcc(Cc::S, from);
            self.cold.push(Cold::Float(Piece::Large { from, join, source, x, fmt }));
        }
        // As above.
        self.asm.xorps_xx(x, x);
        self.asm.cvtsi2f(fs(fmt), size, x, source);
        self.asm.bind(join);
        V::Xmm(x, form(fmt))
    }

    /// Jumps away if the integer may have more bits than the format holds.
    fn unless_exact(&mut self, op: Fp, fmt: Fmt, source: Gpr, away: Label) {
        let bits = match fmt {
            Fmt::S => 24,
            Fmt::D => 53,
        };
        if op == Fp::FromW {
            self.asm.movsx_rr(Gpr::Rcx, Size::D, source);
        } else {
            self.asm.mov_rr(Size::Q, Gpr::Rcx, source);
        }
        let mut unused = bits;
        if matches!(op, Fp::FromW | Fp::FromL) {
            self.asm.mov_ri(Gpr::Rdx, 1 << bits);
            self.asm.alu_rr(Alu::Add, Size::Q, Gpr::Rcx, Gpr::Rdx);
            unused += 1;
        }
        self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::Rcx, unused);
        self.asm.jcc(Cc::Ne, away);
    }
}
