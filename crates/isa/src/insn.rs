//! A decoded instruction: what the table's fields become.

use crate::table::{Op, Operand, ROWS};

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
        let roles = self.roles();
        (set(roles, role::X_READS_1, self.rs1) | set(roles, role::X_READS_2, self.rs2)) & !1
    }

    /// The integer register it writes, as a set. Never x0.
    pub fn x_writes(&self) -> u32 {
        set(self.roles(), role::X_WRITES, self.rd) & !1
    }

    /// The floating-point registers it reads, as a set.
    pub fn f_reads(&self) -> u32 {
        let roles = self.roles();
        set(roles, role::F_READS_1, self.rs1)
            | set(roles, role::F_READS_2, self.rs2)
            | set(roles, role::F_READS_3, self.rs3)
    }

    /// The floating-point register it writes, as a set.
    pub fn f_writes(&self) -> u32 {
        set(self.roles(), role::F_WRITES, self.rd)
    }

    fn roles(&self) -> u8 {
        ROLES[self.op as usize]
    }
}

/// What a register field of an instruction is for: bits of [`ROLES`].
mod role {
    pub const X_READS_1: u8 = 1;
    pub const X_READS_2: u8 = 1 << 1;
    pub const X_WRITES: u8 = 1 << 2;
    pub const F_READS_1: u8 = 1 << 3;
    pub const F_READS_2: u8 = 1 << 4;
    pub const F_READS_3: u8 = 1 << 5;
    pub const F_WRITES: u8 = 1 << 6;
}

/// By instruction: a translator asks this several times of each, and going through the operands takes as long as the rest of
/// what it does for one.
static ROLES: [u8; Op::ALL.len()] = {
    let mut roles = [0; Op::ALL.len()];
    let mut n = 0;
    while n < roles.len() {
        let operands = ROWS[n].form.operands();
        let mut i = 0;
        while i < operands.len() {
            roles[n] |= match operands[i] {
                Operand::Rs1 | Operand::Mem | Operand::Addr => role::X_READS_1,
                Operand::Rs2 => role::X_READS_2,
                Operand::Rd => role::X_WRITES,
                Operand::Fs1 => role::F_READS_1,
                Operand::Fs2 => role::F_READS_2,
                Operand::Fs3 => role::F_READS_3,
                Operand::Fd => role::F_WRITES,
                _ => 0,
            };
            i += 1;
        }
        n += 1;
    }
    roles
};

/// Register `r` as a set if `roles` has `role`, or none.
fn set(roles: u8, role: u8, r: u8) -> u32 {
    u32::from(roles & role != 0) << (r & 31)
}
