//! Post-copy: memory follows a machine that runs elsewhere already.
//!
//! ```text
//!  source                                            destination
//!  urgent()     ◄──── pages that have not come, once ────  fetch()       one connection of its own:
//!               ◄──── pages that somebody waits for ─────                nothing ever queues before them
//!               ───── just those ────────────────────────►
//!  background() ───── all that is left ──────────────────►  take_pages()  each stream
//! ```
//! The background goes on behind the page that was asked for last, for a while: who touches a page soon touches the next.
//! Then come the pages that were written lately, then all others in order. What is asked for is sent even if it is on its
//! way: the other connection may be megabytes behind. A page that comes twice counts once (`GuestRam::bring`).
//!
//! After a connection is lost, what had been sent may not have arrived: the destination's set of pages that have not
//! come is what is left then ([`Serving::resume`]).

use crate::link::Link;
use crate::packing::Packing;
use crate::streams::Meter;
use crate::wire::{Frame, MAX_WANT, PagesWriter, WireError, receive, send, send_set, take_set};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use strata_memory::{GuestRam, PAGE, PageSet};

/// Pages that go at a time: a word of the set.
const WORD: usize = 64;
/// Words that are sent from where a page was asked for: 1 MiB.
const NEAR: usize = 4;
/// Pages of data in one frame: more would make one that is asked for wait behind them in the network.
const FRAME: usize = 16;
/// How often a fetching thread looks around when nothing happens.
const LOOK: Duration = Duration::from_secs(1);

/// What is left to be sent, for all connections of the source.
pub struct Serving {
    left: Vec<AtomicU64>,
    pages: usize,
    /// Where a page was asked for last, and how many words are still to be sent from there on.
    near: Mutex<(usize, usize)>,
    /// Words with pages that were written lately.
    first: Mutex<Vec<usize>>,
    sweep: AtomicUsize,
    /// Pages that were asked for.
    asked: AtomicU64,
    /// Those among them that had been sent.
    twice: AtomicU64,
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

impl Serving {
    /// To send `left` of memory of `pages` pages, with `first` before the others.
    pub fn new(pages: usize, left: &PageSet, first: &PageSet) -> Serving {
        let both = left.words().iter().zip(first.words()).enumerate();
        let mut first: Vec<usize> = both.filter(|(_, (a, b))| *a & *b != 0).map(|(n, _)| n).collect();
        // They are taken from its end.
        first.reverse();
        Serving {
            left: left.words().iter().map(|w| AtomicU64::new(*w)).collect(),
            pages,
            near: Mutex::new((0, 0)),
            first: Mutex::new(first),
            sweep: AtomicUsize::new(0),
            asked: AtomicU64::new(0),
            twice: AtomicU64::new(0),
        }
    }

    /// How many pages have not been sent.
    pub fn left(&self) -> u64 {
        self.left.iter().map(|w| u64::from(w.load(Relaxed).count_ones())).sum()
    }

    /// Pages that were asked for, and those among them that had been sent already.
    pub fn asked(&self) -> [u64; 2] {
        [self.asked.load(Relaxed), self.twice.load(Relaxed)]
    }

    /// On a new urgent connection, before any is served: reads which pages have not come. Those are what is left.
    ///
    /// # Errors
    /// The connection's; it is no set of this memory's pages.
    pub fn resume(&self, link: &mut Link) -> Result<(), WireError> {
        let (mut set, mut buf) = (vec![0; self.left.len()], Vec::new());
        loop {
            match receive(link, &mut buf)? {
                Frame::Absent(_, words) if words.is_empty() => break,
                Frame::Absent(first, words) => take_set(&mut set, self.pages, first, &words)?,
                _ => return Err(WireError::Protocol("it does not say which pages have not come")),
            }
        }
        self.left.iter().zip(set).for_each(|(left, word)| left.store(word, Relaxed));
        self.sweep.store(0, Relaxed);
        Ok(())
    }

    /// The next word that has something left, and what; none if nothing is.
    fn next(&self) -> Option<(usize, u64)> {
        let take = |n: usize| self.left.get(n).map_or(0, |w| w.swap(0, Relaxed));
        loop {
            let near = {
                let mut near = lock(&self.near);
                let (at, more) = *near;
                *near = (at + 1, more.saturating_sub(1));
                (more > 0).then_some(at)
            };
            let n = match near {
                Some(at) => at,
                None => match lock(&self.first).pop() {
                    Some(n) => n,
                    None => self.sweep.fetch_add(1, Relaxed),
                },
            };
            match take(n) {
                0 if near.is_none() && n >= self.left.len() => return None,
                0 => {}
                word => return Some((n, word)),
            }
        }
    }

