//! A machine that is slowed down while it writes: in every way of writing, and a pause does not wait with it.

use super::guest::*;
use crate::{Exit, Phase, Tier};
use std::time::{Duration, Instant};
use strata_isa::Op;
use strata_memory::PAGE;

const LIMIT: Duration = Duration::from_secs(120);
/// Pages that the program writes to.
const TOUCHED: u64 = 64;

/// Counts up a word of every page: stored, stored over the end of the page before, by an AMO, or by LR and SC.
fn counting() -> Asm {
    let mut a = Asm::default();
    a.li(S0, TOUCHED / 4).li(S1, DATA).addi(A1, 0, 1).li(T2, PAGE);
    let round = a.here();
    a.op(Op::Ld, T0, S1, 0, 0).addi(T0, T0, 1).op(Op::Sd, 0, S1, T0, 0).op(Op::Add, S1, S1, T2, 0);
    // Four bytes of the page before, and four of this.
    a.op(Op::Add, S1, S1, T2, 0).op(Op::Ld, T0, S1, 0, -4).addi(T0, T0, 1).op(Op::Sd, 0, S1, T0, -4);
    a.op(Op::AmoaddD, 0, S1, A1, 0).op(Op::Add, S1, S1, T2, 0);
    let again = a.here();
    a.op(Op::LrD, T0, S1, 0, 0).addi(T0, T0, 1).op(Op::ScD, T1, S1, T0, 0).branch(Op::Bne, T1, 0, again);
    a.op(Op::Add, S1, S1, T2, 0);
    a.addi(S0, S0, -1).branch(Op::Bne, S0, 0, round);
    a.call(SRST, 0, &[0, 0]);
    a
}

#[test]
fn a_hart_that_is_slowed_down_waits_before_it_writes_and_a_pause_does_not() {
    for tier in [Tier::Interpreter, Tier::Translator] {
        within(LIMIT, move || {
            let (m, _console) = machine_of(&spec(1), Some(tier), kernel_placement(&counting().image()));
            m.ram().regions()[0].pages().begin_epoch();
            // One a second: all of it would take longer than this test may.
            m.ram().throttle().set(1);
            m.start().unwrap();
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(5));
                let begun = Instant::now();
                assert_eq!(m.pause().unwrap(), Phase::Paused, "{tier:?}: it has not been slowed down");
                assert!(begun.elapsed() < Duration::from_secs(5));
                m.save().unwrap();
                m.unpause().unwrap();
            }
            // That is not a wait for a page which has to come.
            assert_eq!(m.arrivals().stalls(), (0, 0));
            m.ram().throttle().set(2_000);
            std::thread::sleep(Duration::from_millis(5));
            m.ram().throttle().set(0);
            assert_eq!(m.wait(), Exit::PowerOff(0));
            for n in 0..TOUCHED / 4 {
                let at = DATA + 4 * n * PAGE;
                let words = [at, at + 2 * PAGE - 4, at + 2 * PAGE, at + 3 * PAGE].map(|at| word(&m, at));
                // The AMO's lies in the upper half of what was stored over the end of a page.
                assert_eq!(words, [1, 1 | 1 << 32, 1, 1], "{tier:?}, round {n}");
            }
        });
    }
}
