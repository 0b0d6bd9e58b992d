//! A RISC-V hart: registers, CSRs, traps, address translation, memory protection, and the interpreter.
//!
//! ```text
//!   Hart (hart.rs)             what a machine drives: engine::Vcpu, saving and loading
//!    ├─ Tier (tier.rs)         whoever executes code faster than the interpreter, if anyone: a seam
//!    ├─ BlockCache (interp/)   decoded runs of instructions, found by virtual, then by physical address
//!    └─ Core (core.rs)         all that an instruction can touch; implements isa::ops::Ops (interp/ops.rs)
//!        ├─ Csrs (csr/)        one row a CSR: number, who may, read, write
//!        ├─ trap.rs            causes, delegation, entry and return, pending interrupts
//!        ├─ mmu/               walk (pure), TLB, data and fetch accesses
//!        ├─ pmp.rs             physical memory protection (pure)
//!        ├─ fpu.rs             floating-point operations over strata-float
//!        └─ host.rs            the only unsafe code: guest RAM by host address
//! ```
//!
//! RV64GC with Zicsr, Zifencei, Zicntr, Zihpm, Zba, Zbb, Zbs, Zicond, Zicbom, Zicboz, Zihintpause; M, S and U modes; PMP;
//! Sv39, Sv48, Sv57, Svadu, Svinval, Svnapot, Svpbmt, Sstc. Sources: *The RISC-V Instruction Set Manual*, volume I
//! (unprivileged) and volume II (privileged), ratified extensions included. Where these allow a choice, the hart does
//! what QEMU's `rv64` does; `docs/decisions/0002-hart-choices.md` lists where it deliberately does not.
//!
//! Deliberately not here: devices, firmware (a machine may be its harts' firmware, see [`HartConfig`]), and
//! what instructions mean (crate `strata-isa`).

mod config;
mod core;
mod csr;
mod fpu;
#[doc(hidden)]
pub mod fuzz;
mod hart;
mod host;
mod interp;
mod mmu;
mod pmp;
mod state;
pub mod tier;
mod trap;

pub use config::{CACHE_BLOCK, HartConfig, MMU_TYPE, TIMEBASE_HZ, isa_extensions_list, isa_string};
pub use hart::Hart;
pub use state::HartState;

#[cfg(test)]
mod tests;
