//! Operands that find mistakes: few are uniform; most sit near a boundary, or where another operand makes the
//! result cancel, underflow, overflow or fall halfway between two numbers.

use strata_float::Format;

/// SplitMix64: small, seedable, and good enough to choose test operands.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    fn around(&mut self, centre: i32, reach: i32) -> i32 {
        centre - reach + self.below(2 * reach as u64 + 1) as i32
    }
}

/// The named values of a format and their neighbours, positive only.
pub fn landmarks<F: Format>() -> Vec<u64> {
    let one = (F::BIAS as u64) << F::FRACTION;
    let least_normal = 1 << F::FRACTION;
    let mut all = vec![0, 1, 2, 3, F::NAN, F::NAN | 1, F::INFINITY | 1, F::NAN - 1, F::MAGNITUDE];
    for centre in [least_normal, least_normal << 1, one, one + (1 << F::FRACTION), F::INFINITY] {
        all.extend([centre - 2, centre - 1, centre, centre + 1]);
    }
    all.extend([one - (1 << F::FRACTION), one + F::QUIET, F::INFINITY - (1 << F::FRACTION)]);
    // Ends of the integers' ranges, and their halves.
    for power in [30, 31, 32, 62, 63, 64] {
        let centre = ((F::BIAS + power) as u64) << F::FRACTION;
        all.extend([centre - 2, centre - 1, centre, centre + 1, centre + 2]);
    }
    all
}

/// A fraction: any, or few ones, or few zeros, or a run of ones.
fn fraction<F: Format>(random: &mut Random) -> u64 {
    let any = random.bits();
    let chosen = match random.below(6) {
        0 | 1 => any,
        2 => 1u64 << random.below(F::FRACTION.into()),
        3 => any & random.bits() & random.bits() & random.bits(),
        4 => any | random.bits() | random.bits() | random.bits(),
        _ => (u64::MAX << random.below(F::FRACTION.into())) ^ random.below(3),
    };
    chosen & F::FRACTION_MASK
}

fn with_exponent<F: Format>(random: &mut Random, exponent: i32) -> u64 {
    let exponent = exponent.clamp(0, F::EXP_MAX - 1) as u64;
    random.bits() & F::SIGN | exponent << F::FRACTION | fraction::<F>(random)
}

/// One operand. What is above the format's width is noise, which must not matter.
pub fn operand<F: Format>(random: &mut Random) -> u64 {
    let precision = F::FRACTION as i32;
    match random.below(10) {
        0 | 1 => {
            let all = landmarks::<F>();
            all[random.below(all.len() as u64) as usize] | random.bits() & F::SIGN
        }
        2 => random.bits(),
        3 => {
            let exponent = random.below(F::EXP_MAX as u64) as i32;
            with_exponent::<F>(random, exponent)
        }
        4 => random.bits() & F::SIGN | fraction::<F>(random) >> random.below(F::FRACTION.into()),
        5 => {
            let exponent = random.around(F::EXP_MAX - 3, 3);
            with_exponent::<F>(random, exponent)
        }
        6 => {
            let exponent = random.around(3, 3);
            with_exponent::<F>(random, exponent)
        }
        7 => {
            let exponent = random.around(F::BIAS, 2);
            with_exponent::<F>(random, exponent)
        }
        // Where rounding to an integer, or to the other format, happens.
        _ => {
            let exponent = random.around(F::BIAS + precision / 2, precision + 14);
            with_exponent::<F>(random, exponent)
        }
    }
}

fn exponent<F: Format>(bits: u64) -> i32 {
    ((bits & F::MAGNITUDE) >> F::FRACTION) as i32
}

/// A second operand, often such that its sum, product or quotient with `a` is a hard one.
pub fn partner<F: Format>(random: &mut Random, a: u64) -> u64 {
    let e = exponent::<F>(a);
    let precision = F::FRACTION as i32;
    let exponent = match random.below(8) {
        // Cancellation, alignment, and sticky bits.
        0 => random.around(e, 2),
        1 => random.around(e, precision + 4),
        // Product, then quotient, about to underflow or overflow.
        2 => random.around(F::BIAS - e - precision / 2, precision),
        3 => random.around(F::EXP_MAX + F::BIAS - e, 3),
        4 => random.around(e + F::BIAS + precision / 2, precision),
        5 => random.around(e - F::BIAS, 3),
        6 => return (a ^ random.bits() & F::SIGN).wrapping_add(random.around(0, 2) as u64),
        _ => return operand::<F>(random),
    };
    with_exponent::<F>(random, exponent)
}

/// An addend for the product of `a` and `b`, often of about its size.
pub fn addend<F: Format>(random: &mut Random, a: u64, b: u64) -> u64 {
    let product = exponent::<F>(a) + exponent::<F>(b) - F::BIAS;
    let exponent = match random.below(4) {
        0 => random.around(product, 2),
        1 => random.around(product, 2 * F::FRACTION as i32 + 6),
        2 => random.around(product - F::FRACTION as i32, 3),
        _ => return operand::<F>(random),
    };
    with_exponent::<F>(random, exponent)
}

/// An integer of random length, often all ones or a power of two with noise at the end.
pub fn integer(random: &mut Random) -> u64 {
    let shifted = random.bits() >> random.below(64);
    match random.below(4) {
        0 => shifted,
        1 => shifted.wrapping_neg(),
        2 => (1u64 << random.below(64)).wrapping_add(random.below(5)).wrapping_sub(2),
        _ => (shifted << random.below(64)).wrapping_add(random.below(3)).wrapping_sub(1),
    }
}
