//! What is just being delivered to a vCPU: exceptions, interrupts, NMIs, and what holds them off.

use crate::KvmError;
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;

strata_state::state! {
    /// What is being delivered.
    pub struct EventsState("x86-events", 1) {
        /// An exception that has been decided on: vector, error code and, for some, the fault's address or the bits of DR6.
        1 exception: Option<ExceptionState>,
        /// The vector of an external interrupt that the APIC or the 8259 has already acknowledged.
        2 interrupt: Option<u8>,
        /// That interrupt is an INT instruction's.
        3 soft: bool,
        /// Bit 0: after STI; bit 1: after a move to SS. No interrupt comes before the next instruction is done.
        4 shadow: u8,
        /// An NMI is being delivered.
        5 nmi: bool,
        /// NMIs that wait.
        6 nmi_pending: u8,
        /// NMIs are held off until IRET.
        7 nmi_masked: bool,
        /// Page of a start vector that has come.
        8 start_vector: u8,
        /// In system-management mode: bit 0 in it, 1 one is pending, 2 entered inside an NMI, 3 an INIT waits.
        9 smm: u8,
    }
}

strata_state::state! {
    /// An exception.
    pub struct ExceptionState("x86-exception", 1) {
        /// Vector.
        1 vector: u8,
        /// Error code, of those that have one.
        2 error: Option<u32>,
        /// Delivery has begun.
        3 injected: bool,
        /// CR2 or DR6 to be, where that is not yet set.
        4 payload: Option<u64>,
    }
}

impl EventsState {
    pub(crate) fn read(fd: &VcpuFd) -> Result<EventsState, KvmError> {
        let e = fd.get_vcpu_events().map_err(KvmError::at("KVM_GET_VCPU_EVENTS"))?;
        let exception = (e.exception.injected != 0 || e.exception.pending != 0).then(|| ExceptionState {
            vector: e.exception.nr,
            error: (e.exception.has_error_code != 0).then_some(e.exception.error_code),
            injected: e.exception.injected != 0,
            payload: (e.exception_has_payload != 0).then_some(e.exception_payload),
        });
        let bit = |on: u8, n: u8| u8::from(on != 0) << n;
        Ok(EventsState {
            exception,
            interrupt: (e.interrupt.injected != 0).then_some(e.interrupt.nr),
            soft: e.interrupt.injected != 0 && e.interrupt.soft != 0,
            shadow: e.interrupt.shadow & 3,
            nmi: e.nmi.injected != 0,
            nmi_pending: e.nmi.pending,
            nmi_masked: e.nmi.masked != 0,
            start_vector: e.sipi_vector as u8,
            smm: bit(e.smi.smm, 0)
                | bit(e.smi.pending, 1)
                | bit(e.smi.smm_inside_nmi, 2)
                | bit(e.smi.latched_init, 3),
        })
    }

    pub(crate) fn write(&self, fd: &VcpuFd) -> Result<(), KvmError> {
        let EventsState {
            exception,
            interrupt,
            soft,
            shadow,
            nmi,
            nmi_pending,
            nmi_masked,
            start_vector,
            smm,
        } = self;
        // What the host's kernel has, it also said when asked; what it has not must not be set.
        let known = fd.get_vcpu_events().map_err(KvmError::at("KVM_GET_VCPU_EVENTS"))?.flags;
        let flags = KVM_VCPUEVENT_VALID_NMI_PENDING
            | KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | known & (KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD);
        let mut e = kvm_vcpu_events { flags, ..Default::default() };
        if let Some(x) = exception {
            e.exception.nr = x.vector;
            (e.exception.injected, e.exception.pending) = (x.injected.into(), (!x.injected).into());
            (e.exception.has_error_code, e.exception.error_code) =
                (x.error.is_some().into(), x.error.unwrap_or(0));
            (e.exception_has_payload, e.exception_payload) =
                (x.payload.is_some().into(), x.payload.unwrap_or(0));
            // Without the flag, the kernel takes what is pending to be injected.
            if e.flags & KVM_VCPUEVENT_VALID_PAYLOAD == 0 {
                (e.exception.injected, e.exception.pending) = (1, 0);
            }
        }
        (e.interrupt.injected, e.interrupt.nr) = (interrupt.is_some().into(), interrupt.unwrap_or(0));
        (e.interrupt.soft, e.interrupt.shadow) = ((*soft).into(), shadow & 3);
        (e.nmi.injected, e.nmi.pending, e.nmi.masked) = ((*nmi).into(), *nmi_pending, (*nmi_masked).into());
        e.sipi_vector = (*start_vector).into();
        (e.smi.smm, e.smi.pending) = (smm & 1, smm >> 1 & 1);
        (e.smi.smm_inside_nmi, e.smi.latched_init) = (smm >> 2 & 1, smm >> 3 & 1);
        fd.set_vcpu_events(&e).map_err(KvmError::at("KVM_SET_VCPU_EVENTS"))
    }
}
