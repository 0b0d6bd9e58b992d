//! A driver and a worker on threads of their own, each speaking up only when the other has asked for it: a lost
//! notification or interrupt stops them for good.

use super::driver::*;
use crate::virtio::{Doorbell, rng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::sync::atomic::{AtomicBool, fence};
use std::time::{Duration, Instant};
use strata_engine::SeededEntropy;
use strata_memory::{Access, Acquired, VolatileSlice};
use vm_memory::Bytes;

/// For one round; a busy host is slow, a lost wake is for ever.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn no_notification_and_no_interrupt_is_lost() {
    for without in [0, EVENT_IDX] {
        let mut d = Driver::ready(|w| rng(w, Box::new(SeededEntropy(1))), without);
        let gpa = d.room(8);
        (0..16).for_each(|i| d.desc(d.base(0), i, gpa, 1, 2, 0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = std::mem::replace(&mut d.worker, Box::new(Idle));
        let (bell, stopped) = (d.doorbell.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(SeqCst) {
                let wait = worker.turn();
                if wait.is_none() {
                    let fds = worker.wait_for();
                    poll(&mut [PollFd::from_borrowed_fd(fds[0], PollFlags::IN)], None).unwrap();
                }
            }
        });
        drive(&d, without == 0);
        if without == 0 {
            pester(&d);
        }
        stop.store(true, SeqCst);
        bell.ring();
        thread.join().unwrap();
    }
}

struct Idle;
impl crate::Worker for Idle {
    fn wait_for(&self) -> Vec<std::os::fd::BorrowedFd<'_>> {
        Vec::new()
    }
    fn turn(&mut self) -> Option<Duration> {
        None
    }
    fn name(&self) -> &str {
        "idle"
    }
}

fn area(d: &Driver<rng::Rng>, gpa: u64) -> VolatileSlice<'_> {
    match d.ram.acquire(gpa, 0x200, Access::Write).unwrap() {
        Acquired::Ready(s) => s,
        Acquired::Wait => panic!(),
    }
}

fn drive(d: &Driver<rng::Rng>, event_idx: bool) {
    let (avail, used) = (area(d, d.avail(0)), area(d, d.used_ring(0)));
    let (used_event, avail_event) = (4 + 2 * 16, 4 + 8 * 16);
    let (mut idx, mut seen) = (0u16, 0u16);
    for round in 0..4000u16 {
        let deadline = Instant::now() + PATIENCE;
        // Between one and sixteen chains, each told of only if asked for.
        for _ in 0..round % 16 + 1 {
            avail.store(idx % 16, 4 + 2 * usize::from(idx % 16), Release).unwrap();
            let old = idx;
            idx = idx.wrapping_add(1);
            avail.store(idx, 2, Release).unwrap();
            fence(SeqCst);
            let event: u16 = used.load(avail_event, Acquire).unwrap();
            if !event_idx || event == old {
                d.kick(0);
            }
        }
        // Sleep by the interrupt alone, as a driver does: arm, look once more, wait.
        while seen != idx {
            avail.store(seen, used_event, Release).unwrap();
            fence(SeqCst);
            if used.load::<u16>(2, Acquire).unwrap() == seen {
                while !d.wire.level.load(Acquire) {
                    assert!(Instant::now() < deadline, "asleep for good in round {round}");
                    std::thread::yield_now();
                }
            }
            d.w(0x64, 1);
            seen = used.load(2, Acquire).unwrap();
        }
    }
}

/// A driver that polls, and offers its next chain just when the worker is about to find the queue empty: the moment
/// in which it must look once more after asking to be notified.
fn pester(d: &Driver<rng::Rng>) {
    let (avail, used) = (area(d, d.avail(0)), area(d, d.used_ring(0)));
    let avail_event = 4 + 8 * 16;
    let mut idx: u16 = avail.load(2, Acquire).unwrap();
    for round in 0..10_000u32 {
        let deadline = Instant::now() + PATIENCE;
        (0..round % 97 * 4).for_each(|_| std::hint::spin_loop());
        avail.store(idx % 16, 4 + 2 * usize::from(idx % 16), Release).unwrap();
        let old = idx;
        idx = idx.wrapping_add(1);
        avail.store(idx, 2, Release).unwrap();
        fence(SeqCst);
        if used.load::<u16>(avail_event, Acquire).unwrap() == old {
            d.kick(0);
        }
        while used.load::<u16>(2, Acquire).unwrap() != idx {
            assert!(Instant::now() < deadline, "nobody looked in round {round}");
            std::thread::yield_now();
        }
    }
}

/// Rings as fast as it can while the other side hushes: were one ring swallowed with the flag up, all later ones
/// would be.
#[test]
fn no_ring_of_the_doorbell_is_lost() {
    let bell = Doorbell::new().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (other, stopped) = (bell.clone(), stop.clone());
    let ringer = std::thread::spawn(move || {
        while !stopped.load(SeqCst) {
            other.ring();
        }
    });
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    let silent = (0..200_000).find(|_| {
        let heard = poll(&mut [PollFd::new(&bell, PollFlags::IN)], Some(&patience)).unwrap();
        bell.hush();
        heard == 0
    });
    stop.store(true, SeqCst);
    ringer.join().unwrap();
    assert_eq!(silent, None, "the doorbell fell silent");
}
