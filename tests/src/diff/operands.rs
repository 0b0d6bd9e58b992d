//! Operand values: corners far more often than chance would give them.

use strata_isa::random::SplitMix64;

/// An integer.
pub fn integer(rng: &mut SplitMix64) -> u64 {
    let r = rng.next_u64();
    match rng.below(10) {
        0 => *rng.pick(&[0, 1, 2, u64::MAX, u64::MAX - 1]).unwrap_or(&0),
        1 => *rng
            .pick(&[1 << 63, i64::MAX as u64, 1 << 31, i32::MAX as u64, !0 << 31, u32::MAX.into()])
            .unwrap_or(&0),
        2 => 1 << (r & 63),
        3 => !(1 << (r & 63)),
        4 => r as u32 as i32 as u64,
        5 => (r as u32).into(),
        6 => r & 0xff,
        // Neighbours of powers of two: where a conversion to a float starts to round.
        7 => (1u64 << (r & 63)).wrapping_add((r >> 8 & 7).wrapping_sub(3)),
        8 => r >> (r & 63),
        _ => r,
    }
}

/// A floating-point register.
pub fn float(rng: &mut SplitMix64) -> u64 {
    match rng.below(10) {
        0..5 => f64_bits(rng),
        5..9 => !0 << 32 | u64::from(f32_bits(rng)),
        // A single that is not boxed, so that it counts as a NaN.
        _ => rng.next_u64() << 32 | u64::from(f32_bits(rng)),
    }
}

/// A 32-bit float.
pub fn f32_bits(rng: &mut SplitMix64) -> u32 {
    let r = rng.next_u64() as u32;
    let sign = r & 1 << 31;
    let fraction = fraction(rng, 23) as u32;
    sign | match rng.below(10) {
        0 => 0,
        1 => fraction,                                                   // subnormal
        2 => 0x7f80_0000,                                                // infinity
        3 => 0x7fc0_0000 | fraction,                                     // quiet NaN
        4 => 0x7f80_0000 | (fraction & 0x3f_ffff).max(1),                // signalling NaN
        5 => (1 + (r >> 23 & 3)) << 23 | fraction,                       // just normal
        6 => (0xfe - (r >> 23 & 3)) << 23 | fraction,                    // largest
        7 => (127 + (r >> 23 & 63)).saturating_sub(24) << 23 | fraction, // near the integers
        8 => (r & 0x7fff_ffff).min(0x7f7f_ffff),
        _ => 127 << 23 | (r & 3) << 23 | fraction,
    }
}

/// A 64-bit float.
pub fn f64_bits(rng: &mut SplitMix64) -> u64 {
    let r = rng.next_u64();
    let sign = r & 1 << 63;
    let fraction = fraction(rng, 52);
    let pick = r >> 52 & 0x3ff;
    sign | match rng.below(11) {
        0 => 0,
        1 => fraction,
        2 => 0x7ff << 52,
        3 => 0xfff << 51 | fraction,
        4 => 0x7ff << 52 | (fraction & !(1 << 51)).max(1),
        5 => (1 + (pick & 3)) << 52 | fraction,
        6 => (0x7fe - (pick & 3)) << 52 | fraction,
        7 => (1023 + pick % 80 - 10) << 52 | fraction,
        // Around the ends of single precision: its subnormals, its largest.
        8 => (1023 - 150 + pick % 30) << 52 | fraction,
        9 => (1023 + 126 + (pick & 3)) << 52 | fraction,
        _ => (r & i64::MAX as u64).min(0x7fef_ffff_ffff_ffff),
    }
}

/// `bits` bits: all, none, one, or one short of a rounding boundary.
fn fraction(rng: &mut SplitMix64, bits: u32) -> u64 {
    let all = (1u64 << bits) - 1;
    let r = rng.next_u64();
    let at = (r >> 32) as u32 % bits;
    all & match rng.below(7) {
        0 => 0,
        1 => all,
        2 => 1 << at,
        3 => all << at,
        4 => (1 << at) - 1,
        5 => (r << at).wrapping_add(r >> 60),
        _ => r,
    }
}
