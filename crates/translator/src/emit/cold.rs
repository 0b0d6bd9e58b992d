//! What lies behind a unit's straight path: misses, ways out, corner cases. Emitted after the path, so that the path's
//! own code is one piece.

use super::float::Piece;
use super::memory::{Address, Miss};
use super::value::V;
use super::{Emitter, value};
use crate::registers::slot;
use crate::unit::{Leave, UnitPage};
use strata_isa::ops::Width;
use strata_x64::{Alu, Cc, Gpr, Label, Size};

/// A piece of cold code.
#[derive(Clone, Copy)]
pub(super) enum Cold {
    /// The unit's own page is not where it was.
    Guard { from: Label },
    /// Not enough fuel for the unit.
    Fuel { from: Label },
    /// A page further on is not where it was.
    Page { from: Label, refund: i32, pc: u64, page: UnitPage },
    /// Leaves for the address in rax.
    Leave { from: Label },
    /// Leaves the path for another unit.
    Away { from: Label, refund: i32, target: u64, checked: usize },
    /// Leaves the path for the address in rax.
    Indirect { from: Label, refund: i32 },
    /// A load that missed.
    Load { miss: Miss, join: Label, to: Gpr, width: Width, site: u64 },
    /// A store that missed.
    Store { miss: Miss, join: Label, value: StoreValue, width: Width, site: u64 },
    /// An access that missed and is not a plain load or store: the interpreter's instance does the instruction.
    Instance { from: Label, join: Label, site: u64 },
    /// A division that the host's instruction does not do.
    Divide(Division),
    /// Of floating point.
    Float(Piece),
}

/// What is stored.
#[derive(Clone, Copy)]
pub(super) enum StoreValue {
    Imm(i32),
    Reg(Gpr),
    /// It was computed into rdx on a hit; nothing it comes from has changed.
    Computed(V),
}

/// A division by 0 or -1: rax holds the dividend, rcx the divisor; the result goes to rax.
#[derive(Clone, Copy)]
pub(super) struct Division {
    pub from: Label,
    pub join: Label,
    pub size: Size,
    pub signed: bool,
    pub rest: bool,
}

impl Emitter<'_> {
    /// Emits all of it. Cold code may add more.
    pub(super) fn emit_cold(&mut self) {
        let mut n = 0;
        while let Some(cold) = self.cold.get(n).copied() {
            self.busy = 0;
            self.mark();
            self.return_to(n);
            self.one(cold);
            self.note_place();
            n += 1;
        }
    }

    fn one(&mut self, cold: Cold) {
        match cold {
            Cold::Guard { from } => {
                self.asm.bind(from);
                self.leave(Leave::Guard, self.job.unit);
            }
            Cold::Fuel { from } => {
                self.asm.bind(from);
                self.give_back(self.job.steps.len() as i32);
                self.asm.mov_ri(Gpr::Rax, i64::from(Leave::Fuel.with(self.job.unit)));
                // It comes back behind the call with more fuel, or not at all.
                self.settle();
                self.asm.call_abs(self.to.fuel);
                self.borrow();
                let head = self.head;
                self.asm.jmp(head);
            }
            Cold::Page { from, refund, pc, page } => {
                self.asm.bind(from);
                self.give_back(refund);
                self.set_pc(pc);
                self.leave(Leave::Page, page.number());
            }
            Cold::Leave { from } => {
                self.asm.bind(from);
                self.asm.mov_mr(Size::Q, crate::layout::pc(), Gpr::Rax);
                self.leave(Leave::Find, 0);
            }
            Cold::Away { from, refund, target, checked } => {
                self.asm.bind(from);
                self.give_back(refund);
                let now = std::mem::replace(&mut self.checked, checked);
                if target == self.job.steps[0].pc {
                    self.back();
                } else {
                    self.link(target);
                }
                self.checked = now;
            }
            Cold::Indirect { from, refund } => {
                self.asm.bind(from);
                self.give_back(refund);
                self.look_up();
            }
            Cold::Load { miss, join, to, width, site } => {
                self.refill(miss);
                self.call_load(miss.address, width, site);
                if to != Gpr::Rax {
                    self.asm.mov_rr(Size::Q, to, Gpr::Rax);
                }
                self.asm.jmp(join);
            }
            Cold::Store { miss, join, value, width, site } => {
                self.refill(miss);
                self.address_to_rax(miss.address);
                match value {
                    StoreValue::Imm(i) => self.asm.mov_ri(Gpr::Rdx, i64::from(i)),
                    StoreValue::Reg(r) => self.asm.mov_rr(Size::Q, Gpr::Rdx, r),
                    StoreValue::Computed(v) => self.recompute(v),
                }
                self.call(self.to.store(width), site);
                self.asm.jmp(join);
            }
            Cold::Instance { from, join, site } => {
                self.asm.bind(from);
                self.call(self.to.interpret, site);
                self.asm.jmp(join);
            }
            Cold::Divide(d) => self.division(d),
            Cold::Float(piece) => self.float_piece(piece),
        }
    }

    /// Calls a trampoline for the instruction at `site`, which finds all registers in memory and in the map.
    pub(super) fn call(&mut self, trampoline: u64, site: u64) {
        self.settle();
        self.asm.mov_ri(Gpr::Rcx, site as i64);
        self.asm.call_abs(trampoline);
        self.reload_floats();
    }

    /// The slow path of a load; the value is in rax then.
    pub(super) fn call_load(&mut self, address: Address, width: Width, site: u64) {
        self.address_to_rax(address);
        self.call(self.to.load(width), site);
    }

    /// A stored value once more, into rdx, with rax in use.
    fn recompute(&mut self, v: V) {
        match v {
            V::Leaf(value::Leaf::X(r)) => match self.host(r) {
                Some(h) => self.asm.mov_rr(Size::Q, Gpr::Rdx, h),
                None => self.asm.mov_rm(Size::Q, Gpr::Rdx, slot(r)),
            },
            V::Leaf(value::Leaf::Const(c)) => self.asm.mov_ri(Gpr::Rdx, c),
            other => self.value_to(other, Gpr::Rdx),
        }
    }

    fn division(&mut self, d: Division) {
        self.asm.bind(d.from);
        let minus = self.asm.label();
        if d.signed {
            self.asm.test_rr(d.size, Gpr::Rcx, Gpr::Rcx);
            self.asm.jcc(Cc::Ne, minus);
        }
        // By zero: the quotient is all ones, the rest the dividend.
        if !d.rest {
            self.asm.mov_ri(Gpr::Rax, -1);
        }
        self.asm.jmp(d.join);
        if d.signed {
            // By -1: the quotient is the negated dividend, also where that overflows; nothing is left.
            self.asm.bind(minus);
            if d.rest {
                self.asm.alu_rr(Alu::Xor, Size::D, Gpr::Rax, Gpr::Rax);
            } else {
                self.asm.neg(d.size, Gpr::Rax);
            }
            self.asm.jmp(d.join);
        }
    }
}
