//! What happens between fork and exec: a session of its own, and no descriptor but the three standard ones.
//!
//! The only unsafe code of this crate. Between fork and exec only calls that are safe in a signal handler are
//! allowed: another thread of the parent may have held any lock.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes `command`'s process the leader of a new session which inherits nothing but its standard descriptors, however
/// carelessly the calling program opened its own.
pub(crate) fn apart(command: &mut Command) {
    // SAFETY: the closure makes three system calls, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            close_on_exec_from(3)
        });
    }
}

/// Marks all descriptors from `first` on as closed by exec. They are not closed here: the standard library has one of
/// its own open, to report a failing exec.
fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: it changes a flag of descriptors and touches no memory.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
        )
    };
    if done == 0 {
        return Ok(());
    }
    // Kernels before 5.11: one by one, up to what this process may have open.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = libc::c_int::try_from(limit.rlim_cur).unwrap_or(libc::c_int::MAX);
    for fd in first as libc::c_int..end {
        // SAFETY: as above; a number that is no descriptor is answered with EBADF, which is as good.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}
