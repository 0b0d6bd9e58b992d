//! The two rings of a split virtqueue, virtio 1.3 §2.7.6 to §2.7.10, device side.
//!
//! ```text
//! available  flags:u16 idx:u16 ring:[u16; num]              used_event:u16    written by the driver
//! used       flags:u16 idx:u16 ring:[(id:u32 len:u32); num] avail_event:u16   written by us
//! ```
//! Order against vCPUs that run meanwhile: the available index is loaded with Acquire before an entry is read, the
//! used index stored with Release after its elements; where each side writes one word and then reads the other's
//! (event suppression) a full fence stands between.
//!
//! The driver's notifications are suppressed for free with `EVENT_IDX`: `avail_event` is moved only when a queue
//! has been found empty, so while we are busy the driver never needs to tell. Without that feature every
//! notification comes; the doorbell makes them cheap.

use super::Nonsense;
use super::chain::{Chain, Table};
use std::sync::atomic::{Ordering, fence};
use strata_memory::{Access, Acquired, GuestRam, VolatileSlice};
use vm_memory::Bytes;

strata_state::state! {
    /// Where one queue lies and how far the device has come in it.
    pub struct QueueState("virtio-queue", 1) {
        /// Entries; 0 after the driver chose an impossible size.
        1 num: u16,
        /// Enabled by the driver.
        2 ready: bool,
        /// Guest physical address of the descriptor table.
        3 desc: u64,
        /// Guest physical address of the available ring.
        4 avail: u64,
        /// Guest physical address of the used ring.
        5 used: u64,
        /// Available-ring index of the next chain to take.
        6 next_avail: u16,
        /// Used-ring index of the next completion.
        7 next_used: u16,
    }
}

/// Negotiated features that change how a ring is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
}

/// What came of asking a queue for its next chain.
#[derive(Debug)]
pub enum Popped<'m> {
    /// A chain; the device's position has moved past it.
    Chain(Chain<'m>),
    /// Nothing there; the driver will notify when there is.
    Empty,
    /// Some page of ring, table or buffer is not there yet. Nothing has happened; ask again when pages have come.
    Wait,
}

/// Size in bytes of the descriptor table, available and used ring of `num` entries (§2.7).
fn sizes(num: u16) -> [u64; 3] {
    let n = u64::from(num);
    [16 * n, 6 + 2 * n, 6 + 8 * n]
}

/// Shorthand: the slice, or return `$wait` from the function.
macro_rules! ready {
    ($acquired:expr, $wait:expr) => {
        match $acquired? {
            Acquired::Ready(slice) => slice,
            Acquired::Wait => return Ok($wait),
        }
    };
}

fn load16(s: &VolatileSlice<'_>, at: usize, order: Ordering) -> Result<u16, Nonsense> {
    // Alignment and bounds were checked when the queue was made ready, and again by `acquire`.
    s.load(at, order).map(u16::from_le).map_err(|_| Nonsense::Misaligned { gpa: at as u64, align: 2 })
}

fn store16(s: &VolatileSlice<'_>, at: usize, v: u16, order: Ordering) -> Result<(), Nonsense> {
    s.store(v.to_le(), at, order).map_err(|_| Nonsense::Misaligned { gpa: at as u64, align: 2 })
}

fn store32(s: &VolatileSlice<'_>, at: usize, v: u32) -> Result<(), Nonsense> {
    s.store(v.to_le(), at, Ordering::Relaxed).map_err(|_| Nonsense::Misaligned { gpa: at as u64, align: 4 })
}

/// Whether moving an index from `old` to `new` passes `event` (§2.7.10).
fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

impl QueueState {
    /// A queue after reset, with the largest size it can have.
    pub fn new(num: u16) -> QueueState {
        QueueState { num, ready: false, desc: 0, avail: 0, used: 0, next_avail: 0, next_used: 0 }
    }

    /// Checks size, alignment and place of the queue's three areas against the limit `max`.
    pub fn check(&self, max: u16, ram: &GuestRam) -> Result<(), Nonsense> {
        if !self.num.is_power_of_two() || self.num > max {
            return Err(Nonsense::QueueSize(u32::from(self.num)));
        }
        let areas = [(self.desc, 16), (self.avail, 2), (self.used, 4)];
        for ((gpa, align), len) in areas.into_iter().zip(sizes(self.num)) {
            if !gpa.is_multiple_of(align) {
                return Err(Nonsense::Misaligned { gpa, align });
            }
            if !ram.contains(gpa, len) {
                return Err(strata_memory::MemoryError::NotRam { gpa, len }.into());
            }
        }
        Ok(())
    }

