//! Host registers lent within a loop: from guest registers that it does not use to some that have none.
//!
//! The map of `registers.rs` is the same for all code, so that units join without moving anything. A loop stays in its
//! unit for long, and may live on other registers than the map's ten. So it borrows: behind the unit's entry the owners
//! go to memory and the borrowers come in; wherever the unit is left, and around every call of a helper, it is the other
//! way round, so that all others see the map as it always is.

use super::Emitter;
use crate::registers::{self, MAP, slot};
use crate::unit::Step;
use strata_isa::ops::Reg;
use strata_x64::{Gpr, Size};

/// Uses in a path from which on a register is worth a loan.
const WORTH: u32 = 2;

/// One register lent.
#[derive(Clone, Copy, Debug)]
struct Loan {
    host: Gpr,
    owner: Reg,
    borrower: Reg,
}

/// The loans of a unit.
#[derive(Debug)]
pub(crate) struct Loans {
    loans: [Option<Loan>; MAP.len()],
    /// Where each guest register is within the loop.
    hosts: [Option<Gpr>; 32],
}

impl Loans {
    /// For a path; none where it is no loop.
    pub fn plan(steps: &[Step]) -> Loans {
        let mut plan =
            Loans { loans: [None; MAP.len()], hosts: std::array::from_fn(|r| registers::host(r as u8)) };
        let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return plan };
        if last.next != first.pc {
            return plan;
        }
        let mut uses = [0u32; 32];
        for step in steps {
            for (r, n) in uses.iter_mut().enumerate().skip(1) {
                *n += (step.insn.x_reads() >> r & 1) + (step.insn.x_writes() >> r & 1);
            }
        }
        let mut wanting: Vec<usize> =
            (1..32).filter(|r| plan.hosts[*r].is_none() && uses[*r] >= WORTH).collect();
        wanting.sort_by_key(|r| std::cmp::Reverse(uses[*r]));
        let idle = MAP.into_iter().filter(|(r, _)| uses[usize::from(*r)] == 0);
        for (place, ((owner, host), borrower)) in plan.loans.iter_mut().zip(idle.zip(wanting)) {
            *place = Some(Loan { host, owner, borrower: borrower as Reg });
            plan.hosts[usize::from(owner)] = None;
            plan.hosts[borrower] = Some(host);
        }
        plan
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

    /// The borrowers come in, unless they are there.
    pub(super) fn borrow(&mut self) {
        if self.loans.loans[0].is_none() || self.lent() {
            return;
        }
        for l in self.loans.each() {
            self.asm.mov_mr(Size::Q, slot(l.owner), l.host);
            self.asm.mov_rm(Size::Q, l.host, slot(l.borrower));
        }
        self.set_lent(true);
    }

    /// The owners come back, unless they are there. Changes nothing else.
    pub(super) fn give_loans_back(&mut self) {
        if !self.lent() {
            return;
        }
        for l in self.loans.each() {
            self.asm.mov_mr(Size::Q, slot(l.borrower), l.host);
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
        assert_eq!(Loans::plan(&once).each().count(), 0);
        let round = [step(0, 4, 28, 28, 29), step(4, 0, 10, 28, 29)];
        let plan = Loans::plan(&round);
        let borrowers: Vec<_> = plan.each().map(|l| l.borrower).collect();
        assert_eq!(borrowers, [28, 29]);
        assert!(plan.each().all(|l| l.owner != 10 && plan.hosts[usize::from(l.owner)].is_none()));
        assert_eq!(plan.hosts[10], registers::host(10));
    }
}
