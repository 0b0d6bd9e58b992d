//! Loads and stores: the check by the data TLB, or through a window (`windows.rs`), and what follows a hit.
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
use super::loans::Borrower;
use super::value::{Leaf, V, short};
use super::windows::Window;
use crate::layout;
use crate::registers::BASE;
use std::mem::offset_of;
use strata_isa::ops::{Bin, Width};
use strata_riscv::tier::{DATA_ENTRIES, DataEntry, DataRight};
use strata_x64::{Alu, Cc, Fs, Gpr, Label, Mem, Size, Xmm};

/// A load whose page has been checked and whose destination is not known yet.
#[derive(Clone, Copy)]
pub(super) struct Loading {
    miss: Miss,
    width: Width,
}

/// Where an access goes.
#[derive(Clone, Copy)]
pub(super) enum Address {
    /// A register and a distance from it.
    At(Gpr, i32),
    /// A place known now, which fits an operand.
    Known(i32),
}

/// A check that failed.
#[derive(Clone, Copy)]
pub(super) struct Miss {
    from: Label,
    /// Where the path goes on once the window shows the page.
    found: Label,
    window: Option<Window>,
    pub address: Address,
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

    /// Where an access goes, for the check.
    fn address_of(&mut self, addr: V, size: u64) -> Address {
        match addr {
            V::Leaf(Leaf::Const(c)) if c & (size as i64 - 1) == 0 && short(c).is_some() => {
                Address::Known(short(c).unwrap_or(0))
            }
            V::Bin(Bin::Add, Leaf::X(r), Leaf::Const(c)) if short(c).is_some() && self.host(r).is_some() => {
                Address::At(self.host(r).unwrap_or(Gpr::Rax), short(c).unwrap_or(0))
            }
            _ => Address::At(self.address(addr), 0),
        }
    }

    /// The check. Gives the operand on the host; rcx may be in use by it, rdx is free.
    fn look(&mut self, addr: V, size: u64, write: bool) -> (Mem, Miss) {
        match self.windows.as_ref().and_then(|w| w.get(self.at).copied()) {
            Some(number) => self.look_through(addr, size, Window { number, write }),
            None => self.look_up_page(addr, size, write),
        }
    }

    /// The check by the TLB's set. An access over a page's end fails the comparison, one that is only misaligned does not.
    fn look_up_page(&mut self, addr: V, size: u64, write: bool) -> (Mem, Miss) {
        let address = self.address(addr);
        let tag = if write { offset_of!(DataEntry, write) } else { offset_of!(DataEntry, read) };
        let last = size as i32 - 1;
        self.place_in_set(address);
        if last == 0 {
            self.asm.mov_rr(Size::Q, Gpr::Rdx, address);
        } else {
            self.asm.lea(Size::Q, Gpr::Rdx, Mem::base(address, last));
        }
        self.asm.alu_ri(Alu::And, Size::Q, Gpr::Rdx, -4096);
        let from = self.unlike_tag(tag);
        self.load_addend(tag);
        self.take(Gpr::Rcx);
        let miss = Miss { from, found: from, window: None, address: Address::At(address, 0) };
        (Mem::index(Gpr::Rcx, address, 1, 0), miss)
    }

    /// The check through the step's window.
    fn look_through(&mut self, addr: V, size: u64, window: Window) -> (Mem, Miss) {
        let address = self.address_of(addr, size);
        let tag = self.loans.lent_to(Borrower::Tag(window));
        let in_memory = layout::window_tag(self.job.context, window);
        match (address, tag) {
            (Address::Known(c), Some(t)) => self.asm.alu_ri(Alu::Cmp, Size::Q, t, c & -4096),
            (Address::Known(c), None) => self.asm.alu_mi(Alu::Cmp, Size::Q, in_memory, c & -4096),
            (Address::At(base, offset), _) => {
                if offset == 0 {
                    self.asm.mov_rr(Size::Q, Gpr::Rdx, base);
                } else {
                    self.asm.lea(Size::Q, Gpr::Rdx, Mem::base(base, offset));
                }
                self.asm.alu_ri(Alu::And, Size::Q, Gpr::Rdx, -4096 | (size as i32 - 1));
                match tag {
                    Some(t) => self.asm.alu_rr(Alu::Cmp, Size::Q, Gpr::Rdx, t),
                    None => self.asm.alu_rm(Alu::Cmp, Size::Q, Gpr::Rdx, in_memory),
                }
            }
        }
        let (from, found) = (self.asm.label(), self.asm.label());
        self.asm.jcc(Cc::Ne, from);
        self.asm.bind(found);
        let addend = self.loans.lent_to(Borrower::Addend(window)).unwrap_or_else(|| {
            let addend = layout::window_addend(self.job.context, window);
            self.asm.mov_rm(Size::Q, Gpr::Rcx, addend);
            self.take(Gpr::Rcx);
            Gpr::Rcx
        });
        let mem = match address {
            Address::Known(c) => Mem::base(addend, c),
            Address::At(base, offset) => Mem::index(addend, base, 1, offset),
        };
        (mem, Miss { from, found, window: Some(window), address })
    }

