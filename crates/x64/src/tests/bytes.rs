//! Bytes by hand, from the manual: the exceptions of ModRM and SIB, REX for byte registers, the shortest form.

use crate::Gpr::*;
use crate::Size::*;
use crate::{Alu, Asm, AsmError, Cc, Fs, Mem, Xmm};

#[track_caller]
fn encodes(emit: impl Fn(&mut Asm), bytes: &[u8]) {
    let mut asm = Asm::new(0);
    emit(&mut asm);
    assert_eq!(asm.finish(), Ok(bytes));
}

#[test]
fn some_bases_need_a_sib_byte_or_a_displacement() {
    encodes(|a| a.mov_rm(Q, Rax, Mem::base(Rax, 0)), &[0x48, 0x8b, 0x00]);
    encodes(|a| a.mov_rm(Q, Rax, Mem::base(Rsp, 0)), &[0x48, 0x8b, 0x04, 0x24]);
    encodes(|a| a.mov_rm(Q, Rax, Mem::base(R12, 8)), &[0x49, 0x8b, 0x44, 0x24, 8]);
    encodes(|a| a.mov_rm(Q, Rax, Mem::base(Rbp, 0)), &[0x48, 0x8b, 0x45, 0]);
    encodes(|a| a.mov_rm(Q, Rax, Mem::base(R13, 0)), &[0x49, 0x8b, 0x45, 0]);
    encodes(|a| a.mov_rm(D, Rax, Mem::index(R13, R12, 4, 0)), &[0x43, 0x8b, 0x44, 0xa5, 0]);
    encodes(|a| a.lea(Q, Rcx, Mem::scaled(Rdx, 8, 1)), &[0x48, 0x8d, 0x0c, 0xd5, 1, 0, 0, 0]);
    encodes(|a| a.lea(Q, Rcx, Mem::scaled(Rdx, 1, 1)), &[0x48, 0x8d, 0x4a, 1]);
}

#[test]
fn a_displacement_takes_one_byte_where_it_fits() {
    for (disp, tail) in [(127, &[0x43, 0x7f][..]), (-128, &[0x43, 0x80]), (128, &[0x83, 0x80, 0, 0, 0])] {
        encodes(|a| a.mov_rm(D, Rax, Mem::base(Rbx, disp)), &[&[0x8b], tail].concat());
    }
}

#[test]
fn byte_registers_get_a_rex_prefix_only_where_they_need_it() {
    encodes(|a| a.mov_rr(B, Rax, Rbx), &[0x88, 0xd8]);
    encodes(|a| a.mov_rr(B, Rax, Rsi), &[0x40, 0x88, 0xf0]);
    encodes(|a| a.mov_rr(B, Rsp, Rax), &[0x40, 0x88, 0xc4]);
    encodes(|a| a.mov_mr(B, Mem::base(Rsi, 0), Rdx), &[0x88, 0x16]);
    encodes(|a| a.setcc(Cc::E, Rdi), &[0x40, 0x0f, 0x94, 0xc7]);
    encodes(|a| a.movzx_rr(Rsi, B, Rax), &[0x0f, 0xb6, 0xf0]);
    encodes(|a| a.movzx_rr(Rax, B, Rsi), &[0x40, 0x0f, 0xb6, 0xc6]);
    encodes(|a| a.neg(B, Rax), &[0xf6, 0xd8]);
}

#[test]
fn immediates_take_the_shortest_form() {
    encodes(|a| a.alu_ri(Alu::Add, Q, Rcx, 127), &[0x48, 0x83, 0xc1, 0x7f]);
    encodes(|a| a.alu_ri(Alu::Add, Q, Rcx, 128), &[0x48, 0x81, 0xc1, 0x80, 0, 0, 0]);
    encodes(|a| a.alu_ri(Alu::Add, Q, Rax, 128), &[0x48, 0x05, 0x80, 0, 0, 0]);
    encodes(|a| a.alu_ri(Alu::Add, Q, Rax, -1), &[0x48, 0x83, 0xc0, 0xff]);
    encodes(|a| a.alu_ri(Alu::Cmp, B, Rax, 0xff), &[0x3c, 0xff]);
    encodes(|a| a.alu_ri(Alu::And, W, Rdx, 0xffff), &[0x66, 0x83, 0xe2, 0xff]);
    encodes(|a| a.alu_mi(Alu::Sub, W, Mem::base(Rbx, 0), 0x1234), &[0x66, 0x81, 0x2b, 0x34, 0x12]);
    encodes(|a| a.imul_rri(D, Rax, Rcx, 100), &[0x6b, 0xc1, 100]);
    encodes(|a| a.imul_rri(D, Rax, Rcx, 1000), &[0x69, 0xc1, 0xe8, 3, 0, 0]);
}

