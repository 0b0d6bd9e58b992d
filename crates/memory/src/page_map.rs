//! The page-state map: what each page of guest RAM is, and since which epoch it is dirty.
//!
//! Two facts a page, each an atomic of its own, since any vCPU and any device may mark a page at any time:
//! - **presence**: absent (must be filled before use), zero (there, never written), from file, private (written),
//!   whether accesses to it are trapped to the bus (a device lies over the page, as HTIF does), whether it is watched
//!   for writes because code was translated from it (`code_watch.rs`), and how far an absent one is on its way (`late.rs`);
//! - **dirty epoch**: the number of the epoch in which it was last marked. A page is dirty *since* epoch `e` if its
//!   number is at least `e`. Starting an epoch costs nothing; those who cache the right to write (an engine's write
//!   tags) must be told to drop it, which the machine does.

use crate::PageSet;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst};
use zerocopy::FromZeros;

/// Whether a page's content is there and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Presence {
    /// There, all zeroes, never written.
    Zero = 0,
    /// Written by guest, device or loader.
    Private = 1,
    /// There, as in the file it is mapped from.
    File = 2,
    /// Not there yet: whoever needs it waits until it has been filled.
    Absent = 3,
}

const ZERO: u8 = Presence::Zero as u8;
const FILE: u8 = Presence::File as u8;

/// The bits of the presence; beside it are flags.
const PRESENCE: u8 = 0x03;
/// A device lies over the page.
pub(crate) const TRAPPED: u8 = 0x80;
/// The next write is to be told: see `code_watch.rs`.
pub(crate) const CODE: u8 = 0x40;
/// Some hart may write to the page without asking.
const CACHED: u8 = 0x20;
/// Of an absent page: somebody has waited for it.
const WANTED: u8 = 0x10;
/// Of an absent page: its content is being put there.
const ARRIVING: u8 = 0x08;
/// Of an absent page: what lies there is not zero.
const STALE: u8 = 0x04;

/// The number of the first dirty epoch: what was written ever was written since.
pub const FIRST_EPOCH: u32 = 1;

/// State of every page of one region.
#[derive(Debug)]
pub struct PageMap {
    presence: Box<[AtomicU8]>,
    dirty: Box<[AtomicU32]>,
    epoch: AtomicU32,
}

/// So many zeroes, none of which takes memory before it is touched.
fn untouched(count: usize) -> Box<[AtomicU32]> {
    // Refused only beyond the address space; slowly then, as the host likes.
    FromZeros::new_box_zeroed_with_elems(count)
        .unwrap_or_else(|_| std::iter::repeat_with(AtomicU32::default).take(count).collect())
}

impl PageMap {
    pub(crate) fn new(pages: usize, presence: Presence) -> PageMap {
        let first = presence as u8;
        PageMap {
            presence: std::iter::repeat_with(|| AtomicU8::new(first)).take(pages).collect(),
            dirty: untouched(pages),
            epoch: AtomicU32::new(FIRST_EPOCH),
        }
    }

    /// With Acquire: who finds a page present finds its content.
    fn raw(&self, page: usize) -> u8 {
        self.presence.get(page).map_or(Presence::Absent as u8, |p| p.load(Acquire))
    }

    /// Presence of `page` (an index from the region's start).
    pub fn presence(&self, page: usize) -> Presence {
        match self.raw(page) & PRESENCE {
            0 => Presence::Zero,
            1 => Presence::Private,
            2 => Presence::File,
            _ => Presence::Absent,
        }
    }

    /// Changes the presence of `page`.
    pub fn set_presence(&self, page: usize, to: Presence) {
        if let Some(p) = self.presence.get(page) {
            let _ = p.fetch_update(SeqCst, Relaxed, |was| Some(to as u8 | was & !PRESENCE));
        }
    }

    /// Changes the presence of many pages at once, while nobody else has the map.
    pub fn set_presences(&self, pages: std::ops::Range<usize>, to: Presence) {
        for p in self.presence.get(pages).unwrap_or_default() {
            p.store(to as u8 | p.load(Relaxed) & !PRESENCE, Relaxed);
        }
    }

    /// Whether a device lies over `page`.
    pub fn trapped(&self, page: usize) -> bool {
        self.raw(page) & TRAPPED != 0
    }

    /// Makes every engine access to `page` ask the bus first.
    pub fn trap(&self, page: usize) {
        if let Some(p) = self.presence.get(page) {
            p.fetch_or(TRAPPED, SeqCst);
        }
    }

    /// Whether writes to `page` are watched for.
    pub(crate) fn watched(&self, page: usize) -> bool {
        self.raw(page) & CODE != 0
    }

