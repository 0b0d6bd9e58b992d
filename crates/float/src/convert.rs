//! Conversions: to and from integers, and between the formats (IEEE 754-2019 §5.4.1, §5.8).
//!
//! RISC-V saturates: a number outside the integer's range *after rounding* gives the nearest end of the range, a
//! NaN the upper one, and raises NV without NX.

use crate::format::{Format, exponent, is_infinite, is_zero, nan, open, sign, significand};
use crate::round::{Flags, Rounding, increment, jam, jam128, round_pack};

/// The integer nearest to `a` by `rm`, inside `least..=greatest`, which must contain zero.
#[inline(always)]
fn to_integer<F: Format>(a: u64, rm: Rounding, least: i128, greatest: i128) -> (i128, Flags) {
    let negative = F::is_negative(a);
    let saturated = (if negative && !F::is_nan(a) { least } else { greatest }, Flags::NV);
    let exp = exponent::<F>(a).max(1) - F::BIAS;
    if exp > 63 {
        return saturated;
    }
    // A fixed point with 64 bits on each side; the greatest exponent puts the leading one at bit 127.
    let fixed = u128::from(significand::<F>(a));
    let shift = exp + 64 - F::FRACTION as i32;
    let fixed = if shift >= 0 { fixed << shift } else { jam128(fixed, shift.unsigned_abs()) };
    let (whole, part) = ((fixed >> 64) as u64, fixed as u64);
    let up = increment(rm, negative, whole & 1 != 0, 1 << 63);
    let magnitude = i128::from(whole) + i128::from(part.overflowing_add(up).1);
    let value = if negative { -magnitude } else { magnitude };
    if value < least || value > greatest {
        return saturated;
    }
    (value, Flags::inexact(part != 0))
}

/// `a` as a 32-bit signed integer (FCVT.W).
#[inline]
pub fn to_i32<F: Format>(a: u64, rm: Rounding) -> (i32, Flags) {
    let (value, flags) = to_integer::<F>(a, rm, i32::MIN.into(), i32::MAX.into());
    (value as i32, flags)
}

/// `a` as a 32-bit unsigned integer (FCVT.WU, which then sign-extends these 32 bits).
#[inline]
pub fn to_u32<F: Format>(a: u64, rm: Rounding) -> (u32, Flags) {
    let (value, flags) = to_integer::<F>(a, rm, 0, u32::MAX.into());
    (value as u32, flags)
}

/// `a` as a 64-bit signed integer (FCVT.L).
#[inline]
pub fn to_i64<F: Format>(a: u64, rm: Rounding) -> (i64, Flags) {
    let (value, flags) = to_integer::<F>(a, rm, i64::MIN.into(), i64::MAX.into());
    (value as i64, flags)
}

/// `a` as a 64-bit unsigned integer (FCVT.LU).
#[inline]
pub fn to_u64<F: Format>(a: u64, rm: Rounding) -> (u64, Flags) {
    let (value, flags) = to_integer::<F>(a, rm, 0, u64::MAX.into());
    (value as u64, flags)
}

#[inline(always)]
fn from_magnitude<F: Format>(negative: bool, magnitude: u64, rm: Rounding) -> (u64, Flags) {
    if magnitude == 0 {
        return (0, Flags::NONE);
    }
    let shift = magnitude.leading_zeros();
    // The leading one goes to bit 63 first, then one down, where the bit that falls out must be jammed.
    round_pack::<F>(negative, F::BIAS + 63 - shift as i32, jam(magnitude << shift, 1), rm)
}

/// `x` as a floating-point number (FCVT from W).
#[inline]
pub fn from_i32<F: Format>(x: i32, rm: Rounding) -> (u64, Flags) {
    from_magnitude::<F>(x < 0, x.unsigned_abs().into(), rm)
}

/// `x` as a floating-point number (FCVT from WU).
#[inline]
pub fn from_u32<F: Format>(x: u32, rm: Rounding) -> (u64, Flags) {
    from_magnitude::<F>(false, x.into(), rm)
}

/// `x` as a floating-point number (FCVT from L).
#[inline]
pub fn from_i64<F: Format>(x: i64, rm: Rounding) -> (u64, Flags) {
    from_magnitude::<F>(x < 0, x.unsigned_abs(), rm)
}

/// `x` as a floating-point number (FCVT from LU).
#[inline]
pub fn from_u64<F: Format>(x: u64, rm: Rounding) -> (u64, Flags) {
    from_magnitude::<F>(false, x, rm)
}

/// `a`, a number of format `From`, as one of format `To`. Exact if `To` is the wider one.
#[inline]
pub fn convert<From: Format, To: Format>(a: u64, rm: Rounding) -> (u64, Flags) {
    let negative = From::is_negative(a);
    if From::is_nan(a) {
        let (_, flags) = nan::<From>(&[a]);
        return (To::NAN, flags);
    }
    if is_infinite::<From>(a) {
        return (sign::<To>(negative) | To::INFINITY, Flags::NONE);
    }
    if is_zero::<From>(a) {
        return (sign::<To>(negative), Flags::NONE);
    }
    let (exp, sig) = open::<From>(a);
    round_pack::<To>(negative, exp - From::BIAS + To::BIAS, sig, rm)
}
