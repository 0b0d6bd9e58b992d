//! Memory on its way: the source's streams of pages, and what a destination does with one.

use crate::late::Pulling;
use crate::link::Link;
use crate::packing::Packing;
use crate::wire::{Frame, PagesWriter, WireError, receive, send};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use strata_memory::{GuestRam, PAGE, PageMap, PageSet};

/// Pages that a stream takes at a time: a word of the set.
const WORD: usize = 64;

/// Figures that others read while a copy is under way.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes of payload that were given to the connections, compressed where they were.
    pub bytes: AtomicU64,
    /// Pages, of each kind: data, zero, same.
    pub pages: [AtomicU64; 3],
    /// Most bytes a second; 0 is no limit.
    pub limit: AtomicU64,
}

impl Meter {
    pub(crate) fn add(&self, bytes: u64, pages: [u64; 3]) {
        self.bytes.fetch_add(bytes, Relaxed);
        for (to, n) in self.pages.iter().zip(pages) {
            to.fetch_add(n, Relaxed);
        }
    }

    /// Pages so far, of each kind: data, zero, same.
    pub fn counts(&self) -> [u64; 3] {
        [0, 1, 2].map(|n: usize| self.pages.get(n).map_or(0, |p| p.load(Relaxed)))
    }
}

/// The source's connections for pages.
pub struct Streams {
    streams: Vec<(Link, PagesWriter, Packing)>,
}

/// What a round has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of payload that the connections took.
    pub bytes: u64,
    /// The same, if none had been compressed: what pages are.
    pub plain: u64,
}

impl Streams {
    /// Over connections that have been greeted on. Pages may be compressed if `packs`.
    pub fn new(links: Vec<Link>, packs: bool) -> Streams {
        let stream = |link| (link, PagesWriter::default(), Packing::new(packs));
        Streams { streams: links.into_iter().map(stream).collect() }
    }

    /// The connections themselves.
    pub fn into_links(self) -> Vec<Link> {
        self.streams.into_iter().map(|(link, ..)| link).collect()
    }

    /// Sends a round; returns when the destination has all of it, or when `cancelled` has become true. Pages that were
    /// written again in dirty epoch `since` or later are passed over: they are left for the next round anyway. Without
    /// `since` the machine stands still.
    ///
    /// # Errors
    /// A connection's.
    pub fn round(
        &mut self,
        ram: &GuestRam,
        pages: &PageSet,
        (number, since): (u32, Option<u32>),
        meter: &Meter,
        cancelled: &AtomicBool,
    ) -> Result<Sent, WireError> {
        let [region] = ram.regions() else { return Err(WireError::Protocol("memory is not one region")) };
        let work = Work {
            ram,
            map: region.pages(),
            since,
            pages,
            number,
            meter,
            cancelled,
            next: AtomicUsize::new(0),
            begun: Instant::now(),
            sent: AtomicU64::new(0),
            plain: AtomicU64::new(0),
        };
        let mut streams = self.streams.iter_mut();
        let Some(first) = streams.next() else {
            return Err(WireError::Protocol("there is no connection for pages"));
        };
        std::thread::scope(|s| {
            let others: Vec<_> = streams.map(|stream| s.spawn(|| work.run(stream))).collect();
            let mut result = work.run(first);
            for other in others {
                // A panic there is a failed round here.
                let theirs =
                    other.join().unwrap_or(Err(WireError::Protocol("a stream of pages ended unexpectedly")));
                result = result.and(theirs);
            }
            result
        })?;
        Ok(Sent { bytes: work.sent.load(Relaxed), plain: work.plain.load(Relaxed) })
    }
}

struct Work<'a> {
    ram: &'a GuestRam,
    map: &'a PageMap,
    since: Option<u32>,
    pages: &'a PageSet,
    number: u32,
    meter: &'a Meter,
    cancelled: &'a AtomicBool,
    next: AtomicUsize,
    begun: Instant,
    sent: AtomicU64,
    plain: AtomicU64,
}

