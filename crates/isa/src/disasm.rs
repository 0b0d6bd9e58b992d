//! From an [`Insn`] to the text that `objdump -M no-aliases` prints for it.
//!
//! Names are the ABI's, there are no pseudo-instructions, a compressed instruction keeps its own name. What the
//! operands are is the row's form; this file only knows how to write each kind.

use std::fmt::Write;

use crate::csr::csr_name;
use crate::decode::compressed_row;
use crate::insn::Insn;
use crate::table::{Operand, Row};

/// ABI names of the integer registers.
pub const X_NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6",
    "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];

/// ABI names of the floating-point registers.
pub const F_NAMES: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4",
    "fa5", "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8",
    "ft9", "ft10", "ft11",
];

const ROUNDING: [&str; 8] = ["rne", "rtz", "rdn", "rup", "rmm", "unknown", "unknown", "dyn"];

/// The text of `insn` found at address `pc`: name, a tab, operands.
pub fn disasm(insn: &Insn, pc: u64) -> String {
    let row = compressed_row(insn.raw).filter(|_| insn.len == 2).unwrap_or(insn.op.row());
    let mut text = name(row, insn);
    let mut separator = '\t';
    for operand in row.form.operands() {
        if let Some(word) = write_operand(*operand, insn, pc) {
            text.push(separator);
            text.push_str(&word);
            separator = ',';
        }
    }
    text
}

/// The row's name, with the ordering suffix of an atomic.
fn name(row: &Row, insn: &Insn) -> String {
    let ordering = match (row.ext, insn.rm) {
        (crate::table::Ext::A, 1) => ".rl",
        (crate::table::Ext::A, 2) => ".aq",
        (crate::table::Ext::A, 3) => ".aqrl",
        _ => "",
    };
    format!("{}{ordering}", row.name)
}

fn x(r: u8) -> &'static str {
    X_NAMES.get(r as usize).unwrap_or(&"x?")
}

fn f(r: u8) -> &'static str {
    F_NAMES.get(r as usize).unwrap_or(&"f?")
}

fn write_operand(operand: Operand, insn: &Insn, pc: u64) -> Option<String> {
    Some(match operand {
        Operand::Rd => x(insn.rd).into(),
        Operand::Rs1 => x(insn.rs1).into(),
        Operand::Rs2 => x(insn.rs2).into(),
        Operand::Fd => f(insn.rd).into(),
        Operand::Fs1 => f(insn.rs1).into(),
        Operand::Fs2 => f(insn.rs2).into(),
        Operand::Fs3 => f(insn.rs3).into(),
        Operand::Imm => insn.imm.to_string(),
        Operand::Shamt => format!("{:#x}", insn.imm),
        Operand::Upper => format!("{:#x}", insn.imm as u32 >> 12),
        Operand::Target => format!("{:#x}", pc.wrapping_add_signed(insn.imm.into())),
        Operand::Mem => format!("{}({})", insn.imm, x(insn.rs1)),
        Operand::Addr => format!("({})", x(insn.rs1)),
        Operand::Sets => format!("{},{}", fence_set(insn.imm >> 4), fence_set(insn.imm)),
        Operand::Csr => {
            let n = insn.imm as u16;
            csr_name(n).unwrap_or_else(|| format!("{n:#x}"))
        }
        Operand::Uimm => insn.rs1.to_string(),
        Operand::Rm if insn.rm == 7 => return None,
        Operand::Rm => ROUNDING.get(insn.rm as usize).copied().unwrap_or("unknown").into(),
    })
}

/// `iorw`, or as much of it as is set.
fn fence_set(bits: i32) -> String {
    let mut set = String::new();
    for (bit, letter) in [(8, 'i'), (4, 'o'), (2, 'r'), (1, 'w')] {
        if bits & bit != 0 {
            set.push(letter);
        }
    }
    if set.is_empty() {
        let _ = write!(set, "0");
    }
    set
}

#[cfg(test)]
#[path = "disasm/tests.rs"]
mod tests;
