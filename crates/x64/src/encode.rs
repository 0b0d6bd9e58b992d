//! From a form and its operands to bytes (manual volume 2, chapter 2).
//!
//! ```text
//!   head:  [legacy prefixes] [REX] [0F [38|3A]] opcode [ModRM [SIB]]     at most 8 bytes
//!      or  VEX (2 or 3)            opcode        ModRM [SIB]
//!   tail:  [disp8 | disp32] [immediate]                                  at most 8 bytes
//! ```
//!
//! Each half is gathered in a 64-bit word and stored whole; what lies behind its length is overwritten by the next
//! store. This is the only file that knows about REX, VEX, ModRM and SIB.

use crate::asm::Asm;
use crate::form::Form;
use crate::operand::{Gpr, Mem, Xmm};

/// What ModRM.rm (or `+rd`) refers to, as bits.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// ModRM with an empty reg field, and SIB above it.
    modrm: u32,
    len: u8,
    /// REX.X and REX.B, in their places.
    xb: u8,
    /// A register whose byte is `ah`, `ch`, `dh` or `bh` unless a REX prefix stands before it.
    needs_rex_as_byte: bool,
    disp: u32,
    disp_len: u8,
}

/// The bits of a register operand.
#[inline]
const fn direct(number: u8) -> Place {
    Place {
        modrm: 0xc0 | (number & 7) as u32,
        len: 1,
        xb: number >> 3,
        needs_rex_as_byte: needs_rex_as_byte(number),
        disp: 0,
        disp_len: 0,
    }
}

#[inline]
const fn needs_rex_as_byte(number: u8) -> bool {
    matches!(number, 4..=7)
}

impl Place {
    /// No ModRM: the operand is part of the opcode, or there is none.
    pub(crate) const NONE: Place = Place { modrm: 0, len: 0, ..direct(0) };

    /// The register in the low bits of the opcode; those bits are [`Form::plus`]'s affair.
    #[inline]
    pub(crate) const fn opcode(reg: Gpr) -> Place {
        Place { xb: reg as u8 >> 3, ..Place::NONE }
    }
}

impl Gpr {
    #[inline]
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    #[inline]
    pub(crate) const fn place(self) -> Place {
        direct(self as u8)
    }
}

impl Xmm {
    #[inline]
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    #[inline]
    pub(crate) const fn place(self) -> Place {
        direct(self as u8)
    }
}

impl Mem {
    /// Four exceptions make this function: ModRM.rm = 4 means "SIB follows" (so `rsp` and `r12` need one), SIB.index =
    /// 4 means "no index", mod = 0 with rm = 5 means "rip" (so `rbp` and `r13` need a displacement), and mod = 0 with
    /// SIB.base = 5 means "no base, disp32".
    #[inline]
    pub(crate) const fn place(self) -> Place {
        const SIB: u32 = 4;
        const NO_INDEX: u32 = 4 << 3;
        let disp = self.disp as u32;
        let (index, x) = match self.index {
            Some(index) => ((index as u32 & 7) << 3 | (self.shift as u32) << 6, index as u8 >> 3),
            None => (NO_INDEX, 0),
        };
        let Some(base) = self.base else {
            let modrm = SIB | (index | 5) << 8;
            return Place { modrm, len: 2, xb: x << 1, needs_rex_as_byte: false, disp, disp_len: 4 };
        };
        let low = base as u32 & 7;
        let (mode, disp, disp_len) = if self.disp == 0 && low != 5 {
            (0, 0, 0)
        } else if self.disp == self.disp as i8 as i32 {
            (0x40, disp & 0xff, 1) // an immediate may follow
        } else {
            (0x80, disp, 4)
        };
        let (modrm, len) = if self.index.is_some() || low == SIB {
            (mode | SIB | (index | low) << 8, 2)
        } else {
            (mode | low, 1)
        };
        Place { modrm, len, xb: x << 1 | base as u8 >> 3, needs_rex_as_byte: false, disp, disp_len }
    }
}

impl Asm {
    /// Appends one instruction. `reg` is the register for ModRM.reg (0 where the form has a digit), `vvvv` the one for
    /// VEX.vvvv; of `imm` the form takes as many low bytes as it has.
    #[inline]
    pub(crate) fn put(&mut self, f: &Form, reg: u8, vvvv: u8, rm: Place, imm: u64) {
        let (mut head, mut len) = if f.vex_map != 0 { vex(f, reg, vvvv, rm) } else { legacy(f, reg, rm) };
        head |= u64::from(f.opcode) << (8 * len);
        len += u32::from(f.opcode_len);
        let modrm = rm.modrm | u32::from(f.digit | reg & 7) << 3;
        head |= u64::from(modrm) << (8 * len);
        len += u32::from(rm.len);
        let tail = u64::from(rm.disp) | imm << (8 * rm.disp_len);
        self.store(head, len, tail, u32::from(rm.disp_len + f.imm_len));
    }
}

/// Legacy prefixes and REX (2.2.1).
#[inline]
fn legacy(f: &Form, reg: u8, rm: Place) -> (u64, u32) {
    let (mut head, mut len) = (u64::from(f.prefix), u32::from(f.prefix_len));
    let rex = u8::from(f.w) << 3 | reg >> 3 << 2 | rm.xb;
    let as_byte = f.byte_rm && rm.needs_rex_as_byte || f.byte_reg && needs_rex_as_byte(reg);
    if rex != 0 || as_byte {
        head |= u64::from(0x40 | rex) << (8 * len);
        len += 1;
    }
    (head, len)
}

/// VEX (2.3.5), in two bytes where W, X, B and the map allow. R, X, B and vvvv are stored inverted; L is 0 throughout.
#[inline]
fn vex(f: &Form, reg: u8, vvvv: u8, rm: Place) -> (u64, u32) {
    let last = (!vvvv & 15) << 3 | f.vex_pp;
    let not_r = (reg >> 3 ^ 1) << 7;
    if f.vex_map == 1 && !f.w && rm.xb == 0 {
        return (u64::from_le_bytes([0xc5, not_r | last, 0, 0, 0, 0, 0, 0]), 2);
    }
    let second = not_r | (rm.xb ^ 3) << 5 | f.vex_map;
    let third = u8::from(f.w) << 7 | last;
    (u64::from_le_bytes([0xc4, second, third, 0, 0, 0, 0, 0]), 3)
}