impl Work<'_> {
    fn run(&self, (link, writer, packing): &mut (Link, PagesWriter, Packing)) -> Result<(), WireError> {
        packing.begin_round();
        while !self.cancelled.load(Relaxed) {
            let n = self.next.fetch_add(1, Relaxed);
            let Some(&word) = self.pages.words().get(n) else { break };
            for bit in (0..WORD).filter(|bit| word >> bit & 1 != 0) {
                let page = n * WORD + bit;
                if self.since.is_some_and(|since| self.map.dirty_since(page, since)) {
                    continue;
                }
                if writer.add(self.ram, page as u64)? {
                    self.flush(link, writer, packing)?;
                }
            }
        }
        self.flush(link, writer, packing)?;
        writer.end_round();
        send(link, &Frame::Round(self.number))?;
        match receive(link, &mut Vec::new())? {
            Frame::Round(n) if n == self.number => Ok(()),
            Frame::Why(why) => Err(WireError::Io(std::io::Error::other(why))),
            _ => Err(WireError::Protocol("it answers the end of a round with something else")),
        }
    }

    fn flush(
        &self,
        link: &mut Link,
        writer: &mut PagesWriter,
        packing: &mut Packing,
    ) -> Result<(), WireError> {
        let Some(batch) = writer.batch() else { return Ok(()) };
        let (plain, counts) = (batch.bytes(), batch.counts());
        let pace = |bytes| {
            let limit = self.meter.limit.load(Relaxed);
            let sent = self.sent.fetch_add(bytes, Relaxed) + bytes;
            if limit > 0 {
                let due = Duration::from_secs_f64(sent as f64 / limit as f64);
                std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
            }
        };
        let bytes = packing.send(link, batch, Frame::Pages, self.since.is_none(), pace)?;
        self.plain.fetch_add(plain, Relaxed);
        writer.clear();
        self.meter.add(bytes, counts);
        Ok(())
    }
}