    /// Cold: opens the window that showed another page, if there is one. Goes on behind itself if the TLB does not have
    /// the page.
    pub(super) fn refill(&mut self, miss: Miss) {
        self.asm.bind(miss.from);
        let Some(window) = miss.window else { return };
        if let Address::Known(c) = miss.address {
            self.asm.mov_ri(Gpr::Rdx, i64::from(c & -4096));
        }
        self.asm.mov_ri(Gpr::Rcx, layout::window(self.job.context, window).into());
        self.asm.call_abs(self.to.refill(self.job.context, window.write));
        let slow = self.asm.label();
        self.asm.jcc(Cc::Ne, slow);
        if self.lent() {
            self.renew(window);
        }
        self.asm.jmp(miss.found);
        self.asm.bind(slow);
    }

    /// Cold: the address, for a slow path.
    pub(super) fn address_to_rax(&mut self, address: Address) {
        match address {
            Address::Known(c) => self.asm.mov_ri(Gpr::Rax, c.into()),
            Address::At(Gpr::Rax, 0) => {}
            Address::At(base, 0) => self.asm.mov_rr(Size::Q, Gpr::Rax, base),
            Address::At(base, offset) => self.asm.lea(Size::Q, Gpr::Rax, Mem::base(base, offset)),
        }
    }

    /// The addend of the entry that [`Emitter::check_entry`] found, in rcx.
    pub(super) fn load_addend(&mut self, tag: usize) {
        let at = layout::tlb(self.job.context) + (tag + offset_of!(DataRight, addend)) as i32;
        self.asm.mov_rm(Size::Q, Gpr::Rcx, Mem::index(BASE, Gpr::Rcx, 1, at));
    }

    /// The TLB's check for aligned addresses only, without the addend. Leaves the entry's distance from the first in rcx; rdx is free afterwards.
    pub(super) fn check_entry(&mut self, address: Gpr, size: u64, tag: usize) -> Label {
        self.place_in_set(address);
        self.asm.mov_rr(Size::Q, Gpr::Rdx, address);
        self.asm.alu_ri(Alu::And, Size::Q, Gpr::Rdx, -4096 | (size as i32 - 1));
        self.unlike_tag(tag)
    }

    /// The distance of the entry for `address` from the first, in rcx.
    fn place_in_set(&mut self, address: Gpr) {
        let entry = size_of::<DataEntry>();
        self.asm.rorx(Size::D, Gpr::Rcx, address, 12 - entry.trailing_zeros() as u8);
        self.asm.alu_ri(Alu::And, Size::D, Gpr::Rcx, ((DATA_ENTRIES - 1) * entry) as i32);
    }

    /// Compares rdx with the tag of the entry in rcx: where it goes if they differ.
    fn unlike_tag(&mut self, tag: usize) -> Label {
        let miss = self.asm.label();
        let set = layout::tlb(self.job.context);
        self.asm.alu_rm(Alu::Cmp, Size::Q, Gpr::Rdx, Mem::index(BASE, Gpr::Rcx, 1, set + tag as i32));
        self.asm.jcc(Cc::Ne, miss);
        miss
    }

    /// A load, up to the access itself.
    pub(super) fn begin_load(&mut self, addr: V, width: Width) -> V {
        let (m, miss) = self.look(addr, width.bytes(), false);
        self.loading = Some(Loading { miss, width });
        V::Loaded(m, width)
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
            self.cold.push(Cold::Load { miss: l.miss, join, to: d, width: l.width, site });
        }
    }

    /// The access, straight into a floating-point register.
    pub(super) fn loaded_to_xmm(&mut self, m: Mem, fs: Fs, x: Xmm) {
        self.asm.fmov_xm(fs, x, m);
        let join = self.asm.label();
        self.asm.bind(join);
        if let Some(Loading { miss, width }) = self.loading.take() {
            let site = self.site();
            self.cold.push(Cold::Float(Piece::Load { miss, join, width, x, site }));
        }
    }

    /// A store.
    pub(super) fn store_value(&mut self, addr: V, v: V, width: Width) {
        let float = self.stored_float(v, width);
        // A value that is still to be computed goes where the check does not touch it.
        let (m, miss) = self.look(addr, width.bytes(), true);
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
        self.cold.push(Cold::Store { miss, join, value, width, site });
    }
}
