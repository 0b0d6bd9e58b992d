//! Against `rustc_apfloat`, another software implementation: all five modes, and so the only one that knows ties
//! away from zero. It has no square root; `properties` settles that mode for it.
//!
//! In two places its flags are not IEEE 754's, and the flag is not compared here but in `host` and `corners`:
//! UF where rounding in the subnormal range gives the least normal number (the standard asks about rounding with
//! an unbounded exponent), and OF where a mode that points inward gives the largest finite one.

use crate::operands::{Random, addend, integer, operand, partner};
use crate::{MODES, cases};
use rustc_apfloat::ieee::{Double, Single};
use rustc_apfloat::{Float, FloatConvert, Round, Status, StatusAnd};
use strata_float::{self as float, F32, F64, Flags, Format, Rounding};

/// A format with its type over there.
trait Theirs: Format {
    type Number: Float;
}

impl Theirs for F32 {
    type Number = Single;
}

impl Theirs for F64 {
    type Number = Double;
}

fn round(rm: Rounding) -> Round {
    match rm {
        Rounding::NearestEven => Round::NearestTiesToEven,
        Rounding::TowardZero => Round::TowardZero,
        Rounding::Down => Round::TowardNegative,
        Rounding::Up => Round::TowardPositive,
        Rounding::NearestMaxMagnitude => Round::NearestTiesToAway,
    }
}

fn fflags(status: Status) -> u8 {
    let flag = |from, to: Flags| if status.contains(from) { to.bits() } else { 0 };
    flag(Status::INVALID_OP, Flags::NV)
        | flag(Status::DIV_BY_ZERO, Flags::DZ)
        | flag(Status::OVERFLOW, Flags::OF)
        | flag(Status::UNDERFLOW, Flags::UF)
        | flag(Status::INEXACT, Flags::NX)
}

fn number<F: Theirs>(bits: u64) -> F::Number {
    F::Number::from_bits((bits & (F::SIGN | F::MAGNITUDE)).into())
}

/// Asserts that our result is theirs, with NaNs made canonical.
fn same<F: Theirs>(ours: (u64, Flags), theirs: StatusAnd<F::Number>, what: impl Fn() -> String) {
    let bits = if theirs.value.is_nan() { F::NAN } else { theirs.value.to_bits() as u64 };
    let compared = match bits & F::MAGNITUDE {
        least_normal if least_normal == 1 << F::FRACTION => !Flags::UF.bits(),
        largest if largest == F::INFINITY - 1 => !Flags::OF.bits(),
        _ => !0,
    };
    let (got, raised) = (ours.0, ours.1.bits() & compared);
    assert_eq!((got, raised), (bits, fflags(theirs.status) & compared), "{} of {} bits", what(), F::WIDTH);
}

fn arithmetic_of<F: Theirs>() {
    let mut random = Random::new(0xa9 + u64::from(F::WIDTH));
    for _ in 0..cases() / 4 {
        let a = operand::<F>(&mut random);
        let b = partner::<F>(&mut random, a);
        let (x, y) = (number::<F>(a), number::<F>(b));
        for rm in MODES {
            let what = |op: &'static str| move || format!("{op} {rm:?} {a:#x} {b:#x}");
            same::<F>(float::add::<F>(a, b, rm), x.add_r(y, round(rm)), what("add"));
            same::<F>(float::sub::<F>(a, b, rm), x.sub_r(y, round(rm)), what("sub"));
            same::<F>(float::mul::<F>(a, b, rm), x.mul_r(y, round(rm)), what("mul"));
            same::<F>(float::div::<F>(a, b, rm), x.div_r(y, round(rm)), what("div"));
        }
    }
}

#[test]
fn arithmetic_is_the_references() {
    arithmetic_of::<F32>();
    arithmetic_of::<F64>();
}

