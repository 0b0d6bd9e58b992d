//! Labels, fields that wait, reach, and patching.

use super::BASE;
use super::opinion::{Operand, decoded_all};
use super::random::{Rng, Selector};
use crate::{Alu, Asm, AsmError, Cc, Gpr, Size, patch_rel32};

/// Random code with branches both ways: another decoder finds each at its label.
#[test]
fn branches_lead_to_their_labels() {
    let mut rng = Rng::named("branches");
    let mut asm = Asm::new(BASE);
    for _ in 0..200 {
        asm.clear(BASE);
        let labels: Vec<_> = (0..8).map(|_| asm.label()).collect();
        let mut unbound = labels.clone();
        let mut wanted = Vec::new();
        for _ in 0..60 {
            let to = rng.one_of(&labels);
            let cc = Cc::pick(&mut rng);
            let site = asm.here();
            match rng.next() % 6 {
                0 => asm.jmp(to),
                1 => asm.jcc(cc, to),
                2 => asm.call(to),
                _ => {
                    asm.alu_ri(Alu::Add, Size::Q, Gpr::Rbx, rng.value() as i32);
                    if rng.next().is_multiple_of(4) && !unbound.is_empty() {
                        let label = unbound.remove(0);
                        asm.bind(label);
                        assert_eq!(asm.address(label), Some(asm.here()));
                    }
                    continue;
                }
            }
            wanted.push((site, to));
        }
        for label in unbound {
            assert_eq!(asm.address(label), None);
            asm.bind(label);
        }
        let places: Vec<_> = wanted.iter().map(|&(site, to)| (site, asm.address(to).unwrap())).collect();
        let code = asm.finish().unwrap();
        let mut found = Vec::new();
        let mut address = BASE;
        for insn in decoded_all(code, BASE) {
            if let [Operand::Target(to)] = insn.operands[..] {
                found.push((address, to));
            }
            address += insn.len as u64;
        }
        assert_eq!(found, places);
    }
}

#[test]
fn short_branches_reach_127_bytes_and_no_further() {
    for (gap, fits) in [(0, true), (127, true), (128, false)] {
        let mut asm = Asm::new(BASE);
        let label = asm.label();
        asm.jcc_short(Cc::G, label);
        asm.nop(gap);
        asm.bind(label);
        let target = asm.here();
        match asm.finish() {
            Ok(code) => assert_eq!((fits, &code[..2]), (true, &[0x7f, gap as u8][..])),
            Err(e) => assert_eq!((fits, e), (false, AsmError::OutOfReach { at: 1, target, width: 1 })),
        }
    }
    for (gap, fits) in [(126, true), (127, false)] {
        let mut asm = Asm::new(BASE);
        let label = asm.label();
        asm.bind(label);
        asm.nop(gap);
        asm.jmp_short(label);
        assert_eq!(asm.finish().is_ok(), fits, "{gap} bytes back");
    }
}

#[test]
fn absolute_branches_reach_two_gibibytes_and_no_further() {
    let next = BASE + 5;
    for (target, fits) in [
        (next + 0x7fff_ffff, true),
        (next + 0x8000_0000, false),
        (next - 0x8000_0000, true),
        (next - 0x8000_0001, false),
    ] {
        let mut asm = Asm::new(BASE);
        asm.jmp_abs(target);
        match asm.finish() {
            Ok(code) => assert_eq!(
                (fits, decoded_all(code, BASE)[0].operands[0].clone()),
                (true, Operand::Target(target))
            ),
            Err(e) => assert_eq!((fits, e), (false, AsmError::OutOfReach { at: 1, target, width: 4 })),
        }
        assert_eq!(asm.len(), 5, "an error does not change the code's shape");
    }
}

#[test]
fn labels_have_exactly_one_place() {
    let mut asm = Asm::new(BASE);
    let label = asm.label();
    asm.jmp(label);
    assert_eq!(asm.finish(), Err(AsmError::Unbound { label: 0, at: 1 }));

    asm.clear(BASE);
    asm.bind(label);
    assert_eq!(asm.finish(), Err(AsmError::BadLabel { label: 0, at: 0 }), "a label from before");

    asm.clear(BASE);
    let label = asm.label();
    asm.bind(label);
    asm.ret();
    asm.bind(label);
    assert_eq!(asm.finish(), Err(AsmError::BadLabel { label: 0, at: 1 }));
    assert_eq!(asm.address(label), Some(BASE), "the first place counts");
}

#[test]
fn more_can_be_emitted_after_finish() {
    let mut asm = Asm::new(BASE);
    let top = asm.label();
    asm.bind(top);
    asm.jmp(top);
    assert_eq!(asm.finish(), Ok(&[0xe9, 0xfb, 0xff, 0xff, 0xff][..]));
    asm.jmp_short(top);
    assert_eq!(asm.finish(), Ok(&[0xe9, 0xfb, 0xff, 0xff, 0xff, 0xeb, 0xf9][..]));
}

#[test]
fn a_patchable_field_lies_in_one_aligned_group() {
    for start in 0..64 {
        let mut asm = Asm::new(BASE + start);
        let at = asm.patchable_jmp_abs(BASE + 0x1000);
        let address = BASE + start + at as u64;
        assert_eq!(address / 8, (address + 3) / 8, "at {start}");
        assert_eq!(asm.len(), at + 4);
        let mut code = asm.finish().unwrap().to_vec();
        assert_eq!(code.iter().position(|b| *b == 0xe9), Some(at - 1));

        patch_rel32(&mut code, at, address + 4, BASE - 0x1234).unwrap();
        let last = decoded_all(&code, BASE + start).pop().unwrap();
        assert_eq!(last.operands, [Operand::Target(BASE - 0x1234)]);
    }
}

#[test]
fn patches_stay_in_reach_and_in_the_code() {
    let mut code = [0; 8];
    assert_eq!(patch_rel32(&mut code, 4, 8, 0), Ok(()));
    assert_eq!(code, [0, 0, 0, 0, 0xf8, 0xff, 0xff, 0xff]);
    for at in [5, 8, 9, usize::MAX] {
        assert_eq!(patch_rel32(&mut code, at, 8, 0), Err(AsmError::OutsideCode { at, len: 8 }));
    }
    let far = 1 << 40;
    assert_eq!(patch_rel32(&mut code, 0, 8, far), Err(AsmError::OutOfReach { at: 0, target: far, width: 4 }));
    assert_eq!(code, [0, 0, 0, 0, 0xf8, 0xff, 0xff, 0xff], "a refused patch changes nothing");
}

#[test]
fn nops_of_any_length_are_few() {
    for n in 0..64 {
        let mut asm = Asm::new(BASE);
        asm.nop(n);
        let all = decoded_all(asm.bytes(), BASE);
        assert_eq!(asm.len(), n);
        assert_eq!(all.len(), n.div_ceil(9));
        assert!(all.iter().all(|i| i.mnemonic == "nop"));
    }
}
