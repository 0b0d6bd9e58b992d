//! Guest memory that is lost while the machine runs: the file that it is mapped from was cut, or cannot be read.
//!
//! ```text
//!  a thread touches a page that its file no longer has ─► SIGBUS ─► rings the bell, and stays where it is for ever
//!  the thread that hears it ─► ends the machine, whose threads are not waited for; then the process ends
//! ```
//! The thread may hold any lock, and the instruction that it was at cannot be completed. So it never goes on, and nothing
//! of the guest's is made up: what the guest sees until the end is a processor or a device that stands still. Whatever
//! else raises SIGBUS is for the handler that was there before, or has its default.
//!
//! Everything unsafe about it is here. The handler makes system calls that are safe in one, and uses atomics.

#![allow(unsafe_code)]

use crate::exit::{Error, Result};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// Most ranges of memory that are watched; a machine here has one.
const MOST: usize = 4;

/// Host addresses of memory over files: first and last; an empty one has none.
static RANGES: [(AtomicUsize, AtomicUsize); MOST] =
    [const { (AtomicUsize::new(1), AtomicUsize::new(0)) }; MOST];
/// Where the loss is told; below 0 while nothing is watched.
static BELL: AtomicI32 = AtomicI32::new(-1);
/// The handler that was there before: an address, or what stands for the default.
static BEFORE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Watches `ranges` of this process for the rest of its life; gives a descriptor that can be read once one is lost.
///
/// # Errors
/// The host gives no descriptor, or it is watched already.
pub(crate) fn watch(ranges: &[Range<usize>]) -> Result<OwnedFd> {
    let fail = |e: io::Error| Error::io("watch over memory that is mapped from a file", e);
    let bell = eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    let ours = bell.as_fd().try_clone_to_owned().map_err(fail)?.into_raw_fd();
    if ranges.len() > MOST || BELL.compare_exchange(-1, ours, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return Err(fail(io::ErrorKind::ResourceBusy.into()));
    }
    for (to, range) in RANGES.iter().zip(ranges) {
        to.0.store(range.start, Ordering::SeqCst);
        to.1.store(range.end.saturating_sub(1), Ordering::SeqCst);
    }
    let handler: Handler = on_bus_error;
    // SAFETY: all bits zero is a valid `sigaction`: a default handler, no flags.
    let (mut new, mut old): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    new.sa_sigaction = handler as usize;
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: both point to values of ours; the handler does only what one may (see it).
    if unsafe { libc::sigaction(libc::SIGBUS, &new, &mut old) } != 0 {
        return Err(fail(io::Error::last_os_error()));
    }
    // One of the plain kind would be called with too many arguments; the runtime's own is of this kind.
    let usable = old.sa_flags & libc::SA_SIGINFO != 0;
    BEFORE.store(if usable { old.sa_sigaction } else { libc::SIG_DFL }, Ordering::SeqCst);
    Ok(bell)
}

fn is_watched(address: usize) -> bool {
    RANGES
        .iter()
        .any(|(first, last)| (first.load(Ordering::SeqCst)..=last.load(Ordering::SeqCst)).contains(&address))
}

/// Rings the bell and never returns. Safe in a signal handler.
fn stand_still() -> ! {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the bell is an open descriptor for as long as the process lives, and the bytes are ours.
    unsafe { libc::write(BELL.load(Ordering::SeqCst), one.as_ptr().cast(), one.len()) };
    loop {
        // SAFETY: it waits for a signal, and touches nothing.
        unsafe { libc::pause() };
    }
}

/// For who was told by the kernel, instead of by a signal, that a page of guest memory cannot be had: as if it had touched
/// it. Returns where no memory is over a file, and then it is another's mistake.
pub(crate) fn refused() {
    if BELL.load(Ordering::SeqCst) >= 0 {
        stand_still();
    }
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler of this kind a valid `info`; one that it made itself has an address.
    let (made_by_kernel, address) = unsafe { ((*info).si_code > 0, (*info).si_addr() as usize) };
    if made_by_kernel && is_watched(address) {
        stand_still();
    }
    match BEFORE.load(Ordering::SeqCst) {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: `signal` is restored to its default, and the instruction meets it when we return.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            if !made_by_kernel {
                // Sent by somebody: it would not come again by itself.
                // SAFETY: it sends a signal to this very thread.
                unsafe { libc::raise(signal) };
            }
        }
        before => {
            // SAFETY: it is the address of a handler of this kind, as `sigaction` gave it.
            let before: Handler = unsafe { std::mem::transmute::<usize, Handler>(before) };
            before(signal, info, context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    /// What happens to a process cannot be tried in this one: the test starts itself again and looks.
    fn in_a_process_of_its_own(test: &str, body: impl FnOnce()) -> Option<std::process::ExitStatus> {
        const INNER: &str = "STRATA_TEST_LOST";
        if std::env::var_os(INNER).is_some() {
            body();
            return None;
        }
        let mut c = Command::new(std::env::current_exe().unwrap());
        c.args([test, "--exact", "--test-threads=1"]).env(INNER, "1");
        Some(c.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap())
    }

    /// A private mapping of a file of two pages that is then cut to one; gives where it is.
    fn cut_mapping() -> usize {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        // SAFETY: the kernel chooses the place, and the mapping is never ended.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                8192,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
                &file,
                0,
            )
        };
        file.set_len(4096).unwrap();
        at.unwrap() as usize
    }

    fn touch(at: usize) {
        // SAFETY: the address is mapped; that the access ends in a signal is what is tested.
        unsafe { (at as *mut u8).read_volatile() };
    }

    #[test]
    fn who_touches_a_lost_page_stands_still_and_others_hear_of_it() {
        let status = in_a_process_of_its_own(
            "lost::tests::who_touches_a_lost_page_stands_still_and_others_hear_of_it",
            || {
                let at = cut_mapping();
                let bell = watch(std::slice::from_ref(&(at..at + 8192))).unwrap();
                assert!(watch(&[]).is_err(), "only once");
                touch(at);
                let thread = std::thread::spawn(move || touch(at + 4096));
                assert_eq!(rustix::io::read(&bell, &mut [0; 8]), Ok(8));
                std::thread::sleep(Duration::from_millis(50));
                assert!(!thread.is_finished());
            },
        );
        assert!(status.is_none_or(|s| s.success()), "{status:?}");
    }

    #[test]
    fn a_bus_error_elsewhere_ends_the_process_as_ever() {
        use std::os::unix::process::ExitStatusExt;
        let status =
            in_a_process_of_its_own("lost::tests::a_bus_error_elsewhere_ends_the_process_as_ever", || {
                let (at, other) = (cut_mapping(), cut_mapping());
                let _bell = watch(std::slice::from_ref(&(at..at + 8192))).unwrap();
                touch(other + 4096);
            });
        assert!(status.is_none_or(|s| s.signal() == Some(libc::SIGBUS)), "{status:?}");
    }
}
