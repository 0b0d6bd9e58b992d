//! Whether a batch of pages, or a piece of a file, goes compressed: as each stream measures it, batch by batch.
//!
//! ```text
//!  plain     time of `send`, with what a limit makes it wait        a byte of pages
//!  packed    the same, and the compressor's                         a byte of pages
//! ```
//! The cheaper one is taken. Where the link is slow, `send` waits for it, and less to send is less to wait for; where it is
//! not, `send` costs little, and the compressor would be all that takes time. Of both the source need only watch its clock:
//! what a link can carry, how much encryption costs and how many others want the processor is all in there.
//!
//! The other way is tried now and then: plain, since links change; packed, since memory does, and the less it would have
//! lost the more often. Right after a round begins nothing is believed: the socket takes the first bytes whatever the link
//! does.
//!
//! While the machine stands, its last pages fit into the socket, and compressing does not overlap with sending: it has to be
//! worth its time by itself.

use crate::link::Link;
use crate::wire::{BATCH, Frame, Packer, Pages, PiecePacker, WireError, send};
use std::time::{Duration, Instant};
use strata_memory::PAGE;

/// Bytes that go at the beginning of a round, whatever the link does: sockets at both ends take them.
const BUFFERED: u64 = 1 << 20;
/// A batch with fewer bytes of pages says nothing.
const TELLING: u64 = 32 << 10;
/// Bytes of pages after which something is known of a way: a socket takes bytes by the third of what it holds, so that one
/// batch waits for ten times as long as the next one.
const ENOUGH: u64 = 1 << 20;
/// Bytes of pages that are remembered of a way.
const WINDOW: u64 = 2 << 20;
/// What compressed pages have to cost at most, as a part of what plain ones do.
const GAIN: f64 = 0.95;
/// Bytes of pages that go compressed before it is tried again what plain ones cost: 1 in 64.
const PLAIN_AGAIN: u64 = 64 << 20;
/// What trying to compress may cost, as a part of the time that pages take: 1 in 64.
const TRYING: f64 = 64.0;
/// Most bytes of pages before it is tried again.
const PACKED_AGAIN: f64 = (32 << 20) as f64;
/// Bytes of pages by which it is tried: about a batch.
const TRY: f64 = (BATCH * PAGE as usize) as f64;

/// What one way has cost lately, for each byte of pages.
#[derive(Debug, Default)]
struct Cost {
    mean: f64,
    /// Bytes of pages that this is the mean of.
    seen: u64,
}

impl Cost {
    /// So much more was measured, for so many bytes.
    fn add(&mut self, cost: f64, bytes: u64) {
        let new = cost / bytes as f64;
        // Whoever else got the processor meanwhile says nothing of the way.
        let new = if self.seen < ENOUGH { new } else { new.min(self.mean * 4.0) };
        self.seen = (self.seen + bytes).min(WINDOW.max(bytes));
        self.mean += (new - self.mean) * bytes as f64 / self.seen as f64;
    }

    fn is_known(&self) -> bool {
        self.seen >= ENOUGH
    }
}

/// What is known of both ways.
#[derive(Debug, Default)]
struct Choice {
    /// In nanoseconds, as the next two.
    plain: Cost,
    packed: Cost,
    /// The part of `packed` that the compressor takes.
    packing: Cost,
    /// In bytes on the way, when compressed.
    wire: Cost,
    /// The way that was taken last.
    packs: bool,
    /// Bytes of pages that have gone by it since it was taken.
    since: u64,
}

impl Choice {
    /// Whether the next batch is to go compressed.
    fn next(&self, standing: bool) -> bool {
        // First what the link takes.
        if !self.plain.is_known() || !self.packed.is_known() {
            return self.plain.is_known();
        }
        let (plain, packing) = (self.plain.mean, self.packing.mean);
        let packed = if standing { packing + self.wire.mean * plain } else { self.packed.mean };
        if packed < plain * GAIN {
            return standing || if self.packs { self.since < PLAIN_AGAIN } else { self.since >= ENOUGH };
        }
        // Where the link hides what the compressor takes, the guest still goes without that processor.
        let loss = (packed - plain).max(packing) / plain.max(f64::MIN_POSITIVE);
        !self.packs && self.since as f64 >= (loss * TRYING * TRY).min(PACKED_AGAIN)
    }

