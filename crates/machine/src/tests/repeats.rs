//! Deterministic machines: the same run, however often it is interrupted, and the end of one at an exact count.

use super::guest::*;
use crate::loader::Placement;
use crate::{Exit, Machine, MachineSpec, PauseAtError, Phase, Tier};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use strata_isa::Op;

const LIMIT: Duration = Duration::from_secs(120);
/// Instructions between two looks.
const STEP: u64 = 1 << 16;

const SIE: u16 = 0x104;
const STVEC: u16 = 0x105;
const SIP: u16 = 0x144;
const STIMECMP: u16 = 0x14d;
const SSTATUS: u16 = 0x100;
const TIME: u16 = 0xc01;
const S2: u8 = 18;
const S3: u8 = 19;
const S4: u8 = 20;
const T3: u8 = 28;
const T4: u8 = 29;

impl Asm {
    fn csrr(&mut self, rd: u8, csr: u16) -> &mut Asm {
        self.op(Op::Csrrs, rd, 0, 0, csr.into())
    }
    fn csrw(&mut self, csr: u16, rs: u8) -> &mut Asm {
        self.op(Op::Csrrw, 0, rs, 0, csr.into())
    }
    /// x18 = mix(x18, rs).
    fn mix(&mut self, rs: u8) -> &mut Asm {
        self.op(Op::Slli, T3, S2, 0, 13).op(Op::Xor, S2, S2, T3, 0);
        self.op(Op::Srli, T3, S2, 0, 7).op(Op::Xor, S2, S2, T3, 0).op(Op::Add, S2, S2, rs, 0)
    }
}

/// Harts that work, read the time, wait for timers, interrupt and fence each other, and print. The second and later ones
/// go on for ever; the first, after `rounds`, powers off with bits of what it has mixed from all that.
pub(super) fn busy(harts: u64, rounds: u64) -> Asm {
    let mut a = Asm::default();
    let skip = a.hole();
    let handler = a.here();
    // Counts in x20 what came, and mixes in when.
    a.csrr(T3, TIME).op(Op::Add, S4, S4, T3, 0).csrr(T3, 0x142).op(Op::Add, S4, S4, T3, 0);
    a.op(Op::Addi, T3, 0, 0, -1).csrw(STIMECMP, T3).op(Op::Addi, T3, 0, 0, 2);
    a.op(Op::Csrrc, 0, T3, 0, SIP.into()).op(Op::Sret, 0, 0, 0, 0);
    let secondary = a.here();
    a.addi(S3, A0, 0);
    let work = a.here();
    a.li(T0, Asm::address(handler)).csrw(STVEC, T0).li(T0, 0x22).csrw(SIE, T0).addi(T0, 0, 2);
    a.op(Op::Csrrs, 0, T0, 0, SSTATUS.into()).li(S1, DATA).li(S0, rounds).addi(S2, S3, 77);
    let round = a.here();
    a.li(T4, 200);
    let inner = a.here();
    a.op(Op::AmoaddD, T0, S1, S2, 0).mix(T0).op(Op::Ld, T0, S1, 0, 8).mix(T0).op(Op::Sd, 0, S1, S2, 8);
    a.csrr(T0, TIME).mix(T0);
    a.addi(T4, T4, -1).branch(Op::Bne, T4, 0, inner);
    a.mix(S4);
    // A timer some microseconds ahead, and a wait for it or for another's interrupt.
    a.csrr(T0, TIME).op(Op::Andi, T1, S2, 0, 0x3ff).op(Op::Add, T0, T0, T1, 0).csrw(STIMECMP, T0);
    a.op(Op::Wfi, 0, 0, 0, 0);
    a.call(IPI, 0, &[(1 << harts) - 1, 0]).call(RFENCE, 1, &[(1 << harts) - 1, 0, 0, u64::MAX]);
    a.addi(A0, S3, i32::from(b'a')).sbi(DBCN, 2);
    // The machine's clock, as devices show it.
    a.li(T0, 0x10_1000).op(Op::Lw, T1, T0, 0, 0).mix(T1);
    let here = a.here();
    a.branch(Op::Bne, S3, 0, here + 3).addi(S0, S0, -1).branch(Op::Beq, S0, 0, here + 4);
    a.jump(round);
    a.op(Op::Srli, T0, S2, 0, 49).op(Op::Ori, T0, T0, 0, 2).fail_with(T0);
    a.land(skip);
    for hart in 1..harts {
        a.call(HSM, 0, &[hart, Asm::address(secondary), 0]);
    }
    a.addi(S3, 0, 0).jump(work);
    a
}

