//! Fuzz targets: plain functions over bytes, for any fuzzer and for the tests.

use crate::Transport;
use crate::dtb::Tree;
use crate::fdt::{FdtSpec, build};

/// Takes values off the front of the data; zeroes after its end.
struct Data<'a>(&'a [u8]);

impl Data<'_> {
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head.to_vec()
    }
    fn number(&mut self) -> u64 {
        let mut b = self.bytes(9);
        b.resize(9, 0);
        let shift = b.pop().unwrap_or(0) & 63;
        b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)) >> shift
    }
    fn text(&mut self) -> String {
        let n = self.bytes(1).first().map_or(0, |n| usize::from(*n));
        String::from_utf8_lossy(&self.bytes(n)).into_owned()
    }
}

/// Builds the device tree of a machine described by `data`: it must be refused with an error, or be one that reads
/// back with what was asked for; and reads `data` itself as a tree.
///
/// # Panics
/// When the tree built is not the one asked for: that is the finding.
pub fn fuzz_fdt(data: &[u8]) {
    // Any result will do.
    let _ = Tree::read(data);
    let mut d = Data(data);
    let options = d.number();
    let on = |bit: u64| options >> bit & 1 == 1;
    let spec = FdtSpec {
        transport: if on(9) { Transport::Pci } else { Transport::Mmio },
        // Mostly few: a tree of hundreds of harts is slow to build.
        harts: if on(0) { d.number() as u32 } else { d.number() as u32 % 9 },
        isa: d.text(),
        isa_base: d.text(),
        mmu_type: d.text(),
        cbom_block: on(1).then(|| d.number() as u32),
        cboz_block: on(2).then(|| d.number() as u32),
        ram_len: d.number(),
        initrd: on(3).then(|| (d.number(), d.number())),
        kaslr_seed: on(4).then(|| d.number()),
        isa_extensions: (0..options >> 5 & 7).map(|_| d.text()).collect(),
        rng_seed: d.text().into_bytes(),
        bootargs: if on(8) { d.text().repeat(40) } else { d.text() },
    };
    let Ok(blob) = build(&spec) else { return };
    let tree = match Tree::read(&blob) {
        Ok(tree) => tree,
        Err(why) => panic!("{spec:?} gives a tree that does not read: {why}"),
    };
    let harts = tree.nodes.keys().filter(|p| p.starts_with("/cpus/cpu@") && p.matches('/').count() == 2);
    assert_eq!(harts.count(), spec.harts as usize);
    assert_eq!(tree.text("/chosen", "bootargs").unwrap_or(""), spec.bootargs);
    assert_eq!(tree.text("/cpus/cpu@0", "riscv,isa"), Some(spec.isa.as_str()));
    let seed = tree.nodes.get("/chosen").and_then(|n| n.get("rng-seed"));
    assert_eq!(seed.map_or(&[][..], |s| s), spec.rng_seed);
}
