//! Addition and subtraction (IEEE 754-2019 §5.4.1; signs of zero sums, §6.3).
//!
//! The operand of larger magnitude leads: it gives the sign, and the other one is shifted right to its exponent.
//! Significands stand at bit 61 here, so that a carry still fits below bit 63. Nine bits or more below the
//! format's last one are enough: bits are jammed only when the exponents differ by more than nine, and then a
//! difference loses one leading bit at most.

use crate::format::{Format, exponent, invalid, is_infinite, nan, sign, significand};
use crate::round::{Flags, Rounding, jam, round_pack};

/// `a + b`.
#[inline]
pub fn add<F: Format>(a: u64, b: u64, rm: Rounding) -> (u64, Flags) {
    let (big, small) = if a & F::MAGNITUDE >= b & F::MAGNITUDE { (a, b) } else { (b, a) };
    if exponent::<F>(big) == F::EXP_MAX {
        return add_special::<F>(a, b);
    }
    // Subnormals and zeros have the scale of exponent 1, and need no path of their own.
    let scale = exponent::<F>(big).max(1);
    let distance = scale - exponent::<F>(small).max(1);
    let x = significand::<F>(big) << (61 - F::FRACTION);
    let y = jam(significand::<F>(small) << (61 - F::FRACTION), distance as u32);
    let opposite = F::is_negative(a) != F::is_negative(b);
    let sum = if opposite { x - y } else { x + y };
    if sum == 0 {
        return (add_zero::<F>(F::is_negative(a), F::is_negative(b), rm), Flags::NONE);
    }
    let shift = sum.leading_zeros() - 1;
    round_pack::<F>(F::is_negative(big), scale + 1 - shift as i32, sum << shift, rm)
}

/// `a - b`.
#[inline]
pub fn sub<F: Format>(a: u64, b: u64, rm: Rounding) -> (u64, Flags) {
    add::<F>(a, F::negate(b), rm)
}

/// An exact zero sum of two terms with these signs: theirs if they agree, else negative only when rounding down.
pub(crate) fn add_zero<F: Format>(a_negative: bool, b_negative: bool, rm: Rounding) -> u64 {
    sign::<F>(if a_negative == b_negative { a_negative } else { rm == Rounding::Down })
}

#[cold]
#[inline(never)]
fn add_special<F: Format>(a: u64, b: u64) -> (u64, Flags) {
    if F::is_nan(a) || F::is_nan(b) {
        return nan::<F>(&[a, b]);
    }
    if is_infinite::<F>(a) && is_infinite::<F>(b) && F::is_negative(a) != F::is_negative(b) {
        return invalid::<F>();
    }
    let infinity = if is_infinite::<F>(a) { a } else { b };
    (sign::<F>(F::is_negative(infinity)) | F::INFINITY, Flags::NONE)
}
