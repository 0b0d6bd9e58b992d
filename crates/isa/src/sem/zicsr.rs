//! CSR instructions. *The RISC-V Instruction Set Manual*, volume I, "Zicsr Extension": which forms read and which write
//! depends on the register *numbers* alone, never on values.

use crate::insn::Insn;
use crate::ops::{CsrOp, Ops};

/// CSRRW, CSRRS, CSRRC.
#[inline(always)]
pub(super) fn csr<O: Ops>(o: &mut O, i: &Insn, op: CsrOp) -> Result<(), O::Stop> {
    let src = o.x(i.rs1);
    access(o, i, op, src)
}

/// CSRRWI, CSRRSI, CSRRCI: the operand is the number in the place of rs1.
#[inline(always)]
pub(super) fn csr_imm<O: Ops>(o: &mut O, i: &Insn, op: CsrOp) -> Result<(), O::Stop> {
    let src = o.imm(i.rs1.into());
    access(o, i, op, src)
}

#[inline(always)]
fn access<O: Ops>(o: &mut O, i: &Insn, op: CsrOp, src: O::V) -> Result<(), O::Stop> {
    let (read, write) = match op {
        CsrOp::Write => (i.rd != 0, true),
        CsrOp::Set | CsrOp::Clear => (true, i.rs1 != 0),
    };
    let old = o.csr(op, i.imm as u16, src, read, write)?;
    o.set_x(i.rd, old);
    Ok(())
}