/// The destination's end of a stream: takes pages until the connection ends or the other side says something else. Once
/// `late` gives somebody, it is known which pages come late, and only such pages are taken.
///
/// # Errors
/// The connection's; whatever is no page or end of a round.
pub fn take_pages<'a>(
    link: &mut Link,
    ram: &GuestRam,
    meter: &Meter,
    late: impl Fn() -> Option<Pulling<'a>>,
) -> Result<(), WireError> {
    let mut buf = Vec::new();
    loop {
        let frame = match receive(link, &mut buf) {
            // A stream is quiet while the machine is handed over.
            Err(e) if e.is_quiet() => continue,
            frame => frame?,
        };
        match (frame, late()) {
            (Frame::Pages(pages), None) => {
                let counts = pages.apply(ram)?;
                meter.add(counts.iter().sum::<u64>() * PAGE, counts);
            }
            (late @ Frame::Late(_), Some(pulling)) => drop(pulling.take(late)?),
            (Frame::Round(n), _) => send(link, &Frame::Round(n))?,
            _ => return Err(WireError::Protocol("a stream of pages carries something else")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Security, token};
    use std::net::TcpListener;
    use std::sync::Arc;
    use strata_memory::{Access, Acquired};

    const BASE: u64 = 0x8000_0000;

    fn filled(pages: u64) -> GuestRam {
        let ram = GuestRam::single(BASE, pages * PAGE).unwrap();
        for p in (0..pages).filter(|p| p % 3 != 0) {
            match ram.acquire(BASE + p * PAGE, PAGE, Access::Write).unwrap() {
                Acquired::Ready(s) => s.copy_from(&[(p % 7) as u8; PAGE as usize]),
                Acquired::Wait => panic!("not there"),
            }
        }
        ram
    }

    #[test]
    fn what_is_written_again_is_left_for_the_next_round() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (here, there) = (filled(64), GuestRam::single(BASE, 64 * PAGE).unwrap());
        let (epoch, meter) = (here.begin_epoch(), Meter::default());
        here.load(BASE + 5 * PAGE, &[1]).unwrap();
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut link = Link::over(listener.accept().unwrap().0, &Security::Plain).unwrap();
                take_pages(&mut link, &there, &meter, || None).unwrap_err()
            });
            let mut streams = Streams::new(vec![Link::connect(&address, &Security::Plain).unwrap()], true);
            let (sent, no) = (Meter::default(), AtomicBool::new(false));
            let all = PageSet::of(64, |_| true);
            streams.round(&here, &all, (1, Some(epoch)), &sent, &no).unwrap();
            assert_eq!(sent.counts().iter().sum::<u64>(), 63);
            streams.round(&here, &PageSet::of(64, |p| p == 5), (2, None), &sent, &no).unwrap();
            assert_eq!(sent.counts().iter().sum::<u64>(), 64);
        });
        let (mut a, mut b) = (vec![0; 64 * 4096], vec![0; 64 * 4096]);
        here.peek(BASE, &mut a).unwrap();
        there.peek(BASE, &mut b).unwrap();
        assert!(a == b);
    }

    #[test]
    fn several_streams_bring_all_of_memory() {
        const PAGES: u64 = 1000;
        let (secret, seed) = ([1; 32], [2; 32]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (here, there) = (filled(PAGES), GuestRam::single(BASE, PAGES * PAGE).unwrap());
        let meter = Arc::new(Meter::default());
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let (listener, there, meter) = (listener.try_clone().unwrap(), there.clone(), meter.clone());
                std::thread::spawn(move || {
                    let mine = Security::destination(&secret, &seed).unwrap();
                    let mut link = Link::over(listener.accept().unwrap().0, &mine).unwrap();
                    // Ends with the connection.
                    take_pages(&mut link, &there, &meter, || None).unwrap_err()
                })
            })
            .collect();
        let mine = Security::source(&token(secret, &seed).unwrap()).unwrap();
        let mut streams =
            Streams::new((0..3).map(|_| Link::connect(&address, &mine).unwrap()).collect(), true);
        let (sent, no) = (Meter::default(), AtomicBool::new(false));
        let all = PageSet::of(PAGES as usize, |_| true);
        streams.round(&here, &all, (1, None), &sent, &no).unwrap();
        let (mut a, mut b) = (vec![0; (PAGES * PAGE) as usize], vec![0; (PAGES * PAGE) as usize]);
        here.peek(BASE, &mut a).unwrap();
        there.peek(BASE, &mut b).unwrap();
        assert!(a == b);
        assert_eq!(sent.counts(), meter.counts());
        assert_eq!(sent.counts().iter().sum::<u64>(), PAGES);
        // Seven contents: nearly all pages are the same as one before.
        assert!(sent.bytes.load(Relaxed) < PAGES * PAGE / 10, "{}", sent.bytes.load(Relaxed));
        drop(streams);
        takers.into_iter().for_each(|t| drop(t.join().unwrap()));
    }

    /// Sends 2048 pages that are not the same and shrink well, at 40 MB/s; gives what that was.
    fn sent_slowly(packs: bool) -> Sent {
        const PAGES: u64 = 2048;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ram = || GuestRam::single(BASE, PAGES * PAGE).unwrap();
        let (here, there, came, sent) = (ram(), ram(), Meter::default(), Meter::default());
        for page in 0..PAGES {
            here.load(BASE + page * PAGE, &(page | 1 << 40).to_le_bytes().repeat(512)).unwrap();
        }
        sent.limit.store(40_000_000, Relaxed);
        let round = std::thread::scope(|s| {
            s.spawn(|| {
                let mut link = Link::over(listener.accept().unwrap().0, &Security::Plain).unwrap();
                take_pages(&mut link, &there, &came, || None).unwrap_err()
            });
            let mut streams = Streams::new(vec![Link::connect(&address, &Security::Plain).unwrap()], packs);
            let (all, no) = (PageSet::of(PAGES as usize, |_| true), AtomicBool::new(false));
            streams.round(&here, &all, (1, None), &sent, &no).unwrap()
        });
        let (mut a, mut b) = (vec![0; (PAGES * PAGE) as usize], vec![0; (PAGES * PAGE) as usize]);
        here.peek(BASE, &mut a).unwrap();
        there.peek(BASE, &mut b).unwrap();
        assert!(a == b);
        assert_eq!((sent.counts(), came.counts()), ([PAGES, 0, 0], [PAGES, 0, 0]));
        assert_eq!(sent.bytes.load(Relaxed), round.bytes, "what the link took");
        assert!(round.plain > PAGES * PAGE, "what pages are");
        round
    }

    #[test]
    fn a_slow_link_gets_compressed_pages_and_an_older_destination_none() {
        let (packed, plain) = (sent_slowly(true), sent_slowly(false));
        assert!(packed.bytes < packed.plain / 2, "{packed:?}");
        assert_eq!(plain.bytes, plain.plain);
    }
}
