//! Cases for the methods that choose their form by a value.

use super::opinion::Operand;
use super::random::{Draw, Rng, Selector, Widths};
use super::{Asked, BASE, Case};
use crate::{Alu, Asm, Cc, Gpr, Mem, Size};

pub const CASES: &[Case] = &[
    Case {
        method: "alu_ri",
        call: |rng, asm| {
            let (op, size, w) = (Alu::pick(rng), Size::pick(rng), sized);
            let (dst, d) = Gpr::draw(rng, w(size));
            let (imm, i) = i32::draw(rng, w(size));
            asm.alu_ri(op, size, dst, imm);
            let key =
                vec![op as u8, size as u8, u8::from(dst == Gpr::Rax), (i8::try_from(imm).is_ok()).into()];
            asked(format!("{op:?}"), vec![d, i], key)
        },
    },
    Case {
        method: "alu_mi",
        call: |rng, asm| {
            let (op, size) = (Alu::pick(rng), Size::pick(rng));
            let (dst, d) = Mem::draw(rng, sized(size));
            let (imm, i) = i32::draw(rng, sized(size));
            asm.alu_mi(op, size, dst, imm);
            asked(format!("{op:?}"), vec![d, i], vec![op as u8, size as u8, i8::try_from(imm).is_ok().into()])
        },
    },
    Case {
        method: "test_ri",
        call: |rng, asm| {
            let size = Size::pick(rng);
            let (a, d) = Gpr::draw(rng, sized(size));
            let (imm, i) = i32::draw(rng, sized(size));
            asm.test_ri(size, a, imm);
            asked("test".into(), vec![d, i], vec![size as u8, u8::from(a == Gpr::Rax)])
        },
    },
    Case {
        method: "imul_rri",
        call: |rng, asm| {
            let size = Size::pick(rng);
            let (dst, d) = Gpr::draw(rng, sized(size));
            let (src, s) = Gpr::draw(rng, sized(size));
            let (imm, i) = i32::draw(rng, sized(size));
            asm.imul_rri(size, dst, src, imm);
            asked("imul".into(), vec![d, s, i], vec![size as u8, i8::try_from(imm).is_ok().into()])
        },
    },
    Case {
        method: "mov_ri",
        call: |rng, asm| {
            let imm = rng.value();
            // A 32-bit destination clears the upper half, so it is right only for a value without one.
            let width = if imm as u64 >> 32 == 0 { Size::D } else { Size::Q };
            let (dst, d) = Gpr::draw(rng, sized(width));
            asm.mov_ri(dst, imm);
            let key = vec![width as u8, u8::from(i32::try_from(imm).is_ok())];
            asked("mov".into(), vec![d, Operand::imm(imm, sized(width).gpr)], key)
        },
    },
    Case { method: "movzx_rr", call: |rng, asm| extension::<Gpr>(rng, asm, Asm::movzx_rr, Size::D) },
    Case { method: "movzx_rm", call: |rng, asm| extension::<Mem>(rng, asm, Asm::movzx_rm, Size::D) },
    Case { method: "movsx_rr", call: |rng, asm| extension::<Gpr>(rng, asm, Asm::movsx_rr, Size::Q) },
    Case { method: "movsx_rm", call: |rng, asm| extension::<Mem>(rng, asm, Asm::movsx_rm, Size::Q) },
    Case {
        method: "jmp_abs",
        call: |rng, asm| {
            let target = near(rng);
            asm.jmp_abs(target);
            asked("jmp".into(), vec![Operand::Target(target)], vec![])
        },
    },
    Case {
        method: "call_abs",
        call: |rng, asm| {
            let target = near(rng);
            asm.call_abs(target);
            asked("call".into(), vec![Operand::Target(target)], vec![])
        },
    },
    Case {
        method: "jcc_abs",
        call: |rng, asm| {
            let (cc, target) = (Cc::pick(rng), near(rng));
            asm.jcc_abs(cc, target);
            asked(format!("j{cc:?}"), vec![Operand::Target(target)], vec![cc as u8])
        },
    },
];

fn asked(mnemonic: String, operands: Vec<Operand>, key: Vec<u8>) -> Asked {
    Asked { mnemonic: mnemonic.to_lowercase(), operands, key }
}

fn sized(size: Size) -> Widths {
    Widths { gpr: 1 << size as u8, mem: 1 << size as u8 }
}

/// An address that a branch at [`BASE`] reaches.
fn near(rng: &mut Rng) -> u64 {
    BASE.wrapping_add_signed(i64::from(rng.value() as i32 >> 1))
}

fn extension<T: Draw>(
    rng: &mut Rng,
    asm: &mut Asm,
    method: fn(&mut Asm, Gpr, Size, T),
    dst_size: Size,
) -> Asked {
    let src_size = Size::pick(rng);
    let (dst, d) = Gpr::draw(rng, sized(dst_size));
    let (src, s) = T::draw(rng, sized(src_size));
    method(asm, dst, src_size, src);
    let mnemonic = match (dst_size, src_size) {
        (Size::D, _) => "movzx",
        (_, Size::D) => "movsxd",
        _ => "movsx",
    };
    asked(mnemonic.into(), vec![d, s], vec![src_size as u8])
}
