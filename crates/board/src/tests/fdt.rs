use crate::Transport;
use crate::dtb::Tree;
use crate::fdt::*;
use crate::fuzz::fuzz_fdt;
use proptest::prelude::*;
use strata_engine::{Entropy, SeededEntropy};

/// A machine as QEMU's of the comparison.
pub(super) fn spec() -> FdtSpec {
    FdtSpec {
        harts: 2,
        isa: "rv64imafdc_zicsr".into(),
        isa_base: "rv64i".into(),
        isa_extensions: ["i", "m", "a", "f", "d", "c", "zicsr"].map(String::from).to_vec(),
        mmu_type: "riscv,sv48".into(),
        cbom_block: Some(64),
        cboz_block: Some(64),
        transport: Transport::Mmio,
        ram_len: 128 << 20,
        bootargs: "console=ttyS0".into(),
        initrd: Some((0x8400_0000, 0x8400_1000)),
        rng_seed: vec![7; 32],
        kaslr_seed: Some(0x1234),
    }
}

#[test]
fn what_is_asked_for_is_in_the_tree() {
    let tree = Tree::read(&build(&spec()).unwrap()).unwrap();
    assert_eq!(tree.text("/chosen", "bootargs"), Some("console=ttyS0"));
    assert_eq!(tree.text("/chosen", "stdout-path"), Some("/soc/serial@10000000"));
    assert_eq!(tree.cells("/chosen", "linux,initrd-start"), Some(vec![0, 0x8400_0000]));
    assert_eq!(tree.cells("/chosen", "kaslr-seed"), Some(vec![0, 0x1234]));
    assert_eq!(tree.cells("/memory@80000000", "reg"), Some(vec![0, 0x8000_0000, 0, 128 << 20]));
    assert_eq!(tree.cells("/cpus", "timebase-frequency"), Some(vec![10_000_000]));
    assert_eq!(tree.text("/cpus/cpu@1", "riscv,isa-extensions"), Some("i\0m\0a\0f\0d\0c\0zicsr"));
    assert_eq!(tree.cells("/cpus/cpu@1", "riscv,cbom-block-size"), Some(vec![64]));
    let core = tree.cells("/cpus/cpu-map/cluster0/core1", "cpu").unwrap();
    assert_eq!(tree.by_handle(core[0]), Some("/cpus/cpu@1"));
    let console = tree.text("/aliases", "serial0").unwrap();
    assert!(tree.nodes.contains_key(console));
}

#[test]
fn virtio_is_in_slots_or_on_a_pci_bus() {
    let mmio = Tree::read(&build(&spec()).unwrap()).unwrap();
    let pci = Tree::read(&build(&FdtSpec { transport: Transport::Pci, ..spec() }).unwrap()).unwrap();
    let slots = |t: &Tree| t.nodes.keys().filter(|n| n.starts_with("/soc/virtio_mmio@")).count();
    let bus = "/soc/pci@30000000";
    assert_eq!((slots(&mmio), mmio.nodes.contains_key(bus)), (8, false));
    assert_eq!((slots(&pci), pci.text(bus, "device_type")), (0, Some("pci")));
    assert_eq!(pci.cells(bus, "reg"), Some(vec![0, 0x3000_0000, 0, 0x1000_0000]));
    let window = [0x0200_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0, 0x4000_0000];
    assert_eq!(pci.cells(bus, "ranges"), Some(window.to_vec()));
    // Device 3, pin A and pin B.
    let map = pci.cells(bus, "interrupt-map").unwrap();
    let row = |device: u32, pin: u32| map.chunks(6).find(|r| (r[0], r[3]) == (device << 11, pin)).unwrap()[5];
    assert_eq!((map.len(), row(3, 1), row(3, 2), row(0, 4)), (96, 35, 32, 35));
}

#[test]
fn the_largest_machine_can_be_described() {
    let harts = crate::MAX_HARTS;
    let tree = Tree::read(&build(&FdtSpec { harts, ..spec() }).unwrap()).unwrap();
    assert!(tree.nodes.contains_key("/cpus/cpu@1ff"));
    assert_eq!(tree.cells("/soc/plic@c000000", "interrupts-extended").unwrap().len(), 4 * 512);
}

#[test]
fn what_cannot_be_described_is_refused_by_name() {
    let refused = |change: fn(&mut FdtSpec)| {
        let mut s = spec();
        change(&mut s);
        build(&s).unwrap_err()
    };
    assert_eq!(refused(|s| s.harts = 0), FdtError::Harts(0));
    assert_eq!(refused(|s| s.harts = 513), FdtError::Harts(513));
    assert_eq!(refused(|s| s.ram_len = 0), FdtError::Ram(0));
    assert_eq!(refused(|s| s.ram_len = u64::MAX), FdtError::Ram(u64::MAX));
    let initrds = [(0x7fff_ffff, 0x8000_1000), (0x8000_0000, 0x8000_0000), (0x8000_0000, 0x8800_0001)];
    for (start, end) in initrds {
        let s = FdtSpec { initrd: Some((start, end)), ..spec() };
        assert_eq!(build(&s), Err(FdtError::Initrd { start, end }));
    }
    assert!(matches!(refused(|s| s.bootargs = "x".repeat(4096)), FdtError::TooLong { len: 4096, .. }));
    assert_eq!(refused(|s| s.bootargs.push('\0')), FdtError::Text("kernel command line"));
    assert_eq!(refused(|s| s.isa.clear()), FdtError::Text("ISA string"));
    assert_eq!(refused(|s| s.isa_extensions.push("a\0".into())), FdtError::Text("name of an extension"));
}

#[test]
fn the_corpus_and_random_descriptions_break_nothing() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/fdt");
    let mut seeds: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|f| std::fs::read(f.unwrap().path()).unwrap()).collect();
    assert!(seeds.len() >= 6);
    seeds.push(build(&spec()).unwrap());
    seeds.iter().for_each(|s| fuzz_fdt(s));
    let mut random = SeededEntropy(2);
    for round in 0..3000 {
        // Half are damaged seeds, half are noise.
        let mut data =
            if round % 2 == 0 { seeds[round / 2 % seeds.len()].clone() } else { vec![0; round % 300] };
        let mut noise = [0; 8];
        if round % 2 == 0 {
            random.fill(&mut noise);
            let at = u64::from_le_bytes(noise) as usize % data.len();
            data[at] ^= noise[7].max(1);
        } else {
            random.fill(&mut data);
        }
        fuzz_fdt(&data);
    }
}

proptest! {
    #[test]
    fn any_description_is_refused_or_reads_back(
        harts in 0u32..20, ram_len: u64, isa: String, bootargs: String, seed: Vec<u8>, ext: Vec<String>,
    ) {
        let s = FdtSpec { harts, ram_len, isa, bootargs, rng_seed: seed, isa_extensions: ext, initrd: None, ..spec() };
        if let Ok(blob) = build(&s) {
            let tree = Tree::read(&blob).unwrap();
            prop_assert_eq!(tree.text("/cpus/cpu@0", "riscv,isa"), Some(s.isa.as_str()));
        }
    }
}
