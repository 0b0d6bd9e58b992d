//! The page of documentation about a board, written from its rows.

use crate::{Lines, PartId, RiscvVirt, Row};
use std::fmt::Write;

/// The page about `riscv-virt`, in Markdown.
pub fn riscv_virt() -> String {
    let mut page = String::from(
        "# The board `riscv-virt`\n\n\
         The memory map of QEMU's `virt` machine, so that kernels and firmware built for that run unchanged.\n\
         This page is written from the board's table (`crates/board/src/riscv_virt.rs`); do not edit it, but run\n\
         `STRATA_BLESS=1 cargo test -p strata-board` after a change of the table.\n\n\
         | Address | Size | Interrupt | Part | Device tree | Widths | What it is |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in RiscvVirt::rows() {
        let _ = writeln!(
            page,
            "| `{:#010x}` | {} | {} | {} | {} | {} | {} |",
            row.base,
            size(row),
            lines(row),
            part(row),
            row.node.map_or(String::from("–"), |n| format!("`{}`", n.compatible.join("`, `"))),
            widths(row),
            row.about
        );
    }
    let _ = write!(
        page,
        "\nRows in parentheses keep room: nothing answers there yet, and an access is an access fault; so is an\n\
         access in a width that is not listed, or one that is not naturally aligned.\n\n\
         The harts' timebase is {} Hz. Interrupt lines are inputs of the PLIC, whose contexts are M and S mode of\n\
         hart 0, M and S mode of hart 1, and so on, for up to {} harts.\n\n\
         The states of the parts are saved in this order: the harts, {}.\n",
        RiscvVirt::TIMEBASE,
        crate::MAX_HARTS,
        RiscvVirt::parts_in_order(0).iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
    );
    page
}

fn size(row: &Row) -> String {
    match (row.part, row.count) {
        (PartId::Ram, _) => "as given".into(),
        (_, 1) => format!("`{:#x}`", row.size),
        (_, n) => format!("{n} × `{:#x}`", row.size),
    }
}

fn lines(row: &Row) -> String {
    let all = row.all_lines();
    match row.lines {
        Lines::None => "–".into(),
        _ if all.len() == 1 => all.start.to_string(),
        _ => format!("{} to {}", all.start, all.end.saturating_sub(1)),
    }
}

fn part(row: &Row) -> String {
    let last = row.count.saturating_sub(1);
    let name = match row.count {
        1 => format!("`{}`", row.name),
        _ => format!("`{}` to `{}`", row.place_name(0), row.place_name(last)),
    };
    if row.built { name } else { format!("({name})") }
}

fn widths(row: &Row) -> String {
    let listed: Vec<_> =
        [1, 2, 4, 8].iter().filter(|w| row.widths & **w != 0).map(ToString::to_string).collect();
    if listed.is_empty() { "–".into() } else { listed.join(", ") }
}
