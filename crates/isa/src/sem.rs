//! What every instruction means: one match, one arm a row.
//!
//! An arm names the shape that the meaning has (`sem/`, one file a family) and the operation that fills it. The text is
//! generic over [`Ops`]; see the rules there. Compressed instructions mean what they expand to and differ only in `len`.
//!
//! The match is exhaustive and every piece is `#[inline(always)]`, so an interpreter's instance is one flat function.

use crate::insn::Insn;
use crate::ops::{Amo, Bin, Cbo, Cond, CsrOp, Fmt, Fp, Ops, Sys, Un, VmaFence, Width};
use crate::table::Op;

mod a;
mod f;
mod i;
mod system;
mod zicsr;

/// Carries out `i` on `o`.
///
/// # Errors
/// Why it stopped before its effects; nothing was written to a register then.
#[inline(always)]
pub fn execute<O: Ops>(o: &mut O, i: &Insn) -> Result<(), O::Stop> {
    match i.op {
        // RV32I and RV64I: integer computation.
        Op::Lui => i::lui(o, i),
        Op::Auipc => i::auipc(o, i),
        Op::Addi => i::reg_imm(o, i, Bin::Add),
        Op::Slti => i::reg_imm(o, i, Bin::Slt),
        Op::Sltiu => i::reg_imm(o, i, Bin::Sltu),
        Op::Xori => i::reg_imm(o, i, Bin::Xor),
        Op::Ori => i::reg_imm(o, i, Bin::Or),
        Op::Andi => i::reg_imm(o, i, Bin::And),
        Op::Slli => i::reg_imm(o, i, Bin::Sll),
        Op::Srli => i::reg_imm(o, i, Bin::Srl),
        Op::Srai => i::reg_imm(o, i, Bin::Sra),
        Op::Add => i::reg_reg(o, i, Bin::Add),
        Op::Sub => i::reg_reg(o, i, Bin::Sub),
        Op::Sll => i::reg_reg(o, i, Bin::Sll),
        Op::Slt => i::reg_reg(o, i, Bin::Slt),
        Op::Sltu => i::reg_reg(o, i, Bin::Sltu),
        Op::Xor => i::reg_reg(o, i, Bin::Xor),
        Op::Srl => i::reg_reg(o, i, Bin::Srl),
        Op::Sra => i::reg_reg(o, i, Bin::Sra),
        Op::Or => i::reg_reg(o, i, Bin::Or),
        Op::And => i::reg_reg(o, i, Bin::And),
        Op::Addiw => i::reg_imm(o, i, Bin::AddW),
        Op::Slliw => i::reg_imm(o, i, Bin::SllW),
        Op::Srliw => i::reg_imm(o, i, Bin::SrlW),
        Op::Sraiw => i::reg_imm(o, i, Bin::SraW),
        Op::Addw => i::reg_reg(o, i, Bin::AddW),
        Op::Subw => i::reg_reg(o, i, Bin::SubW),
        Op::Sllw => i::reg_reg(o, i, Bin::SllW),
        Op::Srlw => i::reg_reg(o, i, Bin::SrlW),
        Op::Sraw => i::reg_reg(o, i, Bin::SraW),

        // RV32I and RV64I: control, memory, order, environment.
        Op::Jal => i::jal(o, i),
        Op::Jalr => i::jalr(o, i),
        Op::Beq => i::branch(o, i, Cond::Eq),
        Op::Bne => i::branch(o, i, Cond::Ne),
        Op::Blt => i::branch(o, i, Cond::Lt),
        Op::Bge => i::branch(o, i, Cond::Ge),
        Op::Bltu => i::branch(o, i, Cond::Ltu),
        Op::Bgeu => i::branch(o, i, Cond::Geu),
        Op::Lb => i::load(o, i, Width::I8),
        Op::Lh => i::load(o, i, Width::I16),
        Op::Lw => i::load(o, i, Width::I32),
        Op::Ld => i::load(o, i, Width::I64),
        Op::Lbu => i::load(o, i, Width::U8),
        Op::Lhu => i::load(o, i, Width::U16),
        Op::Lwu => i::load(o, i, Width::U32),
        Op::Sb => i::store(o, i, Width::I8),
        Op::Sh => i::store(o, i, Width::I16),
        Op::Sw => i::store(o, i, Width::I32),
        Op::Sd => i::store(o, i, Width::I64),

        // PAUSE refines FENCE: it is the fence of W before nothing, with its other fields zero.
        Op::Pause => o.system(Sys::Pause),
        Op::Fence => i::fence(o, i),
        Op::FenceI => o.system(Sys::FenceI),
        Op::Ecall => o.system(Sys::Ecall),
        Op::Ebreak => o.system(Sys::Ebreak),

        // M: multiplication and division.
        Op::Mul => i::reg_reg(o, i, Bin::Mul),
        Op::Mulh => i::reg_reg(o, i, Bin::Mulh),
        Op::Mulhsu => i::reg_reg(o, i, Bin::Mulhsu),
        Op::Mulhu => i::reg_reg(o, i, Bin::Mulhu),
        Op::Div => i::reg_reg(o, i, Bin::Div),
        Op::Divu => i::reg_reg(o, i, Bin::Divu),
        Op::Rem => i::reg_reg(o, i, Bin::Rem),
        Op::Remu => i::reg_reg(o, i, Bin::Remu),
        Op::Mulw => i::reg_reg(o, i, Bin::MulW),
        Op::Divw => i::reg_reg(o, i, Bin::DivW),
        Op::Divuw => i::reg_reg(o, i, Bin::DivuW),
        Op::Remw => i::reg_reg(o, i, Bin::RemW),
        Op::Remuw => i::reg_reg(o, i, Bin::RemuW),

        // A: atomics. `a` is aq, `r` is rl.
        Op::LrW => a::lr(o, i, Width::I32),
        Op::ScW => a::sc(o, i, Width::I32),
        Op::AmoswapW => a::amo(o, i, Amo::Swap, Width::I32),
        Op::AmoaddW => a::amo(o, i, Amo::Add, Width::I32),
        Op::AmoxorW => a::amo(o, i, Amo::Xor, Width::I32),
        Op::AmoandW => a::amo(o, i, Amo::And, Width::I32),
        Op::AmoorW => a::amo(o, i, Amo::Or, Width::I32),
        Op::AmominW => a::amo(o, i, Amo::Min, Width::I32),
        Op::AmomaxW => a::amo(o, i, Amo::Max, Width::I32),
        Op::AmominuW => a::amo(o, i, Amo::Minu, Width::I32),
        Op::AmomaxuW => a::amo(o, i, Amo::Maxu, Width::I32),
        Op::LrD => a::lr(o, i, Width::I64),
        Op::ScD => a::sc(o, i, Width::I64),
        Op::AmoswapD => a::amo(o, i, Amo::Swap, Width::I64),
        Op::AmoaddD => a::amo(o, i, Amo::Add, Width::I64),
        Op::AmoxorD => a::amo(o, i, Amo::Xor, Width::I64),
        Op::AmoandD => a::amo(o, i, Amo::And, Width::I64),
        Op::AmoorD => a::amo(o, i, Amo::Or, Width::I64),
        Op::AmominD => a::amo(o, i, Amo::Min, Width::I64),
        Op::AmomaxD => a::amo(o, i, Amo::Max, Width::I64),
        Op::AmominuD => a::amo(o, i, Amo::Minu, Width::I64),
        Op::AmomaxuD => a::amo(o, i, Amo::Maxu, Width::I64),

        // F: single precision.
        Op::Flw => f::load(o, i, Fmt::S),
        Op::Fsw => f::store(o, i, Fmt::S),
        Op::FmaddS => f::to_f(o, i, Fp::Madd, Fmt::S),
        Op::FmsubS => f::to_f(o, i, Fp::Msub, Fmt::S),
        Op::FnmsubS => f::to_f(o, i, Fp::Nmsub, Fmt::S),
        Op::FnmaddS => f::to_f(o, i, Fp::Nmadd, Fmt::S),
        Op::FaddS => f::to_f(o, i, Fp::Add, Fmt::S),
        Op::FsubS => f::to_f(o, i, Fp::Sub, Fmt::S),
        Op::FmulS => f::to_f(o, i, Fp::Mul, Fmt::S),
        Op::FdivS => f::to_f(o, i, Fp::Div, Fmt::S),
        Op::FsqrtS => f::to_f(o, i, Fp::Sqrt, Fmt::S),
        Op::FsgnjS => f::to_f(o, i, Fp::Sgnj, Fmt::S),
        Op::FsgnjnS => f::to_f(o, i, Fp::Sgnjn, Fmt::S),
        Op::FsgnjxS => f::to_f(o, i, Fp::Sgnjx, Fmt::S),
        Op::FminS => f::to_f(o, i, Fp::Min, Fmt::S),
        Op::FmaxS => f::to_f(o, i, Fp::Max, Fmt::S),
        Op::FeqS => f::to_x(o, i, Fp::Eq, Fmt::S),
        Op::FltS => f::to_x(o, i, Fp::Lt, Fmt::S),
        Op::FleS => f::to_x(o, i, Fp::Le, Fmt::S),
        Op::FclassS => f::to_x(o, i, Fp::Class, Fmt::S),
        Op::FcvtWS => f::to_x(o, i, Fp::ToW, Fmt::S),
        Op::FcvtWuS => f::to_x(o, i, Fp::ToWu, Fmt::S),
        Op::FcvtLS => f::to_x(o, i, Fp::ToL, Fmt::S),
        Op::FcvtLuS => f::to_x(o, i, Fp::ToLu, Fmt::S),
        Op::FcvtSW => f::from_x(o, i, Fp::FromW, Fmt::S),
        Op::FcvtSWu => f::from_x(o, i, Fp::FromWu, Fmt::S),
        Op::FcvtSL => f::from_x(o, i, Fp::FromL, Fmt::S),
        Op::FcvtSLu => f::from_x(o, i, Fp::FromLu, Fmt::S),
        Op::FmvXW => f::to_x(o, i, Fp::MoveToX, Fmt::S),
        Op::FmvWX => f::from_x(o, i, Fp::MoveFromX, Fmt::S),

        // D: double precision.
        Op::Fld => f::load(o, i, Fmt::D),
        Op::Fsd => f::store(o, i, Fmt::D),
        Op::FmaddD => f::to_f(o, i, Fp::Madd, Fmt::D),
        Op::FmsubD => f::to_f(o, i, Fp::Msub, Fmt::D),
        Op::FnmsubD => f::to_f(o, i, Fp::Nmsub, Fmt::D),
        Op::FnmaddD => f::to_f(o, i, Fp::Nmadd, Fmt::D),
        Op::FaddD => f::to_f(o, i, Fp::Add, Fmt::D),
        Op::FsubD => f::to_f(o, i, Fp::Sub, Fmt::D),
        Op::FmulD => f::to_f(o, i, Fp::Mul, Fmt::D),
        Op::FdivD => f::to_f(o, i, Fp::Div, Fmt::D),
        Op::FsqrtD => f::to_f(o, i, Fp::Sqrt, Fmt::D),
        Op::FsgnjD => f::to_f(o, i, Fp::Sgnj, Fmt::D),
        Op::FsgnjnD => f::to_f(o, i, Fp::Sgnjn, Fmt::D),
        Op::FsgnjxD => f::to_f(o, i, Fp::Sgnjx, Fmt::D),
        Op::FminD => f::to_f(o, i, Fp::Min, Fmt::D),
        Op::FmaxD => f::to_f(o, i, Fp::Max, Fmt::D),
        Op::FeqD => f::to_x(o, i, Fp::Eq, Fmt::D),
        Op::FltD => f::to_x(o, i, Fp::Lt, Fmt::D),
        Op::FleD => f::to_x(o, i, Fp::Le, Fmt::D),
        Op::FclassD => f::to_x(o, i, Fp::Class, Fmt::D),
        Op::FcvtWD => f::to_x(o, i, Fp::ToW, Fmt::D),
        Op::FcvtWuD => f::to_x(o, i, Fp::ToWu, Fmt::D),
        Op::FcvtLD => f::to_x(o, i, Fp::ToL, Fmt::D),
        Op::FcvtLuD => f::to_x(o, i, Fp::ToLu, Fmt::D),
        Op::FcvtDW => f::from_x(o, i, Fp::FromW, Fmt::D),
        Op::FcvtDWu => f::from_x(o, i, Fp::FromWu, Fmt::D),
        Op::FcvtDL => f::from_x(o, i, Fp::FromL, Fmt::D),
        Op::FcvtDLu => f::from_x(o, i, Fp::FromLu, Fmt::D),
        Op::FmvXD => f::to_x(o, i, Fp::MoveToX, Fmt::D),
        Op::FmvDX => f::from_x(o, i, Fp::MoveFromX, Fmt::D),
        Op::FcvtSD => f::to_f(o, i, Fp::Convert, Fmt::S),
        Op::FcvtDS => f::to_f(o, i, Fp::Convert, Fmt::D),

        // Zicsr. In the immediate forms `s` is the 5-bit immediate.
        Op::Csrrw => zicsr::csr(o, i, CsrOp::Write),
        Op::Csrrs => zicsr::csr(o, i, CsrOp::Set),
        Op::Csrrc => zicsr::csr(o, i, CsrOp::Clear),
        Op::Csrrwi => zicsr::csr_imm(o, i, CsrOp::Write),
        Op::Csrrsi => zicsr::csr_imm(o, i, CsrOp::Set),
        Op::Csrrci => zicsr::csr_imm(o, i, CsrOp::Clear),

        // Zba: address generation.
        Op::Sh1add => i::reg_reg(o, i, Bin::Sh1add),
        Op::Sh2add => i::reg_reg(o, i, Bin::Sh2add),
        Op::Sh3add => i::reg_reg(o, i, Bin::Sh3add),
        Op::AddUw => i::reg_reg(o, i, Bin::AddUw),
        Op::Sh1addUw => i::reg_reg(o, i, Bin::Sh1addUw),
        Op::Sh2addUw => i::reg_reg(o, i, Bin::Sh2addUw),
        Op::Sh3addUw => i::reg_reg(o, i, Bin::Sh3addUw),
        Op::SlliUw => i::reg_imm(o, i, Bin::SllUw),

        // Zbb: basic bit manipulation.
        Op::Andn => i::reg_reg(o, i, Bin::Andn),
        Op::Orn => i::reg_reg(o, i, Bin::Orn),
        Op::Xnor => i::reg_reg(o, i, Bin::Xnor),
        Op::Clz => i::unary(o, i, Un::Clz),
        Op::Ctz => i::unary(o, i, Un::Ctz),
        Op::Cpop => i::unary(o, i, Un::Cpop),
        Op::Clzw => i::unary(o, i, Un::ClzW),
        Op::Ctzw => i::unary(o, i, Un::CtzW),
        Op::Cpopw => i::unary(o, i, Un::CpopW),
        Op::Min => i::reg_reg(o, i, Bin::Min),
        Op::Minu => i::reg_reg(o, i, Bin::Minu),
        Op::Max => i::reg_reg(o, i, Bin::Max),
        Op::Maxu => i::reg_reg(o, i, Bin::Maxu),
        Op::SextB => i::unary(o, i, Un::SextB),
        Op::SextH => i::unary(o, i, Un::SextH),
        Op::ZextH => i::unary(o, i, Un::ZextH),
        Op::Rol => i::reg_reg(o, i, Bin::Rol),
        Op::Ror => i::reg_reg(o, i, Bin::Ror),
        Op::Rori => i::reg_imm(o, i, Bin::Ror),
        Op::Rolw => i::reg_reg(o, i, Bin::RolW),
        Op::Rorw => i::reg_reg(o, i, Bin::RorW),
        Op::Roriw => i::reg_imm(o, i, Bin::RorW),
        Op::OrcB => i::unary(o, i, Un::OrcB),
        Op::Rev8 => i::unary(o, i, Un::Rev8),

        // Zbs: single bits.
        Op::Bclr => i::reg_reg(o, i, Bin::Bclr),
        Op::Bclri => i::reg_imm(o, i, Bin::Bclr),
        Op::Bext => i::reg_reg(o, i, Bin::Bext),
        Op::Bexti => i::reg_imm(o, i, Bin::Bext),
        Op::Binv => i::reg_reg(o, i, Bin::Binv),
        Op::Binvi => i::reg_imm(o, i, Bin::Binv),
        Op::Bset => i::reg_reg(o, i, Bin::Bset),
        Op::Bseti => i::reg_imm(o, i, Bin::Bset),

        // Zicond: conditional zero.
        Op::CzeroEqz => i::reg_reg(o, i, Bin::CzeroEqz),
        Op::CzeroNez => i::reg_reg(o, i, Bin::CzeroNez),

        // Zicbom and Zicboz: cache blocks.
        Op::CboInval => system::cache_block(o, i, Cbo::Inval),
        Op::CboClean => system::cache_block(o, i, Cbo::Clean),
        Op::CboFlush => system::cache_block(o, i, Cbo::Flush),
        Op::CboZero => system::cache_block(o, i, Cbo::Zero),

        // Privileged.
        Op::Sret => o.system(Sys::Sret),
        Op::Mret => o.system(Sys::Mret),
        Op::Wfi => o.system(Sys::Wfi),
        Op::SfenceVma => system::fence_vma(o, i, VmaFence::SfenceVma),

        // Svinval.
        Op::SinvalVma => system::fence_vma(o, i, VmaFence::SinvalVma),
        Op::SfenceWInval => system::fence_vma(o, i, VmaFence::SfenceWInval),
        Op::SfenceInvalIr => system::fence_vma(o, i, VmaFence::SfenceInvalIr),
    }
}

#[cfg(test)]
mod tests;
