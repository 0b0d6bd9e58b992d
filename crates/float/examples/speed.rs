//! Nanoseconds an operation: latency, each result being the next operand, and throughput over independent ones.
//! `cargo run --release -p strata-float --example speed`

use std::hint::black_box;
use std::time::Instant;
use strata_float::{self as float, F32, F64, Flags, Format, Rounding};

const COUNT: u32 = 1 << 24;

fn nanoseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e9 / f64::from(COUNT)
}

/// Times `f(x, y)` on numbers between 1 and 2, with the mode hidden from the optimizer as in an interpreter.
fn time<F: Format>(name: &str, f: impl Fn(u64, u64, Rounding) -> (u64, Flags)) {
    let one = (F::BIAS as u64) << F::FRACTION;
    let mut seed = 1u64;
    let numbers: Vec<u64> = (0..1024)
        .map(|_| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            one | seed >> 12 & F::FRACTION_MASK
        })
        .collect();
    let rm = black_box(Rounding::NearestEven);
    let mut flags = Flags::NONE;
    let latency = nanoseconds(|| {
        let mut x = one;
        for i in 0..COUNT as usize {
            let (bits, raised) = f(x, numbers[i & 1023], rm);
            // Back between 1 and 2: the chain stays among normal numbers.
            x = one | bits & F::FRACTION_MASK;
            flags |= raised;
        }
        black_box(x);
    });
    let throughput = nanoseconds(|| {
        for i in 0..COUNT as usize {
            let (bits, raised) = f(numbers[i & 1023], numbers[i >> 3 & 1023], rm);
            black_box(bits);
            flags |= raised;
        }
    });
    let _ = black_box(flags);
    println!("{name:<8} {:>2} bits  latency {latency:5.2} ns  throughput {throughput:5.2} ns", F::WIDTH);
}

fn all<F: Format>() {
    time::<F>("add", float::add::<F>);
    time::<F>("sub", float::sub::<F>);
    time::<F>("mul", float::mul::<F>);
    time::<F>("mul_add", |a, b, rm| float::mul_add::<F>(a, b, a, rm));
    time::<F>("div", float::div::<F>);
    time::<F>("sqrt", |a, b, rm| float::sqrt::<F>(a ^ (b & F::FRACTION_MASK), rm));
    time::<F>("to_i64", |a, b, rm| {
        let (x, flags) = float::to_i64::<F>(a ^ (b & F::FRACTION_MASK), rm);
        (x as u64, flags)
    });
    time::<F>("from_i64", |a, b, rm| float::from_i64::<F>((a ^ b) as i64, rm));
}

fn main() {
    all::<F32>();
    all::<F64>();
}