    /// Takes the next chain. `spare` lends its allocation.
    pub fn pop<'m>(
        &mut self,
        ram: &'m GuestRam,
        features: RingFeatures,
        spare: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<Popped<'m>, Nonsense> {
        let [_, avail_len, used_len] = sizes(self.num);
        let avail = ready!(ram.acquire(self.avail, avail_len, Access::Read), Popped::Wait);
        let Some(table) = Table::acquire(ram, self.desc, u32::from(self.num))? else {
            return Ok(Popped::Wait);
        };
        // The completion will need it: better to wait before the request than after.
        let used = ready!(ram.acquire(self.used, used_len, Access::Read), Popped::Wait);
        let mut idx = load16(&avail, 2, Ordering::Acquire)?;
        if idx == self.next_avail && features.event_idx {
            self.ask_for_notification(ram, &used)?;
            idx = load16(&avail, 2, Ordering::Acquire)?;
        }
        let ahead = idx.wrapping_sub(self.next_avail);
        if ahead == 0 {
            return Ok(Popped::Empty);
        }
        if ahead > self.num {
            return Err(Nonsense::AvailJump { idx, ahead, num: self.num });
        }
        let slot = usize::from(self.next_avail % self.num);
        let head = load16(&avail, 4 + 2 * slot, Ordering::Relaxed)?;
        Ok(match Chain::walk(ram, table, head, features.indirect, spare)? {
            Some(chain) => {
                self.next_avail = self.next_avail.wrapping_add(1);
                Popped::Chain(chain)
            }
            None => Popped::Wait,
        })
    }

    /// Sets `avail_event` so that the next chain brings a notification.
    fn ask_for_notification(&self, ram: &GuestRam, used: &VolatileSlice<'_>) -> Result<(), Nonsense> {
        let at = 4 + 8 * usize::from(self.num);
        // Looked at first, so that an idle queue does not dirty its page again and again.
        if load16(used, at, Ordering::Relaxed)? != self.next_avail {
            let used = ready!(ram.acquire(self.used, sizes(self.num)[2], Access::Write), ());
            store16(&used, at, self.next_avail, Ordering::Relaxed)?;
            ram.written_slice(&used);
            fence(Ordering::SeqCst);
        }
        Ok(())
    }

    /// Gives the last `n` chains back, as if they had not been taken.
    pub fn put_back(&mut self, n: u16) {
        self.next_avail = self.next_avail.wrapping_sub(n);
    }

    /// Publishes completions `(head, bytes written)` at once, and gives whether the driver wants to be interrupted;
    /// `None` means wait, and nothing was published.
    pub fn publish(
        &mut self,
        ram: &GuestRam,
        features: RingFeatures,
        done: impl Iterator<Item = (u16, u32)>,
    ) -> Result<Option<bool>, Nonsense> {
        let [_, avail_len, used_len] = sizes(self.num);
        let used = ready!(ram.acquire(self.used, used_len, Access::Write), None);
        let avail = ready!(ram.acquire(self.avail, avail_len, Access::Read), None);
        let old = self.next_used;
        for (head, len) in done {
            let at = 4 + 8 * usize::from(self.next_used % self.num);
            store32(&used, at, u32::from(head))?;
            store32(&used, at + 4, len)?;
            self.next_used = self.next_used.wrapping_add(1);
        }
        store16(&used, 2, self.next_used, Ordering::Release)?;
        ram.written_slice(&used);
        fence(Ordering::SeqCst);
        Ok(Some(if features.event_idx {
            let event = load16(&avail, 4 + 2 * usize::from(self.num), Ordering::Relaxed)?;
            passes(event, self.next_used, old)
        } else {
            load16(&avail, 0, Ordering::Relaxed)? & 1 == 0
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn an_event_is_passed_exactly_when_it_lies_in_the_step() {
        for (event, new, old, expect) in [
            (0, 1, 0, true),
            (1, 1, 0, false),
            (0, 2, 1, false),
            (5, 10, 3, true),
            (2, 10, 3, false),
            (65535, 2, 65530, true),
            (1, 2, 65530, true),
            (2, 2, 65530, false),
            (65529, 2, 65530, false),
            (7, 7, 7, false),
        ] {
            assert_eq!(passes(event, new, old), expect, "event {event} step {old}..{new}");
        }
    }
}