fn deterministic(harts: u32, image: &[u8]) -> (Machine, Console) {
    deterministic_in(None, harts, image)
}

pub(super) fn deterministic_in(tier: Option<Tier>, harts: u32, image: &[u8]) -> (Machine, Console) {
    let placement = Placement { kernel: Some(source(image)), ..Placement::default() };
    machine_of(&MachineSpec { deterministic: true, ..spec(harts) }, tier, placement)
}

pub(super) type Saved = Vec<(String, Vec<u8>)>;

/// All states every `STEP` instructions, the end, what was printed, and RAM.
pub(super) type History = (Vec<Saved>, Exit, Vec<u8>, Vec<u8>);

/// The history of a run. `disturb` is called while it runs.
fn history(harts: u32, image: &[u8], disturb: impl FnMut(&Machine)) -> History {
    history_of(deterministic(harts, image), disturb)
}

pub(super) fn history_of((m, console): (Machine, Console), mut disturb: impl FnMut(&Machine)) -> History {
    let output = console.collect();
    let mut states = Vec::new();
    for n in 1.. {
        m.pause_at(n * STEP).unwrap();
        if n == 1 {
            m.start().unwrap()
        } else {
            m.unpause().unwrap()
        }
        disturb(&m);
        match m.wait_pause() {
            Phase::Paused => {
                // Somebody else's pause may have come first.
                while m.count() != Some(n * STEP) && m.phase() == Phase::Paused {
                    m.unpause().unwrap();
                    m.wait_pause();
                }
                if m.phase() != Phase::Paused {
                    break;
                }
                assert_eq!((m.count(), m.retired() <= n * STEP), (Some(n * STEP), true));
                states.push(m.save().unwrap());
            }
            _ => break,
        }
    }
    let exit = m.wait();
    states.push(m.save().unwrap());
    let mut ram = vec![0; 16 << 20];
    m.ram().peek(RAM, &mut ram).unwrap();
    drop(m);
    (states, exit, output.join().unwrap(), ram)
}

#[test]
fn two_runs_are_one_and_pauses_are_not_seen() {
    for (harts, rounds) in [(1, 300), (2, 150), (3, 80)] {
        within(LIMIT, move || {
            let image = busy(harts.into(), rounds).image();
            let first = history(harts, &image, |_| ());
            assert!(
                matches!(first.1, Exit::PowerOff(_)) && first.0.len() > 10,
                "{:?} {}",
                first.1,
                first.0.len()
            );
            assert!(first.2.len() > 50);
            let mut seed = 7u64;
            for run in 0..3 {
                let again = history(harts, &image, |m| {
                    for _ in 0..run * 4 {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let end = Instant::now() + Duration::from_nanos(seed >> 47);
                        while Instant::now() < end {
                            std::hint::spin_loop();
                        }
                        // It may be paused at its count, or over.
                        if m.count().is_some_and(|c| !c.is_multiple_of(STEP)) && m.pause().is_ok() {
                            let _ = m.registers();
                            if !m.count().is_some_and(|c| c.is_multiple_of(STEP)) {
                                let _ = m.unpause();
                            }
                        }
                    }
                });
                assert_eq!(again.1, first.1, "{harts} harts, run {run}");
                let differs = again.0.iter().zip(&first.0).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{harts} harts, run {run}, of {}", first.0.len());
                assert_eq!(again.0.len(), first.0.len());
                assert!(again.2 == first.2 && again.3 == first.3);
            }
        });
    }
}

