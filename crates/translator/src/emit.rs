//! From a path of guest instructions to host code, in one pass.
//!
//! ```text
//!   guarded:  cmp page id, known ── miss ──► leave at the unit's own address
//!   main:     sub fuel, n ── short ──► take more, or leave
//!             …the instructions, by the one text of meaning…
//!             branches away from the path, misses, faults ──► cold code behind
//!             jump to the next unit (patched), or back to main
//! ```
//! The emitter implements [`strata_isa::ops::Ops`]: the interpreter's text, run on [`value::V`], chooses host
//! instructions. Each instruction keeps the rules of that text: faults come before the first register write, so at every
//! place where guest code can stop, the registers are those after the instruction before.
//!
//! Some of what they say is put off until somebody looks (`owed.rs`), some shifts are joined to one instruction
//! (`rotations.rs`), and where it pays, a path lives on other host registers than all others do (`loans.rs`). Cold code knows
//! what was where when it was branched off (`place.rs`).
//!
//! What has no rule here (`rules.rs`) is done by the interpreter's own instance, called in place: a new row of the table
//! works at once, and gets fast later.

mod atomics;
mod cold;
mod control;
mod float;
mod integer;
mod loans;
mod memory;
mod ops;
mod owed;
mod place;
mod rotations;
mod rules;
mod status;
pub(crate) mod value;
pub(crate) mod windows;

use crate::features::Features;
use crate::layout;
use crate::registers::{FUEL, slot};
use crate::trampolines::Trampolines;
use crate::unit::{Leave, NewExit, Page, Site, Step, UnitPage};
use cold::Cold;
use float::Floats;
use loans::Loans;
use owed::Now;
use place::Place;
use rotations::Halves;
use strata_isa::sem::execute;
use strata_riscv::tier::{DataContext, Privilege};
use strata_x64::{Alu, Asm, Cc, Gpr, Label, Size};
use value::{Leaf, V, short};

/// What a path of instructions is to be made into code for.
pub(crate) struct Job<'a> {
    /// The path.
    pub steps: &'a [Step],
    /// One for each step; code refers to them by address, so they do not move.
    pub sites: &'a [Site],
    /// Pages that the path enters, in order. The first is the one it begins on.
    pub pages: &'a [Page],
    /// Whose loads and stores.
    pub context: DataContext,
    /// In which mode the code runs.
    pub privilege: Privilege,
    /// Number of the unit.
    pub unit: u32,
    /// Number of the first exit.
    pub first_exit: u32,
    /// The machine has no other hart.
    pub alone: bool,
    /// Accesses look through windows; otherwise each asks the TLB.
    pub windows: bool,
}

/// What was made.
pub(crate) struct Emitted {
    /// Address of the entry that checks the page.
    pub guarded: u64,
    /// Address of the entry that does not.
    pub main: u64,
    /// Ways out that can be linked.
    pub exits: Vec<NewExit>,
    /// Where the code of each step begins, then each piece of cold code: for listings.
    #[cfg(test)]
    pub marks: Vec<u64>,
}

/// See the module.
pub(crate) struct Emitter<'a> {
    asm: &'a mut Asm,
    to: &'a Trampolines,
    features: Features,
    job: &'a Job<'a>,
    /// What is known of registers.
    consts: [Option<i64>; 32],
    /// Scratch registers that hold something of this instruction.
    busy: u8,
    /// Number of the instruction.
    at: usize,
    /// How many of the job's pages have been checked on the way here.
    checked: usize,
    main: Label,
    /// Where the path comes back to: what it keeps has been loaded.
    head: Label,
    floats: float::Floats,
    cold: Vec<Cold>,
    exits: Vec<NewExit>,
    /// The load that a `Loaded` value stands for.
    loading: Option<memory::Loading>,
    /// Where a miss that did the whole instruction goes on.
    join: Option<Label>,
    /// No other hart can look at memory.
    alone: bool,
    /// The instruction has decided where to go.
    gone: bool,
    loans: Loans,
    /// What is where.
    place: Place,
    /// Where each cold piece comes from; shorter by the pieces since the last change.
    at_cold: Vec<Place>,
    /// Steps that can wait for the other half of a rotation.
    halves: Halves,
    /// What is decided of this instruction.
    now: Now,
    /// By register, the last step that writes it.
    last_writes: [usize; 32],
    /// By step, for accesses.
    windows: Option<Vec<u8>>,
    #[cfg(test)]
    marks: Vec<u64>,
}

/// Why a path cannot be made into code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The text stopped unconditionally; the interpreter shows how.
    Illegal,
}

const SCRATCH: [Gpr; 3] = [Gpr::Rax, Gpr::Rcx, Gpr::Rdx];

