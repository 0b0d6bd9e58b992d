//! The time-stamp counters of a machine while it stands still.
//!
//! A counter goes with the host's, whether its vCPU runs or not. A guest that keeps time by it would see a gap for every
//! pause, so all of them are put back by what has passed: by their offsets (`KVM_VCPU_TSC_OFFSET`, Linux 5.16), since a
//! counter that is written as a register is taken for one that is to be in step with the others, and is put where those
//! are. On a kernel without that they go on, as on a machine whose firmware stopped it for a while.
//!
//! An APIC's deadline is a value of the counter; the kernel's timer for it was set when it was written. Put back, a
//! counter makes that timer early, which guests bear; put forward, late: then the deadline is written again. Forward they
//! go when time has passed elsewhere, and where a state was loaded twice: the second value of a counter is taken for one
//! that is to be in step with the first, and the counter may stand behind it.

use crate::{KvmError, Vm};
use kvm_ioctls::VcpuFd;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is known of a machine's counters.
#[derive(Default)]
pub(crate) struct Counters(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// The vCPUs, by number.
    vcpus: Vec<OwnedFd>,
    /// What the first one's counter shows while the machine stands still.
    held: Option<u64>,
}

/// The counter, and the deadline of the APIC's timer.
const TSC: u32 = 0x10;
const DEADLINE: u32 = 0x6e0;

/// `struct kvm_device_attr`.
#[repr(C)]
struct Attribute {
    flags: u32,
    group: u32,
    attr: u64,
    addr: u64,
}

/// `struct kvm_msrs` with one entry.
#[repr(C)]
struct Register {
    count: u32,
    pad: u32,
    index: u32,
    reserved: u32,
    data: u64,
}

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)` and its sisters.
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;
const KVM_GET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee2;
/// `_IOWR(KVMIO, 0x88, struct kvm_msrs)`, `_IOW(KVMIO, 0x89, struct kvm_msrs)`.
const KVM_GET_MSRS: libc::c_ulong = 0xc008_ae88;
const KVM_SET_MSRS: libc::c_ulong = 0x4008_ae89;
/// `_IO(KVMIO, 0xa3)`.
const KVM_GET_TSC_KHZ: libc::c_ulong = 0xaea3;

/// The offset of a vCPU's counter from the host's: read, or set to `to`.
fn offset(vcpu: BorrowedFd<'_>, to: Option<u64>) -> io::Result<u64> {
    let mut value = to.unwrap_or(0);
    // Group KVM_VCPU_TSC_CTRL, attribute KVM_VCPU_TSC_OFFSET: both are 0.
    let attribute = Attribute { flags: 0, group: 0, attr: 0, addr: (&raw mut value) as u64 };
    let request = if to.is_some() { KVM_SET_DEVICE_ATTR } else { KVM_GET_DEVICE_ATTR };
    // SAFETY: `attribute` has the layout that the ioctl reads; its address is that of `value`, of eight bytes, which live
    // through the call and are read or written by it alone.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw const attribute) } {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A model-specific register: read, or set to `to`.
fn register(vcpu: BorrowedFd<'_>, index: u32, to: Option<u64>) -> io::Result<u64> {
    let mut r = Register { count: 1, pad: 0, index, reserved: 0, data: to.unwrap_or(0) };
    let request = if to.is_some() { KVM_SET_MSRS } else { KVM_GET_MSRS };
    // SAFETY: `r` is a list of one entry, as its count says, and lives through the call.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), request, &raw mut r) } {
        1 => Ok(r.data),
        0 => Err(io::Error::from_raw_os_error(libc::ENXIO)),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Counters {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another vCPU, in the order of their numbers.
    pub(crate) fn add(&self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        // SAFETY: the descriptor is open for as long as `vcpu` is borrowed; what is kept is a duplicate.
        let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let fd = fd.try_clone_to_owned().map_err(KvmError::at("a descriptor for a vCPU"))?;
        self.inner().vcpus.push(fd);
        Ok(())
    }

    /// The first vCPU's counter was set to `at` while the machine stands still.
    pub(crate) fn set(&self, at: u64) {
        let mut inner = self.inner();
        if inner.held.is_some() {
            inner.held = Some(at);
        }
    }
}

/// Has the kernel set its timer anew for the deadline of a vCPU's APIC, if it has one.
fn renew_deadline(vcpu: BorrowedFd<'_>) -> Result<(), KvmError> {
    match register(vcpu, DEADLINE, None) {
        Ok(deadline @ 1..) => register(vcpu, DEADLINE, Some(deadline))
            .map(drop)
            .map_err(KvmError::at("a deadline of the APIC's timer")),
        _ => Ok(()),
    }
}

impl Vm {
    /// From now on, until [`Vm::release_counters`], no time passes by the counters. Only while no vCPU runs.
    pub(crate) fn hold_counters(&self) {
        let mut inner = self.counters.inner();
        let now = inner.vcpus.first().map_or(Ok(0), |first| register(first.as_fd(), TSC, None));
        inner.held = now.ok();
    }

    /// Lets them go on from where they stood. Only while no vCPU runs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn release_counters(&self) -> Result<(), KvmError> {
        let mut inner = self.counters.inner();
        let (Some(held), Some(first)) = (inner.held.take(), inner.vcpus.first()) else { return Ok(()) };
        let refused = KvmError::at("KVM_VCPU_TSC_OFFSET");
        let Ok(now) = register(first.as_fd(), TSC, None) else { return Ok(()) };
        let back = now.wrapping_sub(held);
        for vcpu in &inner.vcpus {
            // Kernels without it, and those whose counters cannot be moved, let them go on.
            let Ok(old) = offset(vcpu.as_fd(), None) else { return Ok(()) };
            offset(vcpu.as_fd(), Some(old.wrapping_sub(back))).map_err(&refused)?;
            if back.cast_signed() < 0 {
                renew_deadline(vcpu.as_fd())?;
            }
        }
        Ok(())
    }

    /// Lets `ns` nanoseconds pass by the counters at once. Only while they are held.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn advance_counters(&self, ns: u64) -> Result<(), KvmError> {
        let mut inner = self.counters.inner();
        let (Some(held), Some(first)) = (inner.held, inner.vcpus.first()) else { return Ok(()) };
        // SAFETY: an ioctl without an argument.
        let khz = unsafe { libc::ioctl(first.as_raw_fd(), KVM_GET_TSC_KHZ) };
        let cycles = u128::from(ns) * u128::from(khz.max(0).unsigned_abs()) / 1_000_000;
        let cycles = u64::try_from(cycles).unwrap_or(u64::MAX);
        for vcpu in &inner.vcpus {
            let Ok(old) = offset(vcpu.as_fd(), None) else { return Ok(()) };
            offset(vcpu.as_fd(), Some(old.wrapping_add(cycles)))
                .map_err(KvmError::at("KVM_VCPU_TSC_OFFSET"))?;
            renew_deadline(vcpu.as_fd())?;
        }
        inner.held = Some(held.wrapping_add(cycles));
        Ok(())
    }
}
