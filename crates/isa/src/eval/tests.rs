use proptest::prelude::*;

use super::*;

const MIN: u64 = 1 << 63;
const ONES: u64 = u64::MAX;

#[test]
fn division_by_zero_and_overflow_follow_the_manual() {
    let cases = [
        (Bin::Div, 7, 0, ONES),
        (Bin::Divu, 7, 0, ONES),
        (Bin::Rem, 7, 0, 7),
        (Bin::Remu, 7, 0, 7),
        (Bin::Div, MIN, ONES, MIN),
        (Bin::Rem, MIN, ONES, 0),
        (Bin::Div, ONES - 6, 2, ONES - 2), // -7 / 2 = -3
        (Bin::Rem, ONES - 6, 2, ONES),     // -7 % 2 = -1
        (Bin::DivW, 7, 1 << 32, ONES),     // zero in the low half
        (Bin::DivuW, 7, 1 << 32, ONES),
        (Bin::RemW, 0x1_8000_0000, 1 << 32, 0xffff_ffff_8000_0000),
        (Bin::RemuW, 0x8000_0000, 0, 0xffff_ffff_8000_0000),
        (Bin::DivW, 0x8000_0000, ONES, 0xffff_ffff_8000_0000),
        (Bin::RemW, 0x8000_0000, ONES, 0),
        (Bin::DivuW, 0xffff_ffff, 1, ONES),
        (Bin::RemuW, 0xffff_ffff, 0xffff_fffe, 1),
    ];
    for (op, a, b, want) in cases {
        assert_eq!(op.eval(a, b), want, "{op:?} {a:#x} {b:#x}");
    }
}

#[test]
fn known_values() {
    let cases = [
        (Bin::Mulh, ONES, ONES, 0),
        (Bin::Mulh, MIN, MIN, 1 << 62),
        (Bin::Mulhsu, MIN, ONES, MIN),
        (Bin::Mulhsu, ONES, ONES, ONES),
        (Bin::Mulhu, ONES, ONES, ONES - 1),
        (Bin::MulW, 0x1_0000_ffff, 0xffff, 0xffff_ffff_fffe_0001),
        (Bin::Sll, 1, 64 + 3, 8),
        (Bin::SllW, 1, 32 + 31, 0xffff_ffff_8000_0000),
        (Bin::SrlW, 0xffff_ffff_8000_0000, 4, 0x0800_0000),
        (Bin::SraW, 0x8000_0000, 4, 0xffff_ffff_f800_0000),
        (Bin::SrlW, 0x8000_0000, 0, 0xffff_ffff_8000_0000),
        (Bin::AddW, 0x7fff_ffff, 1, 0xffff_ffff_8000_0000),
        (Bin::Slt, ONES, 0, 1),
        (Bin::Sltu, ONES, 0, 0),
        (Bin::Rol, MIN, 1, 1),
        (Bin::Ror, 1, 65, MIN),
        (Bin::RolW, 0x4000_0000, 1, 0xffff_ffff_8000_0000),
        (Bin::RorW, 1, 33, 0xffff_ffff_8000_0000),
        (Bin::Sh3add, MIN | 1, 2, 10),
        (Bin::AddUw, ONES, 1, 1 << 32),
        (Bin::Sh2addUw, ONES, 0, 0x3_ffff_fffc),
        (Bin::SllUw, ONES, 32, 0xffff_ffff_0000_0000),
        (Bin::Bclr, ONES, 64, ONES - 1),
        (Bin::Bext, MIN, 63, 1),
        (Bin::Binv, 0, 127, MIN),
        (Bin::Bset, 0, 5, 32),
        (Bin::CzeroEqz, 9, 0, 0),
        (Bin::CzeroEqz, 9, 1, 9),
        (Bin::CzeroNez, 9, 0, 9),
        (Bin::CzeroNez, 9, 1, 0),
        (Bin::Min, ONES, 1, ONES),
        (Bin::Minu, ONES, 1, 1),
        (Bin::Max, ONES, 1, 1),
        (Bin::Maxu, ONES, 1, ONES),
        (Bin::Andn, 0b110, 0b010, 0b100),
        (Bin::Orn, 0, ONES - 1, 1),
        (Bin::Xnor, 5, 5, ONES),
        (Bin::Eq, 5, 5, 1),
    ];
    for (op, a, b, want) in cases {
        assert_eq!(op.eval(a, b), want, "{op:?} {a:#x} {b:#x}");
    }
    let cases = [
        (Un::Clz, 0, 64),
        (Un::Ctz, 0, 64),
        (Un::ClzW, 0xffff_ffff_0000_0000, 32),
        (Un::CtzW, 1 << 32, 32),
        (Un::ClzW, 1, 31),
        (Un::Cpop, ONES, 64),
        (Un::CpopW, ONES, 32),
        (Un::SextB, 0x180, ONES - 127),
        (Un::SextH, 0x8000, 0xffff_ffff_ffff_8000),
        (Un::SextW, 0x8000_0000, 0xffff_ffff_8000_0000),
        (Un::ZextB, ONES, 0xff),
        (Un::ZextH, ONES, 0xffff),
        (Un::ZextW, ONES, 0xffff_ffff),
        (Un::OrcB, 0x0100_8000_0042_0010, 0xff00_ff00_00ff_00ff),
        (Un::Rev8, 0x0102_0304_0506_0708, 0x0807_0605_0403_0201),
    ];
    for (op, a, want) in cases {
        assert_eq!(op.eval(a), want, "{op:?} {a:#x}");
    }
}

