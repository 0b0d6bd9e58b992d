//! Guest memory as it was at one moment, taken while the guest goes on writing to it.
//!
//! A capture begins while nothing runs: [`GuestRam::begin_epoch`] has taken back every cached right to write, so each
//! first write to a page after that comes by [`GuestRam::acquire`] or [`GuestRam::engine_page`], and these save the
//! page's old content before they let it be written.
//!
//! ```text
//!             wanted  taken   the page
//!   before      1       0     still is as it was at the moment
//!   claimed     0       0     somebody copies it; whoever wants to write to it waits that long
//!   after       0       1     its content is held by the capture: free to be written
//! ```
//! Clearing the bit in `wanted` is the claim: of a writer and the copier one gets it. The copier ([`Capture::run`])
//! claims 64 pages at once, so a writer waits for 64 pages to be copied at most, and never for a disk: old pages go
//! into a buffer of [`HELD`] pages that the copier empties, and only when that is full does a writer hand its page to
//! the sink itself.

use crate::ram::Region;
use crate::{GuestRam, MemoryError, PAGE};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, RwLock};

/// Old pages that wait for the copier: 16 MiB.
const HELD: usize = 4096;
/// Pages that are claimed with one word.
const WORD: usize = 64;

/// Where captured pages go. Errors are the sink's to keep: the guest goes on in any case.
pub trait PageSink: Send + Sync {
    /// The content of pages from `first` on (an index in the region). Called from several threads at once, and for
    /// each wanted page once.
    fn put(&self, first: usize, bytes: &[u8]);

    /// Called now and then by the copier, while no writer waits for it: what takes long may be done here.
    fn rest(&self) {}
}

/// A set of pages of one region, a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet(Vec<u64>);

impl PageSet {
    /// Those of `pages` pages for which `is` holds.
    pub fn of(pages: usize, is: impl Fn(usize) -> bool) -> PageSet {
        let word = |w: usize| {
            let bits = (w * WORD..pages.min((w + 1) * WORD)).enumerate();
            bits.fold(0, |word, (bit, page)| word | u64::from(is(page)) << bit)
        };
        PageSet((0..pages.div_ceil(WORD)).map(word).collect())
    }

    /// From its words: page `n` is bit `n % 64` of word `n / 64`.
    pub fn from_words(words: Vec<u64>) -> PageSet {
        PageSet(words)
    }

    /// Its words.
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// Whether `page` is in it.
    pub fn has(&self, page: usize) -> bool {
        self.0.get(page / WORD).is_some_and(|w| w >> (page % WORD) & 1 != 0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// Its pages in order, as runs: first page and how many.
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let end = self.0.len() * WORD;
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < end && !self.has(at) {
                // Whole words at a time where there is nothing.
                at = if at.is_multiple_of(WORD) && self.0.get(at / WORD) == Some(&0) {
                    at + WORD
                } else {
                    at + 1
                };
            }
            let first = at;
            while at < end && self.has(at) {
                at += 1;
            }
            (first < at).then_some((first, at - first))
        })
    }
}

/// What writers and the copier share.
pub(crate) struct Shared {
    wanted: Box<[AtomicU64]>,
    taken: Box<[AtomicU64]>,
    /// Old pages, with their number.
    held: Mutex<Vec<(usize, Vec<u8>)>>,
    /// Writers between their claim and the end of their care for the page.
    under_way: AtomicUsize,
    sink: Arc<dyn PageSink>,
}

/// The place of a region's capture; there is at most one at a time.
#[derive(Default)]
pub(crate) struct Slot {
    active: AtomicBool,
    shared: RwLock<Option<Arc<Shared>>>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({})", self.active.load(Relaxed))
    }
}

