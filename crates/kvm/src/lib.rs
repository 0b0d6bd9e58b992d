//! The hardware engine: x86-64 vCPUs on the host's KVM.
//!
//! ```text
//!  Host   /dev/kvm, and what its kernel can do                       host.rs
//!   └─ Vm      memory slots, interrupt chips, eventfds, dirty log    vm.rs, chips.rs, events.rs, dirty.rs
//!       └─ KvmVcpu   one processor behind the engine contract        vcpu.rs, exits.rs, kick.rs
//!            CPUID        from the host, a level or a list of flags  cpuid/
//!            VcpuState    every register, in our own records         state/
//!            Seen         what of it a guest needs wherever it goes  seen.rs
//! ```
//! The kernel keeps the local APICs, the I/O APIC, the two 8259s and the 8254 timer; everything else that a guest
//! touches comes out of [`KvmVcpu`] as an access to one of two buses, memory and ports.
//!
//! **State is ours.** What a vCPU or chip is saved as is declared by `state!` here and copied field by field to and from
//! the kernel's structures. No layout of a kernel header or of a crate is ever stored, so a saved machine outlives both.
//!
//! **`unsafe`** is in `vm.rs` (handing guest memory to the kernel), `kick.rs` (a signal to a vCPU's thread), `vcpu.rs`
//! (the page that a vCPU shares with the kernel), `dirty.rs` and `counter.rs` (ioctls that have no wrapper) and the probe.
//!
//! That `/dev/kvm` opens does not mean that it is worth using: [`probe`](probe()) measures that.

mod probe;

pub use probe::{BOUND, BUILD, KernelSpeed, Kind, RUN, Report, Unusable, probe};

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod chips;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod counter;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod cpuid;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod dirty;
mod error;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod events;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod exits;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod host;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod kick;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod seen;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod state;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod vcpu;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod vm;

pub use error::KvmError;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use {
    chips::{Chips, IrqLines, KvmClock},
    events::Messages,
    exits::{Cause, Exits},
    host::Host,
    seen::{Seen, read_at_load},
    vcpu::{Buses, KvmVcpu},
    vm::Vm,
};

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests;