    /// Sends what is left over one stream, until all of it has been sent and the destination has taken it, or `stop`. Pages
    /// may be compressed if `packs`; those that somebody waits for never are, since that would be one more thing to wait for.
    ///
    /// # Errors
    /// The connection's, also where it is lost with the last of what was sent.
    pub fn background(
        &self,
        link: &mut Link,
        ram: &GuestRam,
        meter: &Meter,
        packs: bool,
        stop: &AtomicBool,
    ) -> Result<(), WireError> {
        let (mut writer, mut packing) = (PagesWriter::distinct(), Packing::new(packs));
        let (begun, mut sent) = (Instant::now(), 0);
        let mut pace = |bytes| {
            sent += bytes;
            wait(meter, begun, sent, stop);
        };
        while !stop.load(Relaxed) {
            let Some((n, word)) = self.next() else { break };
            for bit in (0..WORD).filter(|bit| word >> bit & 1 != 0) {
                if writer.add(ram, (n * WORD + bit) as u64)? || writer.data_pages() >= FRAME {
                    flush(link, &mut writer, meter, &mut packing, &mut pace)?;
                }
            }
        }
        flush(link, &mut writer, meter, &mut packing, &mut pace)?;
        if stop.load(Relaxed) {
            return Ok(());
        }
        // Sent is not taken: a connection that ends now may take megabytes with it that nobody would send again.
        send(link, &Frame::Round(0))?;
        loop {
            match receive(link, &mut Vec::new()) {
                Ok(Frame::Round(0)) => return Ok(()),
                Ok(_) => {
                    return Err(WireError::Protocol("it answers the end of all pages with something else"));
                }
                // It may have megabytes to take before: for how long, whoever says `stop` decides.
                Err(e) if e.is_quiet() && !stop.load(Relaxed) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Serves the urgent connection, until it ends.
    ///
    /// # Errors
    /// How it ended.
    pub fn urgent(&self, link: &mut Link, ram: &GuestRam, meter: &Meter) -> Result<(), WireError> {
        link.patience(None)?;
        let (mut writer, mut plain) = (PagesWriter::distinct(), Packing::new(false));
        let mut buf = Vec::new();
        loop {
            let wanted = match receive(link, &mut buf)? {
                Frame::Want(wanted) => wanted,
                // Which pages have not come: nothing was lost before the first connection, so that is known.
                Frame::Absent(..) => continue,
                _ => return Err(WireError::Protocol("it asks for something else than pages")),
            };
            for page in wanted {
                let (n, bit) = ((page / WORD as u64) as usize, 1 << (page % WORD as u64));
                let Some(left) = self.left.get(n).filter(|_| page < self.pages as u64) else {
                    return Err(WireError::Protocol("it asks for a page that there is not"));
                };
                self.asked.fetch_add(1, Relaxed);
                if left.fetch_and(!bit, Relaxed) & bit == 0 {
                    self.twice.fetch_add(1, Relaxed);
                }
                *lock(&self.near) = (n, NEAR);
                if writer.add(ram, page)? || writer.data_pages() >= FRAME {
                    flush(link, &mut writer, meter, &mut plain, &mut |_| {})?;
                }
            }
            flush(link, &mut writer, meter, &mut plain, &mut |_| {})?;
        }
    }
}

/// Waits until as much may have been sent as has been.
fn wait(meter: &Meter, begun: Instant, sent: u64, stop: &AtomicBool) {
    let limit = meter.limit.load(Relaxed);
    while limit > 0 && !stop.load(Relaxed) {
        let due = Duration::from_secs_f64(sent as f64 / limit as f64).saturating_sub(begun.elapsed());
        if due.is_zero() {
            break;
        }
        std::thread::sleep(due.min(Duration::from_millis(50)));
    }
}

fn flush(
    link: &mut Link,
    writer: &mut PagesWriter,
    meter: &Meter,
    packing: &mut Packing,
    pace: &mut dyn FnMut(u64),
) -> Result<(), WireError> {
    let Some(batch) = writer.batch() else { return Ok(()) };
    let counts = batch.counts();
    let bytes = packing.send(link, batch, Frame::Late, false, pace)?;
    writer.clear();
    meter.add(bytes, counts);
    Ok(())
}

/// The destination's end: memory into which pages come late, and whoever is told of that.
pub struct Pulling<'a> {
    /// The machine's memory.
    pub ram: &'a GuestRam,
    /// Counts what has come.
    pub meter: &'a Meter,
    /// Called after pages have come.
    pub tell: &'a (dyn Fn() + Sync),
}

impl Pulling<'_> {
    /// Gives how many pages it had, counted also where they had come before.
    pub(crate) fn take(&self, frame: Frame<'_>) -> Result<u64, WireError> {
        let Frame::Late(pages) = frame else {
            return Err(WireError::Protocol("it sends something else than pages that come late"));
        };
        let sent = pages.pages();
        let brought = pages.bring(self.ram)?;
        self.meter.add(brought.pages.iter().sum::<u64>() * PAGE, brought.pages);
        (self.tell)();
        Ok(sent)
    }

    /// The urgent connection's end: asks for what somebody waits for, until all pages have come or the connection ends.
    ///
    /// # Errors
    /// How it ended.
    pub fn fetch(&self, link: &mut Link) -> Result<(), WireError> {
        let ram = self.ram;
        // Those are among the pages that somebody waits for.
        drop(ram.take_wanted());
        send_set(link, &ram.missing_pages(false), true)?;
        let runs: Vec<_> = ram.missing_pages(true).runs().collect();
        let mut wanted: VecDeque<u64> =
            runs.into_iter().flat_map(|(at, n)| at as u64..(at + n) as u64).collect();
        // Pages that were asked for and not answered. As long as they are few, what asks for them has room on its way
        // whatever the source does: else both ends could wait for the other to read.
        let mut open = 0;
        let mut buf = Vec::new();
        while ram.missing() > 0 {
            let ask = wanted.len().min(MAX_WANT - open);
            if ask > 0 {
                send(link, &Frame::Want(wanted.drain(..ask).collect()))?;
                open += ask;
            }
            if link.wait(ram.late_bell(), LOOK)? {
                match receive(link, &mut buf) {
                    Ok(frame) => open = open.saturating_sub(self.take(frame)? as usize),
                    // The last page came by another connection, and this one is not needed any more.
                    Err(_) if ram.missing() == 0 => break,
                    Err(e) => return Err(e),
                }
            }
            wanted.extend(ram.take_wanted());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
