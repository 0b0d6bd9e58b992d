//! From an [`Insn`] back to bits.
//!
//! Fields are put where the row's pattern has them, and the result is decoded again: where that does not give the same
//! operands, something did not fit, and the encoder says so instead of cutting it short.

use crate::decode::{compressed_row, decode};
use crate::insn::Insn;
use crate::table::{RVC, Row};

/// The operands of an instruction do not fit the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeError {
    /// What was to be encoded.
    pub insn: Insn,
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Insn { op, rd, rs1, rs2, rs3, rm, len, imm, raw: _ } = self.insn;
        write!(
            f,
            "cannot encode {} in {len} bytes with rd={rd} rs1={rs1} rs2={rs2} rs3={rs3} rm={rm} imm={imm}: \
             an operand is out of the encoding's range",
            op.name()
        )
    }
}

impl std::error::Error for EncodeError {}

/// The bits of `insn`, from its operands; `raw` is only looked at to choose between two compressed encodings that mean
/// the same. With `len` 2 the result is a compressed instruction.
///
/// # Errors
/// [`EncodeError`] if an operand does not fit, or with `len` 2 no compressed instruction is the same.
pub fn encode(insn: &Insn) -> Result<u32, EncodeError> {
    let found = if insn.len == 2 {
        let own = compressed_row(insn.raw).and_then(|row| put_together(row, insn));
        own.or_else(|| {
            let mut rows = RVC.iter().filter(|row| row.op == insn.op);
            rows.find_map(|row| put_together(row, insn))
        })
    } else {
        put_together(insn.op.row(), insn)
    };
    found.ok_or(EncodeError { insn: *insn })
}

fn put_together(row: &Row, insn: &Insn) -> Option<u32> {
    let c = &row.code;
    let word = c.bits
        | c.rd.put(insn.rd)
        | c.rs1.put(insn.rs1)
        | c.rs2.put(insn.rs2)
        | c.rs3.put(insn.rs3)
        | c.rm.put(insn.rm)
        | c.imm.put(insn.imm);
    (decode(word) == Ok(Insn { raw: word, ..*insn })).then_some(word)
}

#[cfg(test)]
#[path = "encode/tests.rs"]
mod tests;
