//! Memory that comes late: harts wait for what they touch, in every way of touching, and nothing else waits with them.

use super::guest::*;
use crate::{Exit, Phase, Tier};
use std::time::{Duration, Instant};
use strata_isa::Op;
use strata_memory::{PAGE, PageSet};

const LIMIT: Duration = Duration::from_secs(120);
/// Pages that the program touches.
const TOUCHED: u64 = 64;
/// Where it leaves what it has found; behind the pages that it touches.
const RESULT: u64 = DATA + 0x10_0000;

/// Adds up a word of every page: loaded, loaded over the end of the page before, taken by an AMO, or by LR and SC.
fn summing() -> Asm {
    let mut a = Asm::default();
    a.li(S0, TOUCHED / 4).li(S1, DATA).li(A2, 0).addi(A1, 0, 1).li(T2, PAGE);
    let round = a.here();
    a.op(Op::Ld, T0, S1, 0, 0).op(Op::Add, A2, A2, T0, 0).op(Op::Add, S1, S1, T2, 0);
    // Four bytes of this page, which are zero, and four of the next.
    a.op(Op::Add, S1, S1, T2, 0).op(Op::Ld, T0, S1, 0, -4).op(Op::Srli, T0, T0, 0, 32);
    a.op(Op::Add, A2, A2, T0, 0);
    a.op(Op::AmoaddD, T0, S1, A1, 0).op(Op::Add, A2, A2, T0, 0).op(Op::Add, S1, S1, T2, 0);
    let again = a.here();
    a.op(Op::LrD, T0, S1, 0, 0).op(Op::ScD, T1, S1, A1, 0).branch(Op::Bne, T1, 0, again);
    a.op(Op::Add, A2, A2, T0, 0).op(Op::Add, S1, S1, T2, 0);
    a.addi(S0, S0, -1).branch(Op::Bne, S0, 0, round);
    a.li(S1, RESULT).op(Op::Sd, 0, S1, A2, 0);
    a.call(SRST, 0, &[0, 0]);
    a
}

fn content(page: u64) -> Vec<u8> {
    let mut bytes = vec![0; PAGE as usize];
    bytes[..8].copy_from_slice(&(page + 100).to_le_bytes());
    bytes
}

#[test]
fn a_hart_waits_for_what_it_touches_and_a_pause_does_not() {
    for tier in [Tier::Interpreter, Tier::Translator] {
        within(LIMIT, move || {
            let program = summing();
            let (m, _console) = machine_of(&spec(1), Some(tier), kernel_placement(&program.image()));
            let first = (DATA - RAM) / PAGE;
            (0..TOUCHED).for_each(|n| m.ram().load(DATA + n * PAGE, &content(n)).unwrap());
            let code = (KERNEL - RAM) / PAGE;
            let mut code_bytes = vec![0; PAGE as usize];
            m.ram().peek(KERNEL, &mut code_bytes).unwrap();
            let late = |p| p as u64 == code || (first..first + TOUCHED).contains(&(p as u64));
            let pages = m.ram().regions()[0].pages().pages();
            assert_eq!(m.ram().expect_late(&PageSet::of(pages, late)), Ok(Some(TOUCHED as usize + 1)));
            m.start().unwrap();
            let (mut asked, mut paused) = (Vec::new(), 0);
            while m.ram().missing() > 0 {
                let wanted = m.ram().take_wanted();
                if asked.len() % 8 == 3 && !wanted.is_empty() {
                    // It stands still at once, and can be saved, with a hart in the middle of waiting.
                    let begun = Instant::now();
                    assert_eq!(m.pause().unwrap(), Phase::Paused);
                    assert!(begun.elapsed() < Duration::from_secs(5));
                    m.save().unwrap();
                    m.unpause().unwrap();
                    paused += 1;
                }
                for page in &wanted {
                    let bytes = if *page == code { code_bytes.clone() } else { content(page - first) };
                    assert_eq!(m.ram().bring(*page, Some(&bytes)), Some(true));
                    m.arrivals().tell();
                }
                asked.extend(wanted);
                std::thread::yield_now();
            }
            assert_eq!(m.wait(), Exit::PowerOff(0));
            // What the AMO took is the page that was loaded over its end before.
            let sum: u64 =
                (0..TOUCHED / 4).map(|n| [0, 2, 2, 3].map(|k| 4 * n + k + 100).iter().sum::<u64>()).sum();
            assert_eq!(word(&m, RESULT), sum, "{tier:?}");
            assert_eq!((asked[0], asked.len() as u64), (code, TOUCHED + 1), "each page is asked for once");
            assert!(paused > 3 && m.arrivals().stalls().0 > TOUCHED, "{:?}", m.arrivals().stalls());
        });
    }
}

/// However long a page does not come: a hart that waits takes little processor time, and wakes when it comes.
#[test]
fn who_waits_is_woken_and_others_run_on() {
    within(LIMIT, || {
        // Hart 0 starts hart 1, which counts; then it touches a page that is not there.
        let mut a = Asm::default();
        a.li(S1, RESULT);
        let first = a.hole();
        let count = a.here();
        a.li(S1, RESULT);
        let more = a.here();
        a.op(Op::Ld, T0, S1, 0, 0).addi(T0, T0, 1).op(Op::Sd, 0, S1, T0, 0).jump(more);
        a.land(first);
        a.call(HSM, 0, &[1, Asm::address(count), 0]);
        a.li(S1, DATA).op(Op::Ld, T0, S1, 0, 0).call(SRST, 0, &[0, 0]);
        let (m, _console) = kernel(2, &a.image());
        let page = (DATA - RAM) / PAGE;
        let pages = m.ram().regions()[0].pages().pages();
        m.ram().expect_late(&PageSet::of(pages, |p| p as u64 == page)).unwrap();
        m.start().unwrap();
        while m.ram().missing_pages(true).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = word(&m, RESULT);
        std::thread::sleep(Duration::from_millis(100));
        assert!(word(&m, RESULT) > before, "hart 1 waits too");
        let (stalls, stalled) = m.arrivals().stalls();
        assert!(stalls < 50 && stalled > 10_000_000, "{stalls} looks in {stalled} ns");
        m.ram().bring(page, Some(&content(0))).unwrap();
        m.arrivals().tell();
        assert_eq!(m.wait(), Exit::PowerOff(0));
    });
}