    /// Watches for the next write to `page`; gives whether harts may hold rights to write to it unasked. The caller
    /// excludes other watchers.
    pub(crate) fn watch(&self, page: usize) -> bool {
        let Some(p) = self.presence.get(page) else { return false };
        let was = p.fetch_update(SeqCst, SeqCst, |was| Some((was | CODE) & !CACHED));
        was.is_ok_and(|was| was & CACHED != 0)
    }

    /// After a write: whether `page` is watched. As a read-modify-write, so that it comes before or after each watch.
    pub(crate) fn is_watched_after_write(&self, page: usize) -> bool {
        self.presence.get(page).is_some_and(|p| p.fetch_or(0, SeqCst) & CODE != 0)
    }

    /// `page` is not watched any longer.
    pub(crate) fn unwatch(&self, page: usize) {
        if let Some(p) = self.presence.get(page) {
            p.fetch_and(!CODE, SeqCst);
        }
    }

    /// A hart asks to write to `page` as often as it likes: gives the page's flags, of which neither [`TRAPPED`] nor
    /// [`CODE`] is set if it may.
    pub(crate) fn let_cache(&self, page: usize) -> u8 {
        let Some(p) = self.presence.get(page) else { return Presence::Absent as u8 };
        let mut now = p.load(SeqCst);
        while now & (TRAPPED | CODE | CACHED) == 0 {
            match p.compare_exchange_weak(now, now | CACHED, SeqCst, SeqCst) {
                Ok(_) => return now | CACHED,
                Err(other) => now = other,
            }
        }
        now
    }

    /// Marks `page` written in the current epoch.
    pub fn mark_dirty(&self, page: usize) {
        self.mark_in(page, self.epoch.load(Relaxed));
    }

    /// `epoch` may be over by now: another may have marked the page in a later one, and that mark stays. Likewise a page
    /// that is taken away meanwhile stays absent.
    fn mark_in(&self, page: usize, epoch: u32) {
        let (Some(p), Some(d)) = (self.presence.get(page), self.dirty.get(page)) else { return };
        if d.load(Relaxed) < epoch {
            d.fetch_max(epoch, Relaxed);
        }
        let unwritten = |was: u8| matches!(was & PRESENCE, ZERO | FILE);
        if unwritten(p.load(Relaxed)) {
            let _ = p.fetch_update(Relaxed, Relaxed, |was| {
                unwritten(was).then_some(Presence::Private as u8 | was & !PRESENCE)
            });
        }
    }

    /// Whether `page` was marked in epoch `since` or later.
    pub fn dirty_since(&self, page: usize, since: u32) -> bool {
        self.dirty.get(page).is_some_and(|d| d.load(Relaxed) >= since)
    }

    /// The pages that were marked in epoch `since` or later, or all: those with content, and those that are zero.
    pub fn marked(&self, since: Option<u32>) -> (PageSet, PageSet) {
        let since = since.unwrap_or(0);
        let words = self.presence.chunks(64).zip(self.dirty.chunks(64)).map(|(presence, dirty)| {
            // Nearly all are as they were, and whoever asks has a machine stand still: a look at 64 takes as long as at one
            // or two that were marked.
            if dirty.iter().fold(0, |newest, d| d.load(Relaxed).max(newest)) < since {
                return (0, 0);
            }
            let pages = presence.iter().zip(dirty).enumerate();
            pages.fold((0, 0), |(data, zero), (bit, (p, d))| {
                let marked = d.load(Relaxed) >= since;
                let is_zero = p.load(Relaxed) & PRESENCE == ZERO;
                (data | u64::from(marked & !is_zero) << bit, zero | u64::from(marked & is_zero) << bit)
            })
        });
        let (mut data, mut zero) = (Vec::with_capacity(words.len()), Vec::with_capacity(words.len()));
        words.for_each(|(d, z)| {
            data.push(d);
            zero.push(z);
        });
        (PageSet::from_words(data), PageSet::from_words(zero))
    }

    /// Makes `page` absent, while nobody else has the map; gives whether it was not.
    pub(crate) fn take_away(&self, page: usize) -> bool {
        let Some(p) = self.presence.get(page) else { return false };
        let was = p.load(Relaxed);
        let stale = if was & PRESENCE == ZERO { 0 } else { STALE };
        p.store(was & !(PRESENCE | CACHED) | Presence::Absent as u8 | stale, SeqCst);
        was & PRESENCE != Presence::Absent as u8
    }

