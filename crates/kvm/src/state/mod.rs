//! A vCPU's state: every register that the guest can see, as records of our own.
//!
//! Layouts here are the architecture's where it has one (the XSAVE area, the APIC's registers by their numbers, the
//! attribute bits of a segment descriptor) and plain numbers otherwise. Each file copies its registers field by field
//! between a record and the kernel's structure of the day.
//!
//! **The order of loading matters**, and stands in [`write`] alone: the APIC's base (in `system`) before the APIC,
//! the APIC before the deadline timer (an MSR), and what is just being delivered last.

mod apic;
mod events;
mod extended;
mod general;
mod msrs;
mod system;

pub use apic::ApicState;
pub use events::EventsState;
pub use extended::ExtendedState;
pub use general::GeneralState;
pub use msrs::{MsrsState, SAVED_MSRS};
pub use system::{SegmentState, SystemState};

use crate::KvmError;
use kvm_bindings::kvm_mp_state;
use kvm_ioctls::VcpuFd;

strata_state::state! {
    /// One x86-64 vCPU.
    pub struct VcpuState("x86-vcpu", 1) {
        /// General registers.
        1 general: GeneralState,
        /// Segments, descriptor tables, control registers.
        2 system: SystemState,
        /// Floating point and vectors.
        3 extended: ExtendedState,
        /// Debug registers DR0 to DR3, DR6, DR7.
        4 debug: [u64; 6],
        /// Model-specific registers.
        5 msrs: MsrsState,
        /// Local APIC.
        6 apic: ApicState,
        /// What is being delivered.
        7 events: EventsState,
        /// 0 executes, 1 awaits INIT, 2 has had INIT and awaits the start vector, 3 halted, 4 has had the start vector.
        8 activity: u8,
        /// Rate of the time-stamp counter, in kHz.
        9 tsc_khz: u32,
        /// CPUID as the guest sees it: leaf, subleaf, EAX, EBX, ECX, EDX.
        10 cpuid: Vec<[u32; 6]>,
    }
}

/// Reads everything but CPUID.
pub(crate) fn read(fd: &VcpuFd, cpuid: Vec<[u32; 6]>) -> Result<VcpuState, KvmError> {
    // The kernel settles what it has half delivered when it is asked for the activity, so that comes first.
    let activity = fd.get_mp_state().map_err(KvmError::at("KVM_GET_MP_STATE"))?.mp_state;
    let debug = fd.get_debug_regs().map_err(KvmError::at("KVM_GET_DEBUGREGS"))?;
    let [d0, d1, d2, d3] = debug.db;
    Ok(VcpuState {
        general: GeneralState::read(fd)?,
        system: SystemState::read(fd)?,
        extended: ExtendedState::read(fd)?,
        debug: [d0, d1, d2, d3, debug.dr6, debug.dr7],
        msrs: MsrsState::read(fd)?,
        apic: ApicState::read(fd)?,
        events: EventsState::read(fd)?,
        activity: u8::try_from(activity).unwrap_or(0),
        tsc_khz: fd.get_tsc_khz().unwrap_or(0),
        cpuid,
    })
}

/// Writes everything but CPUID and the counter's rate.
pub(crate) fn write(fd: &VcpuFd, s: &VcpuState) -> Result<(), KvmError> {
    let activity = kvm_mp_state { mp_state: s.activity.into() };
    fd.set_mp_state(activity).map_err(KvmError::at("KVM_SET_MP_STATE"))?;
    s.general.write(fd)?;
    s.system.write(fd)?;
    s.extended.write(fd)?;
    let mut debug = fd.get_debug_regs().map_err(KvmError::at("KVM_GET_DEBUGREGS"))?;
    let [d0, d1, d2, d3, dr6, dr7] = s.debug;
    (debug.db, debug.dr6, debug.dr7) = ([d0, d1, d2, d3], dr6, dr7);
    fd.set_debug_regs(&debug).map_err(KvmError::at("KVM_SET_DEBUGREGS"))?;
    s.apic.write(fd)?;
    s.msrs.write(fd)?;
    s.events.write(fd)
}

impl VcpuState {
    /// Refuses what no vCPU could have been saved as. What the architecture forbids beyond that, the kernel refuses.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.activity > 4 {
            return Err(format!("{} is no activity of a vCPU", self.activity));
        }
        self.extended.check()?;
        self.apic.check()?;
        self.msrs.check()
    }
}
