//! The one text of meaning, run on places in the host's registers.

use super::owed::{self, Word};
use super::value::{Leaf, V};
use super::{Emitter, Stop, status};
use crate::registers::slot;
use strata_isa::Insn;
use strata_isa::ops::{Amo, Bin, Cbo, Cond, CsrOp, Fmt, Fp, Ops, Reg, Sys, Un, VmaFence, Width};
use strata_x64::{Gpr, Mem, Size};

impl Ops for Emitter<'_> {
    type V = V;
    type Stop = Stop;

    fn imm(&mut self, c: i64) -> V {
        V::Leaf(Leaf::Const(c))
    }
    fn x(&mut self, r: Reg) -> V {
        let known = if r == 0 { Some(0) } else { self.consts[usize::from(r & 31)] };
        debug_assert!(known.is_some() || self.may_read(r), "x{r} is owed something");
        V::Leaf(known.map_or(Leaf::X(r), Leaf::Const))
    }
    fn set_x(&mut self, r: Reg, v: V) {
        if r == 0 {
            // A load happens even if nobody wants its value.
            if matches!(v, V::Loaded(..)) {
                self.value_to(v, Gpr::Rax);
            }
            return;
        }
        // What it was known to hold is no longer true while it is written.
        self.consts[usize::from(r & 31)] = None;
        let mut word = self.word_of(v);
        if word == Word::Low
            && owed::is_extended(v)
            && self.host(r).is_none()
            && self.last_writes[usize::from(r & 31)] == self.at
        {
            // On its way to memory, where it would have to be fetched again.
            word = Word::Whole;
        }
        self.now.word_only = word == Word::Low;
        if word != Word::Low || v != V::Un(Un::SextW, Leaf::X(r)) {
            self.write_x(r, v);
        }
        self.now.word_only = false;
        self.wrote(r, word);
        self.consts[usize::from(r & 31)] = v.known();
    }
    fn f(&mut self, r: Reg) -> V {
        V::F(r)
    }
    fn set_f(&mut self, r: Reg, v: V) {
        self.write_f(r, v);
    }
    fn hold(&mut self, v: V) -> V {
        match v {
            V::Leaf(Leaf::Const(_) | Leaf::Tmp(_)) => v,
            V::Leaf(Leaf::X(_)) => {
                let t = self.tmp();
                self.value_to(v, t);
                V::Leaf(Leaf::Tmp(t))
            }
            // What it is computed from is not needed any more.
            V::Bin(op, Leaf::Tmp(t), b @ Leaf::Const(_)) => {
                self.bin_to(op, Leaf::Tmp(t), b, t);
                V::Leaf(Leaf::Tmp(t))
            }
            _ => V::Leaf(self.leaf(v)),
        }
    }

    fn pc_plus(&mut self, off: i64) -> V {
        V::Leaf(Leaf::Const(self.step().pc.wrapping_add(off as u64) as i64))
    }
    fn bin(&mut self, op: Bin, a: V, b: V) -> V {
        if let (Some(x), Some(y)) = (a.known(), b.known()) {
            return V::Leaf(Leaf::Const(op.eval(x as u64, y as u64) as i64));
        }
        // Operations that change nothing.
        if b.known() == Some(0)
            && matches!(op, Bin::Add | Bin::Sub | Bin::Or | Bin::Xor | Bin::Sll | Bin::Srl | Bin::Sra)
            && let V::Leaf(_) = a
        {
            return a;
        }
        if a.known() == Some(0)
            && matches!(op, Bin::Add | Bin::Or | Bin::Xor)
            && let V::Leaf(_) = b
        {
            return b;
        }
        if op == Bin::AddW && b.known() == Some(0) {
            let a = self.leaf(a);
            return if self.place.owed.is_word(a) { V::Leaf(a) } else { V::Un(Un::SextW, a) };
        }
        if op == Bin::Or
            && b.known() == Some(-1 << 32)
            && let V::Loaded(m, Width::U32) = a
        {
            return V::LoadedBoxed(m);
        }
        let a = self.leaf(a);
        let b = self.leaf(b);
        V::Bin(op, a, b)
    }
    fn un(&mut self, op: Un, a: V) -> V {
        match a.known() {
            Some(c) => V::Leaf(Leaf::Const(op.eval(c as u64) as i64)),
            None => V::Un(op, self.leaf(a)),
        }
    }
    fn select(&mut self, c: V, a: V, b: V) -> V {
        match c.known() {
            Some(0) => b,
            Some(_) => a,
            None => self.select_value(c, a, b),
        }
    }

    fn load(&mut self, addr: V, w: Width) -> Result<V, Stop> {
        Ok(self.begin_load(addr, w))
    }
    fn store(&mut self, addr: V, v: V, w: Width) -> Result<(), Stop> {
        self.store_value(addr, v, w);
        Ok(())
    }
    fn amo(&mut self, op: Amo, addr: V, v: V, w: Width) -> Result<V, Stop> {
        Ok(self.amo_value(op, addr, v, w))
    }
    fn load_reserved(&mut self, addr: V, w: Width) -> Result<V, Stop> {
        Ok(self.lr_value(addr, w))
    }
    fn store_conditional(&mut self, addr: V, v: V, w: Width) -> Result<V, Stop> {
        Ok(self.sc_value(addr, v, w))
    }
    fn cache_block(&mut self, _op: Cbo, _addr: V) -> Result<(), Stop> {
        self.no_rule()
    }

    fn require_fp(&mut self) -> Result<(), Stop> {
        // Seen to once, at the unit's entry.
        Ok(())
    }
    fn fp(&mut self, op: Fp, fmt: Fmt, rm: u8, abc: [V; 3]) -> Result<V, Stop> {
        Ok(self.float(op, fmt, rm, abc))
    }

    fn csr(&mut self, op: CsrOp, csr: u16, src: V, read: bool, write: bool) -> Result<V, Stop> {
        if csr == status::SSTATUS {
            self.status_csr(op, src, write)
        } else {
            self.plain_csr(op, csr, src, read, write)
        }
    }
    fn system(&mut self, _op: Sys) -> Result<(), Stop> {
        self.no_rule()
    }
    fn fence(&mut self, pred: u8, succ: u8) {
        const R_OR_I: u8 = 0b1010;
        const W_OR_O: u8 = 0b0101;
        // The host only lets later loads overtake earlier stores.
        if pred & W_OR_O != 0 && succ & R_OR_I != 0 {
            // A locked operation orders as well as MFENCE, which takes twice as long.
            self.asm.mov_ri(Gpr::Rcx, 0);
            self.asm.lock_alu_mr(strata_x64::Alu::Or, Size::D, Mem::base(Gpr::Rsp, 0), Gpr::Rcx);
        }
    }
    fn fence_vma(&mut self, _op: VmaFence, _va: Option<V>, _asid: Option<V>) -> Result<(), Stop> {
        self.no_rule()
    }

    fn jump(&mut self, _off: i64) {
        self.jump_off();
    }
    fn jump_to(&mut self, target: V) {
        self.jump_value(target);
    }
    fn branch(&mut self, cond: Cond, a: V, b: V, off: i64) {
        self.branch_to(cond, a, b, off);
    }
    fn illegal(&mut self, _insn: &Insn) -> Stop {
        Stop::Illegal
    }
}

