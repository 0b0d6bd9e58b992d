//! Which host register holds which guest register, and which are the translator's own.
//!
//! ```text
//!   rbp   address of core.x[16]: every guest register has an 8-bit displacement
//!   r15   fuel: instructions left until somebody has to look at interrupts, timers and limits
//!   rax rcx rdx   scratch within an instruction; rcx counts shifts, rax and rdx multiply and divide
//!   the ten others   the guest registers that compilers use most, for as long as translated code runs
//! ```
//! The map is the same for all code, so that a jump from one unit to another moves nothing. Of the calling convention's
//! ten preserved registers the stack pointer and the saved ones lie in those that a helper preserves too.

use strata_x64::{Gpr, Mem};

/// Base of all guest state.
pub(crate) const BASE: Gpr = Gpr::Rbp;
/// Instructions left.
pub(crate) const FUEL: Gpr = Gpr::R15;

/// Guest register and its host register.
pub(crate) const MAP: [(u8, Gpr); 10] = [
    (2, Gpr::Rbx),
    (8, Gpr::R12),
    (9, Gpr::R13),
    (18, Gpr::R14),
    (10, Gpr::Rdi),
    (11, Gpr::Rsi),
    (12, Gpr::R8),
    (13, Gpr::R9),
    (14, Gpr::R10),
    (15, Gpr::R11),
];

/// Those of [`MAP`] that a called function may change.
pub(crate) const VOLATILE: [Gpr; 6] = [Gpr::Rdi, Gpr::Rsi, Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11];

/// Host register by guest register.
const HOST: [Option<Gpr>; 32] = {
    let mut hosts = [None; 32];
    let mut n = 0;
    while n < MAP.len() {
        hosts[MAP[n].0 as usize] = Some(MAP[n].1);
        n += 1;
    }
    hosts
};

/// The host register that holds guest register `r`, if one does.
pub(crate) fn host(r: u8) -> Option<Gpr> {
    HOST[usize::from(r & 31)]
}

/// Where guest register `r` lies in memory.
pub(crate) fn slot(r: u8) -> Mem {
    Mem::base(BASE, i32::from(r) * 8 - 128)
}