impl Slot {
    fn get(&self) -> Option<Arc<Shared>> {
        // Acquire: who finds it active sees what the capture wants.
        if !self.active.load(Acquire) {
            return None;
        }
        self.shared.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set(&self, shared: Option<Arc<Shared>>) {
        let mut slot = self.shared.write().unwrap_or_else(|e| e.into_inner());
        self.active.store(shared.is_some(), Release);
        *slot = shared;
    }

    /// Before pages of `region` are written: their old content is saved if a capture wants it.
    #[inline]
    pub(crate) fn before_write(&self, region: &Region, pages: std::ops::RangeInclusive<usize>) {
        if self.active.load(Acquire) {
            self.save(region, pages);
        }
    }

    #[cold]
    fn save(&self, region: &Region, pages: std::ops::RangeInclusive<usize>) {
        let Some(shared) = self.get() else { return };
        pages.for_each(|page| shared.before_write(region, page));
    }

    /// Before all pages of `region` are replaced at once.
    pub(crate) fn before_clear(&self, region: &Region) {
        if let Some(shared) = self.get() {
            shared.copy(region, &AtomicBool::new(false));
            shared.taken.iter().for_each(|t| wait(|| t.load(Acquire) == u64::MAX));
        }
    }
}

/// Waits for another thread that is copying a few pages.
fn wait(done: impl Fn() -> bool) {
    let mut spins = 0u32;
    while !done() {
        spins += 1;
        if spins < 64 { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

impl Shared {
    fn before_write(&self, region: &Region, page: usize) {
        let bit = 1 << (page % WORD);
        let (Some(wanted), Some(taken)) = (self.wanted.get(page / WORD), self.taken.get(page / WORD)) else {
            return;
        };
        if taken.load(Acquire) & bit != 0 {
            return;
        }
        // Said before the claim: who finds nothing wanted any more, and nobody under way, has everything.
        self.under_way.fetch_add(1, SeqCst);
        if wanted.fetch_and(!bit, SeqCst) & bit == 0 {
            self.under_way.fetch_sub(1, SeqCst);
            return wait(|| taken.load(Acquire) & bit != 0);
        }
        let mut old = vec![0; PAGE as usize];
        region.page(page, 1).copy_to(&mut old);
        taken.fetch_or(bit, Release);
        let mut held = self.held.lock().unwrap_or_else(|e| e.into_inner());
        if held.len() < HELD {
            held.push((page, old));
        } else {
            drop(held);
            self.sink.put(page, &old);
        }
        self.under_way.fetch_sub(1, SeqCst);
    }

    /// Copies what is still wanted.
    fn copy(&self, region: &Region, cancelled: &AtomicBool) {
        let mut buf = vec![0; WORD * PAGE as usize];
        for (n, (wanted, taken)) in self.wanted.iter().zip(&self.taken).enumerate() {
            if cancelled.load(Acquire) {
                return;
            }
            let claimed = wanted.swap(0, SeqCst);
            if claimed != 0 {
                let runs = PageSet(vec![claimed]);
                let place =
                    |(first, count): (usize, usize)| first * PAGE as usize..(first + count) * PAGE as usize;
                for run in runs.runs() {
                    let to = buf.get_mut(place(run)).unwrap_or_default();
                    region.page(n * WORD + run.0, run.1).copy_to(to);
                }
                taken.fetch_or(claimed, Release);
                for run in runs.runs() {
                    self.sink.put(n * WORD + run.0, buf.get(place(run)).unwrap_or_default());
                }
            }
            self.empty();
            self.sink.rest();
        }
    }

    /// Hands over the old pages that writers have left.
    fn empty(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(|e| e.into_inner()));
        held.iter().for_each(|(page, bytes)| self.sink.put(*page, bytes));
    }
}

/// A capture under way. Dropped, it ends: what has not been copied is not.
pub struct Capture {
    ram: GuestRam,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").finish_non_exhaustive()
    }
}

impl GuestRam {
    /// Starts a new dirty epoch, and takes back every right to write that a hart may have cached: each hart's first
    /// write to a page after this asks again. Only while no hart and no device runs. Gives the epoch's number.
    pub fn begin_epoch(&self) -> u32 {
        self.take_back_rights();
        self.regions().iter().map(|r| r.pages().begin_epoch()).max().unwrap_or(0)
    }

    /// Begins to capture the pages `wanted` of memory, which is one region, as they are now. Only while no hart and no
    /// device runs, and after [`GuestRam::begin_epoch`]; then they may go on. It gives nothing where memory is not one
    /// region, or another capture is under way.
    ///
    /// # Errors
    /// A wanted page is not there yet.
    pub fn capture(&self, wanted: PageSet, sink: Arc<dyn PageSink>) -> Result<Option<Capture>, MemoryError> {
        let [region] = self.regions() else { return Ok(None) };
        if region.capture().get().is_some() || wanted.0.len() * WORD < region.pages().pages() {
            return Ok(None);
        }
        if let Some(page) = region.pages().first_absent(&wanted) {
            return Err(MemoryError::NotRam { gpa: region.gpa() + page as u64 * PAGE, len: PAGE });
        }
        let shared = Arc::new(Shared {
            taken: wanted.0.iter().map(|w| AtomicU64::new(!w)).collect(),
            wanted: wanted.0.into_iter().map(AtomicU64::new).collect(),
            held: Mutex::default(),
            under_way: AtomicUsize::new(0),
            sink,
        });
        region.capture().set(Some(shared.clone()));
        Ok(Some(Capture { ram: self.clone(), shared }))
    }
}

impl Capture {
    /// Copies all that is wanted, while the guest may run; returns when the sink has everything, or with `false` when
    /// `cancelled` has become true.
    pub fn run(self, cancelled: &AtomicBool) -> bool {
        let [region] = self.ram.regions() else { return false };
        self.shared.copy(region, cancelled);
        if cancelled.load(Acquire) {
            return false;
        }
        wait(|| self.shared.under_way.load(SeqCst) == 0);
        self.shared.empty();
        true
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.ram.regions().iter().for_each(|r| r.capture().set(None));
    }
}

#[cfg(test)]
#[path = "capture/tests.rs"]
mod tests;