impl Emitter<'_> {
    /// What `rules.rs` leaves to the interpreter's instance does not come here.
    fn no_rule<T>(&mut self) -> Result<T, Stop> {
        Err(Stop::Illegal)
    }

    fn select_value(&mut self, c: V, a: V, b: V) -> V {
        let (c, a, b) = (self.leaf(c), self.leaf(a), self.leaf(b));
        let t = self.tmp();
        self.mov(t, b);
        let s = self.spare(t, c, a);
        let c = self.reg(c, s);
        self.asm.test_rr(Size::Q, c, c);
        let a = self.reg(a, s);
        self.asm.cmov_rr(strata_x64::Cc::Ne, Size::Q, t, a);
        V::Leaf(Leaf::Tmp(t))
    }

    /// Writes an integer register other than x0.
    fn write_x(&mut self, r: Reg, v: V) {
        match (self.host(r), v) {
            (Some(h), _) => self.value_to(v, h),
            (None, V::Leaf(Leaf::Const(c))) if i32::try_from(c).is_ok() => {
                self.asm.mov_mi(Size::Q, slot(r), c as i32);
            }
            (None, V::Leaf(leaf)) => {
                let free = self.free();
                let from = self.reg(leaf, free);
                self.asm.mov_mr(Size::Q, slot(r), from);
            }
            (None, _) => {
                self.value_to(v, Gpr::Rax);
                self.asm.mov_mr(Size::Q, slot(r), Gpr::Rax);
            }
        }
    }
}
