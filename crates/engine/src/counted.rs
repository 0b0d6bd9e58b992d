//! Time that comes from instructions, for machines whose runs repeat.
//!
//! Every retired instruction takes the same time, whichever vCPU it was; only one runs at a time. Whoever runs them tells
//! whose turn it is ([`CountedClock::follow`]) and lets time pass in which none runs ([`CountedClock::set`]).

use crate::Clock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// See the module. Only the thread that runs the vCPUs moves it; all may look.
#[derive(Debug)]
pub struct CountedClock {
    ns_per_insn: u64,
    wall_start: u64,
    /// Where the present vCPU's turn began: time, and instructions that it had retired.
    since: AtomicU64,
    retired: AtomicU64,
    shown: AtomicU64,
}

impl CountedClock {
    /// A clock that shows 0, moves on by `ns_per_insn` (at least 1) nanoseconds an instruction, and was started
    /// `wall_start` nanoseconds after the beginning of 1970.
    pub fn new(ns_per_insn: u64, wall_start: u64) -> CountedClock {
        let zero = || AtomicU64::new(0);
        let (since, retired, shown) = (zero(), zero(), zero());
        CountedClock { ns_per_insn: ns_per_insn.max(1), wall_start, since, retired, shown }
    }

    /// Nanoseconds an instruction.
    pub fn ns_per_insn(&self) -> u64 {
        self.ns_per_insn
    }

    /// From here on a vCPU runs that has retired `retired` instructions so far.
    pub fn follow(&self, retired: u64) {
        self.retired.store(retired, Relaxed);
        self.since.store(self.now(), Relaxed);
    }

    /// Sets the time shown. Only between two turns.
    pub fn set(&self, ns: u64) {
        self.shown.store(ns, Relaxed);
    }
}

impl Clock for CountedClock {
    fn now(&self) -> u64 {
        self.shown.load(Relaxed)
    }
    fn at(&self, retired: u64) -> u64 {
        let insns = retired.saturating_sub(self.retired.load(Relaxed));
        let now = self.since.load(Relaxed).saturating_add(insns.saturating_mul(self.ns_per_insn));
        self.shown.store(now, Relaxed);
        now
    }
    fn count_at(&self, ns: u64) -> Option<u64> {
        let left = ns.saturating_sub(self.since.load(Relaxed));
        Some(self.retired.load(Relaxed).saturating_add(left.div_ceil(self.ns_per_insn)))
    }
    fn wall(&self) -> u64 {
        self.wall_start.saturating_add(self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_count_are_each_others_inverse() {
        let c = CountedClock::new(3, 1000);
        c.set(100);
        c.follow(50);
        assert_eq!((c.now(), c.wall()), (100, 1100));
        for ns in 101..140 {
            let n = c.count_at(ns).unwrap();
            assert!(c.at(n) >= ns && c.at(n - 1) < ns, "{ns}");
        }
        // What is past was reached when the turn began.
        assert_eq!((c.count_at(100), c.count_at(7)), (Some(50), Some(50)));
        assert_eq!(c.at(60), 130);
        assert_eq!(c.now(), 130);
        // Another's turn: time goes on from there.
        c.follow(1_000_000);
        assert_eq!((c.at(1_000_001), c.wall()), (133, 1133));
        c.set(200);
        assert_eq!(c.now(), 200);
    }

    #[test]
    fn the_ends_of_time_are_no_error() {
        let c = CountedClock::new(0, u64::MAX);
        c.follow(5);
        assert_eq!(c.count_at(u64::MAX), Some(u64::MAX));
        assert_eq!((c.at(u64::MAX), c.at(0), c.wall()), (u64::MAX - 5, 0, u64::MAX));
    }
}
