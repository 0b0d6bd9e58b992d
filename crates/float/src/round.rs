//! Rounding: modes, exception flags, and the one place where a result is rounded (IEEE 754-2019 §4.3, §7).
//!
//! An increment that depends on the mode is added below the last kept bit, then the tail is cut. For ties to
//! even the increment is one less than half, plus the last kept bit: a tie carries only into an odd number.

use crate::format::{Format, sign};
use std::ops::{BitOr, BitOrAssign};

/// A rounding mode, numbered as in the `frm` field and in an instruction's `rm` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rounding {
    /// RNE: to nearest, ties to even.
    NearestEven = 0,
    /// RTZ: toward zero.
    TowardZero = 1,
    /// RDN: toward negative infinity.
    Down = 2,
    /// RUP: toward positive infinity.
    Up = 3,
    /// RMM: to nearest, ties away from zero.
    NearestMaxMagnitude = 4,
}

impl Rounding {
    /// The mode with this number; `None` for the reserved 5 and 6, and for 7, which names no mode of its own.
    #[inline]
    pub const fn from_bits(rm: u8) -> Option<Rounding> {
        match rm {
            0 => Some(Rounding::NearestEven),
            1 => Some(Rounding::TowardZero),
            2 => Some(Rounding::Down),
            3 => Some(Rounding::Up),
            4 => Some(Rounding::NearestMaxMagnitude),
            _ => None,
        }
    }
}

/// A set of exceptions, with the bits of the `fflags` field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[must_use]
pub struct Flags(u8);

impl Flags {
    /// No exception.
    pub const NONE: Flags = Flags(0);
    /// Inexact.
    pub const NX: Flags = Flags(1);
    /// Underflow: tiny after rounding, and inexact.
    pub const UF: Flags = Flags(2);
    /// Overflow.
    pub const OF: Flags = Flags(4);
    /// Division by zero.
    pub const DZ: Flags = Flags(8);
    /// Invalid operation.
    pub const NV: Flags = Flags(16);

    /// The five bits, as `fflags` holds them.
    #[inline(always)]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Is every flag of `other` set?
    #[inline]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// NX if `inexact`.
    #[inline(always)]
    pub(crate) fn inexact(inexact: bool) -> Flags {
        Flags(u8::from(inexact))
    }
}

impl BitOr for Flags {
    type Output = Flags;
    #[inline(always)]
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    #[inline(always)]
    fn bitor_assign(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

/// What to add to a magnitude before its tail is cut. `half` is the tail's highest bit, `odd` the lowest kept.
#[inline(always)]
pub(crate) fn increment(rm: Rounding, negative: bool, odd: bool, half: u64) -> u64 {
    let outward = half - 1 + half;
    match rm {
        Rounding::NearestEven => half - 1 + u64::from(odd),
        Rounding::NearestMaxMagnitude => half,
        Rounding::Down if negative => outward,
        Rounding::Up if !negative => outward,
        Rounding::TowardZero | Rounding::Down | Rounding::Up => 0,
    }
}

/// `x >> n` with every bit that falls out ORed into bit 0, so that rounding still sees that there were some.
/// A shift by more than 63 is taken as one by 63, which is as good for an `x` below 2^63.
#[inline(always)]
pub(crate) fn jam(x: u64, n: u32) -> u64 {
    let n = n.min(63);
    // The bit that becomes bit 0 is among those tested, which changes nothing: it is there already.
    x >> n | u64::from(x << (63 - n) != 0)
}

/// [`jam`] for 128 bits: a shift by more than 127 is as good as one by 127 for an `x` below 2^127.
#[inline(always)]
pub(crate) fn jam128(x: u128, n: u32) -> u128 {
    let n = n.min(127);
    x >> n | u128::from(x << (127 - n) != 0)
}

/// Bits of an opened significand that the format has no room for.
const fn tail<F: Format>() -> u32 {
    62 - F::FRACTION
}

/// [`increment`] for an opened significand.
#[inline(always)]
fn increment_of<F: Format>(rm: Rounding, negative: bool, sig: u64) -> u64 {
    increment(rm, negative, sig >> tail::<F>() & 1 != 0, 1 << (tail::<F>() - 1))
}

/// Rounds an opened number whose bit 0 may be jammed, and encodes it. The exponent is unbounded.
#[inline(always)]
pub(crate) fn round_pack<F: Format>(negative: bool, exp: i32, sig: u64, rm: Rounding) -> (u64, Flags) {
    debug_assert!(sig >> 62 == 1, "the significand is not normalized");
    // Below EXP_MAX - 1 even a carry out of the significand leaves the number finite.
    if (exp as u32).wrapping_sub(1) >= F::EXP_MAX as u32 - 2 {
        return round_pack_extreme::<F>(negative, exp, sig, rm);
    }
    let inexact = sig & ((1 << tail::<F>()) - 1) != 0;
    let kept = (sig + increment_of::<F>(rm, negative, sig)) >> tail::<F>();
    // The hidden bit, or a carry beyond it, is added to the exponent field: hence the one less.
    let magnitude = ((exp as u64 - 1) << F::FRACTION) + kept;
    (sign::<F>(negative) | magnitude, Flags::inexact(inexact))
}

/// [`round_pack`] near and beyond the ends of the exponent's range.
#[cold]
#[inline(never)]
fn round_pack_extreme<F: Format>(negative: bool, exp: i32, sig: u64, rm: Rounding) -> (u64, Flags) {
    let rounded = sig + increment_of::<F>(rm, negative, sig);
    let carries = rounded >> 63 != 0;
    if exp > 0 {
        if exp + i32::from(carries) >= F::EXP_MAX {
            return overflow::<F>(negative, rm);
        }
        let inexact = sig & ((1 << tail::<F>()) - 1) != 0;
        let magnitude = ((exp as u64 - 1) << F::FRACTION) + (rounded >> tail::<F>());
        return (sign::<F>(negative) | magnitude, Flags::inexact(inexact));
    }
    // Tiny unless rounding to full precision, with an unbounded exponent, would reach the least normal number.
    let tiny = exp < 0 || !carries;
    let sig = jam(sig, 1u32.saturating_add(exp.unsigned_abs()));
    let inexact = sig & ((1 << tail::<F>()) - 1) != 0;
    // No hidden bit here; a carry into its place makes the least normal number by itself.
    let magnitude = (sig + increment_of::<F>(rm, negative, sig)) >> tail::<F>();
    let flags = if tiny && inexact { Flags::UF } else { Flags::NONE };
    (sign::<F>(negative) | magnitude, flags | Flags::inexact(inexact))
}

/// The result of rounding a number too large: infinity, or the largest finite number if the mode points inward.
fn overflow<F: Format>(negative: bool, rm: Rounding) -> (u64, Flags) {
    let inward = increment(rm, negative, false, 2) == 0;
    (sign::<F>(negative) | (F::INFINITY - u64::from(inward)), Flags::OF | Flags::NX)
}
