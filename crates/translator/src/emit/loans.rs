//! Host registers lent within a loop: from guest registers that it uses little to some that have none and that it uses more,
//! and to windows (`windows.rs`), of which they are copies.
//!
//! The map of `registers.rs` is the same for all code, so that units join without moving anything. A loop stays in its
//! unit for long, and may live on other registers than the map's ten. So it borrows: behind the unit's entry the owners
//! go to memory and the borrowers come in; wherever the unit is left, and around every call of a helper, it is the other
//! way round, so that all others see the map as it always is.

use super::Emitter;
use super::float::bits;
use super::windows::{self, Window};
use crate::layout;
use crate::registers::{self, MAP, slot};
use crate::unit::Step;
use strata_isa::ops::Reg;
use strata_riscv::tier::WINDOWS;
use strata_x64::{Gpr, Mem, Size};

/// Uses in a path from which on a register is worth a loan.
const WORTH: u32 = 2;

/// Instructions of a path from which on it may borrow though it does not come back to its start.
const LONG: usize = 40;
/// What a loan costs such a path each time, in the unit of [`Loans::plan`].
const PRICE: u32 = 10;

/// One register lent.
#[derive(Clone, Copy, Debug)]
struct Loan {
    host: Gpr,
    owner: Reg,
    borrower: Borrower,
}

/// Who lives in a lent register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Borrower {
    /// A guest register.
    X(Reg),
    /// The page that a window shows.
    Tag(Window),
    /// What is added to an address in that page.
    Addend(Window),
}

/// The loans of a unit.
#[derive(Debug)]
pub(crate) struct Loans {
    loans: [Option<Loan>; MAP.len()],
    /// Where each guest register is within the loop.
    hosts: [Option<Gpr>; 32],
}

impl Loans {
    /// For a path, whose accesses may have windows; none where it is no loop.
    pub fn plan(steps: &[Step], windows: Option<&[u8]>) -> Loans {
        let mut plan =
            Loans { loans: [None; MAP.len()], hosts: std::array::from_fn(|r| registers::host(r as u8)) };
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return plan };
        let round = last.next == first.pc;
        if !round && steps.len() < LONG {
            return plan;
        }
        let mut uses = [0u32; 32];
        let mut looks = [[0u32; 2]; WINDOWS];
        for (n, step) in steps.iter().enumerate() {
            let (reads, writes) = (step.insn.x_reads(), step.insn.x_writes());
            bits(reads).chain(bits(writes)).for_each(|r| uses[usize::from(r)] += 1);
            if let (Some(window), Some(write)) = (windows.and_then(|w| w.get(n)), windows::accesses(step)) {
                looks[usize::from(*window)][usize::from(write)] += 1;
            }
        }
        // A register at home saves a part of each use; an addend a whole instruction of each access; a tag, a part.
        let mut wanting: Vec<(u32, Borrower)> = Vec::new();
        for (r, n) in uses.iter().enumerate().filter(|(r, n)| plan.hosts[*r].is_none() && **n >= WORTH) {
            wanting.push((2 * n, Borrower::X(r as Reg)));
        }
        for (number, looks) in looks.iter().enumerate().filter(|_| round) {
            for (n, write) in looks.iter().zip([false, true]).filter(|(n, _)| **n >= WORTH) {
                let window = Window { number: number as u8, write };
                wanting.push((2 * n, Borrower::Addend(window)));
                wanting.push((*n, Borrower::Tag(window)));
            }
        }
        wanting.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        let mut owners = MAP.map(|(owner, host)| (2 * uses[usize::from(owner)], owner, host));
        owners.sort_by_key(|(n, ..)| *n);
        let price = if round { 0 } else { PRICE };
        let pairs = owners
            .into_iter()
            .zip(wanting)
            .take_while(|((own, ..), (want, _))| *want > own + own / 2 + price);
        for (place, ((_, owner, host), (_, borrower))) in plan.loans.iter_mut().zip(pairs) {
            *place = Some(Loan { host, owner, borrower });
            plan.hosts[usize::from(owner)] = None;
            if let Borrower::X(r) = borrower {
                plan.hosts[usize::from(r)] = Some(host);
            }
        }
        plan
    }

    /// The register lent to `borrower`.
    pub(super) fn lent_to(&self, borrower: Borrower) -> Option<Gpr> {
        self.each().find(|l| l.borrower == borrower).map(|l| l.host)
    }

    fn each(&self) -> impl Iterator<Item = Loan> + use<> {
        self.loans.into_iter().flatten()
    }
}

impl Emitter<'_> {
    /// The host register that holds guest register `r`, if one does.
    pub(super) fn host(&self, r: Reg) -> Option<Gpr> {
        self.loans.hosts[usize::from(r & 31)]
    }

    /// Where a borrower lives otherwise.
    fn place(&self, borrower: Borrower) -> Mem {
        match borrower {
            Borrower::X(r) => slot(r),
            Borrower::Tag(w) => layout::window_tag(self.job.context, w),
            Borrower::Addend(w) => layout::window_addend(self.job.context, w),
        }
    }

    /// The window `w` has been opened onto another page.
    pub(super) fn renew(&mut self, w: Window) {
        for borrower in [Borrower::Tag(w), Borrower::Addend(w)] {
            if let Some(host) = self.loans.lent_to(borrower) {
                let from = self.place(borrower);
                self.asm.mov_rm(Size::Q, host, from);
            }
        }
    }

    /// The borrowers come in, unless they are there.
    pub(super) fn borrow(&mut self) {
        if self.loans.loans[0].is_none() || self.lent() {
            return;
        }
        for l in self.loans.each() {
            self.asm.mov_mr(Size::Q, slot(l.owner), l.host);
            let from = self.place(l.borrower);
            self.asm.mov_rm(Size::Q, l.host, from);
        }
        self.set_lent(true);
    }

    /// The owners come back, unless they are there. Changes nothing else.
    pub(super) fn give_loans_back(&mut self) {
        if !self.lent() {
            return;
        }
        for l in self.loans.each() {
            if let Borrower::X(r) = l.borrower {
                self.asm.mov_mr(Size::Q, slot(r), l.host);
            }
            self.asm.mov_rm(Size::Q, l.host, slot(l.owner));
        }
        self.set_lent(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_isa::{Insn, Op};

    fn step(pc: u64, next: u64, rd: u8, rs1: u8, rs2: u8) -> Step {
        let insn = Insn { op: Op::Add, rd, rs1, rs2, rs3: 0, rm: 0, len: 4, imm: 0, raw: 0 };
        Step { pc, insn, next, pages: 1 }
    }

    #[test]
    fn idle_registers_are_lent_to_those_used_most_in_a_loop_only() {
        let once = [step(0, 4, 28, 28, 29), step(4, 8, 10, 28, 30)];
        assert_eq!(Loans::plan(&once, None).each().count(), 0);
        let round = [step(0, 4, 28, 28, 29), step(4, 0, 10, 28, 29)];
        let plan = Loans::plan(&round, None);
        let borrowers: Vec<_> = plan.each().map(|l| l.borrower).collect();
        assert_eq!(borrowers, [Borrower::X(28), Borrower::X(29)]);
        assert!(plan.each().all(|l| l.owner != 10 && plan.hosts[usize::from(l.owner)].is_none()));
        assert_eq!(plan.hosts[10], registers::host(10));
    }
}
