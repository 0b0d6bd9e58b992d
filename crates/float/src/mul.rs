//! Multiplication and fused multiply-add (IEEE 754-2019 §5.4.1; invalid cases, §7.2).
//!
//! A product of two opened significands fits 128 bits and is exact. The fused addend meets it there, at bit 124;
//! whichever has the smaller exponent is shifted right and jammed. At least 20 zero bits lie below each of
//! them, so bits are lost only when the exponents are far apart, and then a difference loses one leading bit at most.

use crate::add::add_zero;
use crate::format::{Format, invalid, is_infinite, is_normal, is_zero, nan, open, open_normal, sign};
use crate::round::{Flags, Rounding, jam128, round_pack};

/// `a * b`.
#[inline]
pub fn mul<F: Format>(a: u64, b: u64, rm: Rounding) -> (u64, Flags) {
    if !(is_normal::<F>(a) && is_normal::<F>(b)) {
        return mul_special::<F>(a, b, rm);
    }
    mul_finite::<F>(F::is_negative(a ^ b), open_normal::<F>(a), open_normal::<F>(b), rm)
}

#[inline(always)]
fn mul_finite<F: Format>(negative: bool, a: (i32, u64), b: (i32, u64), rm: Rounding) -> (u64, Flags) {
    // Leading one at bit 125 or 126 of the product, so at 61 or 62 of its high half.
    let product = u128::from(a.1) * u128::from(b.1 << 1);
    let high = (product >> 64) as u64 | u64::from(product as u64 != 0);
    let carry = high >> 62;
    round_pack::<F>(negative, a.0 + b.0 - F::BIAS + carry as i32, high << (1 - carry), rm)
}

#[cold]
#[inline(never)]
fn mul_special<F: Format>(a: u64, b: u64, rm: Rounding) -> (u64, Flags) {
    let negative = F::is_negative(a ^ b);
    if F::is_nan(a) || F::is_nan(b) {
        return nan::<F>(&[a, b]);
    }
    let zero = is_zero::<F>(a) || is_zero::<F>(b);
    if is_infinite::<F>(a) || is_infinite::<F>(b) {
        return if zero { invalid::<F>() } else { (sign::<F>(negative) | F::INFINITY, Flags::NONE) };
    }
    if zero {
        return (sign::<F>(negative), Flags::NONE);
    }
    mul_finite::<F>(negative, open::<F>(a), open::<F>(b), rm)
}

/// `a * b + c` with one rounding. Infinity times zero raises NV even if `c` is a quiet NaN, as RISC-V asks.
///
/// The other three instructions negate operands first: FMSUB `c`, FNMSUB `a`, FNMADD `a` and `c`.
#[inline]
pub fn mul_add<F: Format>(a: u64, b: u64, c: u64, rm: Rounding) -> (u64, Flags) {
    if !(is_normal::<F>(a) && is_normal::<F>(b) && is_normal::<F>(c)) {
        return mul_add_special::<F>(a, b, c, rm);
    }
    let negative = F::is_negative(a ^ b);
    let product = product::<F>(negative, open_normal::<F>(a), open_normal::<F>(b));
    fuse::<F>(product, addend(F::is_negative(c), open_normal::<F>(c)), rm)
}

/// An exact term of a fused sum: magnitude sig / 2^124 * 2^(exp - BIAS), with 2^124 <= sig < 2^126.
#[derive(Clone, Copy)]
struct Term {
    negative: bool,
    exp: i32,
    sig: u128,
}

#[inline(always)]
fn product<F: Format>(negative: bool, a: (i32, u64), b: (i32, u64)) -> Term {
    Term { negative, exp: a.0 + b.0 - F::BIAS, sig: u128::from(a.1) * u128::from(b.1) }
}

#[inline(always)]
fn addend(negative: bool, c: (i32, u64)) -> Term {
    Term { negative, exp: c.0, sig: u128::from(c.1) << 62 }
}

/// The rounded sum of a product and an addend, neither of them zero.
#[inline(always)]
fn fuse<F: Format>(p: Term, c: Term, rm: Rounding) -> (u64, Flags) {
    let distance = p.exp - c.exp;
    let (exp, x, y) = if distance >= 0 {
        (p.exp, p.sig, jam128(c.sig, distance.unsigned_abs()))
    } else {
        (c.exp, jam128(p.sig, distance.unsigned_abs()), c.sig)
    };
    let (negative, sum) = if p.negative == c.negative {
        (p.negative, x + y)
    } else if x >= y {
        (p.negative, x - y)
    } else {
        (c.negative, y - x)
    };
    if sum == 0 {
        return (add_zero::<F>(p.negative, c.negative, rm), Flags::NONE);
    }
    round_wide::<F>(negative, exp, sum, rm)
}

/// Rounds the magnitude sig / 2^124 * 2^(exp - BIAS), for any sig below 2^127 but zero.
#[inline(always)]
fn round_wide<F: Format>(negative: bool, exp: i32, sig: u128, rm: Rounding) -> (u64, Flags) {
    let shift = sig.leading_zeros() - 1;
    let sig = sig << shift;
    let high = (sig >> 64) as u64 | u64::from(sig as u64 != 0);
    round_pack::<F>(negative, exp + 2 - shift as i32, high, rm)
}

#[cold]
#[inline(never)]
fn mul_add_special<F: Format>(a: u64, b: u64, c: u64, rm: Rounding) -> (u64, Flags) {
    let negative = F::is_negative(a ^ b);
    let zero = is_zero::<F>(a) || is_zero::<F>(b);
    let infinite = is_infinite::<F>(a) || is_infinite::<F>(b);
    if zero && infinite {
        return invalid::<F>();
    }
    if F::is_nan(a) || F::is_nan(b) || F::is_nan(c) {
        return nan::<F>(&[a, b, c]);
    }
    let c_negative = F::is_negative(c);
    if infinite {
        let cancels = is_infinite::<F>(c) && c_negative != negative;
        return if cancels { invalid::<F>() } else { (sign::<F>(negative) | F::INFINITY, Flags::NONE) };
    }
    if zero && is_zero::<F>(c) {
        return (add_zero::<F>(negative, c_negative, rm), Flags::NONE);
    }
    if zero || is_infinite::<F>(c) {
        return (sign::<F>(c_negative) | c & F::MAGNITUDE, Flags::NONE);
    }
    let product = product::<F>(negative, open::<F>(a), open::<F>(b));
    if is_zero::<F>(c) {
        return round_wide::<F>(negative, product.exp, product.sig, rm);
    }
    fuse::<F>(product, addend(c_negative, open::<F>(c)), rm)
}
