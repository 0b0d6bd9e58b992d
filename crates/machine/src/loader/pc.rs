//! What is put into the RAM of an `x86-micro` board before its first instruction, and where that is.
//!
//! Two ways in, both in 32-bit protected mode with flat segments:
//! - a **bzImage** by Linux's 32-bit boot protocol (Linux, Documentation/arch/x86/boot.rst; ESI has the boot parameters);
//! - an **ELF kernel with a PVH entry** note (Xen, xen/include/public/arch-x86/hvm/start_info.h; EBX has the start information).
//!
//! ```text
//! 0x0_7000    PVH start information, memory map and module list     or the boot parameters ("zero page")
//! 0x2_0000    command line
//! 0xe_0000    ACPI tables
//! 0xf_fff0    what a jump to the firmware does: a reset
//! 1 MiB       kernel (or where its ELF says)
//! below the end of low RAM, page-aligned: initrd
//! ```
//! Every file is hostile: sizes and addresses are checked against RAM and against each other.

use super::image::u32_at;
use super::room::Room;
use super::{LoadError, Placement, Source};
use object::LittleEndian;
use object::elf::{EM_X86_64, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use strata_board::{Transport, X86Micro, acpi};
use strata_engine::{Entry, Privilege};
use strata_memory::GuestRam;

/// Where the boot parameters, or PVH's start information, stand: a page.
const PARAMETERS: u64 = 0x7000;
/// PVH's memory map and list of modules, behind the start information.
const PVH_MAP: u64 = PARAMETERS + 0x100;
const PVH_MODULES: u64 = PARAMETERS + 0xe00;
/// Command line.
const CMDLINE: u64 = 0x2_0000;
/// Longest that any kernel takes (x86's COMMAND_LINE_SIZE), with the zero at its end.
const CMDLINE_MAX: usize = 2048;
/// ACPI tables, where a guest that was told nothing looks for them.
const ACPI: u64 = 0xe_0000;
/// Where a PC's firmware is entered in real mode, to start again. Linux does so where ACPI says that the hardware is reduced
/// and there is no EFI: it then asks neither ACPI's reset register nor the keyboard controller (`efi_reboot_required`).
const RESET_VECTOR: u64 = 0xf_fff0;
/// mov al, 0xfe; out 0x64, al; and, until that takes effect: hlt; jmp back.
const RESET: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];
/// Where the memory that no PC has ever had for programs begins, and where it ends.
const LOW_END: u64 = 0xa_0000;
const KERNEL: u64 = 1 << 20;

/// Fields of the boot parameters by offset (boot.rst, "The Real-Mode Kernel Header"; zero-page.rst).
mod zero_page {
    pub const ACPI_RSDP: usize = 0x70;
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const SYSTEM_SIZE: usize = 0x1f4;
    pub const HEADER_MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const LOADER: usize = 0x210;
    pub const LOAD_FLAGS: usize = 0x211;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const INITRD_MAX: usize = 0x22c;
    pub const INIT_SIZE: usize = 0x260;
    /// End of the header of any version.
    pub const HEADER_END: usize = 0x290;
    pub const E820_TABLE: usize = 0x2d0;
    pub const SIZE: usize = 4096;
}

const BZIMAGE: &str = "a kernel for x86-64 (bzImage, or ELF with a PVH entry)";
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_PHYS32_ENTRY: u32 = 18;
/// "xEn3".
const PVH_MAGIC: u32 = 0x336e_c578;
/// RAM, in the tables of both protocols.
const USABLE: u32 = 1;
/// No ELF kernel has more.
const MAX_SEGMENTS: usize = 64;

fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = bytes.get_mut(at..at + value.len()) {
        to.copy_from_slice(value);
    }
}

/// A bzImage taken apart.
struct BzImage<'a> {
    /// The header, for the boot parameters to begin with.
    header: &'a [u8],
    /// What is loaded at 1 MiB.
    kernel: &'a [u8],
    /// Memory it wants from there on until it has set itself up.
    memory: u64,
    /// Highest address of an initrd's last byte.
    initrd_max: u64,
}

