use proptest::prelude::*;

use super::*;
use crate::table::{Op, ROWS};

/// Words of a random row with random fields: uniform words would hardly ever meet a sparse row.
fn valid_word() -> impl Strategy<Value = u32> {
    (0..ROWS.len(), any::<u32>()).prop_map(|(n, fill)| {
        let code = &ROWS[n].code;
        code.bits | fill & !code.mask
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn encode_undoes_decode(word in valid_word()) {
        let insn = decode(word).expect("valid");
        prop_assert_eq!(encode(&insn), Ok(word));
    }

    #[test]
    fn what_is_encoded_is_what_comes_back(word in valid_word(), imm: i32, rd in 0u8..40, rs1 in 0u8..40) {
        let insn = Insn { imm, rd, rs1, ..decode(word).expect("valid") };
        if let Ok(word) = encode(&insn) {
            prop_assert_eq!(decode(word), Ok(Insn { raw: word, ..insn }));
        }
    }
}

#[test]
fn every_halfword_and_its_expansion_come_back() {
    for raw in (0..=0xffff).filter(|raw| raw & 3 != 3) {
        let Ok(insn) = decode(raw) else { continue };
        assert_eq!(encode(&insn), Ok(raw), "{raw:04x}");
        let wide = Insn { len: 4, ..insn };
        let word = encode(&wide).expect("an expansion is encodable");
        assert_eq!(decode(word), Ok(Insn { raw: word, ..wide }), "{raw:04x}");
        // Found again by its meaning alone, in this or an equivalent encoding.
        let found = encode(&Insn { raw: 3, ..insn }).expect("a compressed encoding exists");
        assert_eq!(decode(found), Ok(Insn { raw: found, ..insn }), "{raw:04x}");
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let addi = decode(0x0015_0513).expect("addi a0,a0,1");
    for bad in [
        Insn { imm: 2048, ..addi },
        Insn { imm: -2049, ..addi },
        Insn { rd: 32, ..addi },
        Insn { rs2: 1, ..addi },
        Insn { op: Op::Beq, rd: 0, imm: 3, ..addi },
        Insn { len: 2, imm: 32, ..addi },
    ] {
        let error = encode(&bad).expect_err("does not fit");
        assert!(error.to_string().contains("cannot encode"), "{error}");
    }
    assert_eq!(encode(&Insn { imm: -2048, ..addi }), Ok(0x8005_0513));
    assert_eq!(encode(&Insn { len: 2, ..addi }), Ok(0x0505));
}