#[test]
fn constants_take_the_shortest_move_that_keeps_the_flags() {
    encodes(|a| a.mov_ri(Rax, 0), &[0xb8, 0, 0, 0, 0]);
    encodes(|a| a.mov_ri(R8, 0xffff_ffff), &[0x41, 0xb8, 0xff, 0xff, 0xff, 0xff]);
    encodes(|a| a.mov_ri(Rax, -1), &[0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff]);
    encodes(|a| a.mov_ri(R9, 0x1_0000_0000), &[0x49, 0xb9, 0, 0, 0, 0, 1, 0, 0, 0]);
    encodes(|a| a.mov_ri(R9, i64::MIN), &[0x49, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0x80]);
}

#[test]
fn prefixes_stand_in_the_manuals_order() {
    encodes(|a| a.popcnt(W, R8, Rax), &[0x66, 0xf3, 0x44, 0x0f, 0xb8, 0xc0]);
    encodes(|a| a.lock_alu_mr(Alu::Or, W, Mem::base(Rax, 0), R9), &[0x66, 0xf0, 0x44, 0x09, 0x08]);
    encodes(|a| a.fmov_xm(Fs::D, Xmm::Xmm9, Mem::base(Rdi, 0)), &[0xf2, 0x44, 0x0f, 0x10, 0x0f]);
    encodes(|a| a.cvtsi2f(Fs::D, Q, Xmm::Xmm1, R10), &[0xf2, 0x49, 0x0f, 0x2a, 0xca]);
    encodes(|a| a.shrx(Q, Rax, R9, Rcx), &[0xc4, 0xc2, 0xf3, 0xf7, 0xc1]);
    let far = Mem::index(R12, R13, 8, 0x1234_5678);
    let bytes = [0x66, 0xf0, 0x47, 0x0f, 0xb1, 0xbc, 0xec, 0x78, 0x56, 0x34, 0x12];
    encodes(|a| a.lock_cmpxchg_mr(W, far, R15), &bytes);
}

#[test]
fn what_has_no_form_is_an_error_that_lasts_until_clear() {
    let mut asm = Asm::new(0);
    asm.ret();
    asm.imul_rr(B, Rax, Rcx);
    asm.lock_alu_mr(Alu::Cmp, Q, Mem::base(Rax, 0), Rcx);
    assert_eq!(asm.finish(), Err(AsmError::NoForm { method: "imul_rr", at: 1 }));
    assert_eq!(asm.finish(), Err(AsmError::NoForm { method: "imul_rr", at: 1 }));
    asm.clear(0);
    asm.movzx_rr(Rax, D, Rcx);
    assert_eq!(asm.finish(), Err(AsmError::NoForm { method: "movzx_rr", at: 0 }));
    asm.clear(0);
    asm.ret();
    assert_eq!(asm.finish(), Ok(&[0xc3][..]));
}

#[test]
fn a_condition_and_its_opposite_exclude_each_other() {
    for (cc, not) in [(Cc::E, Cc::Ne), (Cc::B, Cc::Ae), (Cc::Be, Cc::A), (Cc::L, Cc::Ge), (Cc::Le, Cc::G)] {
        assert_eq!((cc.not(), not.not()), (not, cc));
    }
}

#[test]
#[should_panic(expected = "rsp cannot be an index")]
fn rsp_as_an_index_is_caught_in_tests() {
    let _ = Mem::index(Rax, Rsp, 1, 0);
}

#[test]
fn the_buffer_grows_and_keeps_what_it_has() {
    let mut asm = Asm::new(0);
    for i in 0..10_000 {
        asm.mov_ri(Rbx, i64::MAX - i);
    }
    for (i, insn) in asm.bytes().chunks(10).enumerate() {
        assert_eq!(insn[2..], (i64::MAX - i as i64).to_le_bytes());
    }
    assert_eq!(asm.len(), 100_000);
}
