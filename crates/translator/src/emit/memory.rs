//! Loads and stores: the data TLB's check, and what follows a hit.
//!
//! ```text
//!   rorx  ecx, address, 7          the page number's low bits, times the size of an entry
//!   and   ecx, 511 * 32
//!   lea   rdx, [address + size - 1]   the page of the last byte: an access over a page's end fails the comparison
//!   and   rdx, ~4095
//!   cmp   rdx, [base + rcx + set + tag] ── differs ──► call the slow path, which does the whole access
//!   mov   rcx, [base + rcx + set + addend]
//!   mov   result, [rcx + address]
//! ```
//! A present tag promises permission, A and D bits, a dirty mark and that no code of the page is remembered; the tag for
//! reads and that for writes differ only in the displacement. Misaligned accesses within a page need no care on this
//! host; atomics, which do, compare the address's low bits too.

use super::Emitter;
use super::cold::{Cold, StoreValue};
use super::float::Piece;
use super::value::{Leaf, V, short};
use crate::layout;
use crate::registers::BASE;
use std::mem::offset_of;
use strata_isa::ops::Width;
use strata_riscv::tier::{DATA_ENTRIES, DataEntry, DataRight};
use strata_x64::{Alu, Cc, Fs, Gpr, Label, Mem, Size, Xmm};

/// A load whose page has been checked and whose destination is not known yet.
#[derive(Clone, Copy)]
pub(super) struct Loading {
    miss: Label,
    address: Gpr,
    width: Width,
}

impl Emitter<'_> {
    /// `addr` in a register, which is rax where it is none of the guest's.
    pub(super) fn address(&mut self, addr: V) -> Gpr {
        match addr {
            V::Leaf(Leaf::X(r)) if self.host(r).is_some() => self.host(r).unwrap_or(Gpr::Rax),
            V::Leaf(Leaf::Tmp(r)) => r,
            _ => {
                self.value_to(addr, Gpr::Rax);
                self.take(Gpr::Rax);
                Gpr::Rax
            }
        }
    }

    /// The check. Leaves the addend in rcx; rdx is free afterwards.
    pub(super) fn check(&mut self, address: Gpr, size: u64, tag: usize) -> Label {
        let miss = self.check_entry(address, size, tag, false);
        self.load_addend(tag);
        miss
    }

    /// The addend of the entry that [`Emitter::check_entry`] found, in rcx.
    pub(super) fn load_addend(&mut self, tag: usize) {
        let at = layout::tlb(self.job.context) + (tag + offset_of!(DataRight, addend)) as i32;
        self.asm.mov_rm(Size::Q, Gpr::Rcx, Mem::index(BASE, Gpr::Rcx, 1, at));
    }

    /// The check without the addend, for `aligned` addresses only or for all. Leaves the entry's distance from the first
    /// in rcx; rdx is free afterwards.
    pub(super) fn check_entry(&mut self, address: Gpr, size: u64, tag: usize, aligned: bool) -> Label {
        let miss = self.asm.label();
        let set = layout::tlb(self.job.context);
        let entry = size_of::<DataEntry>();
        let shift = 12 - entry.trailing_zeros() as u8;
        self.asm.rorx(Size::D, Gpr::Rcx, address, shift);
        self.asm.alu_ri(Alu::And, Size::D, Gpr::Rcx, ((DATA_ENTRIES - 1) * entry) as i32);
        let last = size as i32 - 1;
        if aligned || last == 0 {
            self.asm.mov_rr(Size::Q, Gpr::Rdx, address);
        } else {
            self.asm.lea(Size::Q, Gpr::Rdx, Mem::base(address, last));
        }
        self.asm.alu_ri(Alu::And, Size::Q, Gpr::Rdx, if aligned { -4096 | last } else { -4096 });
        self.asm.alu_rm(Alu::Cmp, Size::Q, Gpr::Rdx, Mem::index(BASE, Gpr::Rcx, 1, set + tag as i32));
        self.asm.jcc(Cc::Ne, miss);
        miss
    }

    /// A load, up to the access itself.
    pub(super) fn begin_load(&mut self, addr: V, width: Width) -> V {
        let address = self.address(addr);
        let miss = self.check(address, width.bytes(), offset_of!(DataEntry, read.tag));
        self.loading = Some(Loading { miss, address, width });
        self.take(Gpr::Rcx);
        V::Loaded(Mem::index(Gpr::Rcx, address, 1, 0), width)
    }

    /// The access, into `d`; a miss joins behind it.
    pub(super) fn loaded_to(&mut self, m: Mem, width: Width, d: Gpr) {
        match width {
            Width::I8 => self.asm.movsx_rm(d, Size::B, m),
            Width::U8 => self.asm.movzx_rm(d, Size::B, m),
            Width::I16 => self.asm.movsx_rm(d, Size::W, m),
            Width::U16 => self.asm.movzx_rm(d, Size::W, m),
            Width::I32 => self.asm.movsx_rm(d, Size::D, m),
            Width::U32 => self.asm.mov_rm(Size::D, d, m),
            Width::I64 => self.asm.mov_rm(Size::Q, d, m),
        }
        let join = self.asm.label();
        self.asm.bind(join);
        if let Some(l) = self.loading.take() {
            let site = self.site();
            self.cold.push(Cold::Load {
                from: l.miss,
                join,
                address: l.address,
                to: d,
                width: l.width,
                site,
            });
        }
    }

    /// The access, straight into a floating-point register.
    pub(super) fn loaded_to_xmm(&mut self, m: Mem, fs: Fs, x: Xmm) {
        self.asm.fmov_xm(fs, x, m);
        let join = self.asm.label();
        self.asm.bind(join);
        if let Some(Loading { miss, address, width }) = self.loading.take() {
            let site = self.site();
            self.cold.push(Cold::Float(Piece::Load { from: miss, join, address, width, x, site }));
        }
    }

    /// A store.
    pub(super) fn store_value(&mut self, addr: V, v: V, width: Width) {
        let float = self.stored_float(v, width);
        // A value that is still to be computed goes where the check does not touch it.
        let address = self.address(addr);
        let miss = self.check(address, width.bytes(), offset_of!(DataEntry, write.tag));
        let m = Mem::index(Gpr::Rcx, address, 1, 0);
        let size = match width.bytes() {
            1 => Size::B,
            2 => Size::W,
            4 => Size::D,
            _ => Size::Q,
        };
        let value = match v {
            V::Leaf(Leaf::Const(c)) if short(c).is_some() => StoreValue::Imm(short(c).unwrap_or(0)),
            V::Leaf(Leaf::X(r)) if self.host(r).is_some() => {
                StoreValue::Reg(self.host(r).unwrap_or(Gpr::Rdx))
            }
            V::F(_) if float.is_some() => StoreValue::Computed(v),
            _ => {
                self.value_to(v, Gpr::Rdx);
                StoreValue::Computed(v)
            }
        };
        match value {
            StoreValue::Computed(_) if let Some(x) = float => {
                let fs = if size == Size::Q { Fs::D } else { Fs::S };
                self.asm.fmov_mx(fs, m, x);
            }
            StoreValue::Imm(i) => self.asm.mov_mi(size, m, i),
            StoreValue::Reg(r) => self.asm.mov_mr(size, m, r),
            StoreValue::Computed(_) => self.asm.mov_mr(size, m, Gpr::Rdx),
        }
        let join = self.asm.label();
        self.asm.bind(join);
        let site = self.site();
        self.cold.push(Cold::Store { from: miss, join, address, value, width, site });
    }
}
