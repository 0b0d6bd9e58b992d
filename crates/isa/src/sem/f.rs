//! Floating point, single and double: one text, the format is a parameter.
//!
//! *The RISC-V Instruction Set Manual*, volume I, "F Extension for Single-Precision Floating-Point" and "D Extension".
//!
//! Every instruction first asks for the unit to be on, so that with it off even a bad address or a reserved rounding
//! mode is an illegal instruction. The rounding-mode field is passed on wherever the row has one, though some of those
//! operations are exact (`fcvt.d.s`, `fcvt.d.w[u]`): the manual demands that a reserved mode stays reserved there
//! too. Rows without the field decode with `rm` 0.

use super::i::address;
use crate::insn::Insn;
use crate::ops::{Bin, Fmt, Fp, Ops, Width};

/// The bits above a single in a floating-point register ("NaN Boxing of Narrower Values").
const BOX: i64 = 0xffff_ffff_0000_0000_u64 as i64;

/// `fd = [rs1 + imm]`, NaN-boxed if single.
#[inline(always)]
pub(super) fn load<O: Ops>(o: &mut O, i: &Insn, fmt: Fmt) -> Result<(), O::Stop> {
    o.require_fp()?;
    let addr = address(o, i);
    let v = match fmt {
        Fmt::S => {
            let v = o.load(addr, Width::U32)?;
            let ones = o.imm(BOX);
            o.bin(Bin::Or, v, ones)
        }
        Fmt::D => o.load(addr, Width::I64)?,
    };
    o.set_f(i.rd, v);
    Ok(())
}

/// `[rs1 + imm] = fs2`. A single is stored as it lies, boxed or not.
#[inline(always)]
pub(super) fn store<O: Ops>(o: &mut O, i: &Insn, fmt: Fmt) -> Result<(), O::Stop> {
    o.require_fp()?;
    let addr = address(o, i);
    let v = o.f(i.rs2);
    o.store(
        addr,
        v,
        match fmt {
            Fmt::S => Width::I32,
            Fmt::D => Width::I64,
        },
    )
}

/// The first operands of `op`, as many as it has, from fs1, fs2, fs3.
#[inline(always)]
fn sources<O: Ops>(o: &mut O, i: &Insn, op: Fp) -> [O::V; 3] {
    let zero = o.imm(0);
    let a = o.f(i.rs1);
    let b = if op.arity() > 1 { o.f(i.rs2) } else { zero };
    let c = if op.arity() > 2 { o.f(i.rs3) } else { zero };
    [a, b, c]
}

/// `fd = op(fs1, fs2, fs3)`.
#[inline(always)]
pub(super) fn to_f<O: Ops>(o: &mut O, i: &Insn, op: Fp, fmt: Fmt) -> Result<(), O::Stop> {
    o.require_fp()?;
    let abc = sources(o, i, op);
    let r = o.fp(op, fmt, i.rm, abc)?;
    o.set_f(i.rd, r);
    Ok(())
}

/// `rd = op(fs1, fs2)`.
#[inline(always)]
pub(super) fn to_x<O: Ops>(o: &mut O, i: &Insn, op: Fp, fmt: Fmt) -> Result<(), O::Stop> {
    o.require_fp()?;
    let abc = sources(o, i, op);
    let r = o.fp(op, fmt, i.rm, abc)?;
    o.set_x(i.rd, r);
    Ok(())
}

/// `fd = op(rs1)`.
#[inline(always)]
pub(super) fn from_x<O: Ops>(o: &mut O, i: &Insn, op: Fp, fmt: Fmt) -> Result<(), O::Stop> {
    o.require_fp()?;
    let zero = o.imm(0);
    let abc = [o.x(i.rs1), zero, zero];
    let r = o.fp(op, fmt, i.rm, abc)?;
    o.set_f(i.rd, r);
    Ok(())
}
