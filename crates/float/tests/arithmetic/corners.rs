//! Corner cases that the specifications spell out, or that implementations are known to differ in.

use crate::MODES;
use strata_float::Rounding::{Down, NearestEven, NearestMaxMagnitude, TowardZero, Up};
use strata_float::{self as float, F32, F64, Flags, Format, Rounding, class};

const NONE: Flags = Flags::NONE;
const NX: Flags = Flags::NX;
const NV: Flags = Flags::NV;

/// Two to the `n`, a normal number.
fn power<F: Format>(n: i32) -> u64 {
    ((F::BIAS + n) as u64) << F::FRACTION
}

fn one<F: Format>() -> u64 {
    power::<F>(0)
}

fn signaling<F: Format>() -> u64 {
    F::INFINITY | 1
}

/// Runs a generic test for both formats.
macro_rules! both_formats {
    ($($(#[$meta:meta])* fn $name:ident<$f:ident>() $body:block)+) => { $(
        $(#[$meta])*
        #[test]
        fn $name() {
            fn test<$f: Format>() $body
            test::<F32>();
            test::<F64>();
        }
    )+ };
}

both_formats! {
    /// The least normal number less 2^-`below` of its size, in each mode. Just under it the standard's two
    /// ways to detect tininess part: RISC-V rounds as if the exponent had no end, and asks then.
    fn tininess_is_detected_after_rounding<F>() {
        let least = power::<F>(1 - F::BIAS);
        let precision = F::FRACTION as i32 + 1;
        let (tiny, beneath) = (Flags::UF | NX, least - 1);
        for (below, rm, magnitude, flags) in [
            // A number of full precision: rounding does not change it, so it is tiny whatever it becomes.
            (precision, NearestEven, least, tiny),
            (precision, NearestMaxMagnitude, least, tiny),
            (precision, TowardZero, beneath, tiny),
            (precision, Down, beneath, tiny),
            (precision, Up, least, tiny),
            // Halfway between that and the least normal number, which is even.
            (precision + 1, NearestEven, least, NX),
            (precision + 1, NearestMaxMagnitude, least, NX),
            (precision + 1, TowardZero, beneath, tiny),
            (precision + 1, Down, beneath, tiny),
            (precision + 1, Up, least, NX),
            (precision + 9, NearestEven, least, NX),
            (precision + 9, TowardZero, beneath, tiny),
            (precision + 9, Up, least, NX),
        ] {
            let exp = 1 - F::BIAS - below;
            let (x, y) = (F::negate(power::<F>(exp / 2)), power::<F>(exp - exp / 2));
            assert_eq!(float::mul_add::<F>(x, y, least, rm), (magnitude, flags), "{below} {rm:?}");
        }
    }

    fn exact_subnormals_do_not_underflow<F>() {
        let least = power::<F>(1 - F::BIAS);
        for rm in MODES {
            assert_eq!(float::mul::<F>(least, power::<F>(-1), rm), (least >> 1, NONE));
            assert_eq!(float::sub::<F>(least, 1, rm), (least - 1, NONE));
            assert_eq!(float::add::<F>(least - 1, 1, rm), (least, NONE));
            assert_eq!(float::div::<F>(1, one::<F>(), rm), (1, NONE));
            assert_eq!(float::mul::<F>(1, power::<F>(F::FRACTION as i32), rm), (least, NONE));
        }
    }

    fn half_of_the_least_subnormal<F>() {
        let half = power::<F>(-1);
        for (rm, magnitude) in
            [(NearestEven, 0), (NearestMaxMagnitude, 1), (TowardZero, 0), (Down, 0), (Up, 1)]
        {
            assert_eq!(float::mul::<F>(1, half, rm), (magnitude, Flags::UF | NX), "{rm:?}");
        }
        let negative = F::negate(1);
        for (rm, magnitude) in
            [(NearestEven, 0), (NearestMaxMagnitude, 1), (TowardZero, 0), (Down, 1), (Up, 0)]
        {
            let expected = (F::SIGN | magnitude, Flags::UF | NX);
            assert_eq!(float::mul::<F>(negative, half, rm), expected, "{rm:?}");
        }
    }

    fn overflow_goes_where_the_mode_points<F>() {
        let (largest, flags) = (F::INFINITY - 1, Flags::OF | NX);
        for (rm, above, below) in [
            (NearestEven, F::INFINITY, F::INFINITY),
            (NearestMaxMagnitude, F::INFINITY, F::INFINITY),
            (TowardZero, largest, largest),
            (Down, largest, F::INFINITY),
            (Up, F::INFINITY, largest),
        ] {
            assert_eq!(float::add::<F>(largest, largest, rm), (above, flags), "{rm:?}");
            let negative = F::negate(largest);
            assert_eq!(float::mul::<F>(negative, largest, rm), (F::SIGN | below, flags), "{rm:?}");
        }
        // Half a unit above the largest number is where rounding to nearest begins to overflow.
        let half_unit = power::<F>(F::BIAS - F::FRACTION as i32 - 1);
        assert_eq!(float::add::<F>(largest, half_unit, NearestEven), (F::INFINITY, flags));
        assert_eq!(float::add::<F>(largest, half_unit, Down), (largest, NX));
        assert_eq!(float::add::<F>(largest, half_unit - 1, NearestMaxMagnitude), (largest, NX));
    }

    fn ties<F>() {
        let (one, half_unit) = (one::<F>(), power::<F>(-(F::FRACTION as i32) - 1));
        for (rm, even, odd) in [
            (NearestEven, one, one + 2),
            (NearestMaxMagnitude, one + 1, one + 2),
            (TowardZero, one, one + 1),
            (Down, one, one + 1),
            (Up, one + 1, one + 2),
        ] {
            assert_eq!(float::add::<F>(one, half_unit, rm), (even, NX), "{rm:?}");
            assert_eq!(float::add::<F>(one + 1, half_unit, rm), (odd, NX), "{rm:?}");
        }
        let (a, b) = (F::negate(one), F::negate(half_unit));
        assert_eq!(float::add::<F>(a, b, NearestMaxMagnitude), (F::negate(one + 1), NX));
        assert_eq!(float::add::<F>(a, b, Down), (F::negate(one + 1), NX));
        assert_eq!(float::add::<F>(a, b, Up), (a, NX));
    }

    fn signs_of_zero_sums<F>() {
        let (one, zero, minus_zero) = (one::<F>(), 0, F::SIGN);
        for rm in MODES {
            let cancelled = if rm == Down { minus_zero } else { zero };
            assert_eq!(float::sub::<F>(one, one, rm), (cancelled, NONE));
            assert_eq!(float::add::<F>(zero, minus_zero, rm), (cancelled, NONE));
            assert_eq!(float::add::<F>(minus_zero, minus_zero, rm), (minus_zero, NONE));
            assert_eq!(float::sub::<F>(minus_zero, zero, rm), (minus_zero, NONE));
            assert_eq!(float::mul_add::<F>(one, one, F::negate(one), rm), (cancelled, NONE));
            assert_eq!(float::mul_add::<F>(minus_zero, one, zero, rm), (cancelled, NONE));
            assert_eq!(float::mul_add::<F>(minus_zero, one, minus_zero, rm), (minus_zero, NONE));
            assert_eq!(float::mul::<F>(minus_zero, one, rm), (minus_zero, NONE));
        }
    }

    fn nans_become_canonical<F>() {
        let (one, quiet, signaling) = (one::<F>(), F::SIGN | F::NAN | 5, signaling::<F>());
        for rm in MODES {
            for (nan, flags) in [(quiet, NONE), (signaling, NV)] {
                let expected = (F::NAN, flags);
                assert_eq!(float::add::<F>(nan, one, rm), expected);
                assert_eq!(float::sub::<F>(one, nan, rm), expected);
                assert_eq!(float::mul::<F>(nan, F::INFINITY, rm), expected);
                assert_eq!(float::div::<F>(0, nan, rm), expected);
                assert_eq!(float::sqrt::<F>(nan, rm), expected);
                assert_eq!(float::convert::<F, F32>(nan, rm), (F32::NAN, flags));
                assert_eq!(float::convert::<F, F64>(nan, rm), (F64::NAN, flags));
                for [a, b, c] in [[nan, one, one], [one, nan, one], [one, one, nan]] {
                    assert_eq!(float::mul_add::<F>(a, b, c, rm), expected);
                }
            }
            assert_eq!(float::add::<F>(quiet, signaling, rm), (F::NAN, NV));
        }
    }

    fn invalid_operations<F>() {
        let (infinity, minus_infinity, one) = (F::INFINITY, F::SIGN | F::INFINITY, one::<F>());
        let invalid = (F::NAN, NV);
        for rm in MODES {
            assert_eq!(float::add::<F>(infinity, minus_infinity, rm), invalid);
            assert_eq!(float::sub::<F>(infinity, infinity, rm), invalid);
            assert_eq!(float::mul::<F>(infinity, 0, rm), invalid);
            assert_eq!(float::div::<F>(0, F::SIGN, rm), invalid);
            assert_eq!(float::div::<F>(infinity, minus_infinity, rm), invalid);
            assert_eq!(float::sqrt::<F>(F::negate(one), rm), invalid);
            assert_eq!(float::sqrt::<F>(minus_infinity, rm), invalid);
            assert_eq!(float::sqrt::<F>(F::SIGN | 1, rm), invalid);
            assert_eq!(float::mul_add::<F>(infinity, one, minus_infinity, rm), invalid);
            for c in [one, 0, infinity, F::NAN, signaling::<F>()] {
                assert_eq!(float::mul_add::<F>(infinity, 0, c, rm), invalid);
                assert_eq!(float::mul_add::<F>(F::SIGN, minus_infinity, c, rm), invalid);
            }
        }
    }

    fn infinities_and_zeros_are_exact<F>() {
        let (infinity, minus_infinity, one) = (F::INFINITY, F::SIGN | F::INFINITY, one::<F>());
        for rm in MODES {
            assert_eq!(float::add::<F>(infinity, infinity, rm), (infinity, NONE));
            assert_eq!(float::sub::<F>(one, infinity, rm), (minus_infinity, NONE));
            assert_eq!(float::mul::<F>(minus_infinity, one, rm), (minus_infinity, NONE));
            assert_eq!(float::div::<F>(infinity, 0, rm), (infinity, NONE));
            assert_eq!(float::div::<F>(one, minus_infinity, rm), (F::SIGN, NONE));
            assert_eq!(float::div::<F>(one, F::SIGN, rm), (minus_infinity, Flags::DZ));
            assert_eq!(float::sqrt::<F>(F::SIGN, rm), (F::SIGN, NONE));
            assert_eq!(float::sqrt::<F>(infinity, rm), (infinity, NONE));
            assert_eq!(float::mul_add::<F>(one, one, minus_infinity, rm), (minus_infinity, NONE));
            assert_eq!(float::mul_add::<F>(infinity, one, infinity, rm), (infinity, NONE));
            // An addend comes through a zero product unrounded, even a subnormal one.
            assert_eq!(float::mul_add::<F>(0, one, F::SIGN | 1, rm), (F::SIGN | 1, NONE));
        }
    }

    /// (1 + u)^2 - (1 + 2u) is u^2; a product rounded first would leave nothing.
    fn mul_add_rounds_once<F>() {
        let (x, y) = (one::<F>() + 1, one::<F>() + 2);
        for rm in MODES {
            let expected = (power::<F>(-2 * F::FRACTION as i32), NONE);
            assert_eq!(float::mul_add::<F>(x, x, F::negate(y), rm), expected);
        }
    }

    fn min_max<F>() {
        let (one, quiet, signaling) = (one::<F>(), F::SIGN | F::NAN | 5, signaling::<F>());
        assert_eq!(float::min::<F>(0, F::SIGN), (F::SIGN, NONE));
        assert_eq!(float::min::<F>(F::SIGN, 0), (F::SIGN, NONE));
        assert_eq!(float::max::<F>(0, F::SIGN), (0, NONE));
        assert_eq!(float::max::<F>(F::SIGN, 0), (0, NONE));
        for pick in [float::min::<F>, float::max::<F>] {
            assert_eq!(pick(quiet, one), (one, NONE));
            assert_eq!(pick(one, quiet), (one, NONE));
            assert_eq!(pick(signaling, one), (one, NV));
            assert_eq!(pick(one, signaling), (one, NV));
            assert_eq!(pick(quiet, quiet), (F::NAN, NONE));
            assert_eq!(pick(quiet, signaling), (F::NAN, NV));
        }
    }

    fn comparisons_of_nans<F>() {
        let (one, quiet, signaling) = (one::<F>(), F::NAN, signaling::<F>());
        assert_eq!(float::eq::<F>(one, quiet), (false, NONE));
        assert_eq!(float::eq::<F>(quiet, quiet), (false, NONE));
        assert_eq!(float::eq::<F>(signaling, one), (false, NV));
        assert_eq!(float::lt::<F>(one, quiet), (false, NV));
        assert_eq!(float::le::<F>(quiet, quiet), (false, NV));
        assert_eq!(float::eq::<F>(0, F::SIGN), (true, NONE));
        assert_eq!(float::lt::<F>(F::SIGN, 0), (false, NONE));
        assert_eq!(float::le::<F>(0, F::SIGN), (true, NONE));
    }

    /// FCLASS's table, in its order.
    fn ten_classes<F>() {
        let (infinity, one) = (F::INFINITY, one::<F>());
        let rows = [
            (F::SIGN | infinity, class::NEGATIVE_INFINITY),
            (F::SIGN | one, class::NEGATIVE_NORMAL),
            (F::SIGN | 1, class::NEGATIVE_SUBNORMAL),
            (F::SIGN, class::NEGATIVE_ZERO),
            (0, class::POSITIVE_ZERO),
            (F::FRACTION_MASK, class::POSITIVE_SUBNORMAL),
            (1 << F::FRACTION, class::POSITIVE_NORMAL),
            (infinity, class::POSITIVE_INFINITY),
            (F::SIGN | signaling::<F>(), class::SIGNALING_NAN),
            (F::SIGN | F::NAN, class::QUIET_NAN),
        ];
        for (bit, (number, class)) in rows.into_iter().enumerate() {
            assert_eq!(class, 1 << bit);
            assert_eq!(float::classify::<F>(number), class, "{number:#x}");
        }
    }

    fn sign_injection<F>() {
        let (one, minus) = (one::<F>(), F::SIGN | one::<F>());
        assert_eq!((F::sign_of(one, minus), F::sign_of(minus, one)), (minus, one));
        assert_eq!((F::sign_against(one, minus), F::sign_against(one, one)), (one, minus));
        assert_eq!((F::sign_xor(minus, minus), F::sign_xor(minus, one)), (one, minus));
        assert_eq!((F::negate(one), F::negate(minus)), (minus, one));
    }
}

#[test]
fn encodings_of_the_manual() {
    assert_eq!((F32::NAN, F64::NAN), (0x7fc0_0000, 0x7ff8_0000_0000_0000));
    assert_eq!((F32::INFINITY, F64::INFINITY), (0x7f80_0000, 0x7ff0_0000_0000_0000));
    assert_eq!([NX, Flags::UF, Flags::OF, Flags::DZ, NV].map(Flags::bits), [1, 2, 4, 8, 16]);
    for rm in 0..=u8::MAX {
        assert_eq!(Rounding::from_bits(rm), MODES.get(usize::from(rm)).copied());
    }
    assert_eq!(MODES.map(|rm| rm as u8), [0, 1, 2, 3, 4]);
}

#[test]
fn narrow_values_are_nan_boxed() {
    assert_eq!(F32::boxed(0x3f80_0000), 0xffff_ffff_3f80_0000);
    assert_eq!(F32::unbox(0xffff_ffff_3f80_0000), 0x3f80_0000);
    for improper in [0x3f80_0000, 0x7fff_ffff_3f80_0000, 0xffff_fffe_3f80_0000] {
        assert_eq!(F32::unbox(improper), F32::NAN);
    }
    assert_eq!((F64::boxed(1), F64::unbox(1)), (1, 1));
}

/// FCVT.W.D and FCVT.WU.D at the ends of their ranges, which rounding decides.
#[test]
fn conversions_to_32_bits() {
    const MAX: i32 = i32::MAX;
    const MIN: i32 = i32::MIN;
    for (number, rm, expected) in [
        (2147483647.0, NearestEven, (MAX, NONE)),
        (2147483647.5, TowardZero, (MAX, NX)),
        (2147483647.5, Down, (MAX, NX)),
        (2147483647.5, NearestEven, (MAX, NV)),
        (2147483647.5, NearestMaxMagnitude, (MAX, NV)),
        (2147483648.0, TowardZero, (MAX, NV)),
        (-2147483648.0, Up, (MIN, NONE)),
        (-2147483648.5, TowardZero, (MIN, NX)),
        (-2147483648.5, NearestEven, (MIN, NX)),
        (-2147483648.5, NearestMaxMagnitude, (MIN, NV)),
        (-2147483648.5, Down, (MIN, NV)),
        (-2147483649.0, Up, (MIN, NV)),
        (0.5, NearestEven, (0, NX)),
        (1.5, NearestEven, (2, NX)),
        (2.5, NearestEven, (2, NX)),
        (2.5, NearestMaxMagnitude, (3, NX)),
        (-2.5, NearestMaxMagnitude, (-3, NX)),
        (-0.0, Down, (0, NONE)),
        (5e-324, Up, (1, NX)),
        (5e-324, NearestMaxMagnitude, (0, NX)),
        (f64::INFINITY, Down, (MAX, NV)),
        (f64::NEG_INFINITY, Up, (MIN, NV)),
        (f64::NAN, NearestEven, (MAX, NV)),
        (-f64::NAN, NearestEven, (MAX, NV)),
    ] {
        assert_eq!(float::to_i32::<F64>(f64::to_bits(number), rm), expected, "{number} {rm:?}");
    }
    for (number, rm, expected) in [
        (4294967295.5, TowardZero, (u32::MAX, NX)),
        (4294967295.5, Up, (u32::MAX, NV)),
        (4294967296.0, TowardZero, (u32::MAX, NV)),
        (-0.25, NearestEven, (0, NX)),
        (-0.5, NearestEven, (0, NX)),
        (-0.5, NearestMaxMagnitude, (0, NV)),
        (-0.5, Down, (0, NV)),
        (-0.999, TowardZero, (0, NX)),
        (-1.0, TowardZero, (0, NV)),
        (-0.0, NearestEven, (0, NONE)),
        (f64::INFINITY, Down, (u32::MAX, NV)),
        (f64::NEG_INFINITY, Up, (0, NV)),
        (-f64::NAN, NearestEven, (u32::MAX, NV)),
    ] {
        assert_eq!(float::to_u32::<F64>(f64::to_bits(number), rm), expected, "{number} {rm:?}");
    }
}

/// FCVT.L.S, FCVT.LU.S and FCVT.L.D: here neighbouring numbers are far apart.
#[test]
fn conversions_to_64_bits() {
    let (below, at) = (power::<F32>(63) - 1, power::<F32>(63));
    assert_eq!(float::to_i64::<F32>(below, Up), (i64::MAX - (1 << 39) + 1, NONE));
    assert_eq!(float::to_i64::<F32>(at, TowardZero), (i64::MAX, NV));
    assert_eq!(float::to_i64::<F32>(F32::negate(at), Down), (i64::MIN, NONE));
    assert_eq!(float::to_i64::<F32>(F32::negate(at + 1), Up), (i64::MIN, NV));
    assert_eq!(float::to_i64::<F64>(F64::SIGN | power::<F64>(63), Up), (i64::MIN, NONE));
    assert_eq!(float::to_u64::<F32>(at, Up), (1 << 63, NONE));
    assert_eq!(float::to_u64::<F32>(power::<F32>(64) - 1, Up), (u64::MAX - (1 << 40) + 1, NONE));
    assert_eq!(float::to_u64::<F64>(power::<F64>(64), Down), (u64::MAX, NV));
    assert_eq!(float::to_u64::<F64>(F64::NAN, Down), (u64::MAX, NV));
    assert_eq!(float::to_u64::<F64>(F64::SIGN | 1, Up), (0, NX));
    assert_eq!(float::to_u64::<F64>(F64::SIGN | 1, Down), (0, NV));
}

#[test]
fn conversions_from_integers() {
    // 2^24 + 1 is halfway between two singles; all doubles of 32 bits are exact.
    let (even, odd) = (power::<F32>(24), power::<F32>(24) + 1);
    for (rm, expected) in
        [(NearestEven, even), (NearestMaxMagnitude, odd), (TowardZero, even), (Down, even), (Up, odd)]
    {
        assert_eq!(float::from_u32::<F32>((1 << 24) + 1, rm), (expected, NX), "{rm:?}");
        assert_eq!(float::from_i32::<F64>(i32::MIN, rm), (F64::SIGN | power::<F64>(31), NONE));
        assert_eq!(float::from_i64::<F32>(i64::MIN, rm), (F32::SIGN | power::<F32>(63), NONE));
        assert_eq!(float::from_i32::<F32>(0, rm), (0, NONE));
    }
    assert_eq!(float::from_u64::<F64>(u64::MAX, NearestEven), (power::<F64>(64), NX));
    assert_eq!(float::from_u64::<F64>(u64::MAX, TowardZero), (power::<F64>(64) - 1, NX));
    assert_eq!(float::from_i64::<F32>(-1, Down), (F32::SIGN | power::<F32>(0), NONE));
}

#[test]
fn conversions_between_formats() {
    // The least subnormal single is a normal double, and comes back exactly.
    let least = power::<F64>(-149);
    for rm in MODES {
        assert_eq!(float::convert::<F32, F64>(1, rm), (least, NONE));
        assert_eq!(float::convert::<F64, F32>(least, rm), (1, NONE));
        assert_eq!(float::convert::<F64, F32>(F64::SIGN, rm), (F32::SIGN, NONE));
        assert_eq!(
            float::convert::<F64, F32>(F64::SIGN | F64::INFINITY, rm),
            (F32::SIGN | F32::INFINITY, NONE)
        );
    }
    let half = power::<F64>(-150);
    assert_eq!(float::convert::<F64, F32>(half, NearestEven), (0, Flags::UF | NX));
    assert_eq!(float::convert::<F64, F32>(half, NearestMaxMagnitude), (1, Flags::UF | NX));
    assert_eq!(float::convert::<F64, F32>(half + 1, NearestEven), (1, Flags::UF | NX));
    assert_eq!(float::convert::<F64, F32>(power::<F64>(128), Down), (F32::INFINITY - 1, Flags::OF | NX));
    assert_eq!(float::convert::<F64, F32>(1, Up), (1, Flags::UF | NX));
}
