//! What the process of a machine asks of its host so that no guest waits for what has no hurry.

#![allow(unsafe_code)]

/// Has the allocator put small pieces that are given back together at once, and not when somebody asks for a large one the
/// next time: whoever that is then waits for all of them, which has taken most of a millisecond of a machine's downtime.
pub(crate) fn tidy_at_once() {
    // SAFETY: sets a parameter of the allocator, under its own lock. One that does not know it says so, and nothing changes.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MXFAST, 0);
    }
}

/// From now on this thread has a processor only where nobody else wants it. Being nice is not enough: a guest that woke up on
/// the processor of a nice thread was seen to have a third of it, while another one was idle.
pub(crate) fn give_way() {
    // SAFETY: the kernel reads the parameter during the call; zero is this thread.
    let done =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &libc::sched_param { sched_priority: 0 }) };
    if done != 0 {
        // A host may forbid one and not the other, or both.
        let _ = rustix::process::nice(19);
    }
}
