//! Doorbells and interrupts by descriptor: paths that do not come through this process.
//!
//! A write that the kernel knows as a doorbell (`KVM_IOEVENTFD`) wakes whoever waits for the descriptor, and the vCPU
//! goes on at once; an interrupt (`KVM_IRQFD`) is raised by whoever writes to the descriptor. On a host where an exit
//! to user space costs ten microseconds, that is most of a request's time.
//!
//! A message that a thread of this process sends (MSI) goes by one system call of its own (`KVM_SIGNAL_MSI`), as many
//! as a descriptor's write would be, and needs no entry in a routing table.

use crate::{KvmError, Vm};
use kvm_bindings::kvm_msi;
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use strata_engine::MsiSink;
use vmm_sys_util::eventfd::EventFd;

/// The wrapper wants its own type, which owns what it is given: it gets a duplicate.
fn event(fd: impl AsFd) -> io::Result<EventFd> {
    let duplicate = fd.as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is ours alone, and given up by `into_raw_fd`.
    Ok(unsafe { EventFd::from_raw_fd(duplicate.into_raw_fd()) })
}

impl Vm {
    /// From now on a 32-bit write of `value` (of anything, if none) at `gpa` counts up `fd`, an eventfd, and is no
    /// exit.
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

    /// Takes back what [`Vm::add_doorbell`] did.
    ///
    /// # Errors
    /// The kernel refuses, for one because there is none.
    pub fn remove_doorbell(&self, gpa: u64, value: Option<u32>, fd: impl AsFd) -> Result<(), KvmError> {
        let fd = event(fd).map_err(KvmError::at("a descriptor for a doorbell"))?;
        let at = IoEventAddress::Mmio(gpa);
        match value {
            Some(value) => self.fd.unregister_ioevent(&fd, &at, value),
            None => self.fd.unregister_ioevent(&fd, &at, NoDatamatch),
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

/// First address of the local APICs, and how many bits of an address say that it is one of theirs (Intel SDM vol. 3,
/// 11.11.1).
const APICS: u64 = 0xfee0_0000;
const APICS_SHIFT: u32 = 20;
/// Warnings of one machine that reach the log: a guest must not be able to fill the host's disk.
const MAX_WARNINGS: u32 = 16;

/// Interrupts by message, to the machine's local APICs.
pub struct Messages {
    vm: Arc<Vm>,
    warnings: AtomicU32,
}

impl Messages {
    /// To those of `vm`.
    pub fn new(vm: Arc<Vm>) -> Messages {
        Messages { vm, warnings: AtomicU32::new(0) }
    }
}

impl MsiSink for Messages {
    /// A message to anywhere else would be a write to memory by a guest's wish; it is dropped.
    fn send(&self, address: u64, data: u32) {
        let msi = kvm_msi { address_lo: address as u32, data, ..Default::default() };
        let why = if address >> APICS_SHIFT != APICS >> APICS_SHIFT {
            "it is for no local APIC".to_owned()
        } else {
            // 0 is an APIC that takes none just now, as is its right.
            match self.vm.fd.signal_msi(msi) {
                Ok(_) => return,
                Err(e) => e.to_string(),
            }
        };
        if self.warnings.fetch_add(1, Relaxed) < MAX_WARNINGS {
            tracing::warn!("a message {data:#x} to {address:#x} was lost: {why}");
        }
    }
}