impl<'a> Emitter<'a> {
    /// Makes code for `job` into `asm`, which is empty and knows its address.
    pub fn emit(asm: &'a mut Asm, to: &'a Trampolines, features: Features, job: &'a Job<'a>) -> Emitted {
        let main = asm.label();
        let head = asm.label();
        let floats = Floats::plan(job.steps, |i| float::has_rule(i, &features));
        let windows = job.windows.then(|| windows::plan(job.steps));
        let mut e = Emitter {
            asm,
            to,
            features,
            job,
            consts: [None; 32],
            busy: 0,
            at: 0,
            checked: 1,
            main,
            head,
            floats,
            cold: Vec::with_capacity(job.steps.len()),
            exits: Vec::new(),
            loading: None,
            join: None,
            alone: job.alone,
            gone: false,
            loans: Loans::plan(job.steps, windows.as_deref()),
            place: Place::default(),
            at_cold: Vec::new(),
            halves: Halves::plan(job.steps),
            now: Now::default(),
            last_writes: owed::last_writes(job.steps),
            windows,
            #[cfg(test)]
            marks: Vec::new(),
        };
        let guarded = e.asm.here();
        e.entry();
        let main = e.asm.address(main).unwrap_or(guarded);
        while e.at < job.steps.len() {
            e.mark();
            e.instruction();
            e.at += 1;
        }
        e.emit_cold();
        Emitted {
            guarded,
            main,
            exits: e.exits,
            #[cfg(test)]
            marks: e.marks,
        }
    }

    /// A step, or a piece of cold code, begins here.
    fn mark(&mut self) {
        #[cfg(test)]
        self.marks.push(self.asm.here());
    }

    /// The page check and the charge.
    fn entry(&mut self) {
        let Some(page) = self.job.pages.first() else { return };
        let miss = self.asm.label();
        let id = layout::page_id(self.job.privilege, page.va);
        self.asm.alu_mi(Alu::Cmp, Size::D, id, page.id as i32);
        self.asm.jcc(Cc::Ne, miss);
        self.cold.push(Cold::Guard { from: miss });
        let main = self.main;
        self.asm.bind(main);
        self.enter_floats();
        self.borrow();
        let head = self.head;
        self.asm.bind(head);
        let short = self.asm.label();
        self.asm.alu_ri(Alu::Sub, Size::Q, FUEL, self.job.steps.len() as i32);
        self.asm.jcc(Cc::S, short);
        self.cold.push(Cold::Fuel { from: short });
    }