impl<'a> BzImage<'a> {
    fn parse(source: &Source, bytes: &'a [u8]) -> Result<BzImage<'a>, LoadError> {
        if bytes.get(zero_page::HEADER_MAGIC..zero_page::HEADER_MAGIC + 4) != Some(b"HdrS") {
            return Err(source.not(BZIMAGE, foreign(bytes)));
        }
        let short = |need: usize| LoadError::CutShort {
            name: source.name.clone(),
            have: bytes.len() as u64,
            need: need as u64,
        };
        let byte = |at: usize| bytes.get(at).copied().ok_or_else(|| short(zero_page::HEADER_END));
        let word = |at: usize| u32_at(bytes, at).ok_or_else(|| short(zero_page::HEADER_END));
        let version = word(zero_page::VERSION)? & 0xffff;
        // 2.10 (Linux 2.6.31) says how much memory is needed; without the flag it is a zImage, for below 640 KiB.
        if version < 0x20a || byte(zero_page::LOAD_FLAGS)? & 1 == 0 {
            let why = format!("its boot protocol {}.{} is older than 2.10", version >> 8, version & 0xff);
            return Err(source.not(BZIMAGE, &why));
        }
        // 0 means 4, from a time before this field.
        let sectors = match byte(zero_page::SETUP_SECTS)? {
            0 => 4,
            n => usize::from(n),
        };
        let start = (sectors + 1) * 512;
        // The header says in paragraphs how long the protected-mode part is.
        let need = start + word(zero_page::SYSTEM_SIZE)? as usize * 16;
        let kernel = bytes.get(start..).filter(|_| bytes.len() >= need).ok_or_else(|| short(need))?;
        let header = bytes.get(..zero_page::HEADER_END).ok_or_else(|| short(zero_page::HEADER_END))?;
        let memory = u64::from(word(zero_page::INIT_SIZE)?).max(kernel.len() as u64);
        Ok(BzImage { header, kernel, memory, initrd_max: word(zero_page::INITRD_MAX)?.into() })
    }

    /// The boot parameters: its own header, and what it is to know.
    fn parameters(&self, ram: &GuestRam, initrd: Option<(u64, u64)>) -> Vec<u8> {
        let mut page = vec![0; zero_page::SIZE];
        // Before the header in a file is code of old boot sectors, which is none of the parameters.
        let header = self.header.get(zero_page::SETUP_SECTS..).unwrap_or(&[]);
        set(&mut page, zero_page::SETUP_SECTS, header);
        set(&mut page, zero_page::LOADER, &[0xff]);
        set(&mut page, zero_page::ACPI_RSDP, &ACPI.to_le_bytes());
        set(&mut page, zero_page::CMD_LINE_PTR, &(CMDLINE as u32).to_le_bytes());
        if let Some((at, len)) = initrd {
            set(&mut page, zero_page::RAMDISK_IMAGE, &(at as u32).to_le_bytes());
            set(&mut page, zero_page::RAMDISK_SIZE, &(len as u32).to_le_bytes());
        }
        let map = memory_map(ram);
        set(&mut page, zero_page::E820_ENTRIES, &[map.len() as u8]);
        for (n, (at, len)) in map.iter().enumerate() {
            let mut row = at.to_le_bytes().to_vec();
            row.extend(len.to_le_bytes());
            row.extend(USABLE.to_le_bytes());
            set(&mut page, zero_page::E820_TABLE + 20 * n, &row);
        }
        page
    }
}

/// Names what a file is that people give by mistake.
fn foreign(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        "it is empty"
    } else if super::ImageHeader::is_image(bytes) {
        "it is a kernel for RISC-V; this machine is amd64"
    } else if bytes.get(0x38..0x3c) == Some(b"ARMd") {
        "it is a kernel for 64-bit Arm; this machine is amd64"
    } else {
        "it has neither a boot header nor is it an ELF file"
    }
}

/// RAM without the hole of PCs below 1 MiB: first address and length of each range.
fn memory_map(ram: &GuestRam) -> Vec<(u64, u64)> {
    let ranges = ram.regions().iter().flat_map(|r| {
        let (at, end) = (r.gpa(), r.gpa() + r.size());
        let below = (at, end.min(LOW_END));
        let above = (at.max(KERNEL), end);
        if at < KERNEL { [below, above] } else { [(at, end), (at, at)] }
    });
    ranges.filter(|(at, end)| at < end).map(|(at, end)| (at, end - at)).collect()
}

/// Loads a kernel, and an initrd if there is one, for a machine of `vcpus` and with virtio by `transport`.
///
/// # Errors
/// Anything wrong with a file, or a machine too small for them. RAM may then hold parts of them.
pub fn load(
    ram: &GuestRam,
    what: &Placement,
    cmdline: &str,
    (vcpus, transport): (u32, Transport),
) -> Result<Entry, LoadError> {
    let machine = |why: &str| LoadError::NotBootable {
        name: "the machine".into(),
        wanted: "startable",
        why: why.to_owned(),
    };
    if what.firmware.is_some() {
        return Err(machine("x86-micro begins with a kernel, and has no place for a firmware"));
    }
    let source = what.kernel.as_ref().ok_or_else(|| machine("nothing to start: no kernel"))?;
    let low_end = ram.regions().first().map_or(0, |r| r.gpa() + r.size());
    let mut room = Room::new(ram, 0, low_end);
    let tables = acpi::tables(vcpus, transport, ACPI);
    room.put("the ACPI tables", ACPI, &tables, 0)?;
    room.put("the entry of the firmware", RESET_VECTOR, &RESET, 0)?;
    room.claim("the boot parameters", PARAMETERS, zero_page::SIZE as u64)?;
    let mut line = cmdline.as_bytes().to_vec();
    line.push(0);
    if line.len() > CMDLINE_MAX || cmdline.contains('\0') {
        return Err(machine("its kernel command line is longer than 2047 bytes, or has a zero in it"));
    }
    room.put("the command line", CMDLINE, &line, 0)?;

    let bytes = source.content()?;
    if super::Elf::is_elf(&bytes) {
        let pc = place_elf(&mut room, source, &bytes)?;
        let initrd = what.initrd.as_ref().map(|i| place_initrd(&mut room, i, u64::MAX)).transpose()?;
        start_information(ram, initrd).map_err(|e| room.no_room("the start information", e))?;
        return Ok(Entry { pc, args: [0, PARAMETERS, 0], privilege: Privilege::Kernel });
    }
    let image = BzImage::parse(source, &bytes)?;
    room.put(&source.name, KERNEL, image.kernel, image.memory)?;
    let initrd = what.initrd.as_ref().map(|i| place_initrd(&mut room, i, image.initrd_max)).transpose()?;
    let page = image.parameters(ram, initrd);
    ram.load(PARAMETERS, &page).map_err(|e| room.no_room("the boot parameters", e.to_string()))?;
    Ok(Entry { pc: KERNEL, args: [0, 0, PARAMETERS], privilege: Privilege::Kernel })
}

