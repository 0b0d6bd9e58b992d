//! Bytes on their way to one reader, and the last screenful. Pure: no descriptor is touched here.

use std::collections::VecDeque;

/// Bytes that may wait for a reader that must get all of them; then the guest waits.
pub(super) const LOSSLESS_LIMIT: usize = 64 << 10;
/// Bytes that may wait for a reader that may miss some: many screens, so that only a stuck one misses anything.
pub(super) const LOSSY_LIMIT: usize = 256 << 10;
/// What is remembered of the output, in bytes.
const HISTORY: usize = 64 << 10;
/// What a newly attached client is shown: a screen of 24 lines, at most so many bytes.
const SCREEN_LINES: usize = 24;
const SCREEN_BYTES: usize = 4 << 10;

/// One reader's queue.
#[derive(Debug)]
pub(super) struct Sink {
    pending: VecDeque<u8>,
    lossless: bool,
    skipped: u64,
}

impl Sink {
    pub(super) fn new(lossless: bool) -> Sink {
        Sink { pending: VecDeque::new(), lossless, skipped: 0 }
    }

    /// How much output a reader that must get everything can still take; `None` for one that never holds the guest.
    pub(super) fn room(&self) -> Option<usize> {
        self.lossless.then(|| LOSSLESS_LIMIT.saturating_sub(self.pending.len()))
    }

    /// Adds output. A lossy reader that is too far behind loses what comes until it has caught up, and is told.
    pub(super) fn offer(&mut self, bytes: &[u8]) {
        if !self.lossless && (self.skipped > 0 || self.pending.len() + bytes.len() > LOSSY_LIMIT) {
            self.skipped = self.skipped.saturating_add(bytes.len() as u64);
        } else {
            self.pending.extend(bytes);
        }
    }

    /// What to write next; empty if there is nothing.
    pub(super) fn chunk(&mut self) -> &[u8] {
        if self.pending.is_empty() && self.skipped > 0 {
            let note =
                format!("\r\n[{} bytes of output skipped: this terminal was too slow]\r\n", self.skipped);
            self.skipped = 0;
            self.pending.extend(note.as_bytes());
        }
        let (a, b) = self.pending.as_slices();
        if a.is_empty() { b } else { a }
    }

    /// `n` bytes of the chunk have been written.
    pub(super) fn advance(&mut self, n: usize) {
        self.pending.drain(..n.min(self.pending.len()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.skipped == 0
    }
}

/// The last output, for clients that attach later.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<u8>);

impl History {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let tail = bytes.get(bytes.len().saturating_sub(HISTORY)..).unwrap_or(bytes);
        let over = (self.0.len() + tail.len()).saturating_sub(HISTORY);
        self.0.drain(..over);
        self.0.extend(tail);
    }

    /// The last screenful, from the start of a line where that is near.
    pub(super) fn screen(&mut self) -> Vec<u8> {
        let all = &*self.0.make_contiguous();
        let tail = all.get(all.len().saturating_sub(SCREEN_BYTES)..).unwrap_or(all);
        let cut = tail.len() < all.len();
        // A line of its own is also what stands after the last newline: a prompt.
        let mut starts = tail.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1);
        let from = match starts.clone().nth(SCREEN_LINES - 1) {
            Some(start) => start,
            // The window may begin within a line, or within a character: begin at the first whole line.
            None if cut => starts.next_back().unwrap_or_else(|| first_char(tail)),
            None => 0,
        };
        tail.get(from..).unwrap_or(&[]).to_vec()
    }
}

/// Where the first whole UTF-8 character begins.
fn first_char(bytes: &[u8]) -> usize {
    bytes.iter().take(3).take_while(|b| **b & 0xc0 == 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(sink: &mut Sink) -> Vec<u8> {
        let mut out = Vec::new();
        while !sink.chunk().is_empty() {
            let n = sink.chunk().len().min(7);
            out.extend_from_slice(&sink.chunk()[..n]);
            sink.advance(n);
        }
        out
    }

    #[test]
    fn a_lossless_sink_keeps_all_and_says_when_to_stop() {
        let mut s = Sink::new(true);
        assert_eq!(s.room(), Some(LOSSLESS_LIMIT));
        let bytes: Vec<u8> = (0..LOSSLESS_LIMIT).map(|i| i as u8).collect();
        s.offer(&bytes);
        assert_eq!(s.room(), Some(0));
        assert_eq!(drain(&mut s), bytes);
    }

    #[test]
    fn a_slow_lossy_sink_is_bounded_and_told() {
        let mut s = Sink::new(false);
        for _ in 0..100 {
            s.offer(&[b'x'; 10_000]);
        }
        assert!(s.pending.len() <= LOSSY_LIMIT);
        let kept = s.pending.len();
        let out = drain(&mut s);
        assert!(out[..kept].iter().all(|b| *b == b'x'));
        let note = String::from_utf8(out[kept..].to_vec()).unwrap();
        assert!(note.contains(&format!("{} bytes of output skipped", 1_000_000 - kept)), "{note}");
        s.offer(b"again");
        assert_eq!(drain(&mut s), b"again");
        assert!(s.is_empty());
    }

    #[test]
    fn the_screen_is_the_last_lines() {
        let mut h = History::default();
        assert_eq!(h.screen(), b"");
        h.add(b"one\r\ntwo\r\n# ");
        assert_eq!(h.screen(), b"one\r\ntwo\r\n# ");
        for i in 0..1000 {
            h.add(format!("line {i}\r\n").as_bytes());
        }
        h.add(b"# ");
        let screen = String::from_utf8(h.screen()).unwrap();
        assert_eq!(screen.lines().count(), 24, "{screen}");
        assert!(screen.starts_with("line 977\r\n") && screen.ends_with("line 999\r\n# "), "{screen}");
    }

    #[test]
    fn history_and_screen_are_bounded() {
        let mut h = History::default();
        h.add("ä".repeat(100_000).as_bytes());
        h.add(&[b'.'; 1]);
        assert_eq!(h.0.len(), HISTORY);
        let screen = h.screen();
        assert!(screen.len() <= SCREEN_BYTES);
        assert!(String::from_utf8(screen).is_ok(), "begins with a whole character");
    }
}
