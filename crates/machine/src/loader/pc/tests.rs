use super::*;
use proptest::prelude::*;
use std::fs::File;
use std::io::Write;

const RAM: u64 = 64 << 20;

fn source(bytes: &[u8]) -> Source {
    let memory = rustix::fs::memfd_create("kernel", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(memory);
    file.write_all(bytes).unwrap();
    Source { file, name: "kernel".into() }
}

fn load_with(kernel: &[u8], initrd: Option<&[u8]>, ram: &GuestRam) -> Result<Entry, LoadError> {
    let (kernel, initrd) = (Some(source(kernel)), initrd.map(source));
    load(ram, &Placement { firmware: None, kernel, initrd }, "console=ttyS0", (2, Transport::Mmio))
}

/// A bzImage of one setup sector and 4096 bytes of kernel.
fn bz_image() -> Vec<u8> {
    let mut image = vec![0; 1024 + 4096];
    set(&mut image, zero_page::SETUP_SECTS, &[1]);
    set(&mut image, zero_page::SYSTEM_SIZE, &256_u32.to_le_bytes());
    set(&mut image, zero_page::HEADER_MAGIC, b"HdrS");
    set(&mut image, zero_page::VERSION, &[0x0f, 0x02]);
    set(&mut image, zero_page::LOAD_FLAGS, &[1]);
    set(&mut image, zero_page::INITRD_MAX, &0x7fff_ffff_u32.to_le_bytes());
    set(&mut image, zero_page::INIT_SIZE, &0x10_0000_u32.to_le_bytes());
    image[1024..].fill(0x90);
    image
}

/// An ELF kernel with one segment at 2 MiB and a PVH entry.
fn elf() -> Vec<u8> {
    let mut e = b"\x7fELF\x02\x01\x01".to_vec();
    e.resize(16, 0);
    let half = |e: &mut Vec<u8>, v: u16| e.extend(v.to_le_bytes());
    let quad = |e: &mut Vec<u8>, v: u64| e.extend(v.to_le_bytes());
    [2, 62, 1, 0].into_iter().for_each(|v| half(&mut e, v));
    [0x123, 64, 0].into_iter().for_each(|v| quad(&mut e, v));
    [0, 0, 64, 56, 2, 0, 0, 0].into_iter().for_each(|v| half(&mut e, v));
    let note_at = 64 + 2 * 56;
    for (kind, offset, at, file, memory) in [(1_u64, 0, 2 << 20, 64, 4096), (4, note_at, 0, 20, 20)] {
        [kind, offset, at, at, file, memory, 8].into_iter().for_each(|v| quad(&mut e, v));
    }
    for word in [4_u32, 4, NOTE_PHYS32_ENTRY] {
        e.extend(word.to_le_bytes());
    }
    e.extend(b"Xen\0");
    e.extend(0x20_0040_u32.to_le_bytes());
    e
}

fn word(ram: &GuestRam, at: u64) -> u32 {
    let mut bytes = [0; 4];
    ram.peek(at, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn a_bz_image_finds_its_parameters() {
    let ram = GuestRam::single(0, RAM).unwrap();
    let entry = load_with(&bz_image(), Some(&[7; 5000]), &ram).unwrap();
    assert_eq!((entry.pc, entry.args[2], entry.privilege), (KERNEL, PARAMETERS, Privilege::Kernel));
    assert_eq!(word(&ram, KERNEL), 0x9090_9090);
    assert_eq!(word(&ram, RESET_VECTOR), 0x64e6_feb0, "mov al, 0xfe; out 0x64, al");
    let page = |at: usize| word(&ram, PARAMETERS + at as u64);
    assert_eq!(page(zero_page::HEADER_MAGIC), u32::from_le_bytes(*b"HdrS"));
    assert_eq!(page(zero_page::CMD_LINE_PTR), CMDLINE as u32);
    assert_eq!(page(zero_page::ACPI_RSDP), ACPI as u32);
    assert_eq!((page(zero_page::RAMDISK_IMAGE), page(zero_page::RAMDISK_SIZE)), (RAM as u32 - 8192, 5000));
    assert_eq!(page(zero_page::E820_ENTRIES) & 0xff, 2);
    assert_eq!(page(zero_page::E820_TABLE + 20), KERNEL as u32);
    assert_eq!(word(&ram, CMDLINE), u32::from_le_bytes(*b"cons"));
    assert_eq!(word(&ram, ACPI), u32::from_le_bytes(*b"RSD "));
}

#[test]
fn an_elf_kernel_begins_at_its_pvh_entry() {
    let ram = GuestRam::single(0, RAM).unwrap();
    let entry = load_with(&elf(), Some(&[7; 5000]), &ram).unwrap();
    assert_eq!((entry.pc, entry.args[1]), (0x20_0040, PARAMETERS));
    assert_eq!(word(&ram, 2 << 20), u32::from_le_bytes(*b"\x7fELF"));
    let info: Vec<u32> = (0..14).map(|n| word(&ram, PARAMETERS + 4 * n)).collect();
    let low = |at: u64| at as u32;
    assert_eq!(info[..4], [PVH_MAGIC, 1, 0, 1]);
    assert_eq!(info[4..], [low(PVH_MODULES), 0, low(CMDLINE), 0, low(ACPI), 0, low(PVH_MAP), 0, 2, 0]);
    assert_eq!((word(&ram, PVH_MODULES), word(&ram, PVH_MODULES + 8)), (RAM as u32 - 8192, 5000));
    assert_eq!((word(&ram, PVH_MAP + 24), word(&ram, PVH_MAP + 40)), (KERNEL as u32, USABLE));
}

#[test]
fn what_is_no_kernel_is_refused_by_name() {
    let small = GuestRam::single(0, 16 << 20).unwrap();
    let why = |bytes: &[u8]| load_with(bytes, None, &small).unwrap_err().to_string();
    assert!(why(&[]).contains("empty"));
    assert!(why(b"hello").contains("neither"));
    let mut arm = elf();
    arm[18] = 183;
    assert!(why(&arm).contains("another architecture"));
    let mut no_entry = elf();
    let at = no_entry.len() - 12;
    no_entry[at] = 17;
    assert!(why(&no_entry).contains("PVH"));
    let mut old = bz_image();
    old[zero_page::VERSION] = 9;
    assert!(why(&old).contains("2.9"));
    let mut greedy = bz_image();
    set(&mut greedy, zero_page::INIT_SIZE, &(64_u32 << 20).to_le_bytes());
    assert!(why(&greedy).contains("give the machine more memory"));
    assert!(load_with(&bz_image(), Some(&[1; 15 << 20]), &small).is_err(), "an initrd over the kernel");
    let whole = bz_image();
    for len in (0..whole.len()).step_by(7) {
        assert!(load_with(&whole[..len], None, &small).is_err(), "cut at {len}");
    }
    let placement = Placement { firmware: Some(source(b"x")), ..Placement::default() };
    assert!(load(&small, &placement, "", (1, Transport::Mmio)).unwrap_err().to_string().contains("firmware"));
    let placement = Placement { kernel: Some(source(&whole)), ..Placement::default() };
    assert!(
        load(&small, &placement, &"x".repeat(2048), (1, Transport::Mmio))
            .unwrap_err()
            .to_string()
            .contains("2047")
    );
}

proptest! {
    #[test]
    fn damage_is_survived(
        image in prop_oneof![Just(bz_image()), Just(elf())],
        at in 0_usize..700,
        bytes in proptest::collection::vec(any::<u8>(), 1..12),
    ) {
        let ram = GuestRam::single(0, 16 << 20).unwrap();
        let mut image = image;
        let len = image.len();
        for (n, b) in bytes.iter().enumerate() {
            image[(at + n) % len] = *b;
        }
        let _ = load_with(&image, None, &ram);
    }
}
