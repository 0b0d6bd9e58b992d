//! Floating point and vectors: the XSAVE area.

use crate::KvmError;
use kvm_bindings::{kvm_xcr, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;

/// Bytes of the area as the kernel hands it out: legacy region, header, and the components that a process need not ask
/// for by name (all but AMX).
const AREA: usize = 4096;
/// Bytes of legacy region and header.
const SMALLEST: usize = 576;

strata_state::state! {
    /// Floating point and vectors.
    pub struct ExtendedState("x86-extended", 1) {
        /// The XSAVE area in its standard form (Intel SDM vol. 1, 13.4), without the zeroes at its end.
        1 area: Vec<u8>,
        /// XCR0.
        2 xcr0: u64,
    }
}

impl ExtendedState {
    pub(crate) fn read(fd: &VcpuFd) -> Result<ExtendedState, KvmError> {
        let xsave = fd.get_xsave().map_err(KvmError::at("KVM_GET_XSAVE"))?;
        let mut area: Vec<u8> = xsave.region.iter().flat_map(|word| word.to_le_bytes()).collect();
        let used = area.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        area.truncate(used.max(SMALLEST));
        let xcrs = fd.get_xcrs().map_err(KvmError::at("KVM_GET_XCRS"))?;
        let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(0);
        // Without XSAVE there is no XCR0; 1 is what it is after reset, the x87 unit alone.
        let xcr0 = xcrs.xcrs.iter().take(count).find(|x| x.xcr == 0).map_or(1, |x| x.value);
        Ok(ExtendedState { area, xcr0 })
    }

    pub(crate) fn write(&self, fd: &VcpuFd) -> Result<(), KvmError> {
        let mut xcrs = fd.get_xcrs().map_err(KvmError::at("KVM_GET_XCRS"))?;
        if xcrs.nr_xcrs > 0 {
            let mut list = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
            list.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: self.xcr0 };
            xcrs = list;
            fd.set_xcrs(&xcrs).map_err(KvmError::at("KVM_SET_XCRS"))?;
        }
        let mut xsave = kvm_xsave::default();
        for (word, bytes) in xsave.region.iter_mut().zip(self.area.chunks(4)) {
            let mut four = [0; 4];
            four.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            *word = u32::from_le_bytes(four);
        }
        // SAFETY: the kernel reads what KVM_CAP_XSAVE2 says, which is more than this structure only for a process that has
        // asked for AMX; this one never does.
        unsafe { fd.set_xsave(&xsave) }.map_err(KvmError::at("KVM_SET_XSAVE"))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match self.area.len() {
            SMALLEST..=AREA => Ok(()),
            n => Err(format!("an XSAVE area has {SMALLEST} to {AREA} bytes, not {n}")),
        }
    }
}
