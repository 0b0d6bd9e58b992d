use super::fixture::*;
use proptest::prelude::*;
use strata_engine::{Stop, Vcpu};
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
    let shared = m.hart.shared().clone();
    for _ in 0..40 {
        // A hart that waits or spins comes back by the kick that is already there.
        shared.kick();
        m.core().retired = 0;
        let stop = step_some(&mut m);
        m.hart.check(&m.hart.state()).unwrap();
        match stop {
            Stop::Stuck(_) => break,
            Stop::FirmwareCall(_) => m.hart.finish_call(0, 0),
            _ => {}
        }
        m.core().waiting = false;
        m.clock.advance(1000);
    }
}

/// Some blocks: the kick is delivered from a thread as soon as the run has begun.
fn step_some(m: &mut Machine) -> Stop {
    let shared = m.hart.shared().clone();
    shared.take_kick();
    let t = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_micros(50));
        shared.kick();
    });
    let stop = m.hart.run();
    t.join().unwrap();
    stop
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn random_programs_never_panic(seed: u64, kernel: bool) {
        run_random(seed, kernel);
    }
}