    fn step(&self) -> &'a Step {
        &self.job.steps[self.at]
    }

    fn last(&self) -> bool {
        self.at + 1 == self.job.steps.len()
    }

    /// Instructions of the path from this one on: what is given back where it does not complete.
    fn remaining(&self) -> i32 {
        (self.job.steps.len() - self.at) as i32
    }

    fn site(&self) -> u64 {
        std::ptr::from_ref(&self.job.sites[self.at]) as u64
    }

    fn instruction(&mut self) {
        let step = self.step();
        self.busy = 0;
        self.gone = false;
        self.enter_pages(step);
        if self.has_rule(&step.insn) {
            self.require_mode();
            self.prepare(&step.insn);
            if self.rotation() {
                // Done, or left for later.
            } else if execute(self, &step.insn).is_err() {
                // The path only holds what the interpreter has completed, so this is never run.
                self.leave_here();
                return;
            }
        } else {
            self.interpret();
        }
        if let Some(join) = self.join.take() {
            self.asm.bind(join);
        }
        if !self.gone {
            self.fall_through();
        }
    }

    /// Checks the pages that an instruction lies on and that have not been checked before.
    fn enter_pages(&mut self, step: &Step) {
        let needed = usize::from(step.pages);
        while self.checked < needed {
            let page = &self.job.pages[self.checked];
            let miss = self.asm.label();
            self.asm.alu_mi(Alu::Cmp, Size::D, layout::page_id(self.job.privilege, page.va), page.id as i32);
            self.asm.jcc(Cc::Ne, miss);
            let refund = self.remaining();
            let page = UnitPage { unit: self.job.unit, page: self.checked as u32 };
            self.cold.push(Cold::Page { from: miss, refund, pc: step.pc, page });
            self.checked += 1;
        }
    }

    /// The next instruction follows.
    fn fall_through(&mut self) {
        if self.last() {
            let next = self.step().pc.wrapping_add(self.step().insn.len.into());
            self.go(next);
        }
    }

    /// Leaves the path's end for `target`.
    fn go(&mut self, target: u64) {
        self.gone = true;
        if target == self.job.steps[0].pc && !self.now.changes_context {
            self.back();
        } else {
            self.link(target);
        }
    }

    /// Goes back to the path's start.
    fn back(&mut self) {
        self.pay_all();
        self.floats_to_head();
        self.borrow();
        let head = self.head;
        self.asm.jmp(head);
    }

    /// A jump that will lead to the unit at `target` once there is one.
    fn link(&mut self, target: u64) {
        self.settle();
        // Where it leads at first, right behind itself, is only known now; whoever places the code patches it.
        let field = self.asm.patchable_jmp_abs(self.asm.here());
        let patch_at = self.asm.here() - (self.asm.len() - field) as u64;
        let exit = self.job.first_exit + self.exits.len() as u32;
        let here = self.asm.here();
        self.exits.push(NewExit { target, patch_at, stub: here, checked: self.checked as u8 });
        self.leave(Leave::Link, exit);
    }

    /// Leaves translated code for good.
    fn leave(&mut self, why: Leave, n: u32) {
        self.settle();
        self.asm.mov_ri(Gpr::Rax, i64::from(why.with(n)));
        self.asm.jmp_abs(self.to.exit);
    }

    /// Leaves before this instruction, which the interpreter is to execute.
    fn leave_here(&mut self) {
        self.gone = true;
        let pc = self.step().pc;
        let refund = self.remaining();
        self.give_back(refund);
        self.asm.mov_ri(Gpr::Rax, pc as i64);
        self.asm.mov_mr(Size::Q, layout::pc(), Gpr::Rax);
        self.leave(Leave::Interpret, 0);
    }

    /// Gives charged instructions back.
    fn give_back(&mut self, n: i32) {
        if n != 0 {
            self.asm.alu_ri(Alu::Add, Size::Q, FUEL, n);
        }
    }

    /// Has the interpreter's instance execute this instruction. Afterwards nothing is known of registers.
    fn interpret(&mut self) {
        let step = self.step();
        self.settle();
        self.asm.mov_ri(Gpr::Rcx, self.site() as i64);
        if let Some(crossing) = self.crossing(&step.insn) {
            self.asm.jmp_abs(crossing);
            self.gone = true;
            return;
        }
        self.asm.call_abs(self.to.interpret);
        self.forget_floats(step.insn.f_writes());
        self.borrow();
        let written = step.insn.x_writes();
        self.change(|p| p.owed.words &= !written);
        for r in 1..32 {
            if written >> r & 1 != 0 {
                self.consts[r] = None;
            }
        }
        if rules::always_leaves(&step.insn) {
            // The helper never comes back from these; nothing follows.
            self.asm.ud2();
            self.gone = true;
        }
    }

    /// A scratch register that holds nothing of this instruction.
    fn tmp(&mut self) -> Gpr {
        for (n, r) in SCRATCH.into_iter().enumerate() {
            if self.busy >> n & 1 == 0 {
                self.busy |= 1 << n;
                return r;
            }
        }
        // No text holds more than two values at once; a test runs them all.
        debug_assert!(false, "out of scratch registers");
        Gpr::Rax
    }

    /// A scratch register that holds nothing, for the moment.
    fn free(&self) -> Gpr {
        SCRATCH.into_iter().find(|r| !self.is_busy(*r)).unwrap_or(Gpr::Rdx)
    }

    fn take(&mut self, r: Gpr) {
        if let Some(n) = SCRATCH.iter().position(|s| *s == r) {
            self.busy |= 1 << n;
        }
    }

    fn is_busy(&self, r: Gpr) -> bool {
        SCRATCH.iter().position(|s| *s == r).is_some_and(|n| self.busy >> n & 1 != 0)
    }

    /// A leaf in a register: its own, or `into`.
    fn reg(&mut self, leaf: Leaf, into: Gpr) -> Gpr {
        match leaf {
            Leaf::Tmp(r) => r,
            Leaf::X(r) => match self.host(r) {
                Some(h) => h,
                None => {
                    self.asm.mov_rm(Size::Q, into, slot(r));
                    into
                }
            },
            Leaf::Const(c) => match self.known_in(c) {
                Some(h) => h,
                None => {
                    self.asm.mov_ri(into, c);
                    into
                }
            },
        }
    }

    /// A host register that is known to hold the wide constant `c`.
    fn known_in(&self, c: i64) -> Option<Gpr> {
        if short(c).is_some() {
            return None;
        }
        (1..32).find(|r| self.consts[usize::from(*r)] == Some(c)).and_then(|r| self.host(r))
    }

    /// Puts a leaf into `into`.
    fn mov(&mut self, into: Gpr, leaf: Leaf) {
        let r = self.reg(leaf, into);
        if r != into {
            self.asm.mov_rr(Size::Q, into, r);
        }
    }

    /// A value somewhere: as it is if it is a leaf, else computed into a scratch register.
    fn leaf(&mut self, v: V) -> Leaf {
        match v {
            V::Leaf(l) => l,
            _ => {
                let t = self.tmp();
                self.value_to(v, t);
                Leaf::Tmp(t)
            }
        }
    }

    /// Computes `v` into `d`.
    fn value_to(&mut self, v: V, d: Gpr) {
        match v {
            V::Leaf(l) => self.mov(d, l),
            V::F(r) => self.f_to(r, d),
            V::Xmm(x, form) => self.xmm_to(x, form, d),
            V::Bin(op, a, b) => self.bin_to(op, a, b, d),
            V::Un(op, a) => self.un_to(op, a, d),
            V::Loaded(m, w) => self.loaded_to(m, w, d),
            V::LoadedBoxed(m) => {
                self.loaded_to(m, strata_isa::ops::Width::U32, d);
                let t = if d == Gpr::Rdx { Gpr::Rcx } else { Gpr::Rdx };
                self.asm.mov_ri(t, -1 << 32);
                self.asm.alu_rr(Alu::Or, Size::Q, d, t);
            }
        }
    }
}
