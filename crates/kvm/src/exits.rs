//! Exits from guest code to this process, counted by cause.
//!
//! An exit is the dearest thing that a guest can do, so their number per request is how an I/O path is judged.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why guest code was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    /// A read of a port.
    PortRead,
    /// A write to a port.
    PortWrite,
    /// A read of memory that is not RAM.
    MemoryRead,
    /// A write to such memory.
    MemoryWrite,
    /// The vCPU was kicked, or its thread got a signal.
    Interrupted,
    /// Anything else.
    Other,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 6] = [
        Cause::PortRead,
        Cause::PortWrite,
        Cause::MemoryRead,
        Cause::MemoryWrite,
        Cause::Interrupted,
        Cause::Other,
    ];

    /// A word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Cause::PortRead => "port-read",
            Cause::PortWrite => "port-write",
            Cause::MemoryRead => "memory-read",
            Cause::MemoryWrite => "memory-write",
            Cause::Interrupted => "interrupted",
            Cause::Other => "other",
        }
    }
}

/// The counts of one vCPU; read from any thread.
#[derive(Debug, Default)]
pub struct Exits([AtomicU64; Cause::ALL.len()]);

impl Exits {
    pub(crate) fn count(&self, cause: Cause) {
        if let Some(n) = self.0.get(cause as usize) {
            n.fetch_add(1, Relaxed);
        }
    }

    /// How many there were of `cause`.
    pub fn of(&self, cause: Cause) -> u64 {
        self.0.get(cause as usize).map_or(0, |n| n.load(Relaxed))
    }

    /// How many there were.
    pub fn all(&self) -> u64 {
        Cause::ALL.into_iter().map(|c| self.of(c)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_own_count() {
        let exits = Exits::default();
        for (i, cause) in Cause::ALL.into_iter().enumerate() {
            (0..=i).for_each(|_| exits.count(cause));
            assert_eq!(exits.of(cause), i as u64 + 1, "{}", cause.name());
        }
        assert_eq!(exits.all(), 21);
    }
}
