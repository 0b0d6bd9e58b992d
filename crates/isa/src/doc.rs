//! The documentation page that the table writes about itself (`docs/isa.md`).

use std::fmt::Write;

use crate::table::{Ext, Operand, ROWS, RVC, Row};

/// The page, in Markdown.
pub fn isa_doc() -> String {
    let mut page = String::from(HEAD);
    for ext in Ext::ALL {
        let rows: Vec<_> = ROWS.iter().filter(|row| row.ext == *ext).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = write!(page, "\n## {}\n\n{}", ext.name(), WIDE);
        for row in rows {
            let Row { pattern, name, form, effect, .. } = row;
            let operands = operands(row);
            let effect = effect.describe();
            let _ = writeln!(page, "| `{name}` | {operands} | `{pattern}` | {} | {effect} |", form.name());
        }
    }
    let _ = write!(page, "\n## C\n\n{NARROW}");
    for row in &RVC {
        let Row { pattern, name, op, .. } = row;
        let _ = writeln!(page, "| `{name}` | {} | `{pattern}` | `{}` |", operands(row), op.name());
    }
    page
}

const HEAD: &str = "\
# RISC-V instructions

Written by `isa_doc()` from the table in `crates/isa/src/table/`; do not edit. `STRATA_BLESS=1 cargo test -p strata-isa`
writes it anew.

Encodings are as the manual prints them, bit 31 (or 15) first. Letters are fields: `d` rd, `s` rs1, `t` rs2, `u` rs3,
`m` rounding mode, `a` aq, `r` rl, `i` immediate. In compressed encodings `x` is rd and rs1 in one, three letters name
x8 to x15, and capitals must not be zero. \"Needs FS\" is an illegal instruction while `mstatus.FS` is off.
";

const WIDE: &str = "| name | operands | encoding | form | effect |\n| --- | --- | --- | --- | --- |\n";
const NARROW: &str = "| name | operands | encoding | expands to |\n| --- | --- | --- | --- |\n";

fn operands(row: &Row) -> String {
    let words: Vec<_> = row.form.operands().iter().map(|operand| word(*operand)).collect();
    words.join(", ")
}

fn word(operand: Operand) -> &'static str {
    match operand {
        Operand::Rd => "rd",
        Operand::Rs1 => "rs1",
        Operand::Rs2 => "rs2",
        Operand::Fd => "fd",
        Operand::Fs1 => "fs1",
        Operand::Fs2 => "fs2",
        Operand::Fs3 => "fs3",
        Operand::Imm => "imm",
        Operand::Shamt => "shamt",
        Operand::Upper => "imm20",
        Operand::Target => "target",
        Operand::Mem => "imm(rs1)",
        Operand::Addr => "(rs1)",
        Operand::Sets => "pred, succ",
        Operand::Csr => "csr",
        Operand::Uimm => "uimm",
        Operand::Rm => "rm",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/isa.md");
        let page = isa_doc();
        if std::env::var_os("STRATA_BLESS").is_some() {
            std::fs::write(path, &page).expect("docs/isa.md is writable");
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == page, "docs/isa.md is out of date: run with STRATA_BLESS=1");
    }
}