    /// Somebody waits for `page`; gives whether nobody has before, and it is absent.
    pub(crate) fn want(&self, page: usize) -> bool {
        let Some(p) = self.presence.get(page) else { return false };
        let absent = |was: u8| was & (PRESENCE | WANTED) == Presence::Absent as u8;
        // A page that somebody has waited for stays so until it is there: asking again costs a load.
        absent(p.load(Relaxed))
            && p.fetch_update(SeqCst, SeqCst, |was| absent(was).then_some(was | WANTED)).is_ok()
    }

    /// Claims an absent page, to put its content there; gives whether what lies there now is zero. None if it is not
    /// absent, or somebody else has claimed it.
    pub(crate) fn claim(&self, page: usize) -> Option<bool> {
        let p = self.presence.get(page)?;
        let free = |was: u8| was & (PRESENCE | ARRIVING) == Presence::Absent as u8;
        let was = p.fetch_update(SeqCst, SeqCst, |was| free(was).then_some(was | ARRIVING)).ok()?;
        Some(was & STALE == 0)
    }

    /// The content of a claimed page is there; gives whether somebody has waited for it.
    pub(crate) fn arrive(&self, page: usize, to: Presence) -> bool {
        let Some(p) = self.presence.get(page) else { return false };
        if let Some(d) = self.dirty.get(page) {
            d.fetch_max(self.epoch.load(Relaxed), Relaxed);
        }
        let late = PRESENCE | WANTED | ARRIVING | STALE;
        let was = p.fetch_update(SeqCst, SeqCst, |was| Some(to as u8 | was & !late));
        was.is_ok_and(|was| was & WANTED != 0)
    }

    /// The absent pages; with `wanted`, only those that somebody waits for.
    pub(crate) fn absent(&self, wanted: bool) -> PageSet {
        let is = |p: &AtomicU8| {
            let now = p.load(Relaxed);
            now & PRESENCE == Presence::Absent as u8 && (!wanted || now & WANTED != 0)
        };
        let word = |chunk: &[AtomicU8]| {
            chunk.iter().enumerate().fold(0, |word, (bit, p)| word | u64::from(is(p)) << bit)
        };
        PageSet::from_words(self.presence.chunks(64).map(word).collect())
    }

    /// The first of `pages` that is not there yet.
    pub(crate) fn first_absent(&self, pages: &PageSet) -> Option<usize> {
        let absent = |p: &AtomicU8| p.load(Relaxed) & PRESENCE == Presence::Absent as u8;
        let words = self.presence.chunks(64).zip(pages.words()).enumerate();
        words.filter(|(_, (chunk, word))| **word != 0 && chunk.iter().any(absent)).find_map(
            |(n, (chunk, _))| {
                let mut all = (n * 64..).zip(chunk);
                all.find(|(page, p)| pages.has(*page) && absent(p)).map(|(page, _)| page)
            },
        )
    }

    /// The current epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    /// Starts a new epoch and gives its number.
    pub fn begin_epoch(&self) -> u32 {
        self.epoch.fetch_add(1, SeqCst) + 1
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.presence.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_mark_does_not_take_back_a_newer_one() {
        let m = PageMap::new(1, Presence::Zero);
        let old = m.epoch();
        let new = m.begin_epoch();
        m.mark_dirty(0);
        m.mark_in(0, old);
        assert!(m.dirty_since(0, new));
    }

    #[test]
    fn what_was_marked_since_is_told_apart_by_what_it_is() {
        let m = PageMap::new(130, Presence::File);
        let since = m.begin_epoch();
        [3, 64, 129].into_iter().for_each(|p| m.mark_dirty(p));
        m.set_presence(64, Presence::Zero);
        m.set_presence(70, Presence::Absent);
        let (data, zero) = m.marked(Some(since));
        assert_eq!(
            (data.runs().collect::<Vec<_>>(), zero.runs().collect::<Vec<_>>()),
            (vec![(3, 1), (129, 1)], vec![(64, 1)])
        );
        assert_eq!(m.first_absent(&data), None);
        let (data, zero) = m.marked(None);
        assert_eq!((data.len(), zero.len(), m.first_absent(&data)), (129, 1, Some(70)));
    }

    #[test]
    fn a_mark_makes_a_page_private_but_brings_none_back() {
        let m = PageMap::new(2, Presence::File);
        m.set_presence(0, Presence::Absent);
        m.trap(1);
        (0..3).for_each(|p| m.mark_dirty(p));
        assert_eq!((m.presence(0), m.presence(1)), (Presence::Absent, Presence::Private));
        assert!(m.trapped(1) && !m.trapped(0));
    }
}
