use std::collections::HashSet;

use super::pattern::{Seg, compile, overlap};
use super::*;

#[test]
fn rows_lie_where_their_op_says_and_names_are_unique() {
    for (n, op) in Op::ALL.iter().enumerate() {
        assert_eq!(*op as usize, n);
        assert_eq!(op.row().op, *op);
    }
    let names: HashSet<_> = ROWS.iter().chain(&RVC).map(|row| row.name).collect();
    assert_eq!(names.len(), ROWS.len() + RVC.len());
    for row in &ROWS {
        assert_eq!((row.pattern.len(), &row.pattern[30..]), (32, "11"), "{}", row.name);
    }
    for row in &RVC {
        assert!(row.pattern.len() == 16 && &row.pattern[14..] != "11", "{}", row.name);
    }
}

/// The fields of a pattern are the operands of its form, no more and no fewer.
#[test]
fn every_field_is_an_operand_and_every_operand_a_field() {
    for row in &ROWS {
        // Their rd and rs1 are reserved, and ignored.
        if matches!(row.op, Op::Fence | Op::FenceI) {
            continue;
        }
        let mut letters: String = row
            .form
            .operands()
            .iter()
            .map(|operand| match operand {
                Operand::Rd | Operand::Fd => "d",
                Operand::Rs1 | Operand::Fs1 | Operand::Addr | Operand::Uimm => "s",
                Operand::Rs2 | Operand::Fs2 => "t",
                Operand::Fs3 => "u",
                Operand::Imm | Operand::Shamt | Operand::Upper | Operand::Target => "i",
                Operand::Csr | Operand::Sets => "i",
                Operand::Mem => "is",
                Operand::Rm => "m",
            })
            .collect();
        if row.ext == Ext::A {
            letters.push_str("ar");
        }
        let wanted: HashSet<_> = letters.chars().collect();
        let found: HashSet<_> = row.pattern.chars().filter(|c| !matches!(c, '0' | '1')).collect();
        assert_eq!(wanted, found, "{}", row.name);
    }
}

#[test]
fn a_pattern_compiles_to_masks_and_runs() {
    let code = compile("iiiiiiitttttsssss000iiiii1100011", "imm[12|10:5|4:1|11]", [0; 3]);
    assert_eq!((code.mask, code.bits, code.nonzero), (0x707f, 0x63, 0));
    assert_eq!((code.rs1.shift, code.rs2.shift, code.rd.mask), (15, 20, 0));
    let runs: Vec<_> = code.imm.segs[..code.imm.count as usize]
        .iter()
        .map(|Seg { from, to, mask }| (*from, *to, *mask))
        .collect();
    assert_eq!(runs, [(31, 12, 1), (25, 5, 0x3f), (8, 1, 0xf), (7, 11, 1)]);
    assert_eq!(code.imm.top, 12);

    let code = compile("011idddddiiiii01", "nzimm[17|16:12]", [0; 3]);
    assert_eq!((code.nonzero, code.imm.top), (0x107c, 17));
    let code = compile("000iiiiiiiiddd00", "nzuimm[5:4|9:6|2|3]", [0, 2, 0]);
    assert_eq!((code.rd.get(0), code.rs1.get(0xffff), code.imm.top), (8, 2, 31));
}

#[test]
fn overlap_sees_common_words() {
    let code = |pattern| compile(pattern, "", [0; 3]);
    let add = code("0000000tttttsssss000ddddd0110011");
    assert!(!overlap(&add, &code("0100000tttttsssss000ddddd0110011")));
    assert!(overlap(&add, &code("0000000tttttsssss000000010110011")));
    // jr and mv differ only by rs2 being zero or not.
    assert!(!overlap(&code("1000SSSSS0000010"), &code("1000dddddTTTTT10")));
    assert!(overlap(&code("1000SSSSS0000010"), &code("1000dddddttttt10")));
}

fn refused(pattern: &'static str, layout: &'static str) -> bool {
    std::panic::catch_unwind(|| compile(pattern, layout, [0; 3])).is_err()
}

#[test]
fn text_that_does_not_add_up_is_refused() {
    assert!(!refused("iiiiiiiiiiiisssss000ddddd0010011", "imm[11:0]"));
    assert!(refused("iiiiiiiiiiiisssss000ddddd001001", "imm[11:0]"), "31 characters");
    assert!(refused("iiiiiiiiiiiisssss000ddddd001001?", "imm[11:0]"), "a letter that is none");
    assert!(refused("iiiiiiiiiiiisssss000ddddd0010011", "imm[10:0]"), "a letter too many");
    assert!(refused("iiiiiiiiiiiisssss000ddddd0010011", "imm[12:0]"), "a letter too few");
    assert!(refused("dd00000tttttsssss000ddd000110011", ""), "a field in two pieces");
    assert!(refused("0000000tttttsssss000dddd00110011", ""), "a field of four bits");
}

#[test]
fn effects_of_a_sample() {
    assert_eq!(Op::AmoaddW.effect(), Effect::Amo(4));
    assert!(Op::Jal.effect().ends_block() && !Op::Jal.effect().may_trap());
    assert!(Op::Csrrw.effect().ends_block() && !Op::FaddS.effect().ends_block());
    assert_eq!((Op::Fsd.effect().writes(), Op::Fsd.effect().reads()), (Some(8), None));
    assert!(Op::Fld.effect().needs_fp() && !Op::Ld.effect().needs_fp());
    assert_eq!(Op::Sh1add.extension(), Ext::Zba);
    assert!(!Extensions::NONE.with(Ext::D).has(Ext::F));
}
