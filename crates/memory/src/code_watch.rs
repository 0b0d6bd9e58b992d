//! How a translator learns of every write to pages from which it has translated code, at no cost to other writes.
//!
//! A page is **watched** by a bit beside its presence ([`GuestRam::watch_code`]). The first write to it clears the bit
//! and puts the page into a log, from which each translator reads at its own pace ([`GuestRam::drain_code_writes`]); until
//! it is watched again, further writes cost nothing and are not told.
//!
//! ```text
//!                     watch                                a write: store, then log, then clear the bit
//!   (nothing) ───────────────────► CODE ──────────────────────────────────────────────────────────► (nothing)
//!        │ a hart caches the right to write                                                           the log
//!        ▼            watch, epoch + 1: valid once every hart has dropped its rights
//!     CACHED ─────────────────────► CODE
//! ```
//!
//! **Order of a write.** Whoever does not hold a cached right (a hart's slow path, a device, the loader) stores first and
//! then looks at the bit by an atomic read-modify-write. Watching is such an operation on the same byte. So for each pair
//! of a write and a watch one of the two comes first: the watch, and then the write finds the bit and logs; or the write,
//! and then the watcher, which reads the bytes afterwards, reads the new ones. Logging and clearing the bit are one step
//! under the log's lock, the entry first: who finds the bit cleared by another may rely on the entry being there, and who
//! reads the entry and watches again does so after the bit was cleared. Nothing is lost between a device's
//! [`GuestRam::acquire`] and its store either, however long that takes: what counts is [`GuestRam::written`] after it.
//!
//! **Cached rights** are what that does not reach: a hart writes to a page in its TLB without asking. A page to which any
//! hart may hold such a right has the bit CACHED. Watching one raises the **epoch**, and is **confirmed** when every hart
//! that runs has been quiet since, that is, between two instructions dropped its rights and said so
//! ([`Quiet::refresh`]). Until then, the translator may read the page but not rely on it. Why that suffices:
//! - a hart reads the epoch (acquire), drops its rights, and publishes what it read (release). Watching sets CODE before
//!   it raises the epoch (release), so rights taken later see CODE and are refused; and who sees the publication
//!   (acquire) sees all that was written under the old rights;
//! - a hart that does not run keeps its rights and publishes "nothing". When it enters, it publishes its old epoch and
//!   then reads the present one, with a SeqCst fence between; [`GuestRam::watch_confirmed`] has one between the epoch's
//!   raise and its look at the publications. One of the two sees the other;
//! - watchers exclude each other by a lock, so that a page without CACHED has no right that an epoch already raised does
//!   not cover.
//!
//! With one hart, which drops its own rights when it watches, all of this is immediate. Watching and logging happen once
//! a page of code and change of it: locks are plenty there. The log is bounded; a reader that falls behind is told that
//! it has lost track.

use crate::{GuestRam, PAGE, PageMap};
use std::sync::atomic::{
    AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst, fence,
};
use std::sync::{Arc, Mutex, MutexGuard};

/// Pages in the log. A translator that reads at every poll sees a few at a time; a device may write 1 MiB of code at
/// once, which is 256.
const LOG: usize = 1024;

/// What a hart that does not run has published.
const NOT_RUNNING: u64 = u64::MAX;

/// What [`GuestRam::drain_code_writes`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every page written since the last time was told.
    Complete,
    /// There were more than the log holds: any page may have been written.
    Lost,
}

/// The part of guest RAM that all handles share: epoch, harts, log.
#[derive(Debug)]
pub(crate) struct CodeWatch {
    /// Grows, under the lock of `harts`, after a page with CACHED has been watched.
    epoch: AtomicU64,
    /// What each hart has published: the epoch it has seen.
    harts: Mutex<Vec<Arc<AtomicU64>>>,
    /// Pages logged ever. Written under the lock of `log`.
    head: AtomicU64,
    /// Guest physical addresses, the `n`th at `n % LOG`.
    log: Mutex<Box<[u64; LOG]>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl CodeWatch {
    pub(crate) fn new() -> CodeWatch {
        CodeWatch {
            epoch: AtomicU64::new(1),
            harts: Mutex::default(),
            head: AtomicU64::new(0),
            log: Mutex::new(Box::new([0; LOG])),
        }
    }

    /// Tells of a write to page number `page` of `map`, at `gpa`, that has just been done.
    pub(crate) fn tell(&self, map: &PageMap, page: usize, gpa: u64) {
        if !map.is_watched_after_write(page) {
            return;
        }
        let mut log = locked(&self.log);
        // Somebody else may have told meanwhile.
        if map.watched(page) {
            let n = self.head.load(Relaxed);
            log[n as usize % LOG] = gpa & !(PAGE - 1);
            self.head.store(n + 1, Release);
            map.unwatch(page);
        }
    }
}

impl GuestRam {
    /// Watches the page that holds `gpa` for writes, and gives a ticket for [`GuestRam::watch_confirmed`]: once that is
    /// true, a write to the page is in the log, or in the bytes that are read from then on. A hart that watches has to
    /// drop its own right to write to the page. What is not RAM cannot be watched; the ticket is worth nothing then.
    pub fn watch_code(&self, gpa: u64) -> u64 {
        let watch = self.watch();
        let _alone = locked(&watch.harts);
        if self.pages_at(gpa).is_some_and(|(map, page)| map.watch(page)) {
            watch.epoch.fetch_add(1, SeqCst) + 1
        } else {
            watch.epoch.load(SeqCst)
        }
    }