/// Puts the initrd as high as it may be in low RAM; gives its address and length.
fn place_initrd(room: &mut Room<'_>, source: &Source, last: u64) -> Result<(u64, u64), LoadError> {
    let bytes = source.raw_content()?;
    if bytes.is_empty() {
        return Err(source.not("an initrd", "it is empty"));
    }
    let len = bytes.len() as u64;
    let end = room.end.min(last.saturating_add(1)).min(X86Micro::LOW_RAM_END);
    let at = end.checked_sub(len).map_or(0, |at| at & !4095);
    room.put(&source.name, at, &bytes, 0)?;
    Ok((at, len))
}

/// Loads an ELF kernel's segments; gives its PVH entry.
fn place_elf(room: &mut Room<'_>, source: &Source, bytes: &[u8]) -> Result<u64, LoadError> {
    let bad = |why: &str| source.not(BZIMAGE, why);
    let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(|e| bad(&e.to_string()))?;
    let little = header.endian().map_err(|e| bad(&e.to_string()))?;
    if header.e_machine(little) != EM_X86_64 {
        return Err(bad("it is an ELF file for another architecture; this machine is amd64"));
    }
    let segments = header.program_headers(little, bytes).map_err(|e| bad(&e.to_string()))?;
    if segments.len() > MAX_SEGMENTS {
        return Err(bad("it has more segments than any kernel"));
    }
    let mut entry = None;
    for s in segments {
        let offset = usize::try_from(s.p_offset(little)).unwrap_or(usize::MAX);
        let (size, memory) = (s.p_filesz(little), s.p_memsz(little));
        let end = usize::try_from(size).ok().and_then(|n| offset.checked_add(n)).unwrap_or(usize::MAX);
        let Some(data) = bytes.get(offset..end) else {
            let (have, need) = (bytes.len() as u64, end as u64);
            return Err(LoadError::CutShort { name: source.name.clone(), have, need });
        };
        match s.p_type(little) {
            PT_LOAD if memory > 0 => room.put(&source.name, s.p_paddr(little), data, memory)?,
            PT_NOTE => entry = entry.or(pvh_entry(data)),
            _ => {}
        }
    }
    entry.ok_or_else(|| bad("it has no PVH entry; give the bzImage, or build it with CONFIG_PVH"))
}

/// The entry in a list of ELF notes: name "Xen", type 18, four or eight bytes.
fn pvh_entry(mut notes: &[u8]) -> Option<u64> {
    loop {
        let (name_len, len, kind) =
            (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize, u32_at(notes, 8)?);
        let name = notes.get(12..12_usize.checked_add(name_len)?)?;
        let at = 12_usize.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let value = notes.get(at..at.checked_add(len)?)?;
        if kind == NOTE_PHYS32_ENTRY && name == b"Xen\0" {
            return u32_at(value, 0).map(u64::from);
        }
        notes = notes.get(at.checked_add(len.checked_next_multiple_of(4)?)?..)?;
    }
}

/// Writes `struct hvm_start_info`, version 1, with its memory map and the initrd as its one module.
fn start_information(ram: &GuestRam, initrd: Option<(u64, u64)>) -> Result<(), String> {
    let map = memory_map(ram);
    let mut info = Vec::new();
    for word in [PVH_MAGIC, 1, 0, initrd.is_some().into()] {
        info.extend(word.to_le_bytes());
    }
    for word in [PVH_MODULES, CMDLINE, ACPI, PVH_MAP] {
        info.extend(word.to_le_bytes());
    }
    info.extend((map.len() as u64).to_le_bytes());
    let rows = map.iter().flat_map(|(at, len)| [*at, *len, USABLE.into()]);
    let rows: Vec<u8> = rows.flat_map(u64::to_le_bytes).collect();
    let (at, len) = initrd.unwrap_or((0, 0));
    let module: Vec<u8> = [at, len, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect();
    for (at, bytes) in [(PARAMETERS, &info), (PVH_MAP, &rows), (PVH_MODULES, &module)] {
        ram.load(at, bytes).map_err(|e| e.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
