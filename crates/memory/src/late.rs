//! Pages that come late: the machine runs, and what it touches first is fetched first.
//!
//! ```text
//!              touched by a hart or device                bring: claimed, filled
//!   absent ───────────────────────────► absent, wanted ──────────────────────────► there
//!      └───────────────────────────────────────────────────────────────────────────┘
//! ```
//! Whoever touches an absent page is told to wait ([`Acquired::Wait`](crate::Acquired), [`EnginePage::Wait`](
//! crate::EnginePage)) and leaves the page's number here, once; a bell rings for whoever fetches. A page that is brought
//! twice counts once: the second comes too late, and must not undo what the guest has written meanwhile.
//!
//! Pages only become absent before anything runs, so no right to touch a page has to be taken back for it. Those who ask
//! nobody are stopped by the kernel (`userfault.rs`).

use crate::ram::Region;
use crate::userfault::Catch;
use crate::{GuestRam, PAGE, PageSet, Presence};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

/// What is known of pages that come late.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// Absent pages that somebody will bring.
    missing: AtomicUsize,
    /// Numbers of pages that were touched since the last look.
    wanted: Mutex<Vec<u64>>,
    bell: OnceLock<OwnedFd>,
    /// A device has been told to wait since the last look.
    device: AtomicBool,
    /// Where the kernel stops those who do not ask.
    catch: OnceLock<Arc<Catch>>,
}

