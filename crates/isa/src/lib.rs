//! What RISC-V instructions are and what they mean.
//!
//! ```text
//!   table/rows.rs, table/rvc.rs     one row an instruction
//!        │  derived: Op, decode, encode, disasm, random, doc
//!        ▼
//!      Insn ──► sem::execute<O: Ops> ──► who carries it out: interpreter, translator, recorder (here), ...
//! ```
//!
//! Instructions: RV64GC with Zicsr, Zifencei, Zihintpause, Zba, Zbb, Zbs, Zicond, Zicbom, Zicboz, the privileged
//! instructions and Svinval. Meanings are written once (`sem.rs`), over the seam [`ops::Ops`], with the arithmetic in
//! `eval.rs`. This crate knows no CSR's content, no address translation and no privilege: those are the hart's.

#![forbid(unsafe_code)]

mod csr;
mod decode;
mod disasm;
mod doc;
mod encode;
mod eval;
#[doc(hidden)]
pub mod fuzz;
mod insn;
pub mod ops;
pub mod random;
pub mod record;
pub mod sem;
pub mod table;

pub use csr::csr_name;
pub use decode::{decode, decode_with, prepare};
pub use disasm::{F_NAMES, X_NAMES, disasm};
pub use doc::isa_doc;
pub use encode::{EncodeError, encode};
pub use insn::Insn;
pub use table::{Effect, Ext, Extensions, Form, Op, Operand, ROWS, RVC, Row};
