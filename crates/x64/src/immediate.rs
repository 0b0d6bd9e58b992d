//! Where the form depends on a value: immediates take the shortest of several, extensions are named by their source.

use crate::asm::Asm;
use crate::encode::Place;
use crate::error::AsmError;
use crate::form::{Form, byte_rm, form, sizes, wide};
use crate::operand::{Alu, Gpr, Mem, Size};

/// ADD to CMP, by [`Alu`]: rows `04 ib`, `05 id` (the accumulator), `80 /0 ib`, `81 /0 id` and `83 /0 ib`.
static ALU_AI: [[Form; 4]; 8] = [
    sizes("04 ib", "05 id"),
    sizes("0C ib", "0D id"),
    sizes("14 ib", "15 id"),
    sizes("1C ib", "1D id"),
    sizes("24 ib", "25 id"),
    sizes("2C ib", "2D id"),
    sizes("34 ib", "35 id"),
    sizes("3C ib", "3D id"),
];
static ALU_MI: [[Form; 4]; 8] = [
    sizes("80 /0 ib", "81 /0 id"),
    sizes("80 /1 ib", "81 /1 id"),
    sizes("80 /2 ib", "81 /2 id"),
    sizes("80 /3 ib", "81 /3 id"),
    sizes("80 /4 ib", "81 /4 id"),
    sizes("80 /5 ib", "81 /5 id"),
    sizes("80 /6 ib", "81 /6 id"),
    sizes("80 /7 ib", "81 /7 id"),
];
static ALU_MI8: [[Form; 4]; 8] = [
    sizes("80 /0 ib", "83 /0 ib"),
    sizes("80 /1 ib", "83 /1 ib"),
    sizes("80 /2 ib", "83 /2 ib"),
    sizes("80 /3 ib", "83 /3 ib"),
    sizes("80 /4 ib", "83 /4 ib"),
    sizes("80 /5 ib", "83 /5 ib"),
    sizes("80 /6 ib", "83 /6 ib"),
    sizes("80 /7 ib", "83 /7 ib"),
];
static TEST_AI: [Form; 4] = sizes("A8 ib", "A9 id");
static TEST_MI: [Form; 4] = sizes("F6 /0 ib", "F7 /0 id");
static IMUL_RMI: [Form; 4] = wide("69 /r id");
static IMUL_RMI8: [Form; 4] = wide("6B /r ib");
const MOV_OI32: Form = form("B8+rd id");
const MOV_MI32: Form = form("REX.W C7 /0 id");
const MOV_OI64: Form = form("REX.W B8+rd io");
/// MOVZX and MOVSX, MOVSXD, by the source's size.
static MOVZX: [Form; 4] = [byte_rm("0F B6 /r"), form("0F B7 /r"), Form::NONE, Form::NONE];
static MOVSX: [Form; 4] =
    [byte_rm("REX.W 0F BE /r"), form("REX.W 0F BF /r"), form("REX.W 63 /r"), Form::NONE];

/// The value an operand of this size sees, sign-extended: `0xffff` is −1 to a 16-bit operation.
#[inline]
fn seen(size: Size, imm: i32) -> i32 {
    match size {
        Size::B => i32::from(imm as i8),
        Size::W => i32::from(imm as i16),
        Size::D | Size::Q => imm,
    }
}

#[inline]
fn is_byte(imm: i32) -> bool {
    i8::try_from(imm).is_ok()
}

impl Asm {
    /// `op r, imm`; for 64 bits the immediate is sign-extended.
    #[inline]
    pub fn alu_ri(&mut self, op: Alu, size: Size, dst: Gpr, imm: i32) {
        let imm = seen(size, imm);
        if dst == Gpr::Rax && (size == Size::B || !is_byte(imm)) {
            let form = &ALU_AI[op as usize][size as usize];
            self.put(form, 0, 0, Place::NONE, imm as u64);
        } else {
            self.alu_place(op, size, dst.place(), imm);
        }
    }

