//! Floating point on the host's scalar SSE and FMA instructions, exact in results, flags and rounding.
//!
//! ```text
//!   plan.rs     which instructions have a rule; which guest registers get a home for the unit
//!   held.rs     what lies in the homes, and what is known of it
//!   operate.rs  arithmetic, comparisons, moves
//!   convert.rs  to, from and between formats
//!   cold.rs     NaNs, bad boxes, results out of range: behind the path
//! ```
//! MXCSR has the guest's rounding mode and keeps its flags (`crate::floats`), so an instruction that rounds by the
//! dynamic mode is the host's. What the two disagree on is found after the fact where the host's flags are among the
//! guest's then, and before it where they are not; the interpreter's instance does the whole instruction once more.
//!
//! *Homes.* For each unit the registers that it uses most have a host register, the same from its entry to its end. One
//! is loaded when it is first needed and written back where the unit is left, where the interpreter's instance runs,
//! and around slow paths of loads and stores. At a fault memory thus holds the state after the instruction before. A
//! unit that comes back to its own start keeps its homes over the jump: its entry loads all of them.
//!
//! *Boxes.* A single in a home may lie there without the ones above it (*narrow*). A single that is not known to be boxed is checked where it is used as one.

mod cold;
mod convert;
mod held;
mod operate;
mod plan;

pub(super) use cold::Piece;
pub(super) use held::{Floats, Held, bits};
pub(super) use plan::has_rule;

use super::Emitter;
use super::cold::Cold;
use super::value::{V, XmmForm};
use crate::layout::{self, Word, word};
use crate::unit::Leave;
use strata_isa::Effect;
use strata_isa::ops::{Fmt, Reg, Width};
use strata_x64::{Alu, Cc, Fs, Gpr, Mem, Shift, Size, Xmm};

/// Registers of no guest register: operands and results that have no home.
const X0: Xmm = Xmm::Xmm0;
const X1: Xmm = Xmm::Xmm1;
const X2: Xmm = Xmm::Xmm2;

/// The bits above a single.
const BOX: i64 = -1 << 32;

fn fs(fmt: Fmt) -> Fs {
    match fmt {
        Fmt::S => Fs::S,
        Fmt::D => Fs::D,
    }
}

fn form(fmt: Fmt) -> XmmForm {
    match fmt {
        Fmt::S => XmmForm::Single,
        Fmt::D => XmmForm::Whole,
    }
}

/// The upper half of a register in memory.
fn upper(r: Reg) -> Mem {
    layout::f_upper(r)
}

