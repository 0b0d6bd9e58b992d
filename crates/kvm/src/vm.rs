//! One virtual machine of the kernel's: guest memory in its slots, its interrupt chips, its vCPUs' home.

use crate::counter::Counters;
use crate::dirty::Log;
use crate::{Host, KvmError, kick};
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, VmFd};
use std::sync::Arc;
use strata_memory::{GuestRam, Region};

/// Three pages, of which Intel processors without unrestricted guests make use: below the firmware's place, where no board
/// has anything.
const TSS: usize = 0xfffb_d000;
/// A page of theirs likewise.
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// The machine as the kernel has it. The order of the fields is the order in which they go: memory last.
pub struct Vm {
    pub(crate) fd: VmFd,
    pub(crate) log: Log,
    pub(crate) counters: Counters,
    pub(crate) host: Arc<Host>,
    pub(crate) ram: GuestRam,
}

impl Vm {
    /// Makes a machine over `ram`, with interrupt chips and without vCPUs.
    ///
    /// # Errors
    /// The kernel refuses a step.
    pub fn new(host: Arc<Host>, ram: GuestRam) -> Result<Arc<Vm>, KvmError> {
        kick::install().map_err(KvmError::at("a signal handler"))?;
        let fd = loop {
            match host.kvm.create_vm() {
                Ok(fd) => break fd,
                // The kernel gives up on a signal while it prepares the machine; nothing has happened then.
                Err(e) if e.errno() == libc::EINTR => {}
                Err(e) => return Err(KvmError::at("KVM_CREATE_VM")(e)),
            }
        };
        if host.kvm.check_extension(Cap::SetTssAddr) {
            fd.set_tss_address(TSS).map_err(KvmError::at("KVM_SET_TSS_ADDR"))?;
        }
        if host.kvm.check_extension(Cap::SetIdentityMapAddr) {
            fd.set_identity_map_address(IDENTITY_MAP).map_err(KvmError::at("KVM_SET_IDENTITY_MAP_ADDR"))?;
        }
        let log = Log::prepare(&fd)?;
        let vm = Vm { fd, log, counters: Counters::default(), host, ram };
        // Memory before the chips: a chip takes its place on the machine's buses, and from Linux 6.18 on the list of devices
        // that it replaces is freed after a grace period that nobody hurries. A memory slot waits for it: 4 to 11 ms.
        for slot in 0..vm.ram.regions().len() {
            vm.give(slot, false)?;
        }
        vm.fd.create_irq_chip().map_err(KvmError::at("KVM_CREATE_IRQCHIP"))?;
        // The speaker's port is answered in the kernel too, so that reading it is no exit.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.fd.create_pit2(pit).map_err(KvmError::at("KVM_CREATE_PIT2"))?;
        Ok(Arc::new(vm))
    }

    /// Hands region number `slot` to the kernel, or changes whether writes to it are logged.
    pub(crate) fn give(&self, slot: usize, logged: bool) -> Result<(), KvmError> {
        let Some(region) = self.ram.regions().get(slot) else { return Ok(()) };
        let memory = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: if logged { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.gpa(),
            memory_size: region.size(),
            userspace_addr: region.host_range().start as u64,
        };
        // SAFETY: the region is mapped at that address for as long as `ram` is held, which is longer than the descriptor of
        // this machine and those of its vCPUs are open: a vCPU holds its `Vm`. Nothing of it is viewed as Rust
        // data but through atomics and volatile slices.
        unsafe { self.fd.set_user_memory_region(memory) }.map_err(KvmError::at("KVM_SET_USER_MEMORY_REGION"))
    }

    /// Guest memory.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// The regions by the number of their slot.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u32, &Region)> {
        (0..).zip(self.ram.regions())
    }
}
