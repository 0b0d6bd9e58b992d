//! What the translators of this process have done, and what it took: for runners that measure, and for whoever wonders
//! where the time went.
//!
//! Counting is always on. It is done where something happens once for a path or for a change of code, which takes
//! microseconds anyway; nothing that happens once for an entry into translated code is counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// How often something was done, for how long in all, and at most at a time.
#[derive(Debug, Default)]
pub struct Span {
    times: AtomicU64,
    total: AtomicU64,
    longest: AtomicU64,
}

impl Span {
    const fn new() -> Span {
        Span { times: AtomicU64::new(0), total: AtomicU64::new(0), longest: AtomicU64::new(0) }
    }

    /// It has been done once more, since `start`.
    pub(crate) fn since(&self, start: Instant) {
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.times.fetch_add(1, Relaxed);
        self.total.fetch_add(ns, Relaxed);
        self.longest.fetch_max(ns, Relaxed);
    }

    /// How often.
    pub fn times(&self) -> u64 {
        self.times.load(Relaxed)
    }

    /// Nanoseconds in all.
    pub fn total_ns(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Nanoseconds at most, since the last [`Span::take_longest_ns`].
    pub fn take_longest_ns(&self) -> u64 {
        self.longest.swap(0, Relaxed)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Figures {
    /// Blocks decoded and written down before they run.
    pub recording: Span,
    /// Paths made into code that can run.
    pub translating: Span,
    /// Guest instructions in them.
    pub instructions: AtomicU64,
    /// Host code made of them, in bytes.
    pub code: AtomicU64,
    /// All code dropped at once.
    pub flushing: Span,
    /// Doubting units whose guest code was written, or may have been.
    pub doubting: Span,
    /// Comparing a doubted unit with guest memory before it runs again.
    pub comparing: Span,
}

/// Those of this process.
pub static FIGURES: Figures = Figures {
    recording: Span::new(),
    translating: Span::new(),
    instructions: AtomicU64::new(0),
    code: AtomicU64::new(0),
    flushing: Span::new(),
    doubting: Span::new(),
    comparing: Span::new(),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_adds_up_and_keeps_the_longest() {
        let span = Span::new();
        let start = Instant::now();
        span.since(start);
        std::thread::sleep(std::time::Duration::from_millis(2));
        span.since(start);
        let longest = span.take_longest_ns();
        assert_eq!(span.times(), 2);
        assert!(longest >= 2_000_000 && span.total_ns() >= longest);
        assert_eq!(span.take_longest_ns(), 0);
    }
}