#[test]
fn tiers_are_not_seen() {
    if Tier::Translator.check().is_err() {
        return;
    }
    for (harts, rounds) in [(1, 300), (2, 150)] {
        within(LIMIT, move || {
            let image = busy(harts.into(), rounds).image();
            let run = |tier| history_of(deterministic_in(Some(tier), harts, &image), |_| ());
            let [a, b] = Tier::ALL.map(run);
            assert!(a.0.len() > 10);
            let differs = a.0.iter().zip(&b.0).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{harts} harts, of {}", a.0.len());
            assert!(a == b, "{:?} {:?}", a.1, b.1);
        });
    }
}

#[test]
fn a_run_goes_on_elsewhere_as_it_would_have_here() {
    within(LIMIT, || {
        let image = busy(2, 100).image();
        let (whole, exit, _, _) = history(2, &image, |_| ());
        // In the middle of somebody's quantum.
        let (m, console) = deterministic(2, &image);
        let _output = console.collect();
        m.pause_at(777_777).unwrap();
        m.start().unwrap();
        assert_eq!(m.wait_pause(), Phase::Paused);
        let (mut ram, parts) = (vec![0; 16 << 20], m.save().unwrap());
        m.ram().peek(RAM, &mut ram).unwrap();
        assert!(parts.iter().any(|(name, _)| name == "schedule"));
        drop(m);
        let (m, console) = deterministic(2, &image);
        let _output = console.collect();
        m.ram().load(RAM, &ram).unwrap();
        m.load(&parts).unwrap();
        assert_eq!(m.count(), Some(777_777));
        m.start().unwrap();
        assert_eq!(m.wait(), exit);
        assert_eq!(Some(&m.save().unwrap()), whole.last());
    });
}

#[test]
fn a_reset_begins_the_same_run_anew() {
    within(LIMIT, || {
        let image = busy(2, 60).image();
        let (m, console) = deterministic(2, &image);
        let _output = console.collect();
        let at = |m: &Machine| {
            m.pause_at(200_000).unwrap();
            if m.phase() == Phase::Created {
                m.start().unwrap()
            } else {
                m.unpause().unwrap()
            }
            assert_eq!(m.wait_pause(), Phase::Paused);
            m.save().unwrap()
        };
        let first = at(&m);
        m.reset().unwrap();
        assert_eq!((m.count(), m.phase()), (Some(0), Phase::Paused));
        let second = at(&m);
        assert_eq!(first, second);
    });
}

#[test]
fn idle_time_is_passed_over_and_ends_exactly() {
    // Waits an hour, then says in microseconds how late it woke.
    let mut a = Asm::default();
    a.li(T0, 0x20)
        .csrw(SIE, T0)
        .csrr(S0, TIME)
        .li(T0, 36_000_000_000)
        .op(Op::Add, S0, S0, T0, 0)
        .csrw(STIMECMP, S0);
    a.op(Op::Wfi, 0, 0, 0, 0).csrr(T0, TIME).op(Op::Sub, T0, T0, S0, 0).addi(T0, T0, 2).fail_with(T0);
    let image = a.image();
    within(LIMIT, move || {
        let begun = Instant::now();
        let (m, _console) = deterministic(4, &image);
        m.start().unwrap();
        assert_eq!(m.wait(), Exit::PowerOff(2));
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert!(m.clock_at() > 3_600_000_000_000 && m.count().unwrap() < 1000);
    });
}

