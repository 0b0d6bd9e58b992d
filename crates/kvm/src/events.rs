//! Doorbells and interrupts by descriptor: paths that do not come through this process.
//!
//! A write that the kernel knows as a doorbell (`KVM_IOEVENTFD`) wakes whoever waits for the descriptor, and the vCPU goes
//! on at once; an interrupt (`KVM_IRQFD`) is raised by whoever writes to the descriptor. On a host where an exit to
//! user space costs ten microseconds, that is most of a request's time.

use crate::{KvmError, Vm};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd};
use vmm_sys_util::eventfd::EventFd;

/// The wrapper wants its own type, which owns what it is given: it gets a duplicate.
fn event(fd: impl AsFd) -> io::Result<EventFd> {
    let duplicate = fd.as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is ours alone, and given up by `into_raw_fd`.
    Ok(unsafe { EventFd::from_raw_fd(duplicate.into_raw_fd()) })
}

impl Vm {
    /// From now on a 32-bit write of `value` (of anything, if none) at `gpa` counts up `fd`, an eventfd, and is no exit.
    ///
    /// # Errors
    /// The kernel refuses, for one because a doorbell is there already.
    pub fn add_doorbell(&self, gpa: u64, value: Option<u32>, fd: impl AsFd) -> Result<(), KvmError> {
        let fd = event(fd).map_err(KvmError::at("a descriptor for a doorbell"))?;
        let at = IoEventAddress::Mmio(gpa);
        match value {
            Some(value) => self.fd.register_ioevent(&fd, &at, value),
            None => self.fd.register_ioevent(&fd, &at, NoDatamatch),
        }
        .map_err(KvmError::at("KVM_IOEVENTFD"))
    }

    /// From now on counting up `fd`, an eventfd, raises interrupt `line` and lets it fall: an edge.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_interrupt(&self, line: u32, fd: impl AsFd) -> Result<(), KvmError> {
        let fd = event(fd).map_err(KvmError::at("a descriptor for an interrupt"))?;
        self.fd.register_irqfd(&fd, line).map_err(KvmError::at("KVM_IRQFD"))
    }
}
