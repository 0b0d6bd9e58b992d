//! Harts that are slowed down, and only while they write to pages that were not written in this dirty epoch: a live
//! migration whose link does not keep up with them asks for that.
//!
//! A bucket of tokens fills at a rate; the first write to a page in an epoch takes one. Where none is there, the hart is told
//! to wait as for a page that comes late ([`EnginePage::Wait`](crate::EnginePage)), and tries again: a pause, a kick or an
//! interrupt is not held up with it. Who writes to the same pages, or reads, or computes, is not slowed at all; nor is a
//! device, whose work somebody else waits for.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Tokens that may gather are those of so long: somewhat more than a hart sleeps until it tries again.
const BURST: Duration = Duration::from_millis(10);
const SECOND: u64 = 1_000_000_000;

/// The bucket: off, until somebody sets a rate.
#[derive(Debug)]
pub struct Throttle {
    /// Pages a second; 0 is off.
    rate: AtomicU64,
    /// From when on the next token is there, in nanoseconds since `origin`. It lies back by as much as there are tokens.
    next: AtomicU64,
    origin: Instant,
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle { rate: AtomicU64::new(0), next: AtomicU64::new(0), origin: Instant::now() }
    }
}

impl Throttle {
    /// Lets so many pages a second be written anew; 0 is as many as one likes.
    pub fn set(&self, pages_a_second: u64) {
        self.rate.store(pages_a_second, Relaxed);
    }

    /// How many pages a second may be written anew; 0 is any number.
    pub fn rate(&self) -> u64 {
        self.rate.load(Relaxed)
    }

    /// Takes a token; whether there was one.
    pub(crate) fn take(&self) -> bool {
        self.take_at(self.origin.elapsed())
    }

    fn take_at(&self, now: Duration) -> bool {
        let Some(each) = SECOND.checked_div(self.rate()) else { return true };
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let full = now.saturating_sub(BURST.as_nanos() as u64);
        let taken = self.next.fetch_update(Relaxed, Relaxed, |next| {
            let from = next.max(full);
            (from <= now).then(|| from.saturating_add(each))
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, EnginePage, GuestRam, PAGE};

    const MS: Duration = Duration::from_millis(1);

    /// Tokens that somebody gets who asks every 100 µs from `from` on, for `ms`.
    fn taken(t: &Throttle, from: Duration, ms: u32) -> u64 {
        let moments = (0..ms * 10).map(|n| from + MS * n / 10);
        moments.map(|at| std::iter::from_fn(|| t.take_at(at).then_some(1)).count() as u64).sum()
    }

    #[test]
    fn tokens_come_at_the_rate_and_few_of_them_gather() {
        let t = Throttle::default();
        t.set(5_000);
        let begun = Duration::from_secs(100);
        // Those of 10 ms were there.
        assert!((5_048..=5_053).contains(&taken(&t, begun, 1_000)));
        // However long nobody took any.
        assert!((50 + 48..=50 + 53).contains(&taken(&t, begun * 2, 10)));
        t.set(500);
        assert!((498..=502).contains(&taken(&t, begun * 2 + MS * 10, 1_000)));
    }

    #[test]
    fn it_is_off_at_first_and_can_be_again() {
        let t = Throttle::default();
        assert!(t.rate() == 0 && (0..1_000_000).all(|_| t.take_at(MS)));
        t.set(1);
        assert!(t.take_at(MS) && !t.take_at(MS) && !t.take_at(MS * 900) && t.take_at(MS * 1_010));
        assert!(!t.take_at(MS * 1_010));
        t.set(0);
        assert!((0..1_000_000).all(|_| t.take_at(MS * 1_010)));
        // More than one a nanosecond is no limit either.
        t.set(u64::MAX);
        assert!((0..1_000_000).all(|_| t.take_at(MS * 2_000)));
    }

    #[test]
    fn only_the_first_write_to_a_page_in_an_epoch_waits() {
        const BASE: u64 = 0x8000_0000;
        let ram = GuestRam::single(BASE, 64 * PAGE).unwrap();
        let waits =
            |page: u64, access| matches!(ram.engine_page(BASE + page * PAGE, access), EnginePage::Wait);
        ram.throttle().set(1);
        // One token, and no other for a second.
        assert!(!waits(0, Access::Write));
        assert!(waits(1, Access::Write) && waits(2, Access::Write));
        assert!(!ram.regions()[0].pages().dirty_since(1, crate::FIRST_EPOCH), "it was not written");
        assert!(!waits(0, Access::Write) && !waits(1, Access::Read));
        // A device is not slowed; what it has written is written.
        ram.load(BASE + 3 * PAGE, &[1]).unwrap();
        assert!(!waits(3, Access::Write));
        ram.regions()[0].pages().begin_epoch();
        assert!(waits(0, Access::Write));
        ram.throttle().set(0);
        assert!((0..64).all(|page| !waits(page, Access::Write)));
    }
}
