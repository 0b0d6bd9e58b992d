//! What a machine's process does first: a session of its own, and no descriptor but the three standard ones.
//!
//! The process itself does it, right after exec, and not its launcher between fork and exec: so the launcher need not be
//! copied for the fork, which takes longer than all the rest of it.

#![allow(unsafe_code)]

use rustix::io::Errno;
use std::io;

/// Makes this process the leader of a new session, which holds nothing but its standard descriptors, however carelessly the
/// program that started it opened its own. Whoever calls this has opened nothing yet that it wants to keep.
pub(crate) fn apart() -> io::Result<()> {
    match rustix::process::setsid() {
        // A leader of its group has been started by a shell, in a group of its own.
        Ok(_) | Err(Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    close_from(3)
}

/// Closes all descriptors from `first` on.
fn close_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: this process has just begun, and nothing in it owns a descriptor yet; see `apart`.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if done == 0 {
        return Ok(());
    }
    // Kernels before 5.9: one by one, up to what this process may have open.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = libc::c_int::try_from(limit.rlim_cur).unwrap_or(libc::c_int::MAX);
    for fd in first as libc::c_int..end {
        // SAFETY: as above; a number that is no descriptor is answered with EBADF, which is as good.
        unsafe { libc::close(fd) };
    }
    Ok(())
}
