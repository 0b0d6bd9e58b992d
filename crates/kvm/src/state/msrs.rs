//! Model-specific registers: which are saved, and in which order they are written.
//!
//! The list is ours, not the kernel's: what a kernel lists changes with its version and with the host's processor, and
//! some of it is the host's own affair. A register that the host does not have is not saved; one that was saved and
//! cannot be written is an error that names it, but for zeroes, which are what it would read as anyway.

use crate::KvmError;
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use std::io;

strata_state::state! {
    /// Model-specific registers.
    pub struct MsrsState("x86-msrs", 1) {
        /// Number and value, in the order of the list.
        1 values: Vec<[u64; 2]>,
    }
}

/// The guest's order to write the wall clock to a place in its memory (Linux, Documentation/virt/kvm/x86/msr.rst). Written
/// when a state is loaded, the order would be carried out again, and the guest may have other things at that place by now.
const ORDER: u64 = 0x4b56_4d00;

/// Most registers in a saved state: more than the list has, far fewer than would be a burden.
const LIMIT: usize = 1024;

/// The registers: first, last, what they are. Written in this order, so the counter stands before its deadline.
#[rustfmt::skip]
pub const SAVED_MSRS: &[(u32, u32, &str)] = &[
    (0x0000_0010, 0x0000_0010, "time-stamp counter"),
    (0x0000_003b, 0x0000_003b, "offset of the time-stamp counter"),
    (0x0000_0048, 0x0000_0048, "speculation control"),
    (0x0000_00e1, 0x0000_00e1, "UMWAIT control"),
    (0x0000_0174, 0x0000_0176, "SYSENTER: CS, ESP, EIP"),
    (0x0000_01a0, 0x0000_01a0, "miscellaneous enables"),
    (0x0000_01d9, 0x0000_01d9, "debug control"),
    (0x0000_0200, 0x0000_020f, "variable MTRRs"),
    (0x0000_0250, 0x0000_0250, "fixed MTRR, 64 KiB"),
    (0x0000_0258, 0x0000_0259, "fixed MTRRs, 16 KiB"),
    (0x0000_0268, 0x0000_026f, "fixed MTRRs, 4 KiB"),
    (0x0000_0277, 0x0000_0277, "page attributes"),
    (0x0000_02ff, 0x0000_02ff, "default memory type"),
    (0x0000_0da0, 0x0000_0da0, "supervisor XSAVE components"),
    (0x0000_06e0, 0x0000_06e0, "deadline of the APIC's timer"),
    (0x4b56_4d00, 0x4b56_4d06, "KVM: wall clock, system time, page faults, steal time, end of interrupt, polling, vector"),
    (0xc000_0081, 0xc000_0084, "STAR, LSTAR, CSTAR, SFMASK"),
    (0xc000_0102, 0xc000_0103, "kernel GS base, TSC_AUX"),
    (0xc001_001f, 0xc001_001f, "AMD: north bridge configuration"),
    (0xc001_0117, 0xc001_0117, "AMD: host save area"),
    (0xc001_0140, 0xc001_0141, "AMD: OS-visible workarounds"),
];

fn numbers() -> impl Iterator<Item = u32> {
    SAVED_MSRS.iter().flat_map(|(first, last, _)| *first..=*last)
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries)
        .map_err(|e| KvmError::Refused { step: "a list of MSRs", source: io::Error::other(format!("{e:?}")) })
}

impl MsrsState {
    /// The time-stamp counter.
    pub(crate) fn counter(&self) -> Option<u64> {
        self.values.iter().find(|[n, _]| *n == 0x10).map(|[_, value]| *value)
    }

    /// What the host's vCPU has of the list.
    pub(crate) fn read(fd: &VcpuFd) -> Result<MsrsState, KvmError> {
        let mut left: Vec<kvm_msr_entry> = numbers().map(|n| entry(n, 0)).collect();
        let mut values = Vec::new();
        // The kernel reads up to the first that it does not have; that one is passed over.
        while !left.is_empty() {
            let mut msrs = list(&left)?;
            let read = fd.get_msrs(&mut msrs).map_err(KvmError::at("KVM_GET_MSRS"))?.min(left.len());
            values.extend(msrs.as_slice().iter().take(read).map(|m| [m.index.into(), m.data]));
            left.drain(..left.len().min(read + 1));
        }
        Ok(MsrsState { values })
    }

    /// What has its value already is left alone: some kernels complain of any write to what they do not support. So is
    /// [`ORDER`].
    pub(crate) fn write(&self, fd: &VcpuFd) -> Result<(), KvmError> {
        let now = MsrsState::read(fd)?.values;
        let differ = self.values.iter().filter(|v| !now.contains(v) && v[0] != ORDER);
        let mut left: Vec<kvm_msr_entry> =
            differ.map(|[n, v]| entry(u32::try_from(*n).unwrap_or(u32::MAX), *v)).collect();
        while !left.is_empty() {
            let msrs = list(&left)?;
            let written = fd.set_msrs(&msrs).map_err(KvmError::at("KVM_SET_MSRS"))?.min(left.len());
            if let Some(refused) = left.get(written).filter(|m| m.data != 0) {
                let why =
                    format!("model-specific register {:#x} with value {:#x}", refused.index, refused.data);
                return Err(KvmError::Refused { step: "KVM_SET_MSRS", source: io::Error::other(why) });
            }
            left.drain(..left.len().min(written + 1));
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.values.len() > LIMIT {
            return Err(format!("{} model-specific registers are too many", self.values.len()));
        }
        match self.values.iter().find(|[n, _]| !numbers().any(|known| u64::from(known) == *n)) {
            Some([n, _]) => {
                Err(format!("model-specific register {n:#x} is none that a machine is saved with"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_registers_are_accepted_and_none_is_listed_twice() {
        let mut all: Vec<u32> = numbers().collect();
        let state = |n: u64| MsrsState { values: vec![[n, 1]] };
        assert!(all.iter().all(|n| state((*n).into()).check().is_ok()));
        // MICROCODE_UPDATE trigger, and a number that is none.
        assert!(state(0x79).check().is_err() && state(1 << 40).check().is_err());
        let listed = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), listed);
    }
}