impl Late {
    fn wanted(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.wanted.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn set_catch(&self, catch: Catch) {
        // There is one at most: memory comes late once.
        let _ = self.catch.set(Arc::new(catch));
    }

    pub(crate) fn catch(&self) -> Option<Arc<Catch>> {
        self.catch.get().cloned()
    }

    /// Page `page` of `region` was touched, and is absent.
    #[cold]
    pub(crate) fn touched(&self, region: &Region, page: usize, by_device: bool) {
        if by_device {
            self.device.store(true, SeqCst);
        }
        // Without a bell nobody fetches: whoever made pages absent brings them unasked.
        let Some(bell) = self.bell.get() else { return };
        if region.pages().want(page) {
            self.wanted().push(page as u64);
            // A full counter means that it rings already.
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    /// Before all of `region` becomes zero: nothing that comes later may be put there.
    pub(crate) fn forget(&self, region: &Region) {
        for page in region.pages().absent(false).runs().flat_map(|(first, n)| first..first + n) {
            while region.pages().presence(page) == Presence::Absent {
                match region.pages().claim(page) {
                    Some(_) => {
                        self.here(region, page, Presence::Private);
                    }
                    // Somebody is filling it this moment.
                    None => std::thread::yield_now(),
                }
            }
        }
        self.wanted().clear();
    }

    fn here(&self, region: &Region, page: usize, as_what: Presence) -> bool {
        let waited = region.pages().arrive(page, as_what);
        // Pages that a test has made absent by itself were never counted.
        let _ = self.missing.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        waited
    }
}

impl GuestRam {
    /// Makes `pages` of memory, which is one region, absent: they come later, by [`GuestRam::bring`]. Only before
    /// anything runs. Gives how many those are; none where memory is not one region.
    ///
    /// # Errors
    /// The host has no descriptor for the bell.
    pub fn expect_late(&self, pages: &PageSet) -> rustix::io::Result<Option<usize>> {
        let [region] = self.regions() else { return Ok(None) };
        if self.late().bell.get().is_none() {
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            // Another may have been faster: then that one rings.
            let _ = self.late().bell.set(bell);
        }
        let all = pages.runs().flat_map(|(first, n)| first..first + n);
        let taken = all.filter(|page| region.pages().take_away(*page)).count();
        self.late().missing.fetch_add(taken, SeqCst);
        Ok(Some(taken))
    }

    /// How many pages are still to come.
    pub fn missing(&self) -> usize {
        self.late().missing.load(SeqCst)
    }

    /// The pages that are still to come; with `wanted`, those that somebody waits for.
    pub fn missing_pages(&self, wanted: bool) -> PageSet {
        match self.regions() {
            [region] => region.pages().absent(wanted),
            _ => PageSet::of(0, |_| false),
        }
    }

    /// What rings when somebody waits for a page; none before [`GuestRam::expect_late`].
    pub fn late_bell(&self) -> Option<BorrowedFd<'_>> {
        self.late().bell.get().map(AsFd::as_fd)
    }

    /// Takes the numbers of pages that were touched since the last call, in that order.
    pub fn take_wanted(&self) -> Vec<u64> {
        if let Some(bell) = self.late().bell.get() {
            let _ = rustix::io::read(bell, &mut [0u8; 8]);
        }
        std::mem::take(&mut *self.late().wanted())
    }

    /// Whether a device was told to wait since the last call.
    pub fn take_device_waits(&self) -> bool {
        self.late().device.swap(false, SeqCst)
    }

    /// Puts the content of a page that comes late into its place, or zeroes for none; nothing happens if it is there
    /// already. `content` is one page. Gives whether somebody waits for it; none if it was not absent.
    pub fn bring(&self, page: u64, content: Option<&[u8]>) -> Option<bool> {
        let [region] = self.regions() else { return None };
        let index = usize::try_from(page).ok().filter(|p| *p < region.pages().pages())?;
        if content.is_some_and(|c| c.len() as u64 != PAGE) {
            return None;
        }
        let is_zero = region.pages().claim(index)?;
        let catch = self.late().catch.get();
        if catch.is_some_and(|c| c.fill(index, content)) {
            let what = if content.is_some() { Presence::Private } else { Presence::Zero };
            return Some(self.late().here(region, index, what));
        }
        let there = region.page(index, 1);
        let what = match content {
            Some(bytes) => {
                there.copy_from(bytes);
                Presence::Private
            }
            None if is_zero => Presence::Zero,
            None => {
                there.copy_from(&[0u8; PAGE as usize]);
                Presence::Private
            }
        };
        let waited = self.late().here(region, index, what);
        if let Some(catch) = catch {
            catch.wake(index);
        }
        Some(waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Acquired, EnginePage};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    const BASE: u64 = 0x8000_0000;

    fn ram(pages: u64) -> GuestRam {
        GuestRam::single(BASE, pages * PAGE).unwrap()
    }

    fn byte(ram: &GuestRam, page: u64) -> u8 {
        let mut b = [0];
        ram.peek(BASE + page * PAGE + 7, &mut b).unwrap();
        b[0]
    }

    #[test]
    fn whoever_touches_a_page_that_comes_late_is_heard_once() {
        let ram = ram(8);
        assert!(ram.late_bell().is_none());
        assert_eq!(ram.expect_late(&PageSet::of(8, |p| p > 1)), Ok(Some(6)));
        assert!(matches!(ram.engine_page(BASE + 5 * PAGE, Access::Read), EnginePage::Wait));
        assert!(!ram.take_device_waits());
        assert!(matches!(ram.acquire(BASE + PAGE, 3 * PAGE, Access::Write), Ok(Acquired::Wait)));
        assert!(matches!(ram.engine_page(BASE + 5 * PAGE, Access::Write), EnginePage::Wait));
        // A device asks for all of its buffer at once.
        assert_eq!(ram.take_wanted(), [5, 2, 3]);
        assert!(ram.take_wanted().is_empty() && ram.take_device_waits() && !ram.take_device_waits());
        assert_eq!(ram.missing_pages(true).runs().collect::<Vec<_>>(), [(2, 2), (5, 1)]);
        assert_eq!(ram.bring(5, Some(&[9; PAGE as usize])), Some(true));
        assert_eq!(ram.bring(6, Some(&[8; PAGE as usize])), Some(false));
        assert_eq!((byte(&ram, 5), byte(&ram, 6), ram.missing()), (9, 8, 4));
        assert_eq!(ram.bring(1, Some(&[7; PAGE as usize])), None, "it was there");
        assert_eq!(ram.bring(8, Some(&[7; PAGE as usize])), None, "it is no page");
        assert_eq!(ram.bring(2, Some(&[7; 12])), None, "it is not a page's content");
    }

    #[test]
    fn what_comes_twice_does_not_undo_what_was_written_meanwhile() {
        let ram = ram(2);
        ram.expect_late(&PageSet::of(2, |p| p == 1)).unwrap();
        assert!(ram.bring(1, Some(&[1; PAGE as usize])).is_some());
        ram.load(BASE + PAGE, &[2; 16]).unwrap();
        assert_eq!(ram.bring(1, Some(&[1; PAGE as usize])), None);
        assert_eq!((byte(&ram, 1), ram.missing()), (2, 0));
    }

    #[test]
    fn zeroes_cover_what_lay_there_before_and_take_no_memory_where_nothing_did() {
        let ram = ram(3);
        ram.load(BASE, &[5; PAGE as usize]).unwrap();
        ram.expect_late(&PageSet::of(3, |p| p < 2)).unwrap();
        assert_eq!((ram.bring(0, None), ram.bring(1, None)), (Some(false), Some(false)));
        assert_eq!((byte(&ram, 0), byte(&ram, 1)), (0, 0));
        let pages = ram.regions()[0].pages();
        assert_eq!((pages.presence(0), pages.presence(1)), (Presence::Private, Presence::Zero));
    }

    #[test]
    fn a_reset_makes_late_pages_zero_and_nothing_comes_after_it() {
        let ram = ram(64);
        ram.load(BASE + 3 * PAGE, &[5; 64]).unwrap();
        ram.expect_late(&PageSet::of(64, |p| p < 32)).unwrap();
        let _ = ram.engine_page(BASE, Access::Read);
        let going = AtomicBool::new(true);
        std::thread::scope(|s| {
            s.spawn(|| {
                while going.load(SeqCst) {
                    for page in 0..32 {
                        let _ = ram.bring(page, Some(&[1; PAGE as usize]));
                    }
                }
            });
            ram.clear();
            going.store(false, SeqCst);
        });
        assert_eq!((ram.missing(), ram.take_wanted()), (0, vec![]));
        assert!((0..64).all(|page| byte(&ram, page) == 0), "something came after the reset");
    }

    /// Two bring the same pages while a third reads and writes them: whoever finds a page finds all of it.
    #[test]
    fn a_page_that_is_there_is_there_as_a_whole() {
        const PAGES: u64 = 256;
        let ram = ram(PAGES);
        ram.expect_late(&PageSet::of(PAGES as usize, |_| true)).unwrap();
        let next = Arc::new(AtomicU64::new(0));
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for page in 0..PAGES {
                        while page > next.load(Relaxed) + 4 {
                            std::thread::yield_now();
                        }
                        ram.bring(page, Some(&[page as u8 | 1; PAGE as usize]));
                    }
                });
            }
            for page in 0..PAGES {
                next.store(page, Relaxed);
                loop {
                    if let Ok(Acquired::Ready(there)) = ram.acquire(BASE + page * PAGE, PAGE, Access::Write) {
                        let mut bytes = [0; PAGE as usize];
                        there.copy_to(&mut bytes);
                        assert!(bytes.iter().all(|b| *b == page as u8 | 1), "page {page}");
                        there.copy_from(&[0xfe_u8; PAGE as usize]);
                        break;
                    }
                    std::hint::spin_loop();
                }
            }
        });
        assert_eq!(ram.missing(), 0);
        let wrong: Vec<_> =
            (0..PAGES).map(|page| (page, byte(&ram, page))).filter(|(_, b)| *b != 0xfe).collect();
        assert_eq!(wrong, []);
    }
}