#[test]
fn a_machine_that_waits_for_keys_takes_no_processor_and_gets_them() {
    // Waits for input by interrupts that never come, so by polling every second of its time.
    let mut a = Asm::default();
    a.li(T0, 0x20).csrw(SIE, T0).li(S0, DATA);
    let wait = a.here();
    a.csrr(T0, TIME).li(T1, 10_000_000).op(Op::Add, T0, T0, T1, 0).csrw(STIMECMP, T0).op(Op::Wfi, 0, 0, 0, 0);
    a.call(DBCN, 1, &[1, DATA, 0]).branch(Op::Beq, A1, 0, wait);
    a.op(Op::Lbu, A0, S0, 0, 0).sbi(DBCN, 2).call(SRST, 0, &[0, 0]).jump(0);
    let image = a.image();
    within(LIMIT, move || {
        let (m, mut console) = deterministic(2, &image);
        m.start().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        console.to_guest.write_all(b"k").unwrap();
        assert_eq!(m.wait(), Exit::PowerOff(0));
        let mut b = [0];
        console.from_guest.read_exact(&mut b).unwrap();
        assert_eq!(b, [b'k']);
        assert!(m.clock_at() > 1_000_000_000);
    });
    // Without a timer only the host can end the wait.
    let mut a = Asm::default();
    a.op(Op::Wfi, 0, 0, 0, 0).jump(0);
    let image = a.image();
    within(LIMIT, move || {
        let (m, _console) = deterministic(2, &image);
        m.start().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(m.pause().unwrap(), Phase::Paused);
        assert!(m.count().unwrap() < 1000);
        m.unpause().unwrap();
        assert_eq!(m.stop(), Exit::Stopped);
    });
}

#[test]
fn output_waits_for_a_slow_reader_and_a_pause_does_not() {
    // Prints far more than any buffer holds, by whole pages.
    let mut a = Asm::default();
    a.li(S0, 300).li(S1, KERNEL);
    let round = a.here();
    a.addi(T0, 0, 0);
    let more = a.here();
    a.li(A0, 4096).op(Op::Sub, A0, A0, T0, 0).op(Op::Add, A1, S1, T0, 0).li(A2, 0);
    a.sbi(DBCN, 0).op(Op::Add, T0, T0, A1, 0).li(T1, 4096).branch(Op::Bltu, T0, T1, more);
    a.put(b'!').addi(S0, S0, -1).branch(Op::Bne, S0, 0, round).call(SRST, 0, &[0, 0]).jump(0);
    let image = a.image();
    within(LIMIT, move || {
        let runs: Vec<_> = [0, 200]
            .map(|delay| {
                let (m, console) = deterministic(1, &image);
                m.start().unwrap();
                std::thread::sleep(Duration::from_millis(delay));
                assert_eq!(m.pause().unwrap(), Phase::Paused);
                m.unpause().unwrap();
                let output = console.collect();
                assert_eq!(m.wait(), Exit::PowerOff(0));
                let (count, saved) = (m.count(), m.save().unwrap());
                drop(m);
                (count, saved, output.join().unwrap())
            })
            .into();
        assert_eq!(runs[0].2.len(), 300 * 4097);
        assert_eq!(runs[0].0, runs[1].0, "counts");
        for (a, b) in runs[0].1.iter().zip(&runs[1].1) {
            assert!(a == b, "{a:?}\n{b:?}");
        }
        assert!(runs[0].2 == runs[1].2, "output");
    });
}

#[test]
fn counts_are_for_deterministic_machines_that_stand_still() {
    within(LIMIT, || {
        let image = busy(1, 1_000_000).image();
        let (m, _console) = kernel(1, &image);
        assert_eq!((m.count(), m.pause_at(5)), (None, Err(PauseAtError::NotDeterministic)));
        let (m, console) = deterministic(1, &image);
        let _output = console.collect();
        m.pause_at(1).unwrap();
        m.start().unwrap();
        assert_eq!(m.wait_pause(), Phase::Paused);
        assert_eq!(m.count(), Some(1));
        assert_eq!(m.pause_at(0), Err(PauseAtError::Passed { count: 1, at: 0 }));
        m.unpause().unwrap();
        assert!(matches!(m.pause_at(1 << 40), Err(PauseAtError::Runs(_))));
        assert_eq!(m.stop(), Exit::Stopped);
    });
}
