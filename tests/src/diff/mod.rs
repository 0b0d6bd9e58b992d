//! The differential test: random programs whose every instruction's effects are logged, run by two engines.
//!
//! ```text
//!   seed ─► slots.rs (what), operands.rs, csrs.rs, paging.rs ─► image.rs: a whole RAM image
//!                                                                 │
//!                            guests/diff/harness.S, in every image │
//!                                                                 ├─► QEMU ─► log
//!                                                                 └─► ours ─► log     compare.rs: equal, but for
//!                                                                                     the named exceptions
//! ```
//! A program is some thousand **slots**: a few instructions under test in 32 bytes of code, and a descriptor of what
//! surrounds them (mode, `mstatus`, operands, CSRs). The harness sets it all up, enters the slot and, when it traps
//! back (code is filled with `c.ebreak`, so it always does), writes a record of all registers, trap CSRs and 64 bytes
//! of memory. Registers live on from slot to slot; memory is compared as a whole at the end.
//!
//! Slots run in M, S and U mode, untranslated and under Sv39, Sv48 and Sv57. The same seed gives the same program.
//!
//! Not here: time, interrupts from devices, several harts (the guests of `guests/` have those).

pub mod compare;
pub mod coverage;
pub mod csrs;
pub mod exceptions;
pub mod image;
pub mod layout;
pub mod operands;
pub mod paging;
pub mod run;
pub mod slots;
