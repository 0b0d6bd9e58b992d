//! The arithmetic: what each integer operation gives for two numbers.
//!
//! This is the only definition. An interpreter calls it, a translator folds constants with it and tests its emitted
//! code against it. Total: no operands panic; division by zero and overflow give what the M chapter of the manual,
//! "Division Operations", tabulates.

use crate::ops::{Amo, Bin, Cond, Fp, Un, Width};

#[inline(always)]
const fn sext(v: u32) -> u64 {
    v as i32 as i64 as u64
}

impl Bin {
    /// `a op b`.
    #[inline(always)]
    pub const fn eval(self, a: u64, b: u64) -> u64 {
        let (sa, sb) = (a as i64, b as i64);
        let (wa, wb) = (a as u32, b as u32);
        let (swa, swb) = (wa as i32, wb as i32);
        let bit = 1u64 << (b & 63);
        let low = wa as u64;
        match self {
            Bin::Add => a.wrapping_add(b),
            Bin::Sub => a.wrapping_sub(b),
            Bin::Sll => a << (b & 63),
            Bin::Slt => (sa < sb) as u64,
            Bin::Sltu => (a < b) as u64,
            Bin::Xor => a ^ b,
            Bin::Srl => a >> (b & 63),
            Bin::Sra => (sa >> (b & 63)) as u64,
            Bin::Or => a | b,
            Bin::And => a & b,
            Bin::AddW => sext(wa.wrapping_add(wb)),
            Bin::SubW => sext(wa.wrapping_sub(wb)),
            Bin::SllW => sext(wa << (b & 31)),
            Bin::SrlW => sext(wa >> (b & 31)),
            Bin::SraW => sext((swa >> (b & 31)) as u32),
            Bin::Mul => a.wrapping_mul(b),
            Bin::Mulh => ((sa as i128 * sb as i128) >> 64) as u64,
            // |product| < 2^127, so the signed product of the two is exact.
            Bin::Mulhsu => ((sa as i128 * b as i128) >> 64) as u64,
            Bin::Mulhu => ((a as u128 * b as u128) >> 64) as u64,
            Bin::Div if b == 0 => u64::MAX,
            Bin::Div => sa.wrapping_div(sb) as u64,
            Bin::Divu if b == 0 => u64::MAX,
            Bin::Divu => a / b,
            Bin::Rem if b == 0 => a,
            Bin::Rem => sa.wrapping_rem(sb) as u64,
            Bin::Remu if b == 0 => a,
            Bin::Remu => a % b,
            Bin::MulW => sext(wa.wrapping_mul(wb)),
            Bin::DivW | Bin::DivuW if wb == 0 => u64::MAX,
            Bin::DivW => sext(swa.wrapping_div(swb) as u32),
            Bin::DivuW => sext(wa / wb),
            Bin::RemW | Bin::RemuW if wb == 0 => sext(wa),
            Bin::RemW => sext(swa.wrapping_rem(swb) as u32),
            Bin::RemuW => sext(wa % wb),
            Bin::Andn => a & !b,
            Bin::Orn => a | !b,
            Bin::Xnor => !(a ^ b),
            Bin::Min => (if sa < sb { sa } else { sb }) as u64,
            Bin::Minu => {
                if a < b {
                    a
                } else {
                    b
                }
            }
            Bin::Max => (if sa > sb { sa } else { sb }) as u64,
            Bin::Maxu => {
                if a > b {
                    a
                } else {
                    b
                }
            }
            Bin::Rol => a.rotate_left((b & 63) as u32),
            Bin::Ror => a.rotate_right((b & 63) as u32),
            Bin::RolW => sext(wa.rotate_left(wb & 31)),
            Bin::RorW => sext(wa.rotate_right(wb & 31)),
            Bin::Sh1add => (a << 1).wrapping_add(b),
            Bin::Sh2add => (a << 2).wrapping_add(b),
            Bin::Sh3add => (a << 3).wrapping_add(b),
            Bin::AddUw => low.wrapping_add(b),
            Bin::Sh1addUw => (low << 1).wrapping_add(b),
            Bin::Sh2addUw => (low << 2).wrapping_add(b),
            Bin::Sh3addUw => (low << 3).wrapping_add(b),
            Bin::SllUw => low << (b & 63),
            Bin::Bclr => a & !bit,
            Bin::Bext => (a & bit != 0) as u64,
            Bin::Binv => a ^ bit,
            Bin::Bset => a | bit,
            Bin::CzeroEqz => {
                if b == 0 {
                    0
                } else {
                    a
                }
            }
            Bin::CzeroNez => {
                if b != 0 {
                    0
                } else {
                    a
                }
            }
            Bin::Eq => (a == b) as u64,
        }
    }
}

