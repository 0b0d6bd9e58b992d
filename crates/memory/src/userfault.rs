//! Pages that come late, for vCPUs that do not ask: the kernel stops whoever touches one (userfaultfd(2)).
//!
//! ```text
//!  a vCPU on KVM touches a page that the kernel has none for ─► it stops, and a message says where
//!     the page is absent ─► asked for, as if a hart had been told to wait (late.rs); `bring` puts it there, and it goes on
//!     the page is there, and zero, which takes no memory ─► zeroes are put there, and it goes on
//! ```
//! Whoever asks first ([`GuestRam::acquire`]) never touches an absent page, and is not stopped. The kernel puts a page there
//! as a whole, if there is none yet: what a guest has written meanwhile is never undone.
//!
//! Whoever is stopped stands in the kernel. Since Linux 6.2 a signal gets a vCPU out of there, if it is the guest that
//! touches the page: then a pause does not wait for the network. Before that it does, and wherever KVM itself touches guest
//! memory, as when it decodes an instruction that accesses a device. A machine that ends lets all of them go ([`GuestRam::let_touches_go`]).
//!
//! The numbers are those of Linux's `include/uapi/linux/userfaultfd.h`.

use crate::late::Late;
use crate::ram::Region;
use crate::{Backing, GuestRam, PAGE, Presence};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Updater, ioctl, opcode};
use rustix::mm::{UserfaultfdFlags, userfaultfd};
use std::collections::HashMap;
use std::ffi::c_void;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const GROUP: u8 = 0xaa;
const UFFD_API: u64 = 0xaa;
/// Missing pages of shared memory are told, too.
const MISSING_SHMEM: u64 = 1 << 5;
const MODE_MISSING: u64 = 1;
const PAGEFAULT: u8 = 0x12;
/// Size of a message in bytes, and how many are read at a time.
const MESSAGE: usize = 32;
const MESSAGES: usize = 16;
/// How often the thread that serves looks around when nothing happens.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// How long to wait before asking a host again that has no memory this moment.
const SHORT_OF_MEMORY: Duration = Duration::from_millis(10);

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

const IOC_NEW: Opcode = opcode::none(GROUP, 0x00);
const IOC_API: Opcode = opcode::read_write::<Api>(GROUP, 0x3f);
const IOC_REGISTER: Opcode = opcode::read_write::<Register>(GROUP, 0x00);
const IOC_UNREGISTER: Opcode = opcode::read::<Range>(GROUP, 0x01);
const IOC_WAKE: Opcode = opcode::read::<Range>(GROUP, 0x02);
const IOC_COPY: Opcode = opcode::read_write::<Copy>(GROUP, 0x03);

/// A descriptor by which missing pages are told, for faults of the kernel's own as well: KVM's are.
fn descriptor() -> rustix::io::Result<OwnedFd> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: nothing is registered with it yet.
    let fd = unsafe { userfaultfd(flags) }.or_else(|refused| {
        // For whom the system call is forbidden, there may be a device (Linux 6.1).
        let device =
            open("/dev/userfaultfd", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|_| refused)?;
        new_of(&device, flags)
    })?;
    let mut api = Api { api: UFFD_API, features: MISSING_SHMEM, ioctls: 0 };
    // SAFETY: `api` has the layout that this ioctl reads and writes.
    unsafe { ioctl(&fd, Updater::<IOC_API, Api>::new(&mut api)) }?;
    Ok(fd)
}

/// The device's way to a descriptor: the ioctl's answer is its number.
fn new_of(device: &OwnedFd, flags: UserfaultfdFlags) -> rustix::io::Result<OwnedFd> {
    struct New(usize);
    // SAFETY: the ioctl takes its argument as a number, touches no memory of ours, and answers with a descriptor.
    unsafe impl Ioctl for New {
        type Output = OwnedFd;
        const IS_MUTATING: bool = false;
        fn opcode(&self) -> Opcode {
            IOC_NEW
        }
        fn as_ptr(&mut self) -> *mut c_void {
            std::ptr::without_provenance_mut(self.0)
        }
        unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<OwnedFd> {
            // SAFETY: the kernel has just made it, and it is nobody else's.
            Ok(unsafe { OwnedFd::from_raw_fd(out) })
        }
    }
    // SAFETY: the device knows this ioctl, and takes these flags.
    unsafe { ioctl(device, New(flags.bits() as usize)) }
}

