//! A page of code that another hart writes to while it is watched: `strata_memory`'s promise, kept by the hart's loop.

use super::fixture::*;
use crate::{Hart, HartConfig};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_engine::{Entry, ManualClock, NoBus, Privilege, Stop, Vcpu};
use strata_isa::Op;
use strata_memory::{Drained, GuestRam};

/// Where the hart counts: the page that is watched.
const PAGE: u64 = BASE + 0x1000;
const LONG: Duration = Duration::from_secs(20);

fn count(ram: &GuestRam) -> u64 {
    let mut b = [0; 8];
    ram.peek(PAGE, &mut b).unwrap();
    u64::from_le_bytes(b)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Runs `body` on a hart of another thread, with x5 at the page, while `f` looks on.
fn beside(body: &[u32], f: impl FnOnce(&GuestRam)) {
    let ram = GuestRam::single(BASE, SIZE).unwrap();
    let bytes: Vec<u8> = body.iter().flat_map(|w| w.to_le_bytes()).collect();
    ram.load(BASE, &bytes).unwrap();
    let clock = Arc::new(ManualClock::default());
    let mut hart = Hart::new(HartConfig::new(0), ram.clone(), Arc::new(NoBus), clock);
    hart.boot(Entry { pc: BASE, args: [0; 3], privilege: Privilege::Firmware });
    hart.core().x[5] = PAGE;
    let shared = hart.shared().clone();
    std::thread::scope(|s| {
        s.spawn(move || assert_eq!(hart.run(), Stop::Kicked));
        // Also where `f` panics: the scope waits for the hart.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(&ram)));
        shared.kick();
        outcome.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
}

#[test]
fn no_store_goes_unseen_after_confirmation() {
    let count_up = [addi(6, 6, 1), insn(Op::Sd, 0, 5, 6, 0), insn(Op::Jal, 0, 0, 0, -8)];
    beside(&count_up, |ram| {
        let mut cursor = ram.code_writes();
        for _ in 0..200 {
            let ticket = ram.watch_code(PAGE);
            wait_until("the hart to be quiet", || ram.watch_confirmed(ticket));
            let seen = count(ram);
            // Two stores on, the first has been told, whichever way it went.
            wait_until("the hart to count", || count(ram) > seen + 1);
            let mut told = false;
            assert_eq!(ram.drain_code_writes(&mut cursor, |page| told |= page == PAGE), Drained::Complete);
            assert!(told, "it counted on from {seen}");
        }
    });
}

#[test]
fn nobody_waits_for_a_hart_that_sleeps() {
    let store_and_sleep = [addi(6, 6, 1), insn(Op::Sd, 0, 5, 6, 0), insn(Op::Sd, 0, 5, 6, 0), bare(Op::Wfi)];
    beside(&store_and_sleep, |ram| {
        wait_until("its stores", || count(ram) == 1);
        let ticket = ram.watch_code(PAGE);
        wait_until("it to sleep", || ram.watch_confirmed(ticket));
    });
}
