use super::fixture::*;
use proptest::prelude::*;
use strata_engine::{Counted, FirmwareCalls, Stop, Vcpu};
use strata_isa::Extensions;
use strata_isa::random::{Filter, SplitMix64, random_insn};
use strata_state::Stateful;

fn stream(seed: u64, n: usize) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed);
    let filter = Filter::new(Extensions::ALL);
    (0..n)
        .map(|_| {
            let word = rng.next_u64() as u32;
            if rng.chance(10) { word } else { random_insn(&mut rng, &filter).map_or(word, |i| i.raw) }
        })
        .collect()
}

/// Runs from a random state for a while; nothing may panic, and the state stays one that could be saved.
fn run_random(seed: u64, kernel: bool) {
    let mut m = if kernel { Machine::kernel(&[]) } else { Machine::new(&[]) };
    m.code(BASE, &stream(seed, 256));
    m.code(BASE + 0x1000, &stream(!seed, 256));
    let mut rng = SplitMix64::new(seed ^ 0x55);
    let c = m.core();
    for n in 1..32 {
        c.x[n] = if rng.chance(60) { BASE + rng.below(SIZE) } else { rng.next_u64() };
        c.f[n] = rng.next_u64();
    }
    (c.csr.mtvec, c.csr.stvec) = (BASE + 0x1000, BASE + 0x1000);
    c.csr.mstatus |= crate::csr::status::FS;
    for n in 0..20 {
        let before = m.hart.retired();
        let stop = m.hart.run_for(n * 17);
        m.hart.check(&m.hart.state()).unwrap();
        match stop {
            Stop::Stuck(_) => break,
            Stop::FirmwareCall(_) => m.hart.finish_call(0, 0),
            Stop::Kicked => assert_eq!(m.hart.retired(), before + n * 17),
            _ => {}
        }
        m.core().waiting = false;
        m.clock.advance(1000);
    }
}

/// Where blocks are cut must never be seen: the same program in one go and instruction by instruction.
fn run_both_ways(seed: u64) {
    let words = stream(seed, 256);
    let mut harts = [(); 2].map(|()| {
        let mut m = Machine::new(&words);
        m.code(BASE + 0x1000, &stream(!seed, 256));
        let mut rng = SplitMix64::new(seed ^ 0x55);
        let c = m.core();
        for n in 1..32 {
            c.x[n] = if rng.chance(60) { BASE + 0x10_0000 + rng.below(SIZE / 2) } else { rng.next_u64() };
            c.f[n] = rng.next_u64();
        }
        c.csr.mtvec = BASE + 0x1000;
        c.csr.mstatus |= crate::csr::status::FS;
        m
    });
    let [whole, stepped] = &mut harts;
    whole.hart.run_for(400);
    for _ in 0..400 {
        if stepped.hart.run_for(1) != Stop::Kicked {
            break;
        }
    }
    // Code that is stored to without fence.i may be seen old or new; the streams' stores rarely hit it, their
    // handlers' loops never get that far in 400 instructions.
    if whole.core().waiting == stepped.core().waiting {
        assert_eq!(whole.hart.state(), stepped.hart.state());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn random_programs_never_panic(seed: u64, kernel: bool) {
        run_random(seed, kernel);
    }

    #[test]
    fn blocks_are_not_seen(seed: u64) {
        run_both_ways(seed);
    }
}
