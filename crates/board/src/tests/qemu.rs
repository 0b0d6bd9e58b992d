//! The board against QEMU's own: its device tree and ours, node by node.

use super::fdt::spec;
use crate::dtb::Tree;
use crate::{PartId, RiscvVirt};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Nodes that only QEMU's tree has: devices for which we keep room, or do without.
const ONLY_QEMU: [&str; 6] =
    ["/pmu", "/fw-cfg@10100000", "/flash@20000000", "/platform-bus@4000000", "/soc/pci@30000000", "/aliases"];
/// Nodes that only ours has: QEMU before version 8 names no console in `/aliases`, and none has a generation ID here.
const ONLY_OURS: [&str; 2] = ["/aliases", "/soc/vmgenid@102000"];

/// Properties in which the trees differ on purpose:
/// - `model` names who made the machine; `riscv,isa*`, `mmu-type` and block sizes are our hart's, not QEMU's;
/// - handles are numbers of the writer's choice, so what refers to them is compared by the node it leads to;
/// - what is in `/chosen` is given by the user;
/// - `riscv,ndev` of QEMU before version 8 counts the source 0, which does not exist.
const DIFFERENT: [&str; 15] = [
    "model",
    "riscv,isa",
    "riscv,isa-base",
    "riscv,isa-extensions",
    "mmu-type",
    "riscv,cbom-block-size",
    "riscv,cboz-block-size",
    "riscv,cbop-block-size",
    "phandle",
    "bootargs",
    "linux,initrd-start",
    "linux,initrd-end",
    "rng-seed",
    "kaslr-seed",
    "riscv,ndev",
];

/// QEMU's tree for two harts and 128 MiB; none, with a word about it, where QEMU is not installed.
fn qemu() -> Option<Tree> {
    // The tests run at once in one process: a file each.
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = CALLS.fetch_add(1, Relaxed);
    let file = std::env::temp_dir().join(format!("strata-board-{}-{call}.dtb", std::process::id()));
    let machine = format!("virt,dumpdtb={}", file.display());
    let args = ["-M", &machine, "-smp", "2", "-m", "128M", "-display", "none", "-monitor", "none"];
    let run = Command::new("qemu-system-riscv64").args(args).args(["-serial", "none"]).output();
    let bytes = std::fs::read(&file);
    let _ = std::fs::remove_file(&file);
    match (run, bytes) {
        (Ok(_), Ok(bytes)) => Some(Tree::read(&bytes).expect("QEMU's tree must read")),
        (run, _) => {
            let why = run.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stderr).into_owned());
            assert!(std::env::var_os("STRATA_REQUIRE_TOOLS").is_none(), "qemu-system-riscv64: {why}");
            eprintln!("skipped: no device tree from qemu-system-riscv64 ({why})");
            None
        }
    }
}

/// The value with every handle in it replaced by the path that it leads to.
fn meaning(tree: &Tree, path: &str, prop: &str) -> Option<String> {
    let node = |handle: u32| tree.by_handle(handle).unwrap_or("nowhere").to_owned();
    match prop {
        "interrupt-parent" | "regmap" | "cpu" => tree.cells(path, prop).map(|c| node(c[0])),
        "interrupts-extended" => {
            let cells = tree.cells(path, prop)?;
            Some(cells.chunks(2).map(|c| format!("{} {}", node(c[0]), c[1])).collect::<Vec<_>>().join(", "))
        }
        _ => tree.nodes.get(path)?.get(prop).map(|bytes| format!("{:?}", bytes.escape_ascii().to_string())),
    }
}

#[test]
fn our_tree_is_qemus_but_for_what_is_listed() {
    let Some(theirs) = qemu() else { return };
    let ours = Tree::read(&crate::fdt::build(&spec()).unwrap()).unwrap();
    let mut compared = 0;
    for (path, props) in &ours.nodes {
        let Some(their_props) = theirs.nodes.get(path) else {
            assert!(ONLY_OURS.contains(&path.as_str()), "QEMU has no {path}");
            continue;
        };
        let names = props.keys().chain(their_props.keys());
        for prop in names.filter(|p| !DIFFERENT.contains(&p.as_str())) {
            let (a, b) = (meaning(&ours, path, prop), meaning(&theirs, path, prop));
            assert_eq!(a, b, "{path} {prop}: ours, QEMU's");
            compared += 1;
        }
    }
    for path in theirs.nodes.keys().filter(|p| !ours.nodes.contains_key(*p)) {
        assert!(ONLY_QEMU.contains(&path.as_str()), "we have no {path}");
    }
    assert!(compared > 100, "only {compared} properties were compared");
}

#[test]
fn our_pci_bus_is_qemus_but_for_its_ports_and_its_addresses_above_4_gib() {
    let Some(theirs) = qemu() else { return };
    let spec = crate::fdt::FdtSpec { transport: crate::Transport::Pci, ..spec() };
    let ours = Tree::read(&crate::fdt::build(&spec).unwrap()).unwrap();
    let bus = "/soc/pci@30000000";
    let map = |t: &Tree| {
        let cells = t.cells(bus, "interrupt-map").unwrap();
        let row = |r: &[u32]| (r[..4].to_vec(), t.by_handle(r[4]).map(str::to_owned), r[5]);
        let mut rows: Vec<_> = cells.chunks(6).map(row).collect();
        rows.sort();
        rows
    };
    assert_eq!(map(&ours), map(&theirs));
    for name in ours.nodes[bus].keys().filter(|p| !["interrupt-map", "ranges"].contains(&p.as_str())) {
        assert_eq!(meaning(&ours, bus, name), meaning(&theirs, bus, name), "{name}");
    }
    let ours = ours.cells(bus, "ranges").unwrap();
    assert!(theirs.cells(bus, "ranges").unwrap().chunks(7).any(|range| range == ours));
}

#[test]
fn room_is_kept_where_qemu_has_its_devices() {
    let Some(theirs) = qemu() else { return };
    let rooms = [
        (PartId::FwCfg, "/fw-cfg@10100000"),
        (PartId::Flash, "/flash@20000000"),
        (PartId::PcieEcam, "/soc/pci@30000000"),
    ];
    for (part, path) in rooms {
        let row = RiscvVirt::row(part);
        let reg = theirs.cells(path, "reg").unwrap();
        assert_eq!((u64::from(reg[1]), u64::from(reg[3])), (row.base, row.size), "{path}");
    }
    // `ranges` of the host bridge: (kind, -, -, -, address, -, size) each.
    let ranges = theirs.cells("/soc/pci@30000000", "ranges").unwrap();
    for (part, at) in [(PartId::PciePio, 0), (PartId::PcieMmio, 7)] {
        let row = RiscvVirt::row(part);
        assert_eq!((u64::from(ranges[at + 4]), u64::from(ranges[at + 6])), (row.base, row.size), "{part:?}");
    }
    let map = theirs.cells("/soc/pci@30000000", "interrupt-map").unwrap();
    let lines = RiscvVirt::row(PartId::PcieEcam).all_lines();
    assert!(map.chunks(6).all(|m| lines.contains(&m[5])));
}
