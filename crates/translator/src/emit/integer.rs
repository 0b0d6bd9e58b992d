//! Integer operations: which host instructions do one, straight into its destination.
//!
//! [`Bin::eval`] and [`Un::eval`] are the meaning, which random programs hold each rule here to. A destination may be the same
//! register as a source. Scratch registers that hold nothing of the instruction are free to use.

use super::Emitter;
use super::cold::{Cold, Division};
use super::value::{Leaf, short};
use crate::registers::slot;
use strata_isa::ops::{Bin, Un};
use strata_x64::{Alu, Cc, Gpr, Mem, Shift, Size};

/// The right-hand side of a two-operand instruction.
enum Operand {
    Imm(i32),
    Reg(Gpr),
    Mem(Mem),
}

impl Emitter<'_> {
    /// `b` as the right-hand side; a wide constant goes to `spare`.
    fn operand(&mut self, b: Leaf, spare: Gpr) -> Operand {
        match b {
            Leaf::Const(c) => match short(c) {
                Some(i) => Operand::Imm(i),
                None => Operand::Reg(self.reg(b, spare)),
            },
            Leaf::Tmp(r) => Operand::Reg(r),
            Leaf::X(r) => self.host(r).map_or(Operand::Mem(slot(r)), Operand::Reg),
        }
    }

    fn alu(&mut self, op: Alu, size: Size, d: Gpr, b: Operand) {
        match b {
            Operand::Imm(i) => self.asm.alu_ri(op, size, d, i),
            Operand::Reg(r) => self.asm.alu_rr(op, size, d, r),
            Operand::Mem(m) => self.asm.alu_rm(op, size, d, m),
        }
    }

    /// The register that a leaf lies in already.
    fn home(&self, leaf: Leaf) -> Option<Gpr> {
        match leaf {
            Leaf::Tmp(r) => Some(r),
            Leaf::X(r) => self.host(r),
            Leaf::Const(_) => None,
        }
    }

    /// A scratch register other than `d` and those that `a` and `b` lie in.
    pub(super) fn spare(&self, d: Gpr, a: Leaf, b: Leaf) -> Gpr {
        let taken = |r: Gpr| r == d || self.is_busy(r) || Some(r) == self.home(a) || Some(r) == self.home(b);
        super::SCRATCH.into_iter().rev().find(|r| !taken(*r)).unwrap_or(Gpr::Rcx)
    }

    /// Compares `a` with `b` for signed or unsigned conditions.
    pub(super) fn compare(&mut self, size: Size, a: Leaf, b: Leaf) {
        let spare = self.spare(Gpr::Rsp, a, b);
        if b == Leaf::Const(0)
            && let Some(r) = self.home(a)
        {
            self.asm.test_rr(size, r, r);
            return;
        }
        if let (Leaf::X(r), Leaf::Const(c)) = (a, b)
            && self.host(r).is_none()
            && let Some(i) = short(c)
        {
            self.asm.alu_mi(Alu::Cmp, size, slot(r), i);
            return;
        }
        let a = self.reg(a, spare);
        let other = if spare == Gpr::Rdx { Gpr::Rcx } else { Gpr::Rdx };
        let b = self.operand(b, other);
        self.alu(Alu::Cmp, size, a, b);
    }

    /// `d = a op b`.
    pub(super) fn bin_to(&mut self, op: Bin, a: Leaf, b: Leaf, d: Gpr) {
        use Bin::*;
        match op {
            Add => self.add(a, b, d),
            // The most negative number has no opposite.
            Sub => match b {
                Leaf::Const(c) if c.checked_neg().and_then(short).is_some() => {
                    self.add(a, Leaf::Const(-c), d);
                }
                _ => self.two(Alu::Sub, Size::Q, a, b, d),
            },
            Xor if b == Leaf::Const(-1) => {
                self.mov(d, a);
                self.asm.not(Size::Q, d);
            }
            Xor => self.two(Alu::Xor, Size::Q, a, b, d),
            Or => self.two(Alu::Or, Size::Q, a, b, d),
            And if b == Leaf::Const(0xff) => self.un_to(Un::ZextB, a, d),
            And => self.two(Alu::And, Size::Q, a, b, d),
            AddW | SubW => {
                let alu = if op == AddW { Alu::Add } else { Alu::Sub };
                self.two(alu, Size::D, a, b, d);
                self.extend(d);
            }
            Sll | Srl | Sra | SllW | SrlW | SraW | Rol | Ror | RolW | RorW | SllUw => self.shift(op, a, b, d),
            Slt | Sltu | Eq => self.truth(op, a, b, d),
            Mul | MulW => {
                let size = if op == Mul { Size::Q } else { Size::D };
                self.multiply(size, a, b, d);
                if op == MulW {
                    self.extend(d);
                }
            }
            Mulh | Mulhu | Mulhsu => self.high(op, a, b, d),
            Div | Divu | Rem | Remu | DivW | DivuW | RemW | RemuW => self.divide(op, a, b, d),
            Andn => {
                let s = self.spare(d, a, b);
                let a = self.reg(a, s);
                let other = if s == Gpr::Rdx { Gpr::Rcx } else { Gpr::Rdx };
                let b = self.reg(b, other);
                self.asm.andn(Size::Q, d, b, a);
            }
            Orn => {
                let s = self.spare(d, a, b);
                self.mov(s, b);
                self.asm.not(Size::Q, s);
                self.two(Alu::Or, Size::Q, a, Leaf::Tmp(s), d);
            }
            Xnor => {
                self.two(Alu::Xor, Size::Q, a, b, d);
                self.asm.not(Size::Q, d);
            }
            Min | Minu | Max | Maxu => self.choose(op, a, b, d),
            Sh1add => self.scaled(2, false, a, b, d),
            Sh2add => self.scaled(4, false, a, b, d),
            Sh3add => self.scaled(8, false, a, b, d),
            AddUw => self.scaled(1, true, a, b, d),
            Sh1addUw => self.scaled(2, true, a, b, d),
            Sh2addUw => self.scaled(4, true, a, b, d),
            Sh3addUw => self.scaled(8, true, a, b, d),
            Bclr | Bext | Binv | Bset => self.bit(op, a, b, d),
            CzeroEqz | CzeroNez => self.conditional_zero(op, a, b, d),
        }
    }

    /// A two-operand instruction in three-operand form.
    fn two(&mut self, op: Alu, size: Size, a: Leaf, b: Leaf, d: Gpr) {
        let (mut a, mut b) = (a, b);
        let same = |e: &Self, l: Leaf| e.home(l) == Some(d);
        if same(self, b) && !same(self, a) {
            if op != Alu::Sub {
                std::mem::swap(&mut a, &mut b);
            } else {
                // d = a - d
                let s = self.spare(d, a, b);
                self.asm.mov_rr(size, s, d);
                b = Leaf::Tmp(s);
            }
        }
        let spare = self.spare(d, a, b);
        self.mov(d, a);
        let b = self.operand(b, spare);
        self.alu(op, size, d, b);
    }

    fn add(&mut self, a: Leaf, b: Leaf, d: Gpr) {
        let (a, b) = if matches!(a, Leaf::Const(_)) { (b, a) } else { (a, b) };
        match (self.home(a), self.home(b), b) {
            (Some(ra), _, Leaf::Const(c)) if ra != d && short(c).is_some() => {
                self.asm.lea(Size::Q, d, Mem::base(ra, short(c).unwrap_or(0)));
            }
            (Some(ra), Some(rb), _) if ra != d && rb != d => {
                self.asm.lea(Size::Q, d, Mem::index(ra, rb, 1, 0));
            }
            _ => self.two(Alu::Add, Size::Q, a, b, d),
        }
    }

    fn shift(&mut self, op: Bin, a: Leaf, b: Leaf, d: Gpr) {
        use Bin::*;
        let (size, word) = match op {
            SllW | SrlW | SraW | RolW | RorW => (Size::D, true),
            _ => (Size::Q, false),
        };
        if let Leaf::Const(c) = b {
            let n = (c & if word { 31 } else { 63 }) as u8;
            match op {
                SraW if !self.now.word_only => {
                    let s = self.reg(a, d);
                    self.asm.movsx_rr(d, Size::D, s);
                    self.asm.shift_ri(Shift::Sar, Size::Q, d, n);
                    return;
                }
                SllUw => {
                    let s = self.reg(a, d);
                    self.asm.mov_rr(Size::D, d, s);
                    self.asm.shift_ri(Shift::Shl, Size::Q, d, n);
                    return;
                }
                _ => {}
            }
            let shift = match op {
                Sll | SllW => Shift::Shl,
                Srl | SrlW => Shift::Shr,
                Sra | SraW => Shift::Sar,
                Rol | RolW => Shift::Rol,
                _ => Shift::Ror,
            };
            let s = self.reg(a, d);
            if s != d || word {
                self.asm.mov_rr(size, d, s);
            }
            self.asm.shift_ri(shift, size, d, n);
            // A right shift by at least one leaves the upper half zero, sign included.
            if word && !(op == SrlW && n > 0) {
                self.extend(d);
            }
            return;
        }
        if matches!(op, Rol | Ror | RolW | RorW) {
            self.rotate(op, size, a, b, d);
        } else {
            let s = self.spare(d, a, b);
            let ra = self.reg(a, s);
            let other = if s == Gpr::Rdx { Gpr::Rcx } else { Gpr::Rdx };
            let rb = self.reg(b, if other == d && ra == d { Gpr::Rax } else { other });
            match op {
                Sll | SllW => self.asm.shlx(size, d, ra, rb),
                Srl | SrlW => self.asm.shrx(size, d, ra, rb),
                Sra | SraW => self.asm.sarx(size, d, ra, rb),
                _ => {
                    self.asm.mov_rr(Size::D, s, ra);
                    self.asm.shlx(Size::Q, d, s, rb);
                }
            }
        }
        if word {
            self.extend(d);
        }
    }

    /// The upper half of a result of 32 bits, unless it is not wanted.
    fn extend(&mut self, d: Gpr) {
        if !self.now.word_only {
            self.asm.movsx_rr(d, Size::D, d);
        }
    }

    /// By a variable count, which has to be in cl.
    fn rotate(&mut self, op: Bin, size: Size, a: Leaf, b: Leaf, d: Gpr) {
        let shift = if matches!(op, Bin::Rol | Bin::RolW) { Shift::Rol } else { Shift::Ror };
        self.mov(Gpr::Rdx, a);
        self.mov(Gpr::Rcx, b);
        self.asm.shift_rcl(shift, size, Gpr::Rdx);
        self.asm.mov_rr(Size::Q, d, Gpr::Rdx);
    }

    fn truth(&mut self, op: Bin, a: Leaf, b: Leaf, d: Gpr) {
        let cc = match op {
            Bin::Slt => Cc::L,
            Bin::Sltu => Cc::B,
            _ => Cc::E,
        };
        if op == Bin::Sltu && a == Leaf::Const(0) {
            self.compare(self.compared(), b, a);
            self.asm.setcc(Cc::Ne, d);
        } else {
            self.compare(self.compared(), a, b);
            self.asm.setcc(cc, d);
        }
        self.asm.movzx_rr(d, Size::B, d);
    }

    fn multiply(&mut self, size: Size, a: Leaf, b: Leaf, d: Gpr) {
        let (a, b) = if self.home(b) == Some(d) { (b, a) } else { (a, b) };
        let spare = self.spare(d, a, b);
        self.mov(d, a);
        match self.operand(b, spare) {
            Operand::Imm(i) => self.asm.imul_rri(size, d, d, i),
            Operand::Reg(r) => self.asm.imul_rr(size, d, r),
            Operand::Mem(m) => self.asm.imul_rm(size, d, m),
        }
    }

    fn high(&mut self, op: Bin, a: Leaf, b: Leaf, d: Gpr) {
        let rb = self.reg(b, Gpr::Rcx);
        self.mov(Gpr::Rax, a);
        match op {
            Bin::Mulh => self.asm.imul_r(Size::Q, rb),
            _ => self.asm.mul_r(Size::Q, rb),
        }
        if op == Bin::Mulhsu {
            // Less b where a is negative.
            self.mov(Gpr::Rax, a);
            self.asm.shift_ri(Shift::Sar, Size::Q, Gpr::Rax, 63);
            self.asm.alu_rr(Alu::And, Size::Q, Gpr::Rax, rb);
            self.asm.alu_rr(Alu::Sub, Size::Q, Gpr::Rdx, Gpr::Rax);
        }
        self.asm.mov_rr(Size::Q, d, Gpr::Rdx);
    }

    /// Division by zero, and by -1, which may overflow, are dealt with apart.
    fn divide(&mut self, op: Bin, a: Leaf, b: Leaf, d: Gpr) {
        use Bin::*;
        let word = matches!(op, DivW | DivuW | RemW | RemuW);
        let signed = matches!(op, Div | Rem | DivW | RemW);
        let rest = matches!(op, Rem | Remu | RemW | RemuW);
        let size = if word { Size::D } else { Size::Q };
        self.mov(Gpr::Rcx, b);
        self.mov(Gpr::Rax, a);
        let (from, join) = (self.asm.label(), self.asm.label());
        if signed {
            self.asm.lea(size, Gpr::Rdx, Mem::base(Gpr::Rcx, 1));
            self.asm.alu_ri(Alu::Cmp, size, Gpr::Rdx, 1);
            self.asm.jcc(Cc::Be, from);
            if word {
                self.asm.cdq()
            } else {
                self.asm.cqo()
            }
            self.asm.idiv_r(size, Gpr::Rcx);
        } else {
            self.asm.test_rr(size, Gpr::Rcx, Gpr::Rcx);
            self.asm.jcc(Cc::E, from);
            self.asm.mov_ri(Gpr::Rdx, 0);
            self.asm.div_r(size, Gpr::Rcx);
        }
        if rest {
            self.asm.mov_rr(Size::Q, Gpr::Rax, Gpr::Rdx);
        }
        self.asm.bind(join);
        self.cold.push(Cold::Divide(Division { from, join, size, signed, rest }));
        if word {
            self.asm.movsx_rr(d, Size::D, Gpr::Rax);
        } else {
            self.asm.mov_rr(Size::Q, d, Gpr::Rax);
        }
    }

    fn choose(&mut self, op: Bin, a: Leaf, b: Leaf, d: Gpr) {
        // The condition under which b is taken.
        let cc = match op {
            Bin::Min => Cc::G,
            Bin::Minu => Cc::A,
            Bin::Max => Cc::L,
            _ => Cc::B,
        };
        self.mov(Gpr::Rdx, a);
        let b = self.reg(b, Gpr::Rcx);
        self.asm.alu_rr(Alu::Cmp, Size::Q, Gpr::Rdx, b);
        self.asm.cmov_rr(cc, Size::Q, Gpr::Rdx, b);
        self.asm.mov_rr(Size::Q, d, Gpr::Rdx);
    }

    /// `d = a * scale + b`, of `a` only the low half where `low`.
    fn scaled(&mut self, scale: u8, low: bool, a: Leaf, b: Leaf, d: Gpr) {
        let mut ra = self.reg(a, Gpr::Rdx);
        if low {
            self.asm.mov_rr(Size::D, Gpr::Rdx, ra);
            ra = Gpr::Rdx;
        }
        let m = match b {
            Leaf::Const(c) if short(c).is_some() => Mem::scaled(ra, scale, short(c).unwrap_or(0)),
            _ => Mem::index(self.reg(b, Gpr::Rcx), ra, scale, 0),
        };
        self.asm.lea(Size::Q, d, m);
    }

    fn bit(&mut self, op: Bin, a: Leaf, b: Leaf, d: Gpr) {
        self.mov(Gpr::Rdx, a);
        match b {
            Leaf::Const(c) => {
                let n = (c & 63) as u8;
                match op {
                    Bin::Bclr => self.asm.btr_ri(Size::Q, Gpr::Rdx, n),
                    Bin::Binv => self.asm.btc_ri(Size::Q, Gpr::Rdx, n),
                    Bin::Bset => self.asm.bts_ri(Size::Q, Gpr::Rdx, n),
                    _ => self.asm.bt_ri(Size::Q, Gpr::Rdx, n),
                }
            }
            _ => {
                let rb = self.reg(b, Gpr::Rcx);
                match op {
                    Bin::Bclr => self.asm.btr_rr(Size::Q, Gpr::Rdx, rb),
                    Bin::Binv => self.asm.btc_rr(Size::Q, Gpr::Rdx, rb),
                    Bin::Bset => self.asm.bts_rr(Size::Q, Gpr::Rdx, rb),
                    _ => self.asm.bt_rr(Size::Q, Gpr::Rdx, rb),
                }
            }
        }
        if op == Bin::Bext {
            self.asm.setcc(Cc::B, Gpr::Rdx);
            self.asm.movzx_rr(d, Size::B, Gpr::Rdx);
        } else {
            self.asm.mov_rr(Size::Q, d, Gpr::Rdx);
        }
    }

    fn conditional_zero(&mut self, op: Bin, a: Leaf, b: Leaf, d: Gpr) {
        let cc = if op == Bin::CzeroEqz { Cc::E } else { Cc::Ne };
        self.mov(Gpr::Rdx, a);
        let rb = self.reg(b, Gpr::Rcx);
        self.asm.mov_ri(Gpr::Rax, 0);
        self.asm.test_rr(Size::Q, rb, rb);
        self.asm.cmov_rr(cc, Size::Q, Gpr::Rdx, Gpr::Rax);
        self.asm.mov_rr(Size::Q, d, Gpr::Rdx);
    }

    /// `d = op a`.
    pub(super) fn un_to(&mut self, op: Un, a: Leaf, d: Gpr) {
        let s = self.reg(a, d);
        match op {
            Un::Clz => self.asm.lzcnt(Size::Q, d, s),
            Un::Ctz => self.asm.tzcnt(Size::Q, d, s),
            Un::Cpop => self.asm.popcnt(Size::Q, d, s),
            Un::ClzW => self.asm.lzcnt(Size::D, d, s),
            Un::CtzW => self.asm.tzcnt(Size::D, d, s),
            Un::CpopW => self.asm.popcnt(Size::D, d, s),
            Un::SextB => self.asm.movsx_rr(d, Size::B, s),
            Un::SextH => self.asm.movsx_rr(d, Size::W, s),
            Un::SextW if self.now.word_only => self.asm.mov_rr(Size::D, d, s),
            Un::SextW => self.asm.movsx_rr(d, Size::D, s),
            Un::ZextB => self.asm.movzx_rr(d, Size::B, s),
            Un::ZextH => self.asm.movzx_rr(d, Size::W, s),
            Un::ZextW => self.asm.mov_rr(Size::D, d, s),
            Un::Rev8 => {
                if s != d {
                    self.asm.mov_rr(Size::Q, d, s);
                }
                self.asm.bswap(Size::Q, d);
            }
            // `rules.rs` leaves it to the interpreter's instance.
            Un::OrcB => debug_assert!(false, "orc.b has no rule"),
        }
    }
}
