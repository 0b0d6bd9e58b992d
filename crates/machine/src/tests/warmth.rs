//! Lists of hot paths: a run with one is the run without it, and they are taken from machines that run.

use super::guest::*;
use super::repeats::{busy, deterministic_in, history_of};
use crate::{Machine, Phase, Tier};
use std::time::Duration;
use strata_engine::hot::HotPaths;
use strata_isa::Op;

const LIMIT: Duration = Duration::from_secs(120);

fn translated() -> bool {
    Tier::Translator.check().is_ok()
}

#[test]
fn a_warm_run_is_the_same_run() {
    if !translated() {
        return;
    }
    within(LIMIT, || {
        for (harts, rounds) in [(1, 200), (2, 100)] {
            let image = busy(harts.into(), rounds).image();
            let run = |tier, warm: &HotPaths| {
                let (m, console) = deterministic_in(Some(tier), harts, &image);
                m.warm(warm.clone());
                let mut found = HotPaths::default();
                // Each look takes the list from harts that run, which must not be seen either.
                let history = history_of((m, console), |m| found = m.hot_paths());
                (history, found)
            };
            let nothing = HotPaths::default();
            let ((plain, _), (cold, found)) =
                (run(Tier::Interpreter, &nothing), run(Tier::Translator, &nothing));
            assert!(found.len() > 3, "{} paths", found.len());
            let (warm, _) = run(Tier::Translator, &found);
            assert!(plain.0.len() > 5);
            for (name, other) in [("cold", &cold), ("warm", &warm)] {
                let differs = plain.0.iter().zip(&other.0).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{name}, {harts} harts, of {}", plain.0.len());
                assert!(plain == *other, "{name}, {harts} harts");
            }
        }
    });
}

/// Counts in RAM for ever, in S mode.
fn counter() -> Asm {
    let mut a = Asm::default();
    a.li(S1, DATA);
    let count = a.here();
    a.op(Op::Ld, T0, S1, 0, 0).addi(T0, T0, 1).op(Op::Sd, 0, S1, T0, 0).jump(count);
    a
}

fn goes_on(m: &Machine) {
    let before = word(m, DATA);
    while word(m, DATA) == before {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_list_is_taken_in_every_phase_and_given_on() {
    if !translated() {
        return;
    }
    within(LIMIT, || {
        let (m, _console) = kernel(2, &counter().image());
        assert!(m.hot_paths().is_empty());
        m.start().unwrap();
        // A hart that never leaves its loop, and one that was never started.
        while m.hot_paths().is_empty() {
            goes_on(&m);
        }
        goes_on(&m);
        m.pause().unwrap();
        let paused = m.hot_paths();
        assert!(m.phase() == Phase::Paused && !paused.is_empty());
        m.unpause().unwrap();
        m.warm(paused.clone());
        goes_on(&m);
        m.stop();
        let ended = m.hot_paths();
        assert!(paused.iter().all(|p| ended.iter().any(|q| (q.pc, q.hash) == (p.pc, p.hash))));
        // One that has run nothing hands on what it was given, as it is.
        let (next, _console) = kernel(1, &counter().image());
        next.warm(ended.clone());
        assert_eq!(next.hot_paths(), ended);
    });
}
