//! Cache blocks and address-translation fences; the other privileged instructions are the hart's alone ([`Sys`]).
//!
//! *The RISC-V Instruction Set Manual*, volume I, "CMO Extensions"; volume II, "Supervisor Memory-Management Fence
//! Instruction" and "Svinval".
//!
//! [`Sys`]: crate::ops::Sys

use crate::insn::Insn;
use crate::ops::{Cbo, Ops, VmaFence};

/// An operation on the cache block that holds `rs1`.
#[inline(always)]
pub(super) fn cache_block<O: Ops>(o: &mut O, i: &Insn, op: Cbo) -> Result<(), O::Stop> {
    let addr = o.x(i.rs1);
    o.cache_block(op, addr)
}

/// A fence with an address and an address space. It is the register number 0 that means "all", not the value.
#[inline(always)]
pub(super) fn fence_vma<O: Ops>(o: &mut O, i: &Insn, op: VmaFence) -> Result<(), O::Stop> {
    let va = (i.rs1 != 0).then(|| o.x(i.rs1));
    let asid = (i.rs2 != 0).then(|| o.x(i.rs2));
    o.fence_vma(op, va, asid)
}