/// Memory whose missing pages are told.
#[derive(Debug)]
pub(crate) struct Catch {
    fd: OwnedFd,
    base: usize,
    len: usize,
    over: AtomicBool,
    /// Absent pages at which somebody stands, and since when.
    since: Mutex<HashMap<usize, Instant>>,
    /// How often somebody has, and for how many nanoseconds in all.
    touches: AtomicU64,
    stood: AtomicU64,
}

impl Catch {
    fn on(region: &Region) -> rustix::io::Result<Catch> {
        let fd = descriptor()?;
        let (base, len) = (region.host_range().start, region.size() as usize);
        let range = Range { start: base as u64, len: len as u64 };
        let mut register = Register { range, mode: MODE_MISSING, ioctls: 0 };
        // SAFETY: `register` has the layout that this ioctl reads and writes. The range is the region's mapping, which is
        // unchanged: who touches a page of it that is not there only waits.
        unsafe { ioctl(&fd, Updater::<IOC_REGISTER, Register>::new(&mut register)) }?;
        Ok(Catch {
            fd,
            base,
            len,
            over: AtomicBool::new(false),
            since: Mutex::default(),
            touches: AtomicU64::new(0),
            stood: AtomicU64::new(0),
        })
    }

    fn since(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, page: usize) -> Range {
        Range { start: (self.base + page * PAGE as usize) as u64, len: PAGE }
    }

    /// Puts a page there, or zeroes, if there is none, and lets go who stands at it. Gives whether that was done: else there
    /// is one already, or nobody is stopped any more.
    pub(crate) fn fill(&self, page: usize, content: Option<&[u8]>) -> bool {
        static ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];
        let from = content.filter(|c| c.len() as u64 == PAGE).unwrap_or(&ZEROES);
        let Range { start, len } = self.at(page);
        while !self.over.load(SeqCst) {
            let mut copy = Copy { to: start, from: from.as_ptr() as u64, len, mode: 0, copied: 0 };
            // SAFETY: `copy` has the layout that this ioctl reads and writes. It writes to a page of the region's mapping
            // that nobody could have touched yet, from a page of ours.
            match unsafe { ioctl(&self.fd, Updater::<IOC_COPY, Copy>::new(&mut copy)) } {
                Ok(()) => {
                    self.went_on(page);
                    return true;
                }
                // The address space is being changed: at once again.
                Err(Errno::AGAIN) => std::thread::yield_now(),
                Err(Errno::EXIST | Errno::NOENT | Errno::SRCH) => return false,
                // The host has no memory this moment: who touches the page waits for that, as anybody would.
                Err(Errno::NOMEM | Errno::NOSPC) => std::thread::sleep(SHORT_OF_MEMORY),
                // It can be written as if nobody were stopped.
                Err(_) => return false,
            }
        }
        false
    }

    /// Lets go who stands at `page`, to look again.
    pub(crate) fn wake(&self, page: usize) {
        let mut range = self.at(page);
        // SAFETY: `range` has the layout that this ioctl reads. No failure but that nobody is stopped there any more.
        let _ = unsafe { ioctl(&self.fd, Updater::<IOC_WAKE, Range>::new(&mut range)) };
        self.went_on(page);
    }

    fn went_on(&self, page: usize) {
        if let Some(since) = self.since().remove(&page) {
            self.stood.fetch_add(since.elapsed().as_nanos() as u64, Relaxed);
        }
    }

    /// Stops nobody any more, and lets all go.
    fn end(&self) {
        if self.over.swap(true, SeqCst) {
            return;
        }
        let mut range = Range { start: self.base as u64, len: self.len as u64 };
        // SAFETY: `range` has the layout that this ioctl reads. It fails only where it has been done.
        let _ = unsafe { ioctl(&self.fd, Updater::<IOC_UNREGISTER, Range>::new(&mut range)) };
    }

    /// The pages that were touched since the last call.
    fn told(&self) -> Vec<usize> {
        let mut bytes = [0; MESSAGE * MESSAGES];
        let read = rustix::io::read(&self.fd, &mut bytes).unwrap_or(0);
        let messages = bytes.get(..read).unwrap_or_default().chunks_exact(MESSAGE);
        let page = |m: &[u8]| {
            let address = m.get(16..24)?.try_into().ok().map(u64::from_ne_bytes)?;
            let offset = usize::try_from(address).ok()?.checked_sub(self.base)?;
            (m.first() == Some(&PAGEFAULT) && offset < self.len).then_some(offset / PAGE as usize)
        };
        messages.filter_map(page).collect()
    }

    fn serve(&self, region: &Region, late: &Late) {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        // Whatever it says, what there is is read without waiting.
        let _ = poll(&mut fds, Some(&LOOK));
        for page in self.told() {
            if region.pages().presence(page) != Presence::Absent {
                if !self.fill(page, None) {
                    self.wake(page);
                }
                continue;
            }
            self.touches.fetch_add(1, Relaxed);
            self.since().entry(page).or_insert_with(Instant::now);
            late.touched(region, page, false);
            // It came between the message and now.
            if region.pages().presence(page) != Presence::Absent {
                self.wake(page);
            }
        }
    }
}

