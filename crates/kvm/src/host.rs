//! The host's KVM: the open device, checked for what the engine cannot do without.

use crate::KvmError;
use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm};
use std::io;
use std::os::unix::fs::MetadataExt;

/// Most CPUID leaves that the kernel hands out (`KVM_MAX_CPUID_ENTRIES`).
const LEAVES: usize = kvm_bindings::KVM_MAX_CPUID_ENTRIES;

/// What there is no running without, by the name that a person can look up.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP (interrupt controllers in the kernel)"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY (guest memory given by the process)"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT (interrupting a vCPU)"),
    (Cap::MpState, "KVM_CAP_MP_STATE (whether a vCPU is halted)"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS (interrupts that are being delivered)"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS (debug registers)"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD (doorbells)"),
    (Cap::Irqfd, "KVM_CAP_IRQFD (interrupts by descriptor)"),
];

/// An open `/dev/kvm`.
pub struct Host {
    pub(crate) kvm: Kvm,
    supported: CpuId,
}

impl Host {
    /// Opens the device.
    ///
    /// # Errors
    /// There is none, it may not be opened, or its kernel lacks something.
    pub fn open() -> Result<Host, KvmError> {
        let kvm = Kvm::new().map_err(|e| why_closed(e.into()))?;
        match kvm.get_api_version() {
            12 => {}
            other => return Err(KvmError::Version(other)),
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(KvmError::Lacks(name));
        }
        let supported = kvm.get_supported_cpuid(LEAVES).map_err(KvmError::at("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(Host { kvm, supported })
    }

    /// Most vCPUs in one machine.
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// The CPUID leaves that the kernel can give a guest on this processor.
    pub(crate) fn supported(&self) -> &CpuId {
        &self.supported
    }
}

/// Tells the reasons apart for which the device cannot be opened.
fn why_closed(source: io::Error) -> KvmError {
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KvmError::Absent,
        Some(libc::EACCES | libc::EPERM) => KvmError::Permission { advice: advice(), source },
        _ => KvmError::Refused { step: "opening /dev/kvm", source },
    }
}

/// Which group to be in, from the device's owner.
fn advice() -> String {
    let group = std::fs::metadata("/dev/kvm").ok().map(|m| m.gid());
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    match group.and_then(|gid| group_name(&groups, gid)) {
        Some(name) if name != "root" => {
            format!("be in the group `{name}`: `sudo usermod -aG {name} $USER`, then log in again")
        }
        _ => "its group is root's alone: `sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm`".into(),
    }
}

/// The name of group `gid` in the text of `/etc/group` (group(5)).
fn group_name(groups: &str, gid: u32) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_not_open_it_is_told_the_group() {
        assert_eq!(group_name("root:x:0:\nkvm:x:104:ann,bob\nbad\n", 104), Some("kvm"));
        assert_eq!(group_name("root:x:0:\nbad\nkvm:x:\n", 104), None);
        let said = why_closed(io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert!(said.contains("group"), "{said}");
        assert!(matches!(why_closed(io::Error::from_raw_os_error(libc::ENOENT)), KvmError::Absent));
    }
}
