//! Which rows of the instruction table a run has executed, from the log itself.

use crate::diff::compare::record;
use crate::diff::image::Image;
use crate::diff::layout::word;
use std::fmt::Write;
use strata_isa::{Op, RVC, decode};

/// How often each row was executed.
#[derive(Clone)]
pub struct Coverage {
    /// By [`Op`]: instructions that completed, and those that trapped.
    rows: Vec<[u64; 2]>,
    /// Compressed encodings, by row.
    compressed: Vec<u64>,
    /// Encodings that mean nothing.
    pub reserved: u64,
    /// All of the above.
    pub instructions: u64,
    /// Slots.
    pub slots: u64,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage {
            rows: vec![[0; 2]; Op::ALL.len()],
            compressed: vec![0; RVC.len()],
            reserved: 0,
            instructions: 0,
            slots: 0,
        }
    }
}

impl Coverage {
    /// Adds what `log`, a run of `image`, has executed.
    pub fn add(&mut self, image: &Image, log: &[u8]) {
        for (n, slot) in image.slots.iter().enumerate() {
            let r = record(log, n + 1);
            self.slots += 1;
            let interrupt = r[word::MCAUSE] >> 63 != 0;
            let delegated = r[word::MCAUSE] == 9 && !(slot.pc..slot.pc + 32).contains(&r[word::MEPC]);
            let stopped = if delegated { r[word::SEPC] } else { r[word::MEPC] };
            let mut pc = slot.pc;
            for (raw, len) in &slot.code {
                let trapped = stopped == pc;
                if trapped && (interrupt || delegated && r[word::SCAUSE] >> 63 != 0) {
                    break;
                }
                self.count(*raw, trapped);
                if trapped {
                    break;
                }
                pc += u64::from(*len);
            }
        }
    }

    fn count(&mut self, raw: u32, trapped: bool) {
        self.instructions += 1;
        match decode(raw) {
            Ok(insn) => {
                self.rows[insn.op as usize][usize::from(trapped)] += 1;
                if let Some(n) = RVC.iter().position(|row| insn.len == 2 && row.name == name(raw)) {
                    self.compressed[n] += 1;
                }
            }
            Err(_) => self.reserved += 1,
        }
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Coverage) {
        for (a, b) in self.rows.iter_mut().zip(&other.rows) {
            a[0] += b[0];
            a[1] += b[1];
        }
        for (a, b) in self.compressed.iter_mut().zip(&other.compressed) {
            *a += b;
        }
        self.reserved += other.reserved;
        self.instructions += other.instructions;
        self.slots += other.slots;
    }

    /// Rows that completed less than `least` times, but for those that always trap.
    pub fn lacking(&self, least: u64) -> Vec<String> {
        let rows = Op::ALL.iter().zip(&self.rows).filter_map(|(op, [done, trapped])| {
            let enough = match op {
                Op::Ecall | Op::Ebreak => *trapped,
                _ => *done,
            };
            (enough < least).then(|| format!("{} ({enough})", op.name()))
        });
        let compressed = RVC
            .iter()
            .zip(&self.compressed)
            .filter(|(_, done)| **done < least)
            .map(|(row, done)| format!("{} ({done})", row.name));
        rows.chain(compressed).collect()
    }

    /// The table, for a person.
    pub fn table(&self) -> String {
        let mut out = format!(
            "{} slots, {} instructions, {} of them reserved encodings; name: completed/trapped\n",
            self.slots, self.instructions, self.reserved
        );
        let rows = Op::ALL.iter().zip(&self.rows).map(|(op, [d, t])| format!("{}: {d}/{t}", op.name()));
        let compressed = RVC.iter().zip(&self.compressed).map(|(row, d)| format!("{}: {d}", row.name));
        for (i, cell) in rows.chain(compressed).enumerate() {
            let _ = write!(out, "{cell:<28}{}", if i % 4 == 3 { "\n" } else { "" });
        }
        out.push('\n');
        out
    }
}

/// The name of a compressed instruction.
fn name(raw: u32) -> String {
    let text = decode(raw).map(|insn| strata_isa::disasm(&insn, 0)).unwrap_or_default();
    text.split('\t').next().unwrap_or_default().to_owned()
}
