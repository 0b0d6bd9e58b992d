//! The crate against three authorities: the specification's corner cases (`corners`), the host's FPU
//! (`host`, on x86-64) and an independent software implementation (`reference`).
//!
//! `STRATA_FLOAT_CASES` sets the number of random cases an operation and format; more is only slower.

mod corners;
#[cfg(target_arch = "x86_64")]
mod host;
mod operands;
mod properties;
mod reference;

use strata_float::Rounding;

/// Random cases for each operation and format.
fn cases() -> u64 {
    std::env::var("STRATA_FLOAT_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

/// All five rounding modes.
const MODES: [Rounding; 5] = [
    Rounding::NearestEven,
    Rounding::TowardZero,
    Rounding::Down,
    Rounding::Up,
    Rounding::NearestMaxMagnitude,
];