/// Whether vCPUs that do not ask can be stopped at pages that are not there.
///
/// # Errors
/// What the host refuses.
pub fn can_catch_touches() -> rustix::io::Result<()> {
    descriptor().map(drop)
}

impl GuestRam {
    /// Has the kernel stop whoever touches a page of memory, which is one region over a memfd, that is absent by now; what
    /// lay there before is gone. From then on [`GuestRam::serve_touches`] has to run. Only before anything runs, and before
    /// anything is brought.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn catch_touches(&self) -> rustix::io::Result<()> {
        let [region] = self.regions() else { return Err(Errno::NOTSUP) };
        let Backing::SharedFd(fd) = region.backing() else { return Err(Errno::NOTSUP) };
        let catch = Catch::on(region)?;
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for (first, count) in self.missing_pages(false).runs() {
            fallocate(fd, how, first as u64 * PAGE, count as u64 * PAGE)?;
        }
        self.late().set_catch(catch);
        Ok(())
    }

    /// Asks for absent pages at which somebody stands, until nothing is missing any more or all were let go.
    pub fn serve_touches(&self) {
        let ([region], Some(catch)) = (self.regions(), self.late().catch()) else { return };
        while self.missing() > 0 && !catch.over.load(SeqCst) {
            catch.serve(region, self.late());
        }
        catch.end();
    }

    /// Lets go whoever stands at an absent page, which it finds zero: of a machine that ends.
    pub fn let_touches_go(&self) {
        if let Some(catch) = self.late().catch() {
            catch.end();
        }
    }

    /// How often somebody was stopped at an absent page, and for how many nanoseconds all of them together.
    pub fn touches(&self) -> (u64, u64) {
        let of = |c: std::sync::Arc<Catch>| (c.touches.load(Relaxed), c.stood.load(Relaxed));
        self.late().catch().map_or((0, 0), of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Acquired, EnginePage, PageSet};
    use std::sync::mpsc::channel;

    /// Memory of eight pages, of which 2 to 5 come late and 3 had something else in it; none where the host forbids it.
    fn ram() -> Option<GuestRam> {
        if let Err(e) = can_catch_touches() {
            println!("skipped here: userfaultfd: {e}");
            return None;
        }
        let ram = GuestRam::single(0, 8 * PAGE).unwrap();
        ram.load(3 * PAGE, &[9; PAGE as usize]).unwrap();
        ram.load(PAGE, &[1; PAGE as usize]).unwrap();
        ram.expect_late(&PageSet::of(8, |p| (2..6).contains(&p))).unwrap();
        ram.catch_touches().unwrap();
        Some(ram)
    }

    /// What stands at `page`, read as hardware reads it, which asks nobody.
    fn touch(ram: &GuestRam, page: usize) -> u8 {
        let mut bytes = [0; PAGE as usize];
        ram.regions()[0].page(page, 1).copy_to(&mut bytes);
        assert!(bytes.iter().all(|b| *b == bytes[0]), "half a page");
        bytes[0]
    }

    #[test]
    fn who_touches_a_page_that_comes_late_waits_for_it_and_others_do_not() {
        let Some(ram) = ram() else { return };
        std::thread::scope(|s| {
            let serves = s.spawn(|| ram.serve_touches());
            // Those that are there, written or not, and by whom they may be asked for.
            assert_eq!((touch(&ram, 1), touch(&ram, 7)), (1, 0));
            assert!(matches!(ram.acquire(3 * PAGE, 1, Access::Read), Ok(Acquired::Wait)));
            assert!(matches!(ram.engine_page(4 * PAGE, Access::Read), EnginePage::Wait));
            assert_eq!(ram.take_wanted(), [3, 4]);
            let (tell, hear) = channel();
            let (ram, mine) = (&ram, tell.clone());
            s.spawn(move || mine.send((5, touch(ram, 5))).unwrap());
            let mut wanted = Vec::new();
            while wanted.is_empty() {
                std::thread::yield_now();
                wanted = ram.take_wanted();
            }
            assert_eq!(wanted, [5]);
            assert!(hear.try_recv().is_err(), "it went on without its page");
            assert_eq!(ram.bring(5, Some(&[55; PAGE as usize])), Some(true));
            assert_eq!(hear.recv().unwrap(), (5, 55));
            // Zeroes cover what lay there before; what comes twice changes nothing.
            assert!(ram.bring(3, None).is_some() && ram.bring(5, Some(&[1; PAGE as usize])).is_none());
            assert_eq!((touch(ram, 3), touch(ram, 5)), (0, 55));
            assert!(ram.touches().0 >= 1 && ram.touches().1 > 0);
            // When the last has come, nobody serves any more.
            s.spawn(move || tell.send((2, touch(ram, 2))).unwrap());
            [(2, 22), (4, 44)].into_iter().for_each(|(p, b)| {
                ram.bring(p, Some(&[b; PAGE as usize])).unwrap();
            });
            assert_eq!(hear.recv().unwrap(), (2, 22));
            serves.join().unwrap();
            assert_eq!((touch(ram, 4), touch(ram, 6), ram.missing()), (44, 0, 0));
        });
    }

    #[test]
    fn a_machine_that_ends_lets_go_who_waits_for_what_never_comes() {
        let Some(ram) = ram() else { return };
        std::thread::scope(|s| {
            let serves = s.spawn(|| ram.serve_touches());
            let waits = s.spawn(|| touch(&ram, 3));
            while ram.take_wanted().is_empty() {
                std::thread::yield_now();
            }
            ram.let_touches_go();
            assert_eq!(waits.join().unwrap(), 0);
            serves.join().unwrap();
            assert_eq!(ram.bring(4, Some(&[4; PAGE as usize])), Some(false), "it is brought all the same");
            assert_eq!(touch(&ram, 4), 4);
        });
    }

    #[test]
    fn a_reset_makes_late_pages_zero_for_those_who_do_not_ask() {
        let Some(ram) = ram() else { return };
        std::thread::scope(|s| {
            s.spawn(|| ram.serve_touches());
            ram.clear();
            assert_eq!(ram.missing(), 0);
            assert!((0..8).all(|p| touch(&ram, p) == 0));
        });
    }
}
