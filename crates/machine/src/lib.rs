//! A machine: the only place where engine, board, devices and memory meet.
//!
//! ```text
//!  MachineSpec + Resources ── assemble::build ──► Machine
//!     driver thread   owns the phase; lifecycle::step decides, the driver carries out
//!     vcpu threads    run a vCPU each, answer a hart's SBI calls (sbi), stop at the gate
//!     io threads      give device workers their turns, stop at the gate
//!     or one thread   that does both in a fixed order, in a deterministic machine (deterministic/)
//! ```
//! Everyone else sends requests and watches the published phase. **Pause is a barrier**: once it is published, no
//! guest-visible state changes until someone unpauses.
//!
//! Deliberately not here: paths (resources come open), processes, names of instances, protocols. Those are the vmm's.
#![forbid(unsafe_code)]

mod arrivals;
mod assemble;
mod console;
mod cpus;
mod deterministic;
mod driver;
mod firmware;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod harts;
mod io_thread;
pub mod lifecycle;
pub mod loader;
mod machine;
mod randomness;
mod saved;
pub mod sbi;
mod spec;
mod threads;
mod tier;
mod timekeeper;
mod unseen;
mod vcpu_thread;
mod warmth;

pub use arrivals::Arrivals;
pub use assemble::{BuildError, build};
pub use deterministic::PauseAtError;
pub use lifecycle::{Exit, Phase, Refused};
pub use machine::{Machine, NamedPart};
pub use saved::engine_of;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub use saved::{read_at_load, seen_in};
pub use spec::{
    ConsoleFds, MAX_HARTS, MAX_MEMORY, MIN_MEMORY, MachineSpec, Nic, Resources, Restore, SlotDevice,
};
pub use strata_board::{Board, Transport};
pub use strata_translator::Options as TranslatorOptions;
pub use tier::{Tier, TierError};

#[cfg(test)]
mod tests;
