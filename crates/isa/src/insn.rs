//! A decoded instruction: what the table's fields become.

use crate::table::{Op, Operand};

/// One decoded instruction, 16 bytes. Compressed instructions are decoded to the row they expand to, with
/// `len` 2 and `raw` their own 16 bits. Nothing here depends on the address where the bytes were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Which row of the table.
    pub op: Op,
    /// Destination register (x or f by the row), 0 where the row has none.
    pub rd: u8,
    /// First source register.
    pub rs1: u8,
    /// Second source register.
    pub rs2: u8,
    /// Third source register (fused multiply-add), else 0.
    pub rs3: u8,
    /// Rounding-mode field where the row has one; aq (bit 1) and rl (bit 0) for atomics; else 0.
    pub rm: u8,
    /// Length in bytes: 2 or 4.
    pub len: u8,
    /// Immediate, sign-extended; shift amount; CSR number with the 5-bit immediate of CSRxI in `rs1`;
    /// predecessor and successor sets of FENCE as the 8 low bits `pppp_ssss`.
    pub imm: i32,
    /// The instruction's bits as fetched (`xtval` of an illegal instruction is this).
    pub raw: u32,
}

impl Insn {
    /// The integer registers it reads, as a set: bit `r` for register `r`. Never x0.
    pub fn x_reads(&self) -> u32 {
        self.registers(|operand| match operand {
            Operand::Rs1 | Operand::Mem | Operand::Addr => Some(self.rs1),
            Operand::Rs2 => Some(self.rs2),
            _ => None,
        }) & !1
    }

    /// The integer register it writes, as a set. Never x0.
    pub fn x_writes(&self) -> u32 {
        self.registers(|operand| (operand == Operand::Rd).then_some(self.rd)) & !1
    }

    /// The floating-point registers it reads, as a set.
    pub fn f_reads(&self) -> u32 {
        self.registers(|operand| match operand {
            Operand::Fs1 => Some(self.rs1),
            Operand::Fs2 => Some(self.rs2),
            Operand::Fs3 => Some(self.rs3),
            _ => None,
        })
    }

    /// The floating-point register it writes, as a set.
    pub fn f_writes(&self) -> u32 {
        self.registers(|operand| (operand == Operand::Fd).then_some(self.rd))
    }

    fn registers(&self, of: impl Fn(Operand) -> Option<u8>) -> u32 {
        let operands = self.op.form().operands();
        operands.iter().filter_map(|o| of(*o)).fold(0, |set, r| set | 1 << (r & 31))
    }
}
