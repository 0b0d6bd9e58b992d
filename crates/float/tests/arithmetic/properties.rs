//! What needs no other implementation: order against the language's own comparison (which neither rounds nor
//! depends on a mode), square roots by squaring, and that every operation ends on every input.

use crate::operands::{Random, addend, landmarks, operand, partner};
use crate::{MODES, cases};
use strata_float::{self as float, F32, F64, Flags, Format, Rounding};

/// Every landmark, of both signs.
fn values<F: Format>() -> Vec<u64> {
    landmarks::<F>().into_iter().flat_map(|x| [x, x | F::SIGN]).collect()
}

/// Comparisons, minimum and maximum of one pair, given the numbers' order (`None` for unordered).
fn check_order<F: Format>(a: u64, b: u64, order: Option<std::cmp::Ordering>) {
    let nan = F::is_nan(a) || F::is_nan(b);
    assert_eq!(nan, order.is_none());
    let signaling = F::is_signaling(a) || F::is_signaling(b);
    let raised = |when: bool| if when { Flags::NV } else { Flags::NONE };

    assert_eq!(float::eq::<F>(a, b), (order.is_some_and(|o| o.is_eq()), raised(signaling)), "{a:#x} {b:#x}");
    assert_eq!(float::lt::<F>(a, b), (order.is_some_and(|o| o.is_lt()), raised(nan)), "{a:#x} {b:#x}");
    assert_eq!(float::le::<F>(a, b), (order.is_some_and(|o| o.is_le()), raised(nan)), "{a:#x} {b:#x}");

    let (least, greatest) = match (F::is_nan(a), F::is_nan(b)) {
        (true, true) => (F::NAN, F::NAN),
        (true, false) => (b, b),
        (false, true) => (a, a),
        // Only zeros are equal with different bits; the negative one is the smaller.
        (false, false) if order == Some(std::cmp::Ordering::Equal) => (a | b, a & b),
        (false, false) if order == Some(std::cmp::Ordering::Less) => (a, b),
        (false, false) => (b, a),
    };
    assert_eq!(float::min::<F>(a, b), (least, raised(signaling)), "min {a:#x} {b:#x}");
    assert_eq!(float::max::<F>(a, b), (greatest, raised(signaling)), "max {a:#x} {b:#x}");
}

fn check_singles(a: u64, b: u64) {
    let order = f32::from_bits(a as u32).partial_cmp(&f32::from_bits(b as u32));
    check_order::<F32>(a & 0xffff_ffff, b & 0xffff_ffff, order);
}

fn check_doubles(a: u64, b: u64) {
    check_order::<F64>(a, b, f64::from_bits(a).partial_cmp(&f64::from_bits(b)));
}

#[test]
fn order_is_that_of_the_numbers() {
    for a in values::<F32>() {
        values::<F32>().into_iter().for_each(|b| check_singles(a, b));
    }
    for a in values::<F64>() {
        values::<F64>().into_iter().for_each(|b| check_doubles(a, b));
    }
    let mut random = Random::new(7);
    for _ in 0..cases() {
        let a = operand::<F32>(&mut random);
        check_singles(a, partner::<F32>(&mut random, a));
        let a = operand::<F64>(&mut random);
        check_doubles(a, partner::<F64>(&mut random, a));
    }
}

/// A root is never halfway between two numbers, so both modes to nearest give the same one.
fn nearest_roots_agree<F: Format>() {
    let mut random = Random::new(9);
    for _ in 0..cases() {
        let a = operand::<F>(&mut random);
        let (even, away) = (Rounding::NearestEven, Rounding::NearestMaxMagnitude);
        assert_eq!(float::sqrt::<F>(a, even), float::sqrt::<F>(a, away), "{a:#x}");
    }
}

#[test]
fn square_roots_have_no_ties() {
    nearest_roots_agree::<F32>();
    nearest_roots_agree::<F64>();
}

/// The square of every integer of half the precision has that integer as its exact root; one more has not.
#[test]
fn roots_of_squares_are_exact() {
    for n in (1..1 << 12).chain((1 << 26) - 100..1 << 26) {
        for rm in MODES {
            let (square, root) = (float::from_u64::<F64>(n * n, rm), float::from_u64::<F64>(n, rm));
            assert_eq!((square.1, root.1), (Flags::NONE, Flags::NONE));
            assert_eq!(float::sqrt::<F64>(square.0, rm), root);
            let above = float::from_u64::<F64>(n * n + 1, rm);
            assert_eq!(float::sqrt::<F64>(above.0, rm).1, Flags::NX, "{n}");
        }
    }
}

/// All operations on any bits: overflow checks and assertions are on in tests.
fn exercise<F: Format>(a: u64, b: u64, c: u64) {
    for rm in MODES {
        for (bits, flags) in [
            float::add::<F>(a, b, rm),
            float::sub::<F>(a, b, rm),
            float::mul::<F>(a, b, rm),
            float::div::<F>(a, b, rm),
            float::sqrt::<F>(a, rm),
            float::mul_add::<F>(a, b, c, rm),
            float::min::<F>(a, b),
            float::max::<F>(a, b),
            float::from_i64::<F>(a as i64, rm),
            float::from_u64::<F>(a, rm),
            float::convert::<F, F>(a, rm),
        ] {
            assert_eq!(bits & !(F::SIGN | F::MAGNITUDE), 0, "bits above the format");
            assert!(!F::is_nan(bits) || bits == F::NAN, "a NaN that is not canonical: {bits:#x}");
            assert!(!flags.contains(Flags::UF) || flags.contains(Flags::NX));
            assert!(!flags.contains(Flags::OF) || flags.contains(Flags::NX));
            assert!(!flags.contains(Flags::NV) || flags == Flags::NV);
        }
        let (_, to_i32) = float::to_i32::<F>(a, rm);
        let (_, to_u64) = float::to_u64::<F>(a, rm);
        assert!(!(to_i32 | to_u64).contains(Flags::UF));
    }
    assert_eq!(float::classify::<F>(a).count_ones(), 1);
    assert_eq!(F::unbox(F::boxed(F::sign_of(a, b))), F::sign_of(a, b));
}

#[test]
fn every_operation_ends_on_every_input() {
    let mut random = Random::new(11);
    for _ in 0..cases() / 4 {
        let a = operand::<F32>(&mut random);
        let b = partner::<F32>(&mut random, a);
        exercise::<F32>(a, b, addend::<F32>(&mut random, a, b));
        let a = operand::<F64>(&mut random);
        let b = partner::<F64>(&mut random, a);
        exercise::<F64>(a, b, addend::<F64>(&mut random, a, b));
    }
    for a in values::<F64>() {
        for b in values::<F64>() {
            exercise::<F64>(a, b, random.bits());
            exercise::<F32>(a, b >> 32, random.bits());
        }
    }
}