    /// Makes every hart drop the rights to write that it has cached: the next time that it is between two instructions,
    /// or when it begins to run.
    pub(crate) fn take_back_rights(&self) {
        let watch = self.watch();
        let _alone = locked(&watch.harts);
        watch.epoch.fetch_add(1, SeqCst);
    }

    /// Whether every hart that runs has dropped its cached rights since the ticket was given. Once true, always true.
    pub fn watch_confirmed(&self, ticket: u64) -> bool {
        let harts = locked(&self.watch().harts);
        fence(SeqCst);
        harts.iter().all(|seen| seen.load(Acquire) >= ticket)
    }

    /// Whether the page that holds `gpa` is watched.
    pub fn code_watched(&self, gpa: u64) -> bool {
        self.pages_at(gpa).is_some_and(|(map, page)| map.watched(page))
    }

    /// Tells of a write that has just been done, within the page that holds `gpa`.
    pub fn code_written(&self, gpa: u64) {
        if let Some((map, page)) = self.pages_at(gpa) {
            self.watch().tell(map, page, gpa);
        }
    }

    /// Tells of writes that have just been done to `len` bytes that were acquired for writing: every device calls this
    /// after it has written and before it tells the guest so.
    pub fn written(&self, gpa: u64, len: u64) {
        if let Some(last) = len.checked_sub(1).and_then(|n| gpa.checked_add(n)) {
            (gpa / PAGE..=last / PAGE).for_each(|page| self.code_written(page * PAGE));
        }
    }

    /// [`GuestRam::written`], for who has kept the slice and not the address.
    pub fn written_slice(&self, slice: &crate::VolatileSlice<'_>) {
        if let Some(gpa) = self.address_of(slice.ptr_guard().as_ptr()) {
            self.written(gpa, slice.len() as u64);
        }
    }

    /// How many pages have been logged ever: one load, to see whether there is something to drain.
    #[inline]
    pub fn code_writes(&self) -> u64 {
        self.watch().head.load(Acquire)
    }

    /// Tells `each` the pages written since `cursor`, and moves it on. A new reader begins at [`GuestRam::code_writes`].
    pub fn drain_code_writes(&self, cursor: &mut u64, mut each: impl FnMut(u64)) -> Drained {
        // In batches, so that `each` may do what it likes: it is called without the lock.
        let mut batch = [0; 32];
        while *cursor != self.code_writes() {
            let taken = {
                let log = locked(&self.watch().log);
                let head = self.watch().head.load(Relaxed);
                let left = head.wrapping_sub(*cursor);
                if left > LOG as u64 {
                    *cursor = head;
                    return Drained::Lost;
                }
                let some = batch.iter_mut().zip(*cursor..head);
                some.map(|(slot, n)| *slot = log[n as usize % LOG]).count()
            };
            *cursor += taken as u64;
            batch.iter().take(taken).for_each(|&page| each(page));
        }
        Drained::Complete
    }

    /// Harts that have registered.
    pub fn harts(&self) -> usize {
        locked(&self.watch().harts).len()
    }

    /// A place for a hart to publish that it is quiet. It is not running at first.
    pub fn register_hart(&self) -> Quiet {
        let seen = Arc::new(AtomicU64::new(NOT_RUNNING));
        locked(&self.watch().harts).push(seen.clone());
        Quiet { ram: self.clone(), seen, epoch: 0, running: false }
    }
}

/// One hart's publications. See the module.
#[derive(Debug)]
pub struct Quiet {
    ram: GuestRam,
    seen: Arc<AtomicU64>,
    /// The epoch whose watches this hart's cached rights respect.
    epoch: u64,
    running: bool,
}

impl Quiet {
    /// The hart begins to run, or goes on after a sleep. As [`Quiet::refresh`], with what it kept meanwhile.
    pub fn enter(&mut self, drop_rights: impl FnOnce()) {
        self.running = true;
        self.seen.store(self.epoch, SeqCst);
        fence(SeqCst);
        self.refresh(drop_rights);
    }

    /// The hart is between two instructions. If pages have been watched since the last time, it drops every cached right
    /// to write, and says so.
    #[inline]
    pub fn refresh(&mut self, drop_rights: impl FnOnce()) {
        let epoch = self.ram.watch().epoch.load(Acquire);
        if epoch != self.epoch {
            drop_rights();
            self.publish(epoch);
        }
    }

    /// The epoch that the hart has seen.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// This hart has watched a page itself, was given `ticket`, and has dropped its right to write to that page. Where
    /// others have watched pages meanwhile, all rights must go. A ticket of the epoch that it has seen needs no call: then no
    /// hart held a right.
    pub fn watched(&mut self, ticket: u64, drop_rights: impl FnOnce()) {
        if ticket > self.epoch + 1 {
            drop_rights();
        }
        self.publish(self.epoch.max(ticket));
    }

    fn publish(&mut self, epoch: u64) {
        self.epoch = epoch;
        if self.running {
            self.seen.store(epoch, Release);
        }
    }

    /// The hart ceases to run, or sleeps. It may keep what it has cached.
    pub fn leave(&mut self) {
        self.running = false;
        self.seen.store(NOT_RUNNING, Release);
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        locked(&self.ram.watch().harts).retain(|seen| !Arc::ptr_eq(seen, &self.seen));
    }
}

#[cfg(test)]
#[path = "code_watch/tests.rs"]
mod tests;
