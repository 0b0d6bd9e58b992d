//! Time and randomness as a machine sees them: the only two seams through which they enter.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Instant;

/// A machine's time, in nanoseconds since its power-on. It stands still while the machine is paused.
pub trait Clock: Send + Sync {
    /// Nanoseconds since power-on.
    fn now(&self) -> u64;
    /// The time when the vCPU that runs has retired `retired` instructions. It is [`Clock::now`], but where time is
    /// counted in instructions; there, `now` answers this until it is told the next.
    fn at(&self, _retired: u64) -> u64 {
        self.now()
    }
    /// How many instructions the vCPU that runs must have retired for it to be `ns` or later; `None` where time does not
    /// come from instructions.
    fn count_at(&self, _ns: u64) -> Option<u64> {
        None
    }
    /// Seconds and nanoseconds since 1970 for the real-time clock device.
    fn wall(&self) -> u64 {
        let d = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The usual clock: the host's monotonic clock, less the time spent paused.
#[derive(Debug)]
pub struct GuestClock {
    origin: Instant,
    running: AtomicBool,
    /// While running: subtracted from the host's time. While stopped: the time shown.
    offset: AtomicU64,
    change: Mutex<()>,
}

impl GuestClock {
    /// A stopped clock that shows `at` nanoseconds.
    pub fn stopped_at(at: u64) -> GuestClock {
        GuestClock {
            origin: Instant::now(),
            running: AtomicBool::new(false),
            offset: AtomicU64::new(at),
            change: Mutex::new(()),
        }
    }

    fn host(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Lets the clock go on. Only while no vCPU runs.
    pub fn start(&self) {
        let _one = self.change.lock().unwrap_or_else(|e| e.into_inner());
        if !self.running.load(SeqCst) {
            self.offset.store(self.host().wrapping_sub(self.offset.load(SeqCst)), SeqCst);
            self.running.store(true, SeqCst);
        }
    }

    /// Stops the clock. Only while no vCPU runs.
    pub fn stop(&self) {
        let _one = self.change.lock().unwrap_or_else(|e| e.into_inner());
        if self.running.load(SeqCst) {
            self.offset.store(self.now(), SeqCst);
            self.running.store(false, SeqCst);
        }
    }

    /// Sets the time shown. Only while stopped.
    pub fn set(&self, at: u64) {
        let _one = self.change.lock().unwrap_or_else(|e| e.into_inner());
        if !self.running.load(SeqCst) {
            self.offset.store(at, SeqCst);
        }
    }
}

impl Clock for GuestClock {
    fn now(&self) -> u64 {
        let offset = self.offset.load(Relaxed);
        if self.running.load(Relaxed) { self.host().wrapping_sub(offset) } else { offset }
    }
}

/// A clock that moves only when told to: for tests and for deterministic runs.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves on by `ns`.
    pub fn advance(&self, ns: u64) {
        self.0.fetch_add(ns, SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> u64 {
        self.0.load(SeqCst)
    }
    fn wall(&self) -> u64 {
        self.now()
    }
}

/// Where a machine's randomness comes from.
pub trait Entropy: Send {
    /// Fills `buf`.
    fn fill(&mut self, buf: &mut [u8]);
    /// Where in its sequence it is, if it has one: from there it gives the same again.
    fn position(&self) -> Option<u64> {
        None
    }
    /// Goes to a [`position`](Entropy::position). One without a sequence takes no notice.
    fn seek(&mut self, _position: u64) {}
}

/// Entropy that repeats from a seed (SplitMix64): for tests and for deterministic runs, never for a guest's keys.
#[derive(Debug, Clone)]
pub struct SeededEntropy(pub u64);

impl Entropy for SeededEntropy {
    fn position(&self) -> Option<u64> {
        Some(self.0)
    }
    fn seek(&mut self, position: u64) {
        self.0 = position;
    }
    fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            for (b, r) in chunk.iter_mut().zip(z.to_le_bytes()) {
                *b = r;
            }
        }
    }
}
