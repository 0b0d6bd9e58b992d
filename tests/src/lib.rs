//! What the end-to-end tests share.
//!
//! ```text
//!   tools.rs   the outside programs: where they are, and what a test does without them
//!   qemu.rs    runs of the other engine
//!   soft.rs    runs of our own: one hart on almost nothing, or a whole machine
//!   guest.rs   builds the bare-metal programs of `guests/`
//!   conformance/  the same scenarios on every engine
//!   instance/  amd64 instances on KVM, by the commands, with Linux in the guest
//!   diff/      the differential test: programs whose every instruction is logged, on both engines
//! ```
//! Nothing here is part of the product; the product is what is being tested.

#![forbid(unsafe_code)]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod conformance;
pub mod diff;
pub mod guest;
pub mod instance;
pub mod qemu;
pub mod soft;
pub mod tools;
