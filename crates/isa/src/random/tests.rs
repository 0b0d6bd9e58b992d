use super::*;
use crate::table::Ext;
use crate::{disasm, encode};

#[test]
fn the_stream_of_a_seed_is_fixed() {
    // The published first values for seed 1234567.
    let mut rng = SplitMix64::new(1234567);
    assert_eq!(rng.next_u64(), 6457827717110365317);
    assert_eq!(rng.next_u64(), 3203168211198807973);
    assert_eq!(rng.below(0), 0);
    assert!(rng.pick::<u8>(&[]).is_none());

    let filter = Filter::new(Extensions::ALL);
    let stream = |seed| {
        let mut rng = SplitMix64::new(seed);
        (0..100).map(|_| random_insn(&mut rng, &filter).map(|i| i.raw)).collect::<Vec<_>>()
    };
    assert_eq!(stream(5), stream(5));
    assert_ne!(stream(5), stream(6));
}

#[test]
fn all_rows_turn_up_and_encode() {
    let filter = Filter::new(Extensions::ALL);
    let mut rng = SplitMix64::new(3);
    let mut names = std::collections::HashSet::new();
    for _ in 0..20_000 {
        let insn = random_insn(&mut rng, &filter).expect("an open filter");
        assert_eq!(encode(&insn), Ok(insn.raw));
        let text = disasm(&insn, 0);
        let name = text.split('\t').next().expect("a name");
        names.insert(
            name.trim_end_matches(".aqrl").trim_end_matches(".aq").trim_end_matches(".rl").to_string(),
        );
    }
    assert_eq!(names.len(), ROWS.len() + RVC.len());
}

#[test]
fn filters_hold() {
    let extensions = [Ext::I, Ext::C, Ext::F].into_iter().fold(Extensions::NONE, Extensions::with);
    let mut filter = Filter::new(extensions).only(|op| op.effect() != Effect::System);
    filter.x_dst = 1 << 10 | 1 << 5;
    filter.x_src = 1 << 11 | 1 << 10 | 1;
    filter.x_base = 1 << 12;
    filter.f_dst = 1 << 9;
    filter.f_src = 1 << 30 | 1 << 9;
    filter.offsets = -16..=40;
    filter.reserved_rm = 50;
    let mut rng = SplitMix64::new(4);
    let (mut reserved, mut short) = (0, 0);
    for _ in 0..5000 {
        let insn = random_insn(&mut rng, &filter).expect("possible");
        assert!(extensions.has(insn.op.extension()), "{insn:?}");
        assert_ne!(insn.op.effect(), Effect::System);
        let base = insn.op.form().operands().contains(&Operand::Mem);
        let src = filter.x_src | if base { filter.x_base } else { 0 };
        assert_eq!(insn.x_reads() & !src, 0, "{insn:?}");
        assert!(insn.x_writes() & !(filter.x_dst) == 0, "{insn:?}");
        assert!(insn.f_reads() & !filter.f_src == 0, "{insn:?}");
        assert!(insn.f_writes() & !filter.f_dst == 0, "{insn:?}");
        if base && insn.op != Op::Jalr {
            assert_eq!(insn.rs1, 12);
            assert!(filter.offsets.contains(&insn.imm), "{insn:?}");
        }
        reserved += (insn.op.effect() == Effect::Fp && matches!(insn.rm, 5 | 6)) as u32;
        short += (insn.len == 2) as u32;
    }
    assert!(reserved > 100 && short > 500, "{reserved} {short}");
}

#[test]
fn csrs_come_from_the_list_and_an_empty_filter_gives_nothing() {
    let mut filter = Filter::new(Extensions::ALL).only(|op| op.effect() == Effect::Csr);
    filter.csrs = vec![0x001, 0xc00];
    let mut rng = SplitMix64::new(8);
    for _ in 0..200 {
        let insn = random_insn(&mut rng, &filter).expect("possible");
        assert!(insn.imm == 1 || insn.imm == 0xc00);
    }
    assert_eq!(random_insn(&mut rng, &Filter::new(Extensions::NONE)), None);
    filter.x_dst = 0;
    assert_eq!(random_insn(&mut rng, &filter), None);
}
