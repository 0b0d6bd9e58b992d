//! The dirty log: which pages the guest has written, from the kernel's bitmap into the map of pages.
//!
//! Devices mark the pages they write themselves; what vCPUs write only the kernel sees. [`Vm::collect_dirty`] brings both
//! together, so that whoever asks the page map need not know which engine runs.
//!
//! With manual protection (Linux 5.1) reading the bitmap changes nothing, and pages are write-protected again in a step
//! of its own, for those ranges only that were dirty; a page that is written in between is in the bitmap before and
//! after. So the order is read, mark, protect, and what is copied after that is not too old.

use crate::{KvmError, Vm};
use kvm_bindings::{KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, kvm_enable_cap};
use kvm_ioctls::VmFd;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use strata_memory::PAGE;

/// Whether the log is on, and how it is read.
pub(crate) struct Log {
    manual: bool,
    on: AtomicBool,
}

/// Pages protected in one call: the kernel holds its lock meanwhile, and vCPUs that fault wait for it.
const STEP: u64 = 1 << 14;

impl Log {
    /// Asks for manual protection, where the kernel has it.
    pub(crate) fn prepare(fd: &VmFd) -> Result<Log, KvmError> {
        let has = fd.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
        let manual = has & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE as i32 != 0;
        if manual {
            let cap = kvm_enable_cap {
                cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                args: [KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE.into(), 0, 0, 0],
                ..Default::default()
            };
            fd.enable_cap(&cap).map_err(KvmError::at("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"))?;
        }
        Ok(Log { manual, on: AtomicBool::new(false) })
    }
}

impl Vm {
    /// From now on writes of vCPUs are logged, or not. What they wrote before is not in the log. Gives whether that is a
    /// change.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn log_dirty(&self, on: bool) -> Result<bool, KvmError> {
        if self.log.on.swap(on, SeqCst) == on {
            return Ok(false);
        }
        for (slot, _) in self.slots() {
            if let Err(e) = self.give(slot as usize, on) {
                // Slots that are logged and not asked cost a little; one that is asked and not logged fails.
                self.log.on.store(false, SeqCst);
                return Err(e);
            }
        }
        Ok(true)
    }

    /// Whether writes of vCPUs are logged.
    pub fn logs_dirty(&self) -> bool {
        self.log.on.load(SeqCst)
    }

    /// Marks the pages that vCPUs have written since the last call in the page map, in its current epoch; gives how many
    /// they are. Nothing, if writes are not logged.
    ///
    /// # Errors
    /// The kernel refuses; then no page is marked that would not be marked again by the next call.
    pub fn collect_dirty(&self) -> Result<u64, KvmError> {
        if !self.log.on.load(SeqCst) {
            return Ok(0);
        }
        let mut count = 0;
        for (slot, region) in self.slots() {
            let size = usize::try_from(region.size()).unwrap_or(usize::MAX);
            let bitmap = self.fd.get_dirty_log(slot, size).map_err(KvmError::at("KVM_GET_DIRTY_LOG"))?;
            let marked =
                bitmap.iter().enumerate().filter(|(_, bits)| **bits != 0).flat_map(|(word, bits)| {
                    (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| word * 64 + bit)
                });
            for page in marked {
                region.pages().mark_dirty(page);
                count += 1;
            }
            if self.log.manual {
                self.protect(slot, region.size() / PAGE, &bitmap)?;
            }
        }
        Ok(count)
    }

    /// Write-protects the pages of `bitmap` again.
    fn protect(&self, slot: u32, pages: u64, bitmap: &[u64]) -> Result<(), KvmError> {
        for (n, words) in bitmap.chunks(STEP as usize / 64).enumerate() {
            if words.iter().all(|w| *w == 0) {
                continue;
            }
            let first = n as u64 * STEP;
            let count = STEP.min(pages - first);
            clear(&self.fd, slot, first, count as u32, words).map_err(KvmError::at("KVM_CLEAR_DIRTY_LOG"))?;
        }
        Ok(())
    }
}

/// `KVM_CLEAR_DIRTY_LOG`; kvm-ioctls does not have it.
fn clear(fd: &VmFd, slot: u32, first: u64, count: u32, words: &[u64]) -> io::Result<()> {
    /// `struct kvm_clear_dirty_log`.
    #[repr(C)]
    struct Clear {
        slot: u32,
        pages: u32,
        first: u64,
        bitmap: *const u64,
    }
    /// `_IOWR(KVMIO, 0xc0, struct kvm_clear_dirty_log)`.
    const KVM_CLEAR_DIRTY_LOG: libc::c_ulong = 0xc018_aec0;
    assert!(words.len() as u64 * 64 >= u64::from(count), "a bitmap shorter than its pages");
    let request = Clear { slot, pages: count, first, bitmap: words.as_ptr() };
    // SAFETY: `request` has the layout that the ioctl reads; the bitmap has a bit for each of `count` pages, and is only read.
    match unsafe { libc::ioctl(fd.as_raw_fd(), KVM_CLEAR_DIRTY_LOG, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