    /// A batch of `bytes` of pages went as `wire` bytes. `packing` says how long it was tried to make them less, if it was.
    fn went(&mut self, bytes: u64, wire: u64, packing: Option<Duration>, sending: Duration) {
        let ns = |d: Duration| d.as_nanos() as f64;
        match packing {
            None => self.plain.add(ns(sending), bytes),
            Some(packing) => {
                self.packed.add(ns(packing + sending), bytes);
                self.packing.add(ns(packing), bytes);
                self.wire.add(wire as f64, bytes);
            }
        }
        let packs = packing.is_some();
        self.since = if packs == self.packs { self.since + bytes } else { bytes };
        self.packs = packs;
    }
}

/// What is known of a connection.
#[derive(Default)]
struct Known {
    choice: Choice,
    /// Bytes that were sent in this round.
    sent: u64,
}

impl Known {
    /// `bytes` were sent as `wire` bytes; all of it has begun then, and took that long before they were sent.
    fn went(&mut self, bytes: u64, wire: u64, begun: Instant, (packs, packing): (bool, Duration)) {
        self.sent += wire;
        if self.sent > BUFFERED && bytes >= TELLING {
            let sending = begun.elapsed() - packing;
            self.choice.went(bytes, wire, packs.then_some(packing), sending);
        }
    }
}

/// A stream's compressor, and what it knows of its link.
pub(crate) struct Packing {
    packer: Option<Packer>,
    known: Known,
}

impl Packing {
    /// For a stream on which pages may be compressed, or may not.
    pub(crate) fn new(may: bool) -> Packing {
        Packing { packer: may.then(Packer::default), known: Known::default() }
    }

    /// A round begins: all that was sent before has been taken.
    pub(crate) fn begin_round(&mut self) {
        self.known.sent = 0;
    }

    /// Sends a batch, in a `frame` of its own, in the form that takes less time; `pace` waits as long as a limit on that
    /// many bytes wants it to. Gives how many bytes it was. `standing` says that the machine stands still meanwhile.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn send<'p>(
        &'p mut self,
        link: &mut Link,
        batch: Pages<'p>,
        frame: fn(Pages<'p>) -> Frame<'p>,
        standing: bool,
        pace: impl FnOnce(u64),
    ) -> Result<u64, WireError> {
        let (begun, bytes) = (Instant::now(), batch.data_bytes());
        let packs = bytes > 0 && self.known.choice.next(standing);
        let packed = self.packer.as_mut().filter(|_| packs).and_then(|p| p.pack(&batch));
        let packing = begun.elapsed();
        let batch = packed.unwrap_or(batch);
        let wire = batch.bytes();
        pace(wire);
        send(link, &frame(batch))?;
        self.known.went(bytes, wire, begun, (packs, packing));
        Ok(wire)
    }
}

/// The same for the pieces of files.
pub struct FilePacking {
    packer: Option<PiecePacker>,
    known: Known,
}

impl FilePacking {
    /// For a connection on which pieces may be compressed, or may not.
    pub fn new(may: bool) -> FilePacking {
        FilePacking { packer: may.then(PiecePacker::default), known: Known::default() }
    }

