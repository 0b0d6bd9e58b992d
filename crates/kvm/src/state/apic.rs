//! The local APIC.

use crate::KvmError;
use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::VcpuFd;

/// Registers of an APIC (Intel SDM vol. 3, table 11-1): 32 bits each, 16 bytes apart.
const REGISTERS: usize = 64;

strata_state::state! {
    /// Local APIC.
    pub struct ApicState("x86-apic", 1) {
        /// Registers by number: the offset in the APIC's page, or the MSR less 0x800, by 16.
        1 registers: Vec<u32>,
    }
}

impl ApicState {
    pub(crate) fn read(fd: &VcpuFd) -> Result<ApicState, KvmError> {
        let page = fd.get_lapic().map_err(KvmError::at("KVM_GET_LAPIC"))?;
        let register = |bytes: &[libc::c_char]| {
            bytes.iter().take(4).rev().fold(0, |word, b| word << 8 | u32::from(*b as u8))
        };
        Ok(ApicState { registers: page.regs.chunks(16).map(register).collect() })
    }

    pub(crate) fn write(&self, fd: &VcpuFd) -> Result<(), KvmError> {
        let mut page = kvm_lapic_state { regs: [0; 1024] };
        for (bytes, word) in page.regs.chunks_mut(16).zip(&self.registers) {
            bytes.iter_mut().zip(word.to_le_bytes()).for_each(|(to, from)| *to = from as libc::c_char);
        }
        fd.set_lapic(&page).map_err(KvmError::at("KVM_SET_LAPIC"))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match self.registers.len() {
            REGISTERS => Ok(()),
            n => Err(format!("a local APIC has {REGISTERS} registers, not {n}")),
        }
    }
}