fn mul_add_of<F: Theirs>() {
    let mut random = Random::new(0xfa + u64::from(F::WIDTH));
    for _ in 0..cases() {
        let a = operand::<F>(&mut random);
        let b = partner::<F>(&mut random, a);
        let c = addend::<F>(&mut random, a, b);
        let (x, y, z) = (number::<F>(a), number::<F>(b), number::<F>(c));
        // Infinity times zero plus a NaN: RISC-V has a rule of its own, which `corners` tests.
        if z.is_nan() && (x.is_infinite() && y.is_zero() || x.is_zero() && y.is_infinite()) {
            continue;
        }
        for rm in MODES {
            let theirs = x.mul_add_r(y, z, round(rm));
            same::<F>(float::mul_add::<F>(a, b, c, rm), theirs, || {
                format!("mul_add {rm:?} {a:#x} {b:#x} {c:#x}")
            });
        }
    }
}

#[test]
fn mul_add_is_the_references() {
    mul_add_of::<F32>();
    mul_add_of::<F64>();
}

fn conversion_of<F: Theirs, To: Theirs>()
where
    F::Number: FloatConvert<To::Number>,
{
    let mut random = Random::new(0xc0 + u64::from(F::WIDTH));
    for _ in 0..cases() {
        let a = operand::<F>(&mut random);
        for rm in MODES {
            let theirs = number::<F>(a).convert_r(round(rm), &mut false);
            same::<To>(float::convert::<F, To>(a, rm), theirs, || format!("convert {rm:?} {a:#x}"));
        }
    }
}

#[test]
fn conversion_is_the_references() {
    conversion_of::<F32, F64>();
    conversion_of::<F64, F32>();
}

/// Our conversion to an integer against theirs to one of `width` bits, which saturates to `least..=greatest`.
fn to_integer_of<F: Theirs>(
    a: u64,
    rm: Rounding,
    ours: (i128, Flags),
    (width, least, greatest): (usize, i128, i128),
) {
    let (x, mut exact) = (number::<F>(a), false);
    let theirs = if least < 0 {
        x.to_i128_r(width, round(rm), &mut exact)
    } else {
        x.to_u128_r(width, round(rm), &mut exact).map(|value| value as i128)
    };
    let value = match theirs.status.contains(Status::INVALID_OP) {
        true if x.is_negative() && !x.is_nan() => least,
        true => greatest,
        false => theirs.value,
    };
    let ours = (ours.0, ours.1.bits());
    assert_eq!(ours, (value, fflags(theirs.status)), "to {width} bits from {}, {rm:?} {a:#x}", F::WIDTH);
}

fn to_integers_of<F: Theirs>() {
    let mut random = Random::new(0x70 + u64::from(F::WIDTH));
    for _ in 0..cases() {
        let a = operand::<F>(&mut random);
        for rm in MODES {
            let (x, flags) = float::to_i32::<F>(a, rm);
            to_integer_of::<F>(a, rm, (x.into(), flags), (32, i32::MIN.into(), i32::MAX.into()));
            let (x, flags) = float::to_u32::<F>(a, rm);
            to_integer_of::<F>(a, rm, (x.into(), flags), (32, 0, u32::MAX.into()));
            let (x, flags) = float::to_i64::<F>(a, rm);
            to_integer_of::<F>(a, rm, (x.into(), flags), (64, i64::MIN.into(), i64::MAX.into()));
            let (x, flags) = float::to_u64::<F>(a, rm);
            to_integer_of::<F>(a, rm, (x.into(), flags), (64, 0, u64::MAX.into()));
        }
    }
}

#[test]
fn to_integer_is_the_references() {
    to_integers_of::<F32>();
    to_integers_of::<F64>();
}

fn from_integers_of<F: Theirs>() {
    let mut random = Random::new(0xf0 + u64::from(F::WIDTH));
    for _ in 0..cases() {
        let x = integer(&mut random);
        for rm in MODES {
            let what = || format!("from {x:#x} {rm:?}");
            let signed = |x: i128| F::Number::from_i128_r(x, round(rm));
            let unsigned = |x: u128| F::Number::from_u128_r(x, round(rm));
            same::<F>(float::from_i32::<F>(x as i32, rm), signed((x as i32).into()), what);
            same::<F>(float::from_u32::<F>(x as u32, rm), unsigned((x as u32).into()), what);
            same::<F>(float::from_i64::<F>(x as i64, rm), signed((x as i64).into()), what);
            same::<F>(float::from_u64::<F>(x, rm), unsigned(x.into()), what);
        }
    }
}

#[test]
fn from_integer_is_the_references() {
    from_integers_of::<F32>();
    from_integers_of::<F64>();
}
