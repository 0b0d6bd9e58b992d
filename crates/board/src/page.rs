//! The page of documentation about a board, written from its rows.

use crate::{Board, Lines, PartId, RiscvVirt, Row, Space};
use std::fmt::Write;

/// The page about `riscv-virt`, in Markdown.
pub fn riscv_virt() -> String {
    let mut page = String::from(
        "# The board `riscv-virt`\n\n\
         The memory map of QEMU's `virt` machine, so that kernels and firmware built for that run unchanged.\n\
         This page is written from the board's table (`crates/board/src/riscv_virt.rs`); do not edit it, but run\n\
         `STRATA_BLESS=1 cargo test -p strata-board` after a change of the table.\n\n",
    );
    table(&mut page, Board::RiscvVirt, "Device tree", |row| {
        row.node.map_or(String::from("–"), |n| format!("`{}`", n.compatible.join("`, `")))
    });
    let _ = write!(
        page,
        "\nRows in parentheses keep room: nothing answers there yet, and an access is an access fault; so is an\n\
         access in a width that is not listed, or one that is not naturally aligned.\n\n\
         The harts' timebase is {} Hz. Interrupt lines are inputs of the PLIC, whose contexts are M and S mode of\n\
         hart 0, M and S mode of hart 1, and so on, for up to {} harts.\n\n\
         The states of the parts are saved in this order: the harts, {}.\n\n\
         {VIRTIO}Functions interrupt by\ntheir pin: that of device n is line 32 + n mod 4.\n",
        RiscvVirt::TIMEBASE,
        crate::MAX_HARTS,
        RiscvVirt::parts_in_order(0).iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
    );
    page
}

/// The page about `x86-micro`, in Markdown.
pub fn x86_micro() -> String {
    let mut page = String::from(
        "# The board `x86-micro`\n\n\
         A PC with nothing on it that a guest of today can do without. It begins with a kernel (a bzImage by Linux's\n\
         32-bit boot protocol, or an ELF file with a PVH entry), without firmware, and is described by ACPI tables.\n\
         This page is written from the board's table (`crates/board/src/x86_micro.rs`); do not edit it, but run\n\
         `STRATA_BLESS=1 cargo test -p strata-board` after a change of the table.\n\n",
    );
    table(&mut page, Board::X86Micro, "ACPI", |row| {
        row.acpi.map_or(String::from("–"), |a| match a.cid {
            Some(cid) => format!("`{}`, `{cid}`", a.hid),
            None => format!("`{}`", a.hid),
        })
    });
    page.push_str(
        "\nPorts are marked as such; all else is memory. Rows in parentheses are answered by the host's KVM. An\n\
         access that nobody answers reads as ones, and a write to it is lost, as on any PC.\n\n\
         Interrupt lines are inputs of the I/O APIC. Those of the virtio slots and of `vmgenid` are triggered\n\
         by level, the others by edge. The processors' local APICs, the I/O APIC, the two 8259s and the 8254\n\
         timer are KVM's.\n\n\
         The tables are RSDP, XSDT, FADT (reduced hardware: no fixed registers but those for sleep and\n\
         reset), MADT and DSDT, which has the devices and an event device that tells of a new generation ID.\n\
         A write of 0xfe to port 0x64 resets; the sleep register powers off.\n\n",
    );
    page.push_str(VIRTIO);
    page.push_str(
        "Functions interrupt by\nmessages (MSI-X) alone and have no pin; MCFG tells of their configuration space.\n",
    );
    page
}

/// What holds of both.
const VIRTIO: &str = "A machine has its virtio devices in the slots (`--virtio mmio`) or as functions of the PCIe bus \
                      (`--virtio pci`):\nslot n is device n + 1 there, with its registers in one BAR of 32 KiB, which the \
                      guest places. The other is not\nthere then, and firmware does not tell of it. ";

fn table(page: &mut String, board: Board, firmware: &str, known_as: impl Fn(&Row) -> String) {
    let _ = writeln!(page, "| Address | Size | Interrupt | Part | {firmware} | Widths | What it is |");
    page.push_str("|---|---|---|---|---|---|---|\n");
    for row in board.rows() {
        let address = match row.space {
            Space::Memory => format!("`{:#010x}`", row.base),
            Space::Ports => format!("port `{:#x}`", row.base),
        };
        let _ = writeln!(
            page,
            "| {address} | {} | {} | {} | {} | {} | {} |",
            size(row),
            lines(row),
            part(row),
            known_as(row),
            widths(row),
            row.about
        );
    }
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
