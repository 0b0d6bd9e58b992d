//! Atomics. *The RISC-V Instruction Set Manual*, volume I, "A Extension for Atomic Instructions".
//!
//! aq and rl are not passed on: an implementation orders every atomic as if both were set, with one exception. LR writes
//! nothing, so nothing that makes it atomic keeps it behind earlier stores; where rl asks for that, the text says so.

use crate::insn::Insn;
use crate::ops::{Amo, Ops, Width};

/// `rd = [rs1]`, and reserves it. A release is a fence of everything (rw,rw) before it.
#[inline(always)]
pub(super) fn lr<O: Ops>(o: &mut O, i: &Insn, w: Width) -> Result<(), O::Stop> {
    if i.rm & 1 != 0 {
        o.fence(3, 3);
    }
    let addr = o.x(i.rs1);
    let v = o.load_reserved(addr, w)?;
    o.set_x(i.rd, v);
    Ok(())
}

/// `[rs1] = rs2` if the reservation holds; `rd` is 0 if it did.
#[inline(always)]
pub(super) fn sc<O: Ops>(o: &mut O, i: &Insn, w: Width) -> Result<(), O::Stop> {
    let addr = o.x(i.rs1);
    let v = o.x(i.rs2);
    let failed = o.store_conditional(addr, v, w)?;
    o.set_x(i.rd, failed);
    Ok(())
}

/// `rd = [rs1]; [rs1] = [rs1] op rs2` in one step.
#[inline(always)]
pub(super) fn amo<O: Ops>(o: &mut O, i: &Insn, op: Amo, w: Width) -> Result<(), O::Stop> {
    let addr = o.x(i.rs1);
    let v = o.x(i.rs2);
    let old = o.amo(op, addr, v, w)?;
    o.set_x(i.rd, old);
    Ok(())
}