    /// `op [mem], imm`; for 64 bits the immediate is sign-extended.
    #[inline]
    pub fn alu_mi(&mut self, op: Alu, size: Size, dst: Mem, imm: i32) {
        self.alu_place(op, size, dst.place(), seen(size, imm));
    }

    #[inline]
    fn alu_place(&mut self, op: Alu, size: Size, dst: Place, imm: i32) {
        let forms = if is_byte(imm) { &ALU_MI8 } else { &ALU_MI };
        self.put(&forms[op as usize][size as usize], 0, 0, dst, imm as u64);
    }

    /// `test r, imm`; for 64 bits the immediate is sign-extended.
    #[inline]
    pub fn test_ri(&mut self, size: Size, a: Gpr, imm: i32) {
        if a == Gpr::Rax {
            self.put(&TEST_AI[size as usize], 0, 0, Place::NONE, imm as u64);
        } else {
            self.put(&TEST_MI[size as usize], 0, 0, a.place(), imm as u64);
        }
    }

    /// `imul r, r, imm`: the low half of the product. Not for bytes.
    #[inline]
    pub fn imul_rri(&mut self, size: Size, dst: Gpr, src: Gpr, imm: i32) {
        let imm = seen(size, imm);
        let form = &(if is_byte(imm) { &IMUL_RMI8 } else { &IMUL_RMI })[size as usize];
        if !form.exists() {
            return self.fail(AsmError::NoForm { method: "imul_rri", at: self.len() });
        }
        self.put(form, dst.number(), 0, src.place(), imm as u64);
    }

    /// Puts a constant into all 64 bits of a register, in 5 to 10 bytes. Never by `xor`: the flags stay as they are.
    #[inline]
    pub fn mov_ri(&mut self, dst: Gpr, imm: i64) {
        let low = dst as u8 & 7;
        if u32::try_from(imm).is_ok() {
            self.put(&MOV_OI32.plus(low), 0, 0, Place::opcode(dst), imm as u64);
        } else if i32::try_from(imm).is_ok() {
            self.put(&MOV_MI32, 0, 0, dst.place(), imm as u64);
        } else {
            self.put(&MOV_OI64.plus(low), 0, 0, Place::opcode(dst), imm as u64);
        }
    }

    /// `movzx`: the low byte (`B`) or word (`W`) of `src`, zero-extended to 64 bits.
    #[inline]
    pub fn movzx_rr(&mut self, dst: Gpr, src_size: Size, src: Gpr) {
        self.extend("movzx_rr", &MOVZX, dst, src_size, src.place());
    }

    /// `movzx`: a byte (`B`) or word (`W`) of memory, zero-extended to 64 bits.
    #[inline]
    pub fn movzx_rm(&mut self, dst: Gpr, src_size: Size, src: Mem) {
        self.extend("movzx_rm", &MOVZX, dst, src_size, src.place());
    }

    /// `movsx`, `movsxd`: the low `B`, `W` or `D` of `src`, sign-extended to 64 bits.
    #[inline]
    pub fn movsx_rr(&mut self, dst: Gpr, src_size: Size, src: Gpr) {
        self.extend("movsx_rr", &MOVSX, dst, src_size, src.place());
    }

    /// `movsx`, `movsxd`: a `B`, `W` or `D` of memory, sign-extended to 64 bits.
    #[inline]
    pub fn movsx_rm(&mut self, dst: Gpr, src_size: Size, src: Mem) {
        self.extend("movsx_rm", &MOVSX, dst, src_size, src.place());
    }

    #[inline]
    fn extend(&mut self, method: &'static str, forms: &'static [Form; 4], dst: Gpr, src: Size, rm: Place) {
        let form = &forms[src as usize];
        if !form.exists() {
            return self.fail(AsmError::NoForm { method, at: self.len() });
        }
        self.put(form, dst.number(), 0, rm, 0);
    }
}
