use super::*;
use std::io::Write;
use strata_engine::Privilege;
use strata_memory::GuestRam;

const BASE: u64 = 0x8000_0000;

fn source(name: &str, bytes: &[u8]) -> Source {
    let mut file = tempfile();
    file.write_all(bytes).unwrap();
    Source { file, name: name.into() }
}

fn tempfile() -> File {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    File::from(fd)
}

/// An Image with a PE section table that says the file is `file_len` bytes long.
fn kernel(file_len: u32, image_size: u64) -> Vec<u8> {
    let mut b = vec![0u8; 512];
    b[..2].copy_from_slice(b"MZ");
    b[8..16].copy_from_slice(&0x20_0000u64.to_le_bytes());
    b[16..24].copy_from_slice(&image_size.to_le_bytes());
    b[48..56].copy_from_slice(b"RISCV\0\0\0");
    b[56..60].copy_from_slice(b"RSC\x05");
    b[60..64].copy_from_slice(&64u32.to_le_bytes());
    b[64..68].copy_from_slice(b"PE\0\0");
    b[70..72].copy_from_slice(&1u16.to_le_bytes());
    let row = 64 + 24;
    b[row + 16..row + 20].copy_from_slice(&(file_len - 512).to_le_bytes());
    b[row + 20..row + 24].copy_from_slice(&512u32.to_le_bytes());
    b.resize(file_len as usize, 0x5a);
    b
}

fn go(ram: u64, what: &Placement) -> Result<Loaded, LoadError> {
    let ram = GuestRam::single(BASE, ram).unwrap();
    load(&ram, what, |_| Ok(vec![0xd0; 1000]))
}

#[test]
fn a_kernel_and_an_initrd_are_placed_apart() {
    let what = Placement {
        kernel: Some(source("k", &kernel(4096, 8 << 20))),
        initrd: Some(source("i", &[7; 5000])),
        ..Default::default()
    };
    let ram = GuestRam::single(BASE, 64 << 20).unwrap();
    let mut range = None;
    let got = load::<LoadError>(&ram, &what, |r| {
        range = r;
        Ok(vec![0xd0; 1000])
    })
    .unwrap();
    assert_eq!(got.entry.pc, BASE + 0x20_0000);
    assert_eq!(got.entry.privilege, Privilege::Kernel);
    assert_eq!(range, Some((BASE + (32 << 20), BASE + (32 << 20) + 5000)));
    assert_eq!(got.entry.args[1], got.fdt.0);
    let mut b = [0; 2];
    ram.peek(got.fdt.0, &mut b).unwrap();
    assert_eq!(b, [0xd0; 2]);
}

#[test]
fn a_kernel_cut_short_is_told_by_its_section_table() {
    let mut bytes = kernel(4096, 8 << 20);
    bytes.truncate(2000);
    let what = Placement { kernel: Some(source("k", &bytes)), ..Default::default() };
    assert!(matches!(go(64 << 20, &what), Err(LoadError::CutShort { have: 2000, need: 4096, .. })));
    for n in [10, 32, 62, 63, 66, 70, 90, 127, 511] {
        let what = Placement { kernel: Some(source("k", &bytes[..n])), ..Default::default() };
        assert!(go(64 << 20, &what).is_err(), "{n}");
    }
}

#[test]
fn foreign_kernels_are_named() {
    let mut arm = vec![0u8; 4096];
    arm[0x38..0x3c].copy_from_slice(b"ARMd");
    let mut x86 = vec![0u8; 4096];
    x86[0x202..0x206].copy_from_slice(b"HdrS");
    for (bytes, word) in [(arm, "Arm"), (x86, "x86"), (vec![], "empty"), (b"hello".to_vec(), "Image header")]
    {
        let what = Placement { kernel: Some(source("k", &bytes)), ..Default::default() };
        let e = go(64 << 20, &what).unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    }
}

#[test]
fn too_little_memory_says_so() {
    let what = Placement { kernel: Some(source("k", &kernel(4096, 80 << 20))), ..Default::default() };
    let e = go(64 << 20, &what).unwrap_err();
    assert!(matches!(e, LoadError::NoRoom { .. }) && e.to_string().contains("more memory"), "{e}");
    assert!(matches!(go(4096, &what), Err(LoadError::NoRoom { .. })));
}

#[test]
fn a_raw_firmware_gets_its_payload_and_the_dynamic_block() {
    let what = Placement {
        firmware: Some(source("fw", &[0x13, 0, 0, 0, 1])),
        kernel: Some(source("u-boot", &[1, 2, 3, 4])),
        ..Default::default()
    };
    let ram = GuestRam::single(BASE, 64 << 20).unwrap();
    let got = load::<LoadError>(&ram, &what, |_| Ok(vec![0xd0; 1000])).unwrap();
    assert_eq!((got.entry.pc, got.entry.privilege), (BASE, Privilege::Firmware));
    let mut block = [0; 24];
    ram.peek(got.entry.args[2], &mut block).unwrap();
    assert_eq!(block[..8], 0x4942_534fu64.to_le_bytes());
    assert_eq!(block[16..24], (BASE + 0x20_0000).to_le_bytes());
    let empty = Placement { firmware: Some(source("fw", &[])), ..Default::default() };
    assert!(load::<LoadError>(&ram, &empty, |_| Ok(vec![])).is_err());
}

#[test]
fn elf_files_for_other_machines_are_refused() {
    let own = std::fs::read("/proc/self/exe").unwrap();
    let what = Placement { firmware: Some(source("me", &own)), ..Default::default() };
    let e = go(64 << 20, &what).unwrap_err().to_string();
    assert!(e.contains("not RISC-V"), "{e}");
}

#[test]
fn headers_that_a_linker_puts_below_ram_are_left_out() {
    use super::elf::Segment;
    let mut bytes = vec![0u8; 0x1100];
    bytes[..4].copy_from_slice(b"\x7fELF");
    bytes[0x1000] = 0x13;
    let s = Segment { address: BASE - 0x1000, linked: BASE - 0x1000, file: 0..0x1100, memory: 0x1200 };
    let cut = s.above(BASE, 64, &bytes);
    assert_eq!((cut.address, cut.linked, cut.file.clone(), cut.memory), (BASE, BASE, 0x1000..0x1100, 0x200));
    // Something of the program lies there: it stays, and does not fit.
    bytes[0x800] = 1;
    assert_eq!(s.above(BASE, 64, &bytes), s);
    let inside = Segment { address: BASE, ..s };
    assert_eq!(inside.above(BASE, 64, &bytes), inside);
}
