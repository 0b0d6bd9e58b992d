//! Why the hardware engine cannot do what it was asked.

use std::io;

/// What was tried, on what, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No device.
    #[error(
        "there is no /dev/kvm: this host has no hardware virtualization, or its module is not loaded (`modprobe kvm`); \
         the software engine needs neither"
    )]
    Absent,
    /// The device may not be opened by this user.
    #[error("/dev/kvm may not be opened by this user ({source}); {advice}")]
    Permission {
        /// What to do, with the group that may.
        advice: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel speaks another version of KVM's interface (12 is the only one since 2007).
    #[error("/dev/kvm speaks version {0} of its interface, 12 is needed; use a newer kernel")]
    Version(i32),
    /// The kernel lacks something that the engine cannot do without.
    #[error("this host's KVM lacks {0}; use a newer kernel, or the software engine")]
    Lacks(&'static str),
    /// More vCPUs than the kernel allows.
    #[error("this host's KVM runs at most {most} vCPUs in a machine, not {asked}")]
    Vcpus {
        /// Asked for.
        asked: u32,
        /// The kernel's limit.
        most: usize,
    },
    /// A flag that no processor has, or that this build does not know.
    #[error("there is no processor flag `{flag}`; {hint}")]
    UnknownFlag {
        /// As it was written.
        flag: String,
        /// Names that there are.
        hint: String,
    },
    /// The host lacks flags that a processor model consists of.
    #[error("this host's processor cannot be a guest's `{model}`: it lacks {}", flags.join(", "))]
    MissingFlags {
        /// The model asked for.
        model: String,
        /// Flags by name.
        flags: Vec<&'static str>,
    },
    /// The host lacks flags that a guest has seen elsewhere.
    #[error("this host's processor lacks {}, which the guest has seen", flags.join(", "))]
    Seen {
        /// Flags by name.
        flags: Vec<String>,
    },
    /// A guest's time-stamp counter would run at another rate than it has measured.
    #[error(
        "the guest's time-stamp counter runs at {guest} kHz and this host's at {host} kHz, and its processor or kernel \
         cannot bridge that (KVM_CAP_TSC_CONTROL)"
    )]
    Rate {
        /// What the guest knows, in kHz.
        guest: u32,
        /// What the host has, in kHz.
        host: u32,
    },
    /// The host's kernel refused a step.
    #[error("the host's KVM refused {step}: {source}")]
    Refused {
        /// The ioctl, or what else was tried.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl KvmError {
    /// For `map_err`: the failure of `step`.
    pub(crate) fn at<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> KvmError {
        move |e| KvmError::Refused { step, source: e.into() }
    }
}
