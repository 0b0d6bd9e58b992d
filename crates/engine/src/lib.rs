//! The contract between a machine and whatever executes its vCPUs.
//!
//! An engine gives one [`Vcpu`] a virtual processor. The machine runs each on a host thread of its own; what the
//! rest of the machine wants from a running vCPU goes through its [`VcpuShared`]: interrupt pins, mail (remote
//! fences), and the kick that makes [`Vcpu::run`] return. The layers above cannot tell which engine runs.
//!
//! The seams through which a machine's parts meet are here too, so that devices need to know no engine and engines
//! no device: [`Bus`] (guest physical reads and writes that are not RAM), [`IrqLine`] (a wire to an interrupt
//! controller), [`Clock`] and [`Entropy`] (the only ways in which time and randomness enter). What one run has learnt for
//! another's sake is a list of [`hot`] paths.
#![forbid(unsafe_code)]

mod bus;
mod clock;
mod counted;
#[doc(hidden)]
pub mod fuzz;
pub mod hot;
mod irq;
mod shared;
pub mod table;
mod vcpu;
mod vigil;

pub use bus::{Bus, BusFault, NoBus};
pub use clock::{Clock, Entropy, GuestClock, ManualClock, SeededEntropy};
pub use counted::CountedClock;
pub use irq::{IrqLine, IrqSink, MsiSink};
pub use shared::{Mail, VcpuShared};
pub use vcpu::{Counted, Entry, FirmwareCalls, Privilege, Stop, Vcpu};
pub use vigil::Vigil;

#[cfg(test)]
mod tests;
