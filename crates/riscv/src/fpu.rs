//! Floating-point instructions over raw registers: rounding mode, NaN-boxing, the operation, accrued flags.
//!
//! *The RISC-V Instruction Set Manual*, volume I, "F Extension for Single-Precision Floating-Point", "D Extension for
//! Double-Precision Floating-Point". The arithmetic is `strata-float`'s.

use crate::core::Core;
use crate::csr::status;
use crate::trap::Exit;
use strata_float as sf;
use strata_float::{F32, F64, Flags, Format, Rounding};
use strata_isa::ops::{Fmt, Fp};

impl Core {
    /// One operation, as [`strata_isa::ops::Ops::fp`] describes it.
    ///
    /// # Errors
    /// [`Exit::Illegal`] for a rounding mode that does not exist.
    #[inline(never)]
    pub fn float(&mut self, op: Fp, fmt: Fmt, rm: u8, abc: [u64; 3]) -> Result<u64, Exit> {
        let mode = if rm == 7 { self.csr.frm } else { rm };
        let mode = Rounding::from_bits(mode).ok_or(Exit::Illegal)?;
        let (result, flags) = match fmt {
            Fmt::S => operate::<F32, F64>(op, mode, abc),
            Fmt::D => operate::<F64, F32>(op, mode, abc),
        };
        if flags != Flags::NONE {
            self.csr.fflags |= flags.bits();
            self.csr.mstatus |= status::FS;
        }
        Ok(result)
    }
}

fn exact(v: u64) -> (u64, Flags) {
    (v, Flags::NONE)
}

fn truth((v, flags): (bool, Flags)) -> (u64, Flags) {
    (v.into(), flags)
}

/// `op` on registers in format `F`; `G` is the other one.
#[inline(never)]
fn operate<F: Format, G: Format>(op: Fp, rm: Rounding, [ra, rb, rc]: [u64; 3]) -> (u64, Flags) {
    let (a, b, c) = (F::unbox(ra), F::unbox(rb), F::unbox(rc));
    let sign = 1u64 << (F::WIDTH - 1);
    let boxed = |(v, flags)| (F::boxed(v), flags);
    match op {
        Fp::Add => boxed(sf::add::<F>(a, b, rm)),
        Fp::Sub => boxed(sf::sub::<F>(a, b, rm)),
        Fp::Mul => boxed(sf::mul::<F>(a, b, rm)),
        Fp::Div => boxed(sf::div::<F>(a, b, rm)),
        Fp::Sqrt => boxed(sf::sqrt::<F>(a, rm)),
        Fp::Min => boxed(sf::min::<F>(a, b)),
        Fp::Max => boxed(sf::max::<F>(a, b)),
        Fp::Sgnj => boxed(exact(a & !sign | b & sign)),
        Fp::Sgnjn => boxed(exact(a & !sign | !b & sign)),
        Fp::Sgnjx => boxed(exact(a ^ b & sign)),
        Fp::Madd => boxed(sf::mul_add::<F>(a, b, c, rm)),
        Fp::Msub => boxed(sf::mul_add::<F>(a, b, c ^ sign, rm)),
        Fp::Nmsub => boxed(sf::mul_add::<F>(a ^ sign, b, c, rm)),
        Fp::Nmadd => boxed(sf::mul_add::<F>(a ^ sign, b, c ^ sign, rm)),
        Fp::Eq => truth(sf::eq::<F>(a, b)),
        Fp::Lt => truth(sf::lt::<F>(a, b)),
        Fp::Le => truth(sf::le::<F>(a, b)),
        Fp::Class => exact(sf::classify::<F>(a)),
        Fp::ToW => signed32(sf::to_i32::<F>(a, rm)),
        Fp::ToWu => {
            let (v, flags) = sf::to_u32::<F>(a, rm);
            signed32((v as i32, flags))
        }
        Fp::ToL => {
            let (v, flags) = sf::to_i64::<F>(a, rm);
            (v as u64, flags)
        }
        Fp::ToLu => sf::to_u64::<F>(a, rm),
        Fp::FromW => boxed(sf::from_i32::<F>(ra as i32, rm)),
        Fp::FromWu => boxed(sf::from_u32::<F>(ra as u32, rm)),
        Fp::FromL => boxed(sf::from_i64::<F>(ra as i64, rm)),
        Fp::FromLu => boxed(sf::from_u64::<F>(ra, rm)),
        Fp::Convert => boxed(sf::convert::<G, F>(G::unbox(ra), rm)),
        // The bits as they lie, boxed or not.
        Fp::MoveToX if F::WIDTH == 32 => exact(ra as i32 as u64),
        Fp::MoveToX => exact(ra),
        Fp::MoveFromX if F::WIDTH == 32 => boxed(exact(ra & 0xffff_ffff)),
        Fp::MoveFromX => exact(ra),
    }
}

fn signed32((v, flags): (i32, Flags)) -> (u64, Flags) {
    (v as u64, flags)
}
