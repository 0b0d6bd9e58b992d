//! Pause is a barrier, whoever asks for what at the same time; and a paused machine goes on elsewhere.

use super::guest::*;
use crate::{Exit, Machine, Phase};
use std::sync::Arc;
use std::time::Duration;
use strata_isa::Op;

const LIMIT: Duration = Duration::from_secs(120);

/// Counts in RAM for ever, and prints a dot now and then.
fn counter() -> Asm {
    let mut a = Asm::default();
    a.li(S1, DATA);
    let dot = a.here();
    a.put(b'.').li(S0, 1000);
    let count = a.here();
    a.op(Op::Ld, T0, S1, 0, 0).addi(T0, T0, 1).op(Op::Sd, 0, S1, T0, 0);
    a.addi(S0, S0, -1).branch(Op::Bne, S0, 0, count).jump(dot);
    a
}

/// RAM, parts and clock.
type All = (Vec<u8>, Vec<(String, Vec<u8>)>, u64);

fn everything(m: &Machine) -> All {
    let mut ram = vec![0; 16 << 20];
    m.ram().peek(RAM, &mut ram).unwrap();
    (ram, m.save().unwrap(), m.clock_at())
}

#[test]
fn nothing_changes_while_paused() {
    within(LIMIT, || {
        let (m, mut console) = kernel(2, &counter().image());
        m.start().unwrap();
        assert!(m.save().is_err(), "it runs");
        // Input for the device, which a pause must hold back.
        std::io::Write::write_all(&mut console.to_guest, &[b'x'; 200]).unwrap();
        let output = console.collect();
        for _ in 0..5 {
            let before = word(&m, DATA);
            while word(&m, DATA) < before + 1000 {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(m.pause().unwrap(), Phase::Paused);
            let (ram, parts, clock) = everything(&m);
            std::thread::sleep(Duration::from_millis(50));
            let later = everything(&m);
            assert!(ram == later.0, "RAM has changed");
            assert_eq!(parts, later.1);
            assert_eq!(clock, later.2);
            m.unpause().unwrap();
        }
        assert_eq!(m.stop(), Exit::Stopped);
        assert!(matches!(m.phase(), Phase::Ended(Exit::Stopped)));
        drop(m);
        assert!(output.join().unwrap().iter().all(|b| *b == b'.'));
    });
}

/// As [`counter`], but resets its machine by itself again and again.
fn resetter() -> Asm {
    let mut a = Asm::default();
    a.li(S0, 20_000);
    let spin = a.here();
    a.addi(S0, S0, -1).branch(Op::Bne, S0, 0, spin);
    a.call(SRST, 0, &[1, 0]).jump(0);
    a
}

#[test]
fn no_order_of_requests_deadlocks() {
    for (round, program) in [counter(), resetter(), counter(), resetter()].into_iter().enumerate() {
        within(LIMIT, move || {
            let (m, console) = kernel(2, &program.image());
            let m = Arc::new(m);
            let _output = console.collect();
            m.start().unwrap();
            let threads: Vec<_> = (0..4u64)
                .map(|n| {
                    let m = m.clone();
                    std::thread::spawn(move || {
                        let mut seed = 0x9e37_79b9 + n + 100 * round as u64;
                        for _ in 0..50 {
                            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n + 1);
                            match seed >> 60 {
                                0..=4 => drop(m.pause()),
                                5..=10 => drop(m.unpause()),
                                11 | 12 => drop(m.reset()),
                                13 => {
                                    // Whatever is saved is of a machine that stands still.
                                    if let (Ok(a), Ok(b)) = (m.save(), m.save()) {
                                        assert_eq!(a.len(), b.len());
                                    }
                                }
                                14 => drop(m.registers()),
                                _ => std::thread::sleep(Duration::from_micros(seed >> 40 & 0x7ff)),
                            }
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|t| t.join().unwrap());
            assert_eq!(m.stop(), Exit::Stopped);
            assert!(m.pause().is_err() && m.unpause().is_err() && m.reset().is_err() && m.start().is_err());
        });
    }
}

/// Ends with a number that only the right sequence of steps gives, and with 1 if time ever goes backwards.
fn computer(rounds: u64) -> Asm {
    let mut a = Asm::default();
    a.li(S0, rounds).li(S1, DATA).li(T0, 12345).li(A2, 1_103_515_245).addi(A1, 0, 0);
    a.op(Op::Sd, 0, S1, T0, 0);
    let outer = a.here();
    a.li(A0, 10_000);
    let inner = a.here();
    a.op(Op::Ld, T0, S1, 0, 0).op(Op::Mul, T0, T0, A2, 0).addi(T0, T0, 1013).op(Op::Sd, 0, S1, T0, 0);
    a.addi(A0, A0, -1).branch(Op::Bne, A0, 0, inner);
    a.op(Op::Csrrs, T1, 0, 0, 0xc01);
    let here = a.here();
    a.branch(Op::Bgeu, T1, A1, here + 2);
    let backwards = a.hole();
    a.addi(A1, T1, 0).addi(S0, S0, -1).branch(Op::Bne, S0, 0, outer);
    a.op(Op::Srli, T0, T0, 0, 51).op(Op::Ori, T0, T0, 0, 2).fail_with(T0);
    a.land(backwards);
    a.addi(T0, 0, 1).fail_with(T0);
    a
}

#[test]
fn a_saved_machine_goes_on_in_another() {
    // Far more than fit in the time before the pause, translated too.
    const ROUNDS: u64 = 30_000;
    let image = computer(ROUNDS).image();
    within(LIMIT, move || {
        let expected =
            (0..ROUNDS * 10_000).fold(12345u64, |v, _| v.wrapping_mul(1_103_515_245).wrapping_add(1013));
        let expected = Exit::PowerOff((expected >> 51) as u32 | 2);
        let (first, _c) = kernel(2, &image);
        first.start().unwrap();
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(first.pause().unwrap(), Phase::Paused);
        let (ram, parts, clock) = everything(&first);
        assert!(clock > 50_000_000);

        let (second, _c) = kernel(2, &image);
        second.ram().load(RAM, &ram).unwrap();
        second.load(&parts).unwrap();
        assert_eq!(second.clock_at(), clock);
        assert_eq!(second.save().unwrap(), parts);
        second.start().unwrap();
        first.unpause().unwrap();
        assert_eq!(second.wait(), expected);
        assert_eq!(first.wait(), expected);
        let retired = (first.retired(), second.retired());
        assert_eq!(retired.0 / 10_000, retired.1 / 10_000);
    });
}
