//! No file, however broken, does more than get an error.

use super::*;
use crate::fuzz::fuzz_loader;
use crate::tests::guest;
use proptest::prelude::*;

fn seeds() -> Vec<Vec<u8>> {
    let mut a = guest::Asm::default();
    a.put(b'x').jump(0);
    let elf = guest::elf(guest::RAM, &a.bytes(), guest::RAM + 0x100, guest::RAM + 0x140);
    let image = a.image();
    // With a PE table of two sections.
    let mut pe = image.clone();
    pe.resize(0x400, 0);
    pe[..2].copy_from_slice(b"MZ");
    pe[60..64].copy_from_slice(&0x280u32.to_le_bytes());
    pe[0x280..0x284].copy_from_slice(b"PE\0\0");
    pe[0x286] = 2;
    for (n, (size, start)) in [(0x100u32, 0x200u32), (0x100, 0x300)].into_iter().enumerate() {
        let row = 0x280 + 24 + 40 * n;
        pe[row + 16..row + 20].copy_from_slice(&size.to_le_bytes());
        pe[row + 20..row + 24].copy_from_slice(&start.to_le_bytes());
    }
    vec![elf, image, pe]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_files_never_panic(
        seed in 0usize..3,
        role in 0u8..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let mut bytes = seeds().swap_remove(seed);
        for (at, to) in changes {
            // Mostly in the headers, where it matters.
            let n = at.index(bytes.len()) % if to & 1 == 0 { 160 } else { usize::MAX };
            bytes[n] = to;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.insert(0, role);
        fuzz_loader(&bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_loader(&bytes);
    }
}

#[test]
fn the_seeds_load() {
    for bytes in seeds() {
        let what = Placement { kernel: Some(guest::source(&bytes)), ..Default::default() };
        let ram = strata_memory::GuestRam::single(guest::RAM, 16 << 20).unwrap();
        load::<LoadError>(&ram, &what, |_| Ok(vec![1; 64])).unwrap();
    }
}

#[test]
fn a_kernel_linked_high_starts_where_it_is_loaded() {
    let mut bytes = guest::elf(guest::RAM, &[0x13; 64], 1, 1);
    let high = 0xffff_ffff_8000_0000u64;
    bytes[24..32].copy_from_slice(&(high + 8).to_le_bytes());
    bytes[64 + 16..64 + 24].copy_from_slice(&high.to_le_bytes());
    let elf = Elf::parse(&guest::source(b""), &bytes).unwrap();
    assert_eq!(elf.entry, guest::RAM + 8);
    assert_eq!(elf.htif, Some(HtifSymbols { tohost: 1, fromhost: 1 }));
}
