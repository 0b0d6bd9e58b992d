//! A bounded ring of Ethernet frames, one fixed slot a frame: what the guest sent and waits for us, and what waits
//! for the guest. No allocation after it is made; pages are touched only as deep as the ring was ever filled.

use crate::MAX_FRAME;

/// Bytes of a slot: [`MAX_FRAME`] rounded up to whole cache lines.
const SLOT: usize = MAX_FRAME.next_multiple_of(64);

/// The ring.
pub struct FrameQueue {
    slots: Box<[u8]>,
    lens: Box<[u16]>,
    head: usize,
    len: usize,
}

impl FrameQueue {
    /// A ring of `capacity` frames; `capacity` is not zero.
    pub fn new(capacity: usize) -> FrameQueue {
        FrameQueue {
            slots: vec![0; capacity * SLOT].into_boxed_slice(),
            lens: vec![0; capacity].into_boxed_slice(),
            head: 0,
            len: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many more frames fit.
    pub fn room(&self) -> usize {
        self.lens.len() - self.len
    }

    /// Half of the slots are free.
    pub fn is_half_empty(&self) -> bool {
        self.len * 2 <= self.lens.len()
    }

    /// Appends a frame of `len` bytes that `fill` writes, unless `fill` declines (gives false), the ring is full or
    /// the frame longer than [`MAX_FRAME`]. Gives whether the frame was taken.
    pub fn push_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        if self.room() == 0 || len > MAX_FRAME {
            return false;
        }
        let at = (self.head + self.len) % self.lens.len();
        let taken = fill(&mut self.slots[at * SLOT..at * SLOT + len]);
        if taken {
            self.lens[at] = len as u16;
            self.len += 1;
        }
        taken
    }

    /// Appends a copy of `frame`.
    pub fn push(&mut self, frame: &[u8]) -> bool {
        self.push_with(frame.len(), |slot| {
            slot.copy_from_slice(frame);
            true
        })
    }

    /// The oldest frame.
    pub fn front(&self) -> Option<&[u8]> {
        if self.is_empty() {
            return None;
        }
        let at = self.head * SLOT;
        self.slots.get(at..at + usize::from(self.lens[self.head]))
    }

    /// Drops the oldest frame.
    pub fn pop(&mut self) {
        if !self.is_empty() {
            self.head = (self.head + 1) % self.lens.len();
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_in_order_across_the_wrap() {
        let mut q = FrameQueue::new(3);
        for i in 0..20u8 {
            assert!(q.push(&[i; 60]) && q.push(&[i, 1]));
            assert_eq!(q.front(), Some(&[i; 60][..]));
            q.pop();
            assert_eq!(q.front(), Some(&[i, 1][..]));
            q.pop();
            assert!(q.is_empty() && q.front().is_none());
        }
    }

    #[test]
    fn a_full_ring_and_a_giant_frame_are_refused() {
        let mut q = FrameQueue::new(2);
        assert!(!q.push(&[0; MAX_FRAME + 1]));
        assert!(q.push(&[0; MAX_FRAME]) && !q.push_with(10, |_| false) && q.push(&[]));
        assert!(!q.push(&[1]) && q.room() == 0);
    }
}
