//! What orders and sorts numbers: comparison, minimum and maximum, classification (IEEE 754-2019 §5.11, §9.6,
//! §5.7.2). Nothing here rounds.

use crate::format::{Format, exponent, is_infinite, is_zero, nan_flags};
use crate::round::Flags;

/// The bits of [`classify`], as FCLASS writes them.
pub mod class {
    /// Negative infinity.
    pub const NEGATIVE_INFINITY: u64 = 1 << 0;
    /// A negative normal number.
    pub const NEGATIVE_NORMAL: u64 = 1 << 1;
    /// A negative subnormal number.
    pub const NEGATIVE_SUBNORMAL: u64 = 1 << 2;
    /// -0.
    pub const NEGATIVE_ZERO: u64 = 1 << 3;
    /// +0.
    pub const POSITIVE_ZERO: u64 = 1 << 4;
    /// A positive subnormal number.
    pub const POSITIVE_SUBNORMAL: u64 = 1 << 5;
    /// A positive normal number.
    pub const POSITIVE_NORMAL: u64 = 1 << 6;
    /// Positive infinity.
    pub const POSITIVE_INFINITY: u64 = 1 << 7;
    /// A signaling NaN.
    pub const SIGNALING_NAN: u64 = 1 << 8;
    /// A quiet NaN.
    pub const QUIET_NAN: u64 = 1 << 9;
}

/// An integer in the order of the numbers; both zeros have the same. Meaningless for NaNs.
#[inline(always)]
fn key<F: Format>(bits: u64) -> i64 {
    let magnitude = (bits & F::MAGNITUDE) as i64;
    if F::is_negative(bits) { -magnitude } else { magnitude }
}

#[inline(always)]
fn unordered<F: Format>(a: u64, b: u64) -> bool {
    F::is_nan(a) || F::is_nan(b)
}

/// `a == b` (FEQ). Quiet: NV only for signaling NaNs.
#[inline]
pub fn eq<F: Format>(a: u64, b: u64) -> (bool, Flags) {
    if unordered::<F>(a, b) {
        return (false, nan_flags::<F>(&[a, b]));
    }
    (key::<F>(a) == key::<F>(b), Flags::NONE)
}

/// `a < b` (FLT). Signaling: NV for any NaN.
#[inline]
pub fn lt<F: Format>(a: u64, b: u64) -> (bool, Flags) {
    if unordered::<F>(a, b) {
        return (false, Flags::NV);
    }
    (key::<F>(a) < key::<F>(b), Flags::NONE)
}

/// `a <= b` (FLE). Signaling: NV for any NaN.
#[inline]
pub fn le<F: Format>(a: u64, b: u64) -> (bool, Flags) {
    if unordered::<F>(a, b) {
        return (false, Flags::NV);
    }
    (key::<F>(a) <= key::<F>(b), Flags::NONE)
}

/// The smaller number (FMIN, minimumNumber): -0 is below +0, and a NaN loses to any number.
#[inline]
pub fn min<F: Format>(a: u64, b: u64) -> (u64, Flags) {
    if unordered::<F>(a, b) {
        return number_of::<F>(a, b);
    }
    // Equal keys and different bits are the two zeros.
    let a_first = key::<F>(a) < key::<F>(b) || key::<F>(a) == key::<F>(b) && F::is_negative(a);
    (encoding::<F>(if a_first { a } else { b }), Flags::NONE)
}

/// The larger number (FMAX, maximumNumber): +0 is above -0, and a NaN loses to any number.
#[inline]
pub fn max<F: Format>(a: u64, b: u64) -> (u64, Flags) {
    if unordered::<F>(a, b) {
        return number_of::<F>(a, b);
    }
    let a_last = key::<F>(a) > key::<F>(b) || key::<F>(a) == key::<F>(b) && !F::is_negative(a);
    (encoding::<F>(if a_last { a } else { b }), Flags::NONE)
}

/// What [`min`] and [`max`] give when an operand is NaN: the other one, or the canonical NaN.
#[cold]
fn number_of<F: Format>(a: u64, b: u64) -> (u64, Flags) {
    let number = match (F::is_nan(a), F::is_nan(b)) {
        (true, true) => F::NAN,
        (true, false) => b,
        (false, _) => a,
    };
    (encoding::<F>(number), nan_flags::<F>(&[a, b]))
}

/// An operand as a result: without the bits above the format.
#[inline(always)]
fn encoding<F: Format>(bits: u64) -> u64 {
    bits & (F::SIGN | F::MAGNITUDE)
}

/// The one bit of [`class`] that tells what `a` is (FCLASS).
#[inline]
pub fn classify<F: Format>(a: u64) -> u64 {
    if F::is_nan(a) {
        return if F::is_signaling(a) { class::SIGNALING_NAN } else { class::QUIET_NAN };
    }
    // The classes of numbers stand in the order of the numbers, so those of the two signs mirror each other.
    let outward = if is_infinite::<F>(a) {
        3
    } else if exponent::<F>(a) != 0 {
        2
    } else {
        u64::from(!is_zero::<F>(a))
    };
    if F::is_negative(a) { class::NEGATIVE_ZERO >> outward } else { class::POSITIVE_ZERO << outward }
}