impl Un {
    /// `op a`.
    #[inline(always)]
    pub const fn eval(self, a: u64) -> u64 {
        let w = a as u32;
        match self {
            Un::Clz => a.leading_zeros() as u64,
            Un::Ctz => a.trailing_zeros() as u64,
            Un::Cpop => a.count_ones() as u64,
            Un::ClzW => w.leading_zeros() as u64,
            Un::CtzW => w.trailing_zeros() as u64,
            Un::CpopW => w.count_ones() as u64,
            Un::SextB => Width::I8.extend(a),
            Un::SextH => Width::I16.extend(a),
            Un::SextW => Width::I32.extend(a),
            Un::ZextB => Width::U8.extend(a),
            Un::ZextH => Width::U16.extend(a),
            Un::ZextW => Width::U32.extend(a),
            // Spread each byte's bits downwards to its bit 0, then fill the byte from there. Masks keep bytes apart.
            Un::OrcB => {
                let a = a | (a >> 4 & 0x0f0f_0f0f_0f0f_0f0f);
                let a = a | (a >> 2 & 0x3f3f_3f3f_3f3f_3f3f);
                let a = a | (a >> 1 & 0x7f7f_7f7f_7f7f_7f7f);
                (a & 0x0101_0101_0101_0101) * 255
            }
            Un::Rev8 => a.swap_bytes(),
        }
    }
}

impl Cond {
    /// Whether `a cond b` holds.
    #[inline(always)]
    pub const fn eval(self, a: u64, b: u64) -> bool {
        match self {
            Cond::Eq => a == b,
            Cond::Ne => a != b,
            Cond::Lt => (a as i64) < b as i64,
            Cond::Ge => a as i64 >= b as i64,
            Cond::Ltu => a < b,
            Cond::Geu => a >= b,
        }
    }
}

impl Amo {
    /// What memory holds after the operation on `old` with operand `v`: only the low bits that `w` covers are stored.
    /// Both are taken at the width of `w` (the operand's upper bits do not matter).
    #[inline(always)]
    pub const fn eval(self, old: u64, v: u64, w: Width) -> u64 {
        // Extended alike, 32-bit values compare as 64-bit ones do, signed and unsigned.
        let (old, v) = (w.extend(old), w.extend(v));
        match self {
            Amo::Swap => v,
            Amo::Add => old.wrapping_add(v),
            Amo::Xor => old ^ v,
            Amo::And => old & v,
            Amo::Or => old | v,
            Amo::Min => Bin::Min.eval(old, v),
            Amo::Max => Bin::Max.eval(old, v),
            Amo::Minu => Bin::Minu.eval(old, v),
            Amo::Maxu => Bin::Maxu.eval(old, v),
        }
    }
}

impl Width {
    /// Bytes in memory.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        match self {
            Width::I8 | Width::U8 => 1,
            Width::I16 | Width::U16 => 2,
            Width::I32 | Width::U32 => 4,
            Width::I64 => 8,
        }
    }

    /// The low bits of `v` as a load of this width gives them.
    #[inline(always)]
    pub const fn extend(self, v: u64) -> u64 {
        match self {
            Width::I8 => v as i8 as i64 as u64,
            Width::U8 => v as u8 as u64,
            Width::I16 => v as i16 as i64 as u64,
            Width::U16 => v as u16 as u64,
            Width::I32 => v as i32 as i64 as u64,
            Width::U32 => v as u32 as u64,
            Width::I64 => v,
        }
    }
}

impl Fp {
    /// How many operands it has.
    #[inline(always)]
    pub const fn arity(self) -> usize {
        match self {
            Fp::Madd | Fp::Msub | Fp::Nmsub | Fp::Nmadd => 3,
            Fp::Add | Fp::Sub | Fp::Mul | Fp::Div | Fp::Min | Fp::Max => 2,
            Fp::Sgnj | Fp::Sgnjn | Fp::Sgnjx | Fp::Eq | Fp::Lt | Fp::Le => 2,
            Fp::Sqrt | Fp::Class | Fp::Convert | Fp::MoveToX | Fp::MoveFromX => 1,
            Fp::ToW | Fp::ToWu | Fp::ToL | Fp::ToLu => 1,
            Fp::FromW | Fp::FromWu | Fp::FromL | Fp::FromLu => 1,
        }
    }
}

#[cfg(test)]
#[path = "eval/tests.rs"]
mod tests;
