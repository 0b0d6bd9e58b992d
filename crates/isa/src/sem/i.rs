//! Base integer shapes: computation, memory, control transfer. M, Zba, Zbb, Zbs and Zicond have no shape of their own.
//!
//! *The RISC-V Instruction Set Manual*, volume I, "RV32I Base Integer Instruction Set" and "RV64I".

use crate::insn::Insn;
use crate::ops::{Bin, Cond, Ops, Un, Width};

/// `rd = rs1 op rs2`.
#[inline(always)]
pub(super) fn reg_reg<O: Ops>(o: &mut O, i: &Insn, op: Bin) -> Result<(), O::Stop> {
    let a = o.x(i.rs1);
    let b = o.x(i.rs2);
    let r = o.bin(op, a, b);
    o.set_x(i.rd, r);
    Ok(())
}

/// `rd = rs1 op imm`.
#[inline(always)]
pub(super) fn reg_imm<O: Ops>(o: &mut O, i: &Insn, op: Bin) -> Result<(), O::Stop> {
    let a = o.x(i.rs1);
    let b = o.imm(i.imm.into());
    let r = o.bin(op, a, b);
    o.set_x(i.rd, r);
    Ok(())
}

/// `rd = op rs1`.
#[inline(always)]
pub(super) fn unary<O: Ops>(o: &mut O, i: &Insn, op: Un) -> Result<(), O::Stop> {
    let a = o.x(i.rs1);
    let r = o.un(op, a);
    o.set_x(i.rd, r);
    Ok(())
}

/// `rd = imm`.
#[inline(always)]
pub(super) fn lui<O: Ops>(o: &mut O, i: &Insn) -> Result<(), O::Stop> {
    let v = o.imm(i.imm.into());
    o.set_x(i.rd, v);
    Ok(())
}

/// `rd = pc + imm`.
#[inline(always)]
pub(super) fn auipc<O: Ops>(o: &mut O, i: &Insn) -> Result<(), O::Stop> {
    let v = o.pc_plus(i.imm.into());
    o.set_x(i.rd, v);
    Ok(())
}

/// `rs1 + imm`, the address of every access but the atomic ones.
#[inline(always)]
pub(super) fn address<O: Ops>(o: &mut O, i: &Insn) -> O::V {
    let base = o.x(i.rs1);
    let off = o.imm(i.imm.into());
    o.bin(Bin::Add, base, off)
}

/// `rd = [rs1 + imm]`. With rd = x0 the access still happens, and may trap.
#[inline(always)]
pub(super) fn load<O: Ops>(o: &mut O, i: &Insn, w: Width) -> Result<(), O::Stop> {
    let addr = address(o, i);
    let v = o.load(addr, w)?;
    o.set_x(i.rd, v);
    Ok(())
}

/// `[rs1 + imm] = rs2`.
#[inline(always)]
pub(super) fn store<O: Ops>(o: &mut O, i: &Insn, w: Width) -> Result<(), O::Stop> {
    let addr = address(o, i);
    let v = o.x(i.rs2);
    o.store(addr, v, w)
}

/// Links and jumps. With compressed instructions every even target is aligned, so a jump cannot trap.
#[inline(always)]
pub(super) fn jal<O: Ops>(o: &mut O, i: &Insn) -> Result<(), O::Stop> {
    let link = o.pc_plus(i.len.into());
    o.set_x(i.rd, link);
    o.jump(i.imm.into());
    Ok(())
}

/// Links and jumps to `(rs1 + imm) & !1`, which is held because rd may be rs1.
#[inline(always)]
pub(super) fn jalr<O: Ops>(o: &mut O, i: &Insn) -> Result<(), O::Stop> {
    let to = address(o, i);
    let even = o.imm(-2);
    let to = o.bin(Bin::And, to, even);
    let to = o.hold(to);
    let link = o.pc_plus(i.len.into());
    o.set_x(i.rd, link);
    o.jump_to(to);
    Ok(())
}

/// Branches if `rs1 cond rs2`.
#[inline(always)]
pub(super) fn branch<O: Ops>(o: &mut O, i: &Insn, cond: Cond) -> Result<(), O::Stop> {
    let a = o.x(i.rs1);
    let b = o.x(i.rs2);
    o.branch(cond, a, b, i.imm.into());
    Ok(())
}

/// Orders accesses of the predecessor set before those of the successor set. Reserved modes and fields are a normal
/// fence, and FENCE.TSO is: a stronger fence is always a correct one.
#[inline(always)]
pub(super) fn fence<O: Ops>(o: &mut O, i: &Insn) -> Result<(), O::Stop> {
    o.fence((i.imm >> 4 & 15) as u8, (i.imm & 15) as u8);
    Ok(())
}
