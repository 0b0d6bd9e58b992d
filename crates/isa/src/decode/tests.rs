use proptest::prelude::*;

use super::*;
use crate::table::{Ext, Op};

/// The definition of decoding: the first row that matches.
fn linear(raw: u32) -> Result<Insn, u32> {
    let (word, len, rows) = if raw & 3 == 3 { (raw, 4, &ROWS[..]) } else { (raw & 0xffff, 2, &RVC[..]) };
    let row = rows.iter().find(|row| row.code.matches(word));
    row.map(|row| take_apart(row, word, len)).ok_or(word)
}

#[test]
fn an_insn_is_sixteen_bytes() {
    assert_eq!(size_of::<Insn>(), 16);
}

#[test]
fn every_halfword_decodes_as_the_first_row_that_matches() {
    let mut valid = 0;
    for raw in (0..=0xffff).filter(|raw| raw & 3 != 3) {
        let got = decode(raw | 0xabcd_0000);
        assert_eq!(got, linear(raw), "{raw:04x}");
        // No hidden overlap: at most one row, but for the named refinement.
        let rows: Vec<_> = RVC.iter().filter(|r| r.code.matches(raw)).map(|r| r.name).collect();
        assert!(rows.len() <= 1 || rows == ["c.addi16sp", "c.lui"], "{raw:04x} {rows:?}");
        valid += got.is_ok() as u32;
    }
    assert_eq!(valid, 3 * (1 << 14) - reserved_halfwords());
}

/// How many of the 3 * 2^14 compressed encodings the RV64C listing reserves.
fn reserved_halfwords() -> u32 {
    let addi4spn_zero = 8;
    let quadrant0_100 = 1 << 11;
    let addiw_x0 = 64;
    let lui_zero = 32; // c.lui and c.addi16sp alike
    let arithmetic = 2 * 64; // 100111 with funct2 10 and 11
    let lwsp_ldsp_x0 = 2 * 64;
    let jr_x0 = 1;
    addi4spn_zero + quadrant0_100 + addiw_x0 + lui_zero + arithmetic + lwsp_ldsp_x0 + jr_x0
}

#[test]
fn every_wide_row_decodes_to_itself() {
    let mut rng = 1u64;
    for row in &ROWS {
        for fill in 0..2000u32 {
            rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let free = match fill {
                0 => 0,
                1 => u32::MAX,
                _ => (rng >> 32) as u32,
            };
            let word = row.code.bits | free & !row.code.mask;
            let insn = decode(word).expect("a row's own word");
            assert_eq!(Ok(insn), linear(word), "{word:08x}");
            assert!(insn.op == row.op || (insn.op, row.op) == (Op::Pause, Op::Fence), "{word:08x}");
        }
    }
}

#[test]
fn known_words() {
    let cases: &[(u32, Op, [u8; 3], i32)] = &[
        (0xfff0_0513, Op::Addi, [10, 0, 0], -1),     // li a0,-1
        (0x8000_02b7, Op::Lui, [5, 0, 0], i32::MIN), // lui t0,0x80000
        (0xfe00_0ee3, Op::Beq, [0, 0, 0], -4),       // beq zero,zero,-4
        (0x7fff_f06f, Op::Jal, [0, 0, 0], 0xffffe),  // j +0xffffe
        (0x03f5_1513, Op::Slli, [10, 10, 0], 63),    // slli a0,a0,63
        (0x3052_9073, Op::Csrrw, [0, 5, 0], 0x305),  // csrw mtvec,t0
        (0x0100_000f, Op::Pause, [0, 0, 0], 0),
        (0x0ff0_000f, Op::Fence, [0, 0, 0], 0xff),
        (0x8330_000f, Op::Fence, [0, 0, 0], 0x833), // fence.tso
        (0xfea4_3c23, Op::Sd, [0, 8, 10], -8),      // sd a0,-8(s0)
        (0x1141, Op::Addi, [2, 2, 0], -16),         // c.addi sp,-16
        (0x0001, Op::Addi, [0, 0, 0], 0),           // c.nop
        (0xe406, Op::Sd, [0, 2, 1], 8),             // c.sdsp ra,8(sp)
        (0x8082, Op::Jalr, [0, 1, 0], 0),           // ret
        (0x9002, Op::Ebreak, [0, 0, 0], 0),
        (0x6105, Op::Addi, [2, 2, 0], 32),       // c.addi16sp sp,32
        (0x852e, Op::Add, [10, 0, 11], 0),       // c.mv a0,a1
        (0xbffd, Op::Jal, [0, 0, 0], -2),        // c.j -2
        (0x7529, Op::Lui, [10, 0, 0], -0x16000), // c.lui a0,0xfffea
    ];
    for &(raw, op, [rd, rs1, rs2], imm) in cases {
        let len = if raw & 3 == 3 { 4 } else { 2 };
        let want = Insn { op, rd, rs1, rs2, rs3: 0, rm: 0, len, imm, raw };
        assert_eq!(decode(raw), Ok(want), "{raw:x}");
    }
}

#[test]
fn reserved_words_are_refused_with_their_own_bits() {
    assert_eq!(decode(0), Err(0));
    assert_eq!(decode(0xdead_0000), Err(0));
    assert_eq!(decode(0x1234_9c41), Err(0x9c41));
    assert_eq!(decode(0xffff_ffff), Err(0xffff_ffff));
    assert_eq!(decode(0x1015_252f), Err(0x1015_252f), "lr.w with rs2 = x1");
    assert_eq!(decode(0x0205_1513 | 1 << 26), Err(0x0605_1513), "slli with shamt[6]");
}

#[test]
fn an_absent_extension_takes_its_rows_away() {
    let all = Extensions::ALL;
    let mul = 0x0205_0533;
    assert!(decode_with(mul, all).is_ok());
    assert_eq!(decode_with(mul, all.without(Ext::M)), Err(mul));
    let c_fld = 0x2108;
    assert!(decode_with(c_fld, all).is_ok());
    assert_eq!(decode_with(c_fld, all.without(Ext::D)), Err(c_fld));
    assert_eq!(decode_with(c_fld, all.without(Ext::C)), Err(c_fld));
    // Without its name, PAUSE is what it always was: a fence.
    let pause = decode_with(0x0100_000f, all.without(Ext::Zihintpause));
    assert_eq!(pause.map(|i| i.op), Ok(Op::Fence));
}

proptest! {
    #[test]
    fn any_word_decodes_as_the_first_row_that_matches(raw: u32) {
        prop_assert_eq!(decode(raw), linear(raw));
        prop_assert_eq!(decode(raw | 3), linear(raw | 3));
    }
}