impl Emitter<'_> {
    /// The entry of a unit that loops: what it will keep is loaded. Behind it lies the loop's head.
    pub(super) fn enter_floats(&mut self) {
        let head = self.floats.plan.head;
        if head.valid == 0 {
            return;
        }
        let start = self.job.steps[0].pc;
        self.check_mode(start, 0);
        for r in bits(head.boxed) {
            self.asm.alu_mi(Alu::Cmp, Size::D, upper(r), -1);
            self.bad_unless_equal(start, 0);
        }
        for r in bits(head.valid) {
            let fs = if head.narrow >> r & 1 != 0 { Fs::S } else { Fs::D };
            if let Some(x) = self.floats.plan.home(r) {
                self.asm.fmov_xm(fs, x, layout::f(r));
            }
        }
        self.change_held(|h| *h = head);
    }

    /// Before a floating-point instruction: the guest's mode must be on.
    pub(super) fn require_mode(&mut self) {
        let step = self.step();
        let effect = step.insn.op.effect();
        if matches!(effect, Effect::Fp | Effect::FpLoad(_) | Effect::FpStore(_)) {
            let refund = self.remaining();
            self.check_mode(step.pc, refund);
        }
    }

    fn check_mode(&mut self, pc: u64, refund: i32) {
        if std::mem::replace(&mut self.floats.on, true) {
            return;
        }
        let off = self.asm.label();
        self.asm.alu_mi(Alu::Cmp, Size::D, word(Word::FpOn), 0);
        self.asm.jcc(Cc::E, off);
        self.cold.push(Cold::Float(Piece::Away { from: off, pc, refund, why: Leave::Floats }));
    }

    /// Has the interpreter go on at `pc` if the comparison before gave a difference.
    fn bad_unless_equal(&mut self, pc: u64, refund: i32) {
        let bad = self.asm.label();
        self.asm.jcc(Cc::Ne, bad);
        self.cold.push(Cold::Float(Piece::Away { from: bad, pc, refund, why: Leave::Interpret }));
    }

    /// Brings homes into the state of the head, for a jump there.
    pub(super) fn floats_to_head(&mut self) {
        let head = self.floats.plan.head;
        let start = self.job.steps[0].pc;
        for r in bits(head.valid) {
            let held = self.place.floats;
            if head.boxed & !held.boxed & 1 << r != 0 {
                self.compare_box(r);
                self.bad_unless_equal(start, 0);
                self.change_held(|h| h.boxed |= 1 << r);
            }
            match head.narrow >> r & 1 {
                0 => _ = self.whole(r, X0),
                _ => _ = self.load_f(r, Fs::S, X0),
            }
        }
        if self.place.floats.dirty & !head.dirty != 0 {
            self.settle();
        }
    }

    /// Whether the upper half of `r` is all ones, as a comparison's result.
    fn compare_box(&mut self, r: Reg) {
        match self.home_f(r) {
            Some(x) => {
                self.asm.movq_rx(Gpr::Rax, x);
                self.asm.shift_ri(Shift::Shr, Size::Q, Gpr::Rax, 32);
                self.asm.alu_ri(Alu::Cmp, Size::D, Gpr::Rax, -1);
            }
            None => self.asm.alu_mi(Alu::Cmp, Size::D, upper(r), -1),
        }
    }

    /// Register `r` as a single, in the low half of its home or of `scratch`. If it is none, the interpreter goes on here.
    fn single(&mut self, r: Reg, scratch: Xmm) -> Xmm {
        if self.place.floats.boxed >> r & 1 == 0 {
            self.compare_box(r);
            let (pc, refund) = (self.step().pc, self.remaining());
            self.bad_unless_equal(pc, refund);
            self.change_held(|h| h.boxed |= 1 << r);
        }
        self.load_f(r, Fs::S, scratch)
    }

    /// Register `r` with all its bits, in its home or in `scratch`.
    fn whole(&mut self, r: Reg, scratch: Xmm) -> Xmm {
        let held = self.place.floats;
        if let Some(x) = self.home_f(r)
            && held.narrow >> r & 1 != 0
        {
            if held.dirty >> r & 1 != 0 {
                self.asm.mov_ri(Gpr::Rax, BOX);
                self.asm.movq_xr(X2, Gpr::Rax);
                self.asm.orps_xx(x, X2);
            } else {
                self.asm.fmov_xm(Fs::D, x, layout::f(r));
            }
            self.change_held(|h| h.narrow &= !(1 << r));
        }
        self.load_f(r, Fs::D, scratch)
    }

    /// Register `r` in its home, loaded from memory if it was not there, or in `scratch`.
    fn load_f(&mut self, r: Reg, fs: Fs, scratch: Xmm) -> Xmm {
        if let Some(x) = self.home_f(r) {
            return x;
        }
        let home = self.floats.plan.home(r);
        let x = home.unwrap_or(scratch);
        self.asm.fmov_xm(fs, x, layout::f(r));
        if home.is_some() {
            self.change_held(|h| {
                h.valid |= 1 << r;
                h.narrow = h.narrow & !(1 << r) | u32::from(fs == Fs::S) << r;
            });
        }
        x
    }

    /// An operand in format `fmt`.
    fn operand_f(&mut self, v: V, fmt: Fmt, scratch: Xmm) -> Xmm {
        let V::F(r) = v else {
            debug_assert!(false, "an operand of floating point is a register");
            return scratch;
        };
        match fmt {
            Fmt::S => self.single(r, scratch),
            Fmt::D => self.whole(r, scratch),
        }
    }

    /// The home of a register that is about to be stored, if it has one.
    pub(super) fn stored_float(&mut self, v: V, width: Width) -> Option<Xmm> {
        let V::F(r) = v else { return None };
        self.floats.plan.home(r)?;
        Some(match width {
            Width::I64 | Width::I32 if self.home_f(r).is_none() => self.load_f(r, Fs::D, X0),
            Width::I64 => self.whole(r, X0),
            _ => self.load_f(r, Fs::S, X0),
        })
    }

    /// Register `r` as it lies, into an integer register.
    pub(super) fn f_to(&mut self, r: Reg, d: Gpr) {
        let held = self.place.floats;
        match self.home_f(r) {
            Some(x) if held.narrow >> r & 1 == 0 => self.asm.movq_rx(d, x),
            Some(x) if held.dirty >> r & 1 != 0 => self.xmm_to(x, XmmForm::Single, d),
            _ => self.asm.mov_rm(Size::Q, d, layout::f(r)),
        }
    }

    /// A floating-point result into an integer register.
    pub(super) fn xmm_to(&mut self, x: Xmm, form: XmmForm, d: Gpr) {
        match form {
            XmmForm::Whole => self.asm.movq_rx(d, x),
            XmmForm::Single => {
                let t = if d == Gpr::Rdx { Gpr::Rcx } else { Gpr::Rdx };
                self.asm.movd_rx(d, x);
                self.asm.mov_ri(t, BOX);
                self.asm.alu_rr(Alu::Or, Size::Q, d, t);
            }
        }
    }

    /// Writes a floating-point register.
    pub(super) fn write_f(&mut self, r: Reg, v: V) {
        let home = self.floats.plan.home(r);
        let single = match v {
            V::Xmm(_, form) => form == XmmForm::Single,
            V::LoadedBoxed(_) => true,
            _ => false,
        };
        match (v, home) {
            (V::Xmm(x, _), Some(h)) => {
                if x != h {
                    self.asm.fmov_xx(h, x);
                }
            }
            (V::Xmm(x, _), None) => self.store_f(r, x, single),
            (V::Loaded(m, Width::I64), Some(h)) => self.loaded_to_xmm(m, Fs::D, h),
            (V::LoadedBoxed(m), Some(h)) => self.loaded_to_xmm(m, Fs::S, h),
            (_, Some(h)) => {
                self.value_to(v, Gpr::Rax);
                self.asm.movq_xr(h, Gpr::Rax);
            }
            (_, None) => {
                self.value_to(v, Gpr::Rax);
                self.asm.mov_mr(Size::Q, layout::f(r), Gpr::Rax);
            }
        }
        let (bit, known) = (1 << r, u32::from(single) << r);
        self.change_held(|h| {
            h.boxed = h.boxed & !bit | known;
            if home.is_some() {
                h.valid |= bit;
                h.dirty |= bit;
                h.narrow = h.narrow & !bit | known;
            }
        });
    }

    /// Writes `x` to the memory of register `r`.
    fn store_f(&mut self, r: Reg, x: Xmm, narrow: bool) {
        if narrow {
            self.asm.fmov_mx(Fs::S, layout::f(r), x);
            self.asm.mov_mi(Size::D, upper(r), -1);
        } else {
            self.asm.fmov_mx(Fs::D, layout::f(r), x);
        }
    }

    /// Pays what is owed, writes homes back and gives loans back, so that memory and the map hold all registers. Changes no
    /// other integer register.
    pub(super) fn settle(&mut self) {
        self.pay_all();
        let held = self.place.floats;
        for r in bits(held.dirty) {
            if let Some(x) = self.floats.plan.home(r) {
                self.store_f(r, x, held.narrow >> r & 1 != 0);
            }
        }
        if held.dirty != 0 {
            self.change_held(|h| h.dirty = 0);
        }
        self.give_loans_back();
    }

    /// Loads the homes that were in use again, after a call, and borrows again.
    pub(super) fn reload_floats(&mut self) {
        let held = self.place.floats;
        for r in bits(held.valid) {
            let fs = if held.narrow >> r & 1 != 0 { Fs::S } else { Fs::D };
            if let Some(x) = self.floats.plan.home(r) {
                self.asm.fmov_xm(fs, x, layout::f(r));
            }
        }
        self.borrow();
    }

    /// After a call that wrote the registers `written` in memory: nothing is in a home.
    pub(super) fn forget_floats(&mut self, written: u32) {
        self.change_held(|h| {
            (h.valid, h.dirty, h.narrow) = (0, 0, 0);
            h.boxed &= !written;
        });
    }

    /// Where an instruction that gives an integer puts it: nothing it reads lies there.
    fn x_destination(&mut self) -> Gpr {
        match self.host(self.step().insn.rd) {
            Some(h) => h,
            None => self.tmp(),
        }
    }

    /// Where an instruction that gives a float puts it best.
    fn f_destination(&self) -> Xmm {
        self.floats.plan.home(self.step().insn.rd).unwrap_or(X0)
    }
}
