//! Division and square root (IEEE 754-2019 §5.4.1; division by zero, §7.3).
//!
//! One integer division, or one integer square root, gives more quotient bits than the format keeps; whether
//! there was a remainder is jammed into the last one. binary32 needs 64-bit integers only.

use crate::format::{Format, invalid, is_infinite, is_normal, is_zero, nan, open, open_normal, sign};
use crate::round::{Flags, Rounding, round_pack};

/// `a / b`.
#[inline]
pub fn div<F: Format>(a: u64, b: u64, rm: Rounding) -> (u64, Flags) {
    if !(is_normal::<F>(a) && is_normal::<F>(b)) {
        return div_special::<F>(a, b, rm);
    }
    div_finite::<F>(F::is_negative(a ^ b), open_normal::<F>(a), open_normal::<F>(b), rm)
}

#[inline(always)]
fn div_finite<F: Format>(negative: bool, a: (i32, u64), b: (i32, u64), rm: Rounding) -> (u64, Flags) {
    // The quotient of the significands, times 2^62: between 2^61 and 2^63. An opened one is never zero.
    let quotient = if F::WIDTH == 32 {
        let (x, y) = (a.1 >> 39 << 40, b.1 >> 39);
        (x / y) << 22 | u64::from(x % y != 0)
    } else {
        let (x, y) = (u128::from(a.1) << 62, u128::from(b.1));
        let quotient = x / y;
        quotient as u64 | u64::from(quotient * y != x)
    };
    let whole = quotient >> 62;
    round_pack::<F>(negative, a.0 - b.0 + F::BIAS - 1 + whole as i32, quotient << (1 - whole), rm)
}

#[cold]
#[inline(never)]
fn div_special<F: Format>(a: u64, b: u64, rm: Rounding) -> (u64, Flags) {
    if F::is_nan(a) || F::is_nan(b) {
        return nan::<F>(&[a, b]);
    }
    let negative = F::is_negative(a ^ b);
    match (is_infinite::<F>(a), is_infinite::<F>(b)) {
        (true, true) => return invalid::<F>(),
        (true, false) => return (sign::<F>(negative) | F::INFINITY, Flags::NONE),
        (false, true) => return (sign::<F>(negative), Flags::NONE),
        (false, false) => {}
    }
    match (is_zero::<F>(a), is_zero::<F>(b)) {
        (true, true) => invalid::<F>(),
        (true, false) => (sign::<F>(negative), Flags::NONE),
        (false, true) => (sign::<F>(negative) | F::INFINITY, Flags::DZ),
        (false, false) => div_finite::<F>(negative, open::<F>(a), open::<F>(b), rm),
    }
}

/// The square root of `a`; of -0 it is -0, of anything less it is invalid.
#[inline]
pub fn sqrt<F: Format>(a: u64, rm: Rounding) -> (u64, Flags) {
    if F::is_nan(a) {
        return nan::<F>(&[a]);
    }
    if is_zero::<F>(a) {
        return (a & F::SIGN, Flags::NONE);
    }
    if F::is_negative(a) {
        return invalid::<F>();
    }
    if is_infinite::<F>(a) {
        return (F::INFINITY, Flags::NONE);
    }
    let (exp, sig) = open::<F>(a);
    // An odd exponent leaves a factor of two under the root: 1 <= radicand < 4, so 1 <= root < 2.
    let exp = exp - F::BIAS;
    let odd = exp & 1;
    let root = if F::WIDTH == 32 {
        let radicand = sig << odd;
        let root = radicand.isqrt();
        root << 31 | u64::from(root * root != radicand)
    } else {
        let radicand = u128::from(sig) << (62 + odd);
        let root = radicand.isqrt();
        root as u64 | u64::from(root * root != radicand)
    };
    round_pack::<F>(false, (exp >> 1) + F::BIAS, root, rm)
}