    /// Sends a piece of file `n`, which begins at `at`; `pace` waits as long as a limit on that many bytes wants it to.
    ///
    /// # Errors
    /// The connection's.
    pub fn send(
        &mut self,
        link: &mut Link,
        (n, at): (u16, u64),
        piece: &[u8],
        pace: impl FnOnce(u64),
    ) -> Result<(), WireError> {
        let (begun, bytes) = (Instant::now(), piece.len() as u64);
        let packs = bytes > 0 && self.known.choice.next(false);
        let block = self.packer.as_mut().filter(|_| packs).and_then(|p| p.pack(piece));
        let packing = begun.elapsed();
        let wire = block.map_or(bytes, |b| b.len() as u64);
        pace(wire);
        match block {
            Some(block) => send(link, &Frame::FilePacked(n, at, piece.len() as u32, block))?,
            None => send(link, &Frame::File(n, at, piece))?,
        }
        self.known.went(bytes, wire, begun, (packs, packing));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = BATCH as u64 * PAGE;
    /// Bytes that the socket holds.
    const HELD: f64 = 256.0 * 1024.0;

    /// A stream of pages over a link of `link` MB/s through a socket; pages become `ratio` of what they
    /// are at `packer` MB/s, and 1 GB/s go through `send` itself.
    struct Model {
        choice: Choice,
        link: f64,
        packer: f64,
        ratio: f64,
        /// Nanoseconds, and bytes in the socket.
        now: f64,
        unsent: f64,
    }

    impl Model {
        fn new(link: f64, packer: f64, ratio: f64) -> Model {
            Model { choice: Choice::default(), link, packer, ratio, now: 0.0, unsent: 0.0 }
        }

        fn pass(&mut self, ns: f64) {
            self.now += ns;
            self.unsent = (self.unsent - ns * self.link / 1e3).max(0.0);
        }

        /// Sends `n` batches; gives how many of them were compressed.
        fn run(&mut self, n: usize, standing: bool) -> usize {
            let mut count = 0;
            for _ in 0..n {
                // Reading the pages.
                self.pass(BYTES as f64 / 8.0);
                let packs = self.choice.next(standing);
                let mut wire = BYTES as f64;
                let packing = packs.then(|| {
                    let ns = BYTES as f64 * 1e3 / self.packer;
                    self.pass(ns);
                    wire *= self.ratio;
                    Duration::from_nanos(ns as u64)
                });
                let before = self.now;
                self.pass(wire);
                self.unsent += wire;
                // It takes more when a third of it is free.
                while self.unsent > HELD {
                    self.pass((self.unsent - HELD).max(HELD / 3.0) * 1e3 / self.link);
                }
                let sending = Duration::from_nanos((self.now - before) as u64);
                if self.now > 5e6 {
                    self.choice.went(BYTES, wire as u64, packing, sending);
                }
                count += usize::from(packs);
            }
            count
        }

        /// MB of pages a second.
        fn rate(&mut self, n: usize, standing: bool) -> f64 {
            let begun = self.now;
            self.run(n, standing);
            n as f64 * BYTES as f64 * 1e3 / (self.now - begun)
        }
    }

    #[test]
    fn a_slow_link_carries_more_and_a_fast_one_no_less() {
        for (link, packer, ratio) in [
            (12.5, 500.0, 0.4),
            (125.0, 500.0, 0.4),
            (125.0, 200.0, 0.5),
            (125.0, 500.0, 1.0),
            (125.0, 100.0, 0.4),
            (1250.0, 500.0, 0.4),
            (1e6, 500.0, 0.1),
        ] {
            let rate = Model::new(link, packer, ratio).rate(2000, false);
            // With what reading and `send` take.
            let plain = f64::min(link, 1e3 / (1.0 + 0.125));
            let packed = f64::min(link / ratio, 1e3 / (1e3 / packer + ratio + 0.125));
            let best = plain.max(packed);
            assert!(rate > best * 0.96, "{link} MB/s, {packer} MB/s to {ratio}: {rate} instead of {best}");
        }
    }

    #[test]
    fn it_follows_what_memory_is_like() {
        let mut m = Model::new(125.0, 500.0, 0.4);
        assert!(m.run(200, false) > 180);
        m.ratio = 1.0;
        assert!(m.run(200, false) < 100, "nothing shrinks");
        m.ratio = 0.4;
        assert!(m.run(200, false) > 180, "it shrinks again");
        // The link has become as fast as memory.
        m.link = 1e5;
        m.run(600, false);
        assert!(m.run(200, false) < 10);
        m.link = 125.0;
        m.run(200, false);
        assert!(m.run(200, false) > 180);
    }

    #[test]
    fn a_machine_that_stands_does_not_wait_for_the_compressor() {
        // While it sends, this one does not matter; before a socket that is empty it would.
        let mut m = Model::new(125.0, 180.0, 0.5);
        assert!(m.run(200, false) > 180);
        assert!(m.run(100, true) < 20);
        let mut m = Model::new(125.0, 500.0, 0.5);
        assert!(m.run(200, true) > 180);
    }

    #[test]
    fn what_was_measured_once_in_a_bad_moment_is_soon_forgotten() {
        let mut m = Model::new(125.0, 500.0, 0.4);
        m.run(100, false);
        m.choice.went(BYTES, BYTES / 2, Some(Duration::from_millis(20)), Duration::ZERO);
        assert!(m.run(50, false) > 40);
    }
}
