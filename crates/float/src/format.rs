//! The two interchange formats and how an encoding is taken apart (IEEE 754-2019 §3.4).
//!
//! ```text
//!         sign   exponent (biased)      fraction
//! F32     31     30..23   bias 127      22..0
//! F64     63     62..52   bias 1023     51..0
//! ```
//!
//! An *opened* number is `(exp, sig)` with 2^62 <= sig < 2^63; its magnitude is sig / 2^62 * 2^(exp - BIAS).
//! Subnormals open too, with an exponent of zero or less, so that the arithmetic meets only normalized values.

use crate::round::Flags;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::F32 {}
    impl Sealed for super::F64 {}
}

/// binary32, the format of RISC-V's F extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum F32 {}

/// binary64, the format of RISC-V's D extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum F64 {}

/// A binary interchange format: [`F32`] or [`F64`].
pub trait Format: sealed::Sealed + Copy + 'static {
    /// Bits of an encoding.
    const WIDTH: u32;
    /// Bits of the stored fraction.
    const FRACTION: u32;

    /// The exponent field of infinities and NaNs, all ones.
    const EXP_MAX: i32 = (1 << (Self::WIDTH - 1 - Self::FRACTION)) - 1;
    /// What is added to an exponent to store it.
    const BIAS: i32 = Self::EXP_MAX >> 1;
    /// The sign bit.
    const SIGN: u64 = 1 << (Self::WIDTH - 1);
    /// Everything below the sign bit.
    const MAGNITUDE: u64 = Self::SIGN - 1;
    /// The fraction's bits.
    const FRACTION_MASK: u64 = (1 << Self::FRACTION) - 1;
    /// Positive infinity; encodings whose magnitude is above it are NaNs.
    const INFINITY: u64 = (Self::EXP_MAX as u64) << Self::FRACTION;
    /// The fraction bit that makes a NaN quiet.
    const QUIET: u64 = 1 << (Self::FRACTION - 1);
    /// The canonical NaN: positive, quiet, no payload.
    const NAN: u64 = Self::INFINITY | Self::QUIET;

    /// The encoding held by a 64-bit register; the canonical NaN if a narrower value is not NaN-boxed.
    #[inline(always)]
    fn unbox(register: u64) -> u64 {
        if Self::WIDTH == 64 {
            register
        } else if register >> 32 == 0xffff_ffff {
            register & 0xffff_ffff
        } else {
            Self::NAN
        }
    }

    /// The 64-bit register content for an encoding: a narrower one has all higher bits set.
    #[inline(always)]
    fn boxed(bits: u64) -> u64 {
        if Self::WIDTH == 64 { bits } else { bits | 0xffff_ffff_0000_0000 }
    }

    /// Is the encoding any NaN?
    #[inline(always)]
    fn is_nan(bits: u64) -> bool {
        bits & Self::MAGNITUDE > Self::INFINITY
    }

    /// Is the encoding a signaling NaN?
    #[inline(always)]
    fn is_signaling(bits: u64) -> bool {
        Self::is_nan(bits) && bits & Self::QUIET == 0
    }

    /// Is the sign bit set?
    #[inline(always)]
    fn is_negative(bits: u64) -> bool {
        bits & Self::SIGN != 0
    }

    /// `a` with the sign of `b` (FSGNJ).
    #[inline(always)]
    fn sign_of(a: u64, b: u64) -> u64 {
        a & Self::MAGNITUDE | b & Self::SIGN
    }

    /// `a` with the opposite of the sign of `b` (FSGNJN).
    #[inline(always)]
    fn sign_against(a: u64, b: u64) -> u64 {
        a & Self::MAGNITUDE | !b & Self::SIGN
    }

    /// `a` with its sign flipped if `b` is negative (FSGNJX).
    #[inline(always)]
    fn sign_xor(a: u64, b: u64) -> u64 {
        a & (Self::MAGNITUDE | Self::SIGN) ^ b & Self::SIGN
    }

    /// `a` with its sign flipped; what FMSUB, FNMSUB and FNMADD do to operands of [`mul_add`](crate::mul_add).
    #[inline(always)]
    fn negate(a: u64) -> u64 {
        a ^ Self::SIGN
    }
}

impl Format for F32 {
    const WIDTH: u32 = 32;
    const FRACTION: u32 = 23;
}

impl Format for F64 {
    const WIDTH: u32 = 64;
    const FRACTION: u32 = 52;
}

/// The stored exponent field.
#[inline(always)]
pub(crate) fn exponent<F: Format>(bits: u64) -> i32 {
    ((bits & F::MAGNITUDE) >> F::FRACTION) as i32
}

/// The fraction with its hidden bit, which subnormals and zeros lack.
#[inline(always)]
pub(crate) fn significand<F: Format>(bits: u64) -> u64 {
    bits & F::FRACTION_MASK | u64::from(exponent::<F>(bits) != 0) << F::FRACTION
}

/// Neither zero, subnormal, infinity nor NaN.
#[inline(always)]
pub(crate) fn is_normal<F: Format>(bits: u64) -> bool {
    // One unsigned compare for both ends of the range: 0 wraps to the top.
    (exponent::<F>(bits) as u32).wrapping_sub(1) < F::EXP_MAX as u32 - 1
}

/// Positive or negative zero.
#[inline(always)]
pub(crate) fn is_zero<F: Format>(bits: u64) -> bool {
    bits & F::MAGNITUDE == 0
}

/// Positive or negative infinity.
#[inline(always)]
pub(crate) fn is_infinite<F: Format>(bits: u64) -> bool {
    bits & F::MAGNITUDE == F::INFINITY
}

/// The sign bit in place, for a result.
#[inline(always)]
pub(crate) fn sign<F: Format>(negative: bool) -> u64 {
    u64::from(negative) << (F::WIDTH - 1)
}

/// Opens a normal number.
#[inline(always)]
pub(crate) fn open_normal<F: Format>(bits: u64) -> (i32, u64) {
    (exponent::<F>(bits), (bits & F::FRACTION_MASK | 1 << F::FRACTION) << (62 - F::FRACTION))
}

/// Opens any finite number but zero.
#[inline(always)]
pub(crate) fn open<F: Format>(bits: u64) -> (i32, u64) {
    let sig = significand::<F>(bits);
    let shift = sig.leading_zeros().wrapping_sub(1) & 63;
    (exponent::<F>(bits).max(1) + (62 - F::FRACTION) as i32 - shift as i32, sig << shift)
}

/// The result of an operation with a NaN among its operands.
pub(crate) fn nan<F: Format>(operands: &[u64]) -> (u64, Flags) {
    (F::NAN, nan_flags::<F>(operands))
}

/// NV if one of the operands is a signaling NaN.
#[inline]
pub(crate) fn nan_flags<F: Format>(operands: &[u64]) -> Flags {
    if operands.iter().any(|&x| F::is_signaling(x)) { Flags::NV } else { Flags::NONE }
}

/// The result of an operation that has none.
pub(crate) fn invalid<F: Format>() -> (u64, Flags) {
    (F::NAN, Flags::NV)
}
