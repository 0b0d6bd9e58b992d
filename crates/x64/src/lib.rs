//! An x86-64 assembler for code that is written at run time.
//!
//! ```text
//!   rows.rs      one row a method: operands, Op/En and opcode column as the manual prints them
//!     │ form.rs  reads the opcode column, at compile time
//!     ▼
//!   encode.rs    the one place that knows prefixes, REX, VEX, ModRM, SIB and displacements
//!     ▼
//!   asm.rs       the bytes, labels and what is not yet resolved
//! ```
//!
//! The reference is the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: chapter 2 for the
//! instruction format, chapters 3 to 5 for each opcode. [`Asm`] fills a byte buffer and nothing else: it maps no
//! memory, allocates no registers, reorders nothing and does not know which CPU features the host has. An instruction
//! costs two 8-byte stores and no allocation. Whatever cannot be encoded (an operand size without a form, a branch out
//! of reach) is remembered and reported once, by [`Asm::finish`], so that emitting code needs no error path.

#![forbid(unsafe_code)]

mod asm;
mod branch;
mod encode;
mod error;
mod form;
mod immediate;
mod operand;
mod rows;
#[cfg(test)]
mod tests;

pub use asm::{Asm, Label};
pub use branch::patch_rel32;
pub use error::AsmError;
pub use operand::{Alu, Cc, Fma, Fop, Fs, Gpr, Mem, Shift, Size, Xmm};
