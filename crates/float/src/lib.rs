//! IEEE 754-2019 binary32 and binary64 arithmetic by integer operations, as RISC-V's F and D extensions
//! demand it (The RISC-V Instruction Set Manual, Volume I: Unprivileged, chapters "F" and "D").
//!
//! **What a function takes and gives.** Operands and results are raw encodings in the low bits of a `u64`;
//! [`F32`] ignores the high half of an operand and leaves that of a result zero. [`Format::unbox`] and
//! [`Format::boxed`] do the NaN-boxing of registers. A function that can round takes a [`Rounding`]; a function
//! that can raise exceptions gives the [`Flags`] of this one operation, which the caller ORs into `fcsr`.
//!
//! **What is the same everywhere.**
//! - A NaN result is the canonical NaN, whatever the operands' payloads; a signaling NaN operand raises NV.
//! - Tininess is detected after rounding; UF is raised only with NX.
//! - Nothing here panics, whatever the bits.
//!
//! **How it works.** Each algorithm is written once, generic over [`Format`]. Finite operands are opened into
//! an exponent and a 63-bit significand with its leading one at bit 62; the operation gives such a pair again,
//! with everything below bit 0 jammed into bit 0; `round::round_pack` makes the only rounding. Normal operands
//! take a straight path, all others a cold one.
//!
//! **What it deliberately does not do.** It keeps no state (no `fcsr`, no current rounding mode), knows no
//! other format, and never touches the host's floating point, whose results depend on a control register that
//! the compiler believes constant.

#![forbid(unsafe_code)]

mod add;
mod compare;
mod convert;
mod div;
mod format;
mod mul;
mod round;

pub use add::{add, sub};
pub use compare::{class, classify, eq, le, lt, max, min};
pub use convert::{convert, from_i32, from_i64, from_u32, from_u64, to_i32, to_i64, to_u32, to_u64};
pub use div::{div, sqrt};
pub use format::{F32, F64, Format};
pub use mul::{mul, mul_add};
pub use round::{Flags, Rounding};
