//! Random programs, again and again from the start, so that they get hot; compared at random counts.

use super::fixture::*;
use super::program::{self, Maker, POINTERS, RESERVED};
use crate::Options;
use strata_engine::Counted;
use strata_isa::random::{Filter, SplitMix64};
use strata_isa::{Effect, Extensions};
use strata_state::Stateful;

/// What a program is made of.
fn filter(floats: bool, system: bool) -> Filter {
    let mut f = Filter::new(Extensions::ALL).only(|op| match op.effect() {
        Effect::Pure | Effect::Load(_) | Effect::Store(_) | Effect::Fence => true,
        Effect::Amo(_) | Effect::Reserve(_) | Effect::Conditional(_) => true,
        Effect::Fp | Effect::FpLoad(_) | Effect::FpStore(_) => floats,
        Effect::Csr => system,
        _ => false,
    });
    f.x_dst = !RESERVED;
    f.x_base = POINTERS;
    f.offsets = -64..=2047;
    f.csrs = vec![0x340, 0x341, 0x342, 0x343, 0x001, 0x002, 0x003, 0x140, 0x141, 0xb02, 0xf14];
    f
}

/// Runs `seed`'s program both ways.
fn compare(seed: u64, floats: bool, system: bool) {
    let mut rng = SplitMix64::new(seed);
    let code = Maker::new(&mut rng, &filter(floats, system)).program();
    let registers = rng.next_u64();
    // Often over the end of a page.
    let base = BASE + if rng.chance(50) { 0x1000 - rng.below(200) * 2 } else { 0 };
    // Each with other habits: code at once or late, much room for it or little.
    let options = Options {
        hot: [16, 0, 1][(seed % 3) as usize],
        awaited: 0,
        code_size: [32 << 20, 0][(seed % 2) as usize],
    };
    let mut machines = [None, Some(options)].map(|translated| {
        let mut m = Machine::new(translated, base);
        m.ram.load(base, &program::bytes(&code)).unwrap();
        m.registers(&mut SplitMix64::new(registers), POINTERS);
        m
    });
    let mut left = 20_000;
    while left > 0 {
        let most = if rng.chance(30) { 40 } else { 6000 };
        let n = 1 + rng.below(most);
        let [a, b] = &mut machines;
        let stops = (a.hart.run_for(n), b.hart.run_for(n));
        let (x, y) = (a.hart.state(), b.hart.state());
        let (p, q) = (a.memory(DATA, 1 << 20), b.memory(DATA, 1 << 20));
        if p != q {
            let at = p.iter().zip(&q).position(|(p, q)| p != q).unwrap();
            eprintln!(
                "memory differs at {:x}: {:x?} {:x?}",
                DATA + at as u64,
                &p[at & !7..at + 8],
                &q[at & !7..at + 8]
            );
            eprintln!("{:x?}", x.x);
        }
        if x != y || p != q || stops.0 != stops.1 {
            let text = program::listing(&code, base);
            let fields = |s: &strata_riscv::HartState| format!("{s:x?}").replace(", ", "\n");
            let (x, y) = (fields(&x), fields(&y));
            let differs: Vec<String> = x
                .lines()
                .zip(y.lines())
                .enumerate()
                .filter(|(_, (x, y))| x != y)
                .map(|(n, (x, y))| format!("{n}: {x}   {y}"))
                .collect();
            panic!("seed {seed:#x} left {left}\n{text}\n{stops:?}\n{}", differs.join("\n"));
        }
        left -= n.min(left);
    }
    let [a, b] = &machines;
    assert!(a.memory(DATA, 1 << 20) == b.memory(DATA, 1 << 20), "memory differs, seed {seed:#x}");
}

pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let n = std::env::var("STRATA_TRANSLATOR_SEEDS").ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let first = std::env::var("STRATA_TRANSLATOR_FIRST").ok().and_then(|v| v.parse().ok()).unwrap_or(0);
    first..first + n
}

#[test]
fn integer_programs() {
    seeds(300).for_each(|seed| compare(seed, false, false));
}

#[test]
fn floating_point_programs() {
    seeds(200).for_each(|seed| compare(seed | 1 << 40, true, false));
}

#[test]
fn programs_with_csrs() {
    seeds(200).for_each(|seed| compare(seed | 1 << 41, true, true));
}
