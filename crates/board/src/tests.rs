//! The table, and what is derived from it.

mod bus;
mod fdt;
mod qemu;
mod qtest;

use crate::*;
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_line_has_one_owner_and_exists() {
    let mut seen = BTreeSet::from([0]);
    for line in RiscvVirt::rows().iter().flat_map(Row::all_lines) {
        assert!(line < strata_devices::plic::SOURCES, "{line}");
        assert!(seen.insert(line), "line {line} stands twice");
    }
    assert_eq!(RiscvVirt::line(PartId::Uart0, 0), Some(10));
    assert_eq!(RiscvVirt::line(PartId::VirtioMmio, 7), Some(8));
    assert_eq!(RiscvVirt::line(PartId::VirtioMmio, 8), None);
}

#[test]
fn what_is_built_answers_and_room_does_not() {
    for row in RiscvVirt::rows() {
        assert_eq!(row.built, row.widths != 0, "{}", row.name);
        assert!(row.built || row.node.is_none(), "{} is described but not built", row.name);
        assert!(!row.about.is_empty());
    }
    assert!(RiscvVirt::place(PartId::VirtioMmio, VIRTIO_SLOTS).is_none());
    let slot = RiscvVirt::place(PartId::VirtioMmio, 3).unwrap();
    assert_eq!((slot.base, slot.name.as_str()), (0x1000_4000, "virtio-mmio3"));
}

#[test]
fn the_order_of_states_is_fixed() {
    let want = "hart0 hart1 syscon rtc vmgenid clint plic uart0 virtio-mmio0 virtio-mmio1 virtio-mmio2 virtio-mmio3 \
                virtio-mmio4 virtio-mmio5 virtio-mmio6 virtio-mmio7";
    assert_eq!(RiscvVirt::parts_in_order(2).join(" "), want);
}

#[test]
fn the_pages_are_the_committed_ones() {
    for (name, page) in [("riscv-virt", page::riscv_virt()), ("x86-micro", page::x86_micro())] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/board-{name}.md"));
        if std::env::var_os("STRATA_BLESS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let name = path.display();
        assert!(committed == page, "{name} is not the table's; run with STRATA_BLESS=1 and look at it");
    }
}
