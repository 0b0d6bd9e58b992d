//! The kick: how another thread makes `KVM_RUN` return.
//!
//! Two things together, since either alone leaves a gap. `immediate_exit`, a byte in the page that the vCPU shares with
//! the kernel, makes the *next* entry come straight back; a signal ends the one that is under way. The byte is set
//! first, so a signal that arrives just before the entry is not lost.
//!
//! The signal does nothing by itself (its handler is empty), and is sent to the vCPU's thread only, and only while that
//! is inside [`Running`]: thread id and page are valid exactly then.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Where to send a kick.
struct Target {
    thread: libc::pid_t,
    /// `immediate_exit` of the vCPU's shared page.
    immediate_exit: *const AtomicU8,
}

// SAFETY: the pointer is only followed while the target is in its `Kicker`, under the lock; `Running` takes it out of there
// before the page goes. The byte behind it is only ever touched atomically by this process.
unsafe impl Send for Target {}

/// Kicks one vCPU.
#[derive(Default)]
pub(crate) struct Kicker {
    target: Mutex<Option<Target>>,
}

impl Kicker {
    fn target(&self) -> MutexGuard<'_, Option<Target>> {
        self.target.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes the vCPU look at its attention word, if it runs.
    pub(crate) fn kick(&self) {
        let target = self.target();
        let Some(t) = target.as_ref() else { return };
        // SAFETY: the page is mapped for as long as the target is here; see `Target`.
        unsafe { (*t.immediate_exit).store(1, SeqCst) };
        // SAFETY: plain system calls without memory; the thread runs, for it takes the target away before it leaves.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), t.thread, signal()) };
    }

    /// The calling thread runs the vCPU, until the answer is dropped.
    ///
    /// # Safety
    /// `immediate_exit` must stay valid until then, and be written by this process through atomics only.
    pub(crate) unsafe fn running(self: &Arc<Self>, immediate_exit: *const AtomicU8) -> Running {
        // SAFETY: a system call without arguments.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) } as libc::pid_t;
        *self.target() = Some(Target { thread, immediate_exit });
        Running(self.clone())
    }
}

/// While this lives, the vCPU can be kicked.
pub(crate) struct Running(Arc<Kicker>);

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.target() = None;
    }
}

/// The signal: the first that the C library leaves to programs.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// Gives the signal its empty handler, once in a process, so that it interrupts and does not kill.
pub(crate) fn install() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    let install = || {
        // SAFETY: `sigaction` is plain data, for which zeroes are a valid value; the handler does nothing, so it may run
        // anywhere; the old action is not asked for.
        let r = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
            // A system call of the vCPU's thread that is not KVM_RUN goes on by itself.
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal(), &action, std::ptr::null_mut())
        };
        if r == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) }
    };
    DONE.get_or_init(install).map_err(io::Error::from_raw_os_error)
}
