//! AMOs, LR and SC: the data TLB's check, then one instruction of the host, or a loop around compare-exchange. LR and SC
//! keep the reservation where the interpreter does, with the value and both addresses.
//!
//! The check fails for a misaligned address too, and where the page may not be written; then the interpreter's instance
//! does the whole instruction, and says why if it cannot.
//!
//! On a machine of one hart nobody can see the parts of a read-modify-write: devices do not write where a guest has
//! atomics, and an interrupt comes between instructions. There the lock, which costs more than all the rest, is left out.

use super::Emitter;
use super::cold::Cold;
use super::value::{Leaf, V};
use crate::layout;
use crate::registers::{BASE, slot};
use std::mem::offset_of;
use strata_isa::ops::{Amo, Width};
use strata_riscv::tier::DataEntry;
use strata_x64::{Alu, Cc, Gpr, Mem, Shift, Size};

fn alu_of(op: Amo) -> Option<Alu> {
    match op {
        Amo::Xor => Some(Alu::Xor),
        Amo::And => Some(Alu::And),
        Amo::Or => Some(Alu::Or),
        _ => None,
    }
}

impl Emitter<'_> {
    /// The old value, in a scratch register.
    pub(super) fn amo_value(&mut self, op: Amo, addr: V, v: V, w: Width) -> V {
        let size = if w == Width::I32 { Size::D } else { Size::Q };
        let address = self.address(addr);
        let miss = self.check_entry(address, w.bytes(), offset_of!(DataEntry, write.tag));
        self.load_addend(offset_of!(DataEntry, write.tag));
        let (site, join) = (self.site(), self.asm.label());
        self.cold.push(Cold::Instance { from: miss, join, site });
        self.join = Some(join);
        // The host's address, so that rax is free.
        self.asm.alu_rr(Alu::Add, Size::Q, Gpr::Rcx, address);
        let at = Mem::base(Gpr::Rcx, 0);
        let wanted = self.step().insn.rd != 0;
        let v = self.leaf(v);
        match op {
            Amo::Swap => {
                self.mov(Gpr::Rax, v);
                if self.alone {
                    self.asm.mov_rr(Size::Q, Gpr::Rdx, Gpr::Rax);
                    self.asm.mov_rm(size, Gpr::Rax, at);
                    self.asm.mov_mr(size, at, Gpr::Rdx);
                } else {
                    self.asm.xchg_mr(size, at, Gpr::Rax);
                }
            }
            Amo::Add if !self.alone => {
                self.mov(Gpr::Rax, v);
                self.asm.lock_xadd_mr(size, at, Gpr::Rax);
            }
            _ if self.alone => {
                self.asm.mov_rm(size, Gpr::Rax, at);
                self.combine(op, size, v);
                self.asm.mov_mr(size, at, Gpr::Rdx);
            }
            _ => match alu_of(op) {
                Some(alu) if !wanted => {
                    let r = self.reg(v, Gpr::Rdx);
                    self.asm.lock_alu_mr(alu, size, at, r);
                }
                _ => {
                    let again = self.asm.label();
                    self.asm.mov_rm(size, Gpr::Rax, at);
                    self.asm.bind(again);
                    self.combine(op, size, v);
                    self.asm.lock_cmpxchg_mr(size, at, Gpr::Rdx);
                    self.asm.jcc(Cc::Ne, again);
                }
            },
        }
        if wanted && w == Width::I32 {
            self.asm.movsx_rr(Gpr::Rax, Size::D, Gpr::Rax);
        }
        self.take(Gpr::Rax);
        V::Leaf(Leaf::Tmp(Gpr::Rax))
    }

    /// `rdx = rax op v`.
    fn combine(&mut self, op: Amo, size: Size, v: Leaf) {
        let (d, old) = (Gpr::Rdx, Gpr::Rax);
        // The condition under which the old value stays.
        let keep = match op {
            Amo::Min => Some(Cc::L),
            Amo::Max => Some(Cc::G),
            Amo::Minu => Some(Cc::B),
            Amo::Maxu => Some(Cc::A),
            _ => None,
        };
        if let Some(cc) = keep {
            self.mov(d, v);
            self.asm.alu_rr(Alu::Cmp, size, old, d);
            self.asm.cmov_rr(cc, size, d, old);
            return;
        }
        let alu = alu_of(op).unwrap_or(Alu::Add);
        match v {
            Leaf::X(r) if self.host(r).is_none() => {
                self.asm.mov_rr(Size::Q, d, old);
                self.asm.alu_rm(alu, size, d, slot(r));
            }
            _ => {
                let r = self.reg(v, d);
                if r == d {
                    // A constant: all of these commute.
                    self.asm.alu_rr(alu, size, d, old);
                } else {
                    self.asm.mov_rr(Size::Q, d, old);
                    self.asm.alu_rr(alu, size, d, r);
                }
            }
        }
    }

    /// What lies at `addr`, which is reserved from now on.
    pub(super) fn lr_value(&mut self, addr: V, w: Width) -> V {
        let address = self.address(addr);
        self.check_atomic(address, w, offset_of!(DataEntry, read.tag));
        let r = layout::reserved();
        self.asm.mov_mr(Size::Q, r.va, address);
        self.asm.mov_mr(Size::Q, r.pa, Gpr::Rdx);
        self.asm.alu_rr(Alu::Add, Size::Q, Gpr::Rcx, address);
        let size = if w == Width::I32 { Size::D } else { Size::Q };
        self.asm.mov_rm(size, Gpr::Rax, Mem::base(Gpr::Rcx, 0));
        self.asm.mov_mr(Size::Q, r.value, Gpr::Rax);
        self.asm.mov_mi(Size::B, r.bytes, w.bytes() as i32);
        if w == Width::I32 {
            self.asm.movsx_rr(Gpr::Rax, Size::D, Gpr::Rax);
        }
        self.take(Gpr::Rax);
        V::Leaf(Leaf::Tmp(Gpr::Rax))
    }

    /// 0 if it stored, 1 if not.
    pub(super) fn sc_value(&mut self, addr: V, v: V, w: Width) -> V {
        let address = self.address(addr);
        self.check_atomic(address, w, offset_of!(DataEntry, write.tag));
        let r = layout::reserved();
        let (fail, done) = (self.asm.label(), self.asm.label());
        self.asm.alu_mi(Alu::Cmp, Size::B, r.bytes, w.bytes() as i32);
        self.asm.jcc(Cc::Ne, fail);
        self.asm.alu_rm(Alu::Cmp, Size::Q, address, r.va);
        self.asm.jcc(Cc::Ne, fail);
        self.asm.alu_rm(Alu::Cmp, Size::Q, Gpr::Rdx, r.pa);
        self.asm.jcc(Cc::Ne, fail);
        self.asm.alu_rr(Alu::Add, Size::Q, Gpr::Rcx, address);
        let v = self.leaf(v);
        let v = self.reg(v, Gpr::Rdx);
        self.asm.mov_rm(Size::Q, Gpr::Rax, r.value);
        let size = if w == Width::I32 { Size::D } else { Size::Q };
        let at = Mem::base(Gpr::Rcx, 0);
        if self.alone {
            self.asm.alu_rm(Alu::Cmp, size, Gpr::Rax, at);
            self.asm.jcc(Cc::Ne, fail);
            self.asm.mov_mr(size, at, v);
        } else {
            self.asm.lock_cmpxchg_mr(size, at, v);
            self.asm.jcc(Cc::Ne, fail);
        }
        self.asm.mov_ri(Gpr::Rax, 0);
        self.asm.jmp(done);
        self.asm.bind(fail);
        self.asm.mov_ri(Gpr::Rax, 1);
        self.asm.bind(done);
        self.asm.mov_mi(Size::B, r.bytes, 0);
        self.take(Gpr::Rax);
        V::Leaf(Leaf::Tmp(Gpr::Rax))
    }

    /// The check, with a miss left to the interpreter's instance. The addend in rcx, the guest physical address in rdx.
    fn check_atomic(&mut self, address: Gpr, w: Width, tag: usize) {
        let miss = self.check_entry(address, w.bytes(), tag);
        let (site, join) = (self.site(), self.asm.label());
        self.cold.push(Cold::Instance { from: miss, join, site });
        self.join = Some(join);
        // Entries are twice as large as the two addresses beside them.
        self.asm.mov_rr(Size::D, Gpr::Rdx, Gpr::Rcx);
        self.asm.shift_ri(Shift::Shr, Size::D, Gpr::Rdx, 1);
        let written = i32::from(tag != offset_of!(DataEntry, read.tag));
        let (pas, set) = (layout::pas(self.job.context) + written * 8, layout::tlb(self.job.context));
        self.asm.mov_rm(Size::Q, Gpr::Rdx, Mem::index(BASE, Gpr::Rdx, 1, pas));
        // The tag is the address without its offset.
        self.asm.alu_rm(Alu::Sub, Size::Q, Gpr::Rdx, Mem::index(BASE, Gpr::Rcx, 1, set + tag as i32));
        self.asm.alu_rr(Alu::Add, Size::Q, Gpr::Rdx, address);
        self.load_addend(tag);
    }
}