#[test]
fn amos_compare_at_their_width() {
    let w = Width::I32;
    assert_eq!(Amo::Min.eval(0xffff_ffff, 1, w) as u32, 0xffff_ffff);
    assert_eq!(Amo::Minu.eval(0xffff_ffff, 0xdead_0000_0000_0001, w) as u32, 1);
    assert_eq!(Amo::Max.eval(0x8000_0000, 0x7_0000_0000, w) as u32, 0);
    assert_eq!(Amo::Maxu.eval(0x8000_0000, 0xffff_ffff_7fff_ffff, w) as u32, 0x8000_0000);
    assert_eq!(Amo::Add.eval(u64::MAX, 2, Width::I64), 1);
    assert_eq!(Amo::Swap.eval(1, 2, Width::I64), 2);
}

proptest! {
    #[test]
    fn divisions_multiply_back(a: u64, b: u64) {
        for (div, rem) in [(Bin::Div, Bin::Rem), (Bin::Divu, Bin::Remu)] {
            let back = div.eval(a, b).wrapping_mul(b).wrapping_add(rem.eval(a, b));
            prop_assert_eq!(back, a);
        }
        for (div, rem) in [(Bin::DivW, Bin::RemW), (Bin::DivuW, Bin::RemuW)] {
            let back = div.eval(a, b).wrapping_mul(b).wrapping_add(rem.eval(a, b));
            prop_assert_eq!(back as u32, a as u32);
        }
    }

    #[test]
    fn high_halves_agree_with_each_other(a: u64, b: u64) {
        // Unsigned and signed high halves differ by the operands that are negative.
        let high = Bin::Mulhu.eval(a, b);
        let minus_b = if (a as i64) < 0 { b } else { 0 };
        let minus_a = if (b as i64) < 0 { a } else { 0 };
        prop_assert_eq!(Bin::Mulhsu.eval(a, b), high.wrapping_sub(minus_b));
        prop_assert_eq!(Bin::Mulh.eval(a, b), high.wrapping_sub(minus_b).wrapping_sub(minus_a));
    }

    #[test]
    fn word_forms_ignore_upper_halves_and_sign_extend(a: u64, b: u64, c: u32, d: u32) {
        use Bin::*;
        for op in [AddW, SubW, SllW, SrlW, SraW, MulW, DivW, DivuW, RemW, RemuW, RolW, RorW] {
            let r = op.eval(a, b);
            prop_assert_eq!(r, r as i32 as i64 as u64);
            let other = op.eval(a & 0xffff_ffff | (c as u64) << 32, b & 0xffff_ffff | (d as u64) << 32);
            prop_assert_eq!(r, other);
        }
    }

    #[test]
    fn conditions_come_in_opposites(a: u64, b: u64, small in 0u64..3) {
        for (x, y) in [(a, b), (a, a), (a, a.wrapping_add(small))] {
            for (c, not_c) in [(Cond::Eq, Cond::Ne), (Cond::Lt, Cond::Ge), (Cond::Ltu, Cond::Geu)] {
                prop_assert!(c.eval(x, y) != not_c.eval(x, y));
            }
            prop_assert_eq!(Cond::Lt.eval(x, y) as u64, Bin::Slt.eval(x, y));
            prop_assert_eq!(Cond::Ltu.eval(x, y) as u64, Bin::Sltu.eval(x, y));
        }
    }

    #[test]
    fn orc_b_byte_by_byte(a: u64) {
        let want = u64::from_le_bytes(a.to_le_bytes().map(|b| if b == 0 { 0 } else { 255 }));
        prop_assert_eq!(Un::OrcB.eval(a), want);
    }
}
