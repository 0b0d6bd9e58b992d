//! Random operands, the same in every run.

use super::opinion::Operand;
use crate::{Alu, Cc, Fma, Fop, Fs, Gpr, Mem, Shift, Size, Xmm};

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    /// A generator of its own for each name, so that a new row does not change the others' operands.
    pub fn named(name: &str) -> Rng {
        Rng(name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() % all.len() as u64) as usize]
    }

    /// A value of any magnitude, the limits of shorter immediates included.
    pub fn value(&mut self) -> i64 {
        let edge =
            [0, 1, -1, 127, 128, -128, -129, 0x7fff, 0xff80, 0xffff, -0x8000, 0x7fff_ffff, 0x8000_0000];
        let wide = [-0x8000_0000, -0x8000_0001, 0xffff_ffff, 0x1_0000_0000, i64::MIN, i64::MAX];
        match self.next() % 4 {
            0 => self.one_of(&edge),
            1 => self.one_of(&wide),
            _ => {
                let by = self.next() % 64;
                self.next() as i64 >> by
            }
        }
    }
}

/// Bytes of the registers and memory operands that a row's selectors leave open.
#[derive(Clone, Copy)]
pub struct Widths {
    pub gpr: usize,
    pub mem: usize,
}

impl Widths {
    /// As the manual has them for this method, before selectors.
    pub fn of(method: &str) -> Widths {
        match method {
            "setcc" => Widths { gpr: 1, mem: 0 },
            "movd_xr" | "movd_rx" => Widths { gpr: 4, mem: 0 },
            "ldmxcsr" | "stmxcsr" => Widths { gpr: 0, mem: 4 },
            _ => Widths { gpr: 8, mem: 8 },
        }
    }
}

pub const SIZES: [Size; 4] = [Size::B, Size::W, Size::D, Size::Q];

pub trait Selector: Copy {
    fn pick(rng: &mut Rng) -> Self;
    /// What the choice says about the operands' widths.
    fn tell(self, _widths: &mut Widths) {}
}

impl Selector for Size {
    fn pick(rng: &mut Rng) -> Size {
        rng.one_of(&SIZES)
    }

    fn tell(self, widths: &mut Widths) {
        *widths = Widths { gpr: 1 << self as u8, mem: 1 << self as u8 };
    }
}

impl Selector for Fs {
    fn pick(rng: &mut Rng) -> Fs {
        rng.one_of(&[Fs::S, Fs::D])
    }

    fn tell(self, widths: &mut Widths) {
        widths.mem = 4 << self as u8;
    }
}

impl Selector for Cc {
    fn pick(rng: &mut Rng) -> Cc {
        use Cc::*;
        rng.one_of(&[O, No, B, Ae, E, Ne, Be, A, S, Ns, P, Np, L, Ge, Le, G])
    }
}

impl Selector for Alu {
    fn pick(rng: &mut Rng) -> Alu {
        use Alu::*;
        rng.one_of(&[Add, Or, Adc, Sbb, And, Sub, Xor, Cmp])
    }
}

impl Selector for Shift {
    fn pick(rng: &mut Rng) -> Shift {
        use Shift::*;
        rng.one_of(&[Rol, Ror, Shl, Shr, Sar])
    }
}

impl Selector for Fop {
    fn pick(rng: &mut Rng) -> Fop {
        use Fop::*;
        rng.one_of(&[Add, Sub, Mul, Div, Sqrt, Min, Max])
    }
}

impl Selector for Fma {
    fn pick(rng: &mut Rng) -> Fma {
        use Fma::*;
        rng.one_of(&[Madd, Msub, Nmadd, Nmsub])
    }
}

/// An operand, and what a decoder should say of it.
pub trait Draw: Sized {
    fn draw(rng: &mut Rng, widths: Widths) -> (Self, Operand);
}

impl Draw for Gpr {
    fn draw(rng: &mut Rng, widths: Widths) -> (Gpr, Operand) {
        use Gpr::*;
        let all = [Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15];
        // Half of the time one that some encoding treats in its own way: rax, rsp, rbp, r12, r13.
        let any = rng.next() as u8 % 16;
        let number = rng.one_of(&[0, 4, 5, 12, 13, any, any, any, any, any]);
        (all[usize::from(number)], Operand::Gpr { number, bytes: widths.gpr })
    }
}

impl Draw for Xmm {
    fn draw(rng: &mut Rng, _: Widths) -> (Xmm, Operand) {
        use Xmm::*;
        let all = [
            Xmm0, Xmm1, Xmm2, Xmm3, Xmm4, Xmm5, Xmm6, Xmm7, Xmm8, Xmm9, Xmm10, Xmm11, Xmm12, Xmm13, Xmm14,
            Xmm15,
        ];
        let number = rng.next() as u8 % 16;
        (all[usize::from(number)], Operand::Xmm { number })
    }
}

impl Draw for Mem {
    fn draw(rng: &mut Rng, widths: Widths) -> (Mem, Operand) {
        let disp = rng.value() as i32;
        let scale = rng.one_of(&[1, 2, 4, 8]);
        let (base, Operand::Gpr { number: b, .. }) = Gpr::draw(rng, widths) else { unreachable!() };
        let (index, i) = loop {
            let (index, Operand::Gpr { number, .. }) = Gpr::draw(rng, widths) else { unreachable!() };
            if index != Gpr::Rsp {
                break (index, number);
            }
        };
        let (mem, base, index, scale) = match rng.next() % 5 {
            0 | 1 => (Mem::base(base, disp), Some(b), None, 1),
            2 | 3 => (Mem::index(base, index, scale, disp), Some(b), Some(i), scale),
            _ if scale == 1 => (Mem::scaled(index, scale, disp), Some(i), None, 1),
            _ => (Mem::scaled(index, scale, disp), None, Some(i), scale),
        };
        (mem, Operand::Mem { base, index, scale, disp, bytes: widths.mem })
    }
}

impl Draw for u8 {
    fn draw(rng: &mut Rng, _: Widths) -> (u8, Operand) {
        let value = rng.next() as u8;
        (value, Operand::imm(i64::from(value), 1))
    }
}

impl Draw for i32 {
    fn draw(rng: &mut Rng, widths: Widths) -> (i32, Operand) {
        let value = rng.value() as i32;
        (value, Operand::imm(i64::from(value), widths.gpr))
    }
}
