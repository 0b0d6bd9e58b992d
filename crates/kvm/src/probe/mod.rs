//! What `/dev/kvm` is really worth: a probe that times a small guest's kernel-mode code on it.
//!
//! That `/dev/kvm` opens says little. Some hosts offer one on which guest user code runs on the processor but guest
//! kernel code is interpreted by the host's kernel, at a few million instructions a second instead of thousands:
//! no operating system is usable there. Only running kernel code tells the two apart, so [`probe`] does: a machine
//! of five pages and one vCPU, in 64-bit mode at privilege level 0, for some milliseconds (`guest` has its program).
//!
//! **It always comes back.** The vCPU has a thread of its own. A guest that runs for longer than [`RUN`] is stopped by
//! a signal which only `KVM_RUN` lets in; at [`BOUND`] the caller goes on without the thread, which keeps all it uses
//! until the host's kernel lets go of it. Nothing of the process changes: no signal handler, no other thread's mask.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod guest;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod run;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use run::probe;

use std::io;
use std::time::Duration;

/// How long building the machine may take. A millisecond is usual; the first machine of a slow host was seen
/// to need 130.
pub const BUILD: Duration = Duration::from_millis(200);
/// How long the guest may run, from then on.
pub const RUN: Duration = Duration::from_millis(40);
/// When the probe returns at the latest, after its start (give or take the host's scheduler).
pub const BOUND: Duration = Duration::from_millis(250);

/// Kernel-mode speed from which KVM counts as the processor's own, in million instructions a second. A processor
/// gives thousands, and some hundreds are left of that on a host where others run too.
const NATIVE_MIPS: f64 = 300.0;
/// Up to here it is interpreted: interpreters of x86 in a kernel give 1 to 20.
const EMULATED_MIPS: f64 = 60.0;

/// How fast kernel-mode code ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelSpeed {
    /// Million guest instructions a second of the vCPU's thread, of loads, stores, arithmetic and branches.
    /// The best of several runs, each of which begins with a reload of the page-table root, of a segment and of the
    /// interrupt flag.
    pub mips: f64,
    /// Microseconds from one port write that leaves the guest to the next, as user space sees it; the median.
    pub exit_us: f64,
}

/// What runs a guest's kernel-mode code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The processor.
    Native,
    /// Too slow for a processor, too fast for an interpreter: a crowded host, or virtualization within virtualization.
    Slow,
    /// The host's kernel, instruction by instruction.
    Emulated,
}

impl KernelSpeed {
    /// What a speed like this comes from.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.mips {
            m if m >= NATIVE_MIPS => Kind::Native,
            m if m > EMULATED_MIPS => Kind::Slow,
            _ => Kind::Emulated,
        }
    }
}

/// What the probe found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// How fast kernel-mode code ran.
    pub speed: KernelSpeed,
    /// From the opening of `/dev/kvm` to the first answer of the guest.
    pub start: Duration,
    /// How long the whole probe took.
    pub took: Duration,
}

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The probe's guest is x86-64 code; this host is something else.
    #[error("only x86-64 hosts are probed, this one is {0}")]
    Architecture(&'static str),
    /// No device: no hardware virtualization, or no module loaded.
    #[error("there is no /dev/kvm")]
    Absent,
    /// The device may not be opened by this user.
    #[error("/dev/kvm: {0}")]
    Permission(io::Error),
    /// The kernel speaks another version of KVM's interface (12 is the only one since 2007).
    #[error("/dev/kvm speaks version {0} of its interface; 12 is needed")]
    Version(i32),
    /// A step of building or running the machine failed.
    #[error("{step}: {source}")]
    Failed {
        /// The ioctl, or what else was tried.
        step: &'static str,
        /// What the host answered.
        source: io::Error,
    },
    /// The guest left where its program does not.
    #[error("the test guest stopped unexpectedly: {0}")]
    Stopped(String),
    /// The guest ran, and computed something else than a processor would.
    #[error("the test guest computed {found:#x} instead of {expected:#x}: its code is not run faithfully")]
    Wrong {
        /// What its loops add up to.
        expected: u64,
        /// What was in its memory.
        found: u64,
    },
    /// The time ran out; on a crowded host it may work when tried again.
    #[error("gave no answer within {} ms, last in {step}", BOUND.as_millis())]
    Late {
        /// Where it was.
        step: &'static str,
    },
}

/// Measures how fast KVM runs kernel-mode code here, in some milliseconds and never more than [`BOUND`].
///
/// # Errors
/// [`Unusable::Architecture`]: there is no probe for this host.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub fn probe() -> Result<Report, Unusable> {
    Err(Unusable::Architecture(std::env::consts::ARCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_fall_into_their_kinds() {
        let kind = |mips| KernelSpeed { mips, exit_us: 2.0 }.kind();
        assert_eq!([4000.0, 300.0].map(kind), [Kind::Native; 2]);
        assert_eq!([299.0, 61.0].map(kind), [Kind::Slow; 2]);
        assert_eq!([60.0, 1.5, 0.0].map(kind), [Kind::Emulated; 3]);
    }

    #[test]
    fn the_probe_returns_in_time_and_what_it_says_is_possible() {
        let timed = || {
            let start = std::time::Instant::now();
            let found = probe();
            (start.elapsed(), found)
        };
        // Other tests may hold the processors, but not each time.
        let (mut took, found) = timed();
        for _ in 0..2 {
            took = took.min(timed().0);
        }
        assert!(took < BOUND * 2, "{took:?}: {found:?}");
        println!("{found:?}");
        match found {
            Ok(r) => {
                assert!(r.speed.mips > 0.0 && r.speed.mips < 50_000.0, "{r:?}");
                assert!(r.speed.exit_us > 0.05 && r.speed.exit_us < 50_000.0, "{r:?}");
                assert!(r.start <= r.took && r.took < BOUND * 2, "{r:?}");
            }
            Err(e @ (Unusable::Wrong { .. } | Unusable::Stopped(_) | Unusable::Version(_))) => panic!("{e}"),
            // This host has none, or is too busy: the probe's answer is then the right one.
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
}
