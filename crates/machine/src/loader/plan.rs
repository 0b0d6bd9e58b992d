//! Placing everything in RAM. See the parent module for the map.

use super::room::Room;
use super::{Elf, HtifSymbols, ImageHeader, LoadError, Source};
use strata_engine::{Entry, Privilege};
use strata_memory::GuestRam;

const MIB: u64 = 1 << 20;

/// Offset of a raw payload after a raw firmware: where `fw_jump` of a generic OpenSBI jumps to.
const PAYLOAD_OFFSET: u64 = 2 * MIB;

/// The device tree stays below 3 GiB, where a 32-bit firmware can still reach it.
const FDT_LIMIT: u64 = 3 << 30;

/// OpenSBI `struct fw_dynamic_info` (include/sbi/fw_dynamic.h): magic "OSBI", version, next stage's address and mode.
const FW_DYNAMIC_MAGIC: u64 = 0x4942_534f;
const FW_DYNAMIC_VERSION: u64 = 2;
const FW_DYNAMIC_NEXT_S: u64 = 1;

/// What to load.
#[derive(Debug, Default)]
pub struct Placement {
    /// M-mode firmware, raw or ELF.
    pub firmware: Option<Source>,
    /// Kernel Image or ELF; with a firmware, any raw payload too.
    pub kernel: Option<Source>,
    /// Initial RAM disk.
    pub initrd: Option<Source>,
}

/// The outcome of loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Where hart 0 (with a firmware, every hart) begins; `args[0]` is replaced by the hart's number.
    pub entry: Entry,
    /// HTIF words to put a device over.
    pub htif: Option<HtifSymbols>,
    /// First address and length of the device tree.
    pub fdt: (u64, u64),
}

/// Loads everything into `ram`. `fdt` makes the device tree once the initrd's range is known.
///
/// # Errors
/// Anything wrong with a file, or a machine too small for them. RAM may then hold parts of them.
pub fn load<E: From<LoadError>>(
    ram: &GuestRam,
    what: &Placement,
    fdt: impl FnOnce(Option<(u64, u64)>) -> Result<Vec<u8>, E>,
) -> Result<Loaded, E> {
    let region = ram.regions().last().ok_or_else(|| LoadError::NoRoom {
        name: "the machine".into(),
        ram: 0,
        why: "it has no memory at all".into(),
    })?;
    let (base, end) = (region.gpa(), region.gpa() + region.size());
    let mut room = Room::new(ram, base, end);
    let firmware = what.firmware.as_ref().map(|f| place_firmware(&mut room, f)).transpose()?;
    let kernel = what.kernel.as_ref().map(|k| place_kernel(&mut room, k, firmware.is_some())).transpose()?;
    let initrd = what.initrd.as_ref().map(|i| place_initrd(&mut room, i)).transpose()?;

    let tree = fdt(initrd)?;
    let at = tree_place(base, end, tree.len() as u64);
    room.put("the device tree", at, &tree, 0)?;

    let (pc, htif, privilege) = match (&firmware, kernel) {
        (Some((pc, htif)), _) => (*pc, *htif, Privilege::Firmware),
        (None, Some(pc)) => (pc, None, Privilege::Kernel),
        (None, None) => {
            let why = "nothing to start: no kernel and no firmware".to_owned();
            return Err(
                LoadError::NotBootable { name: "the machine".into(), wanted: "startable", why }.into()
            );
        }
    };
    // The dynamic-information block goes behind the tree; firmware that does not want it ignores a2.
    let info = (at + tree.len() as u64 + 7) & !7;
    let dynamic = match (&firmware, kernel) {
        (Some(_), Some(next)) => {
            let words = [FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION, next, FW_DYNAMIC_NEXT_S, 0, 0];
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            room.put("the firmware's information block", info, &bytes, 0)?;
            info
        }
        _ => 0,
    };
    Ok(Loaded { entry: Entry { pc, args: [0, at, dynamic], privilege }, htif, fdt: (at, tree.len() as u64) })
}

/// Where a device tree of `len` bytes goes: 2 MiB-aligned if there is room for that. An impossible place is refused
/// when it is claimed.
fn tree_place(base: u64, end: u64, len: u64) -> u64 {
    let below = |limit: u64, align: u64| limit.checked_sub(len).map_or(0, |at| at & !(align - 1));
    let roomy = below(end.min(FDT_LIMIT), 2 * MIB);
    if roomy > base { roomy } else { below(end, 8) }
}

fn put_elf(room: &mut Room<'_>, source: &Source, bytes: &[u8]) -> Result<Elf, LoadError> {
    let elf = Elf::parse(source, bytes)?;
    for s in &elf.segments {
        let s = s.above(room.base, elf.headers, bytes);
        room.put(&source.name, s.address, bytes.get(s.file.clone()).unwrap_or(&[]), s.memory)?;
    }
    Ok(elf)
}

fn place_firmware(room: &mut Room<'_>, source: &Source) -> Result<(u64, Option<HtifSymbols>), LoadError> {
    let bytes = source.raw_content()?;
    if bytes.is_empty() {
        return Err(source.not("a firmware", "it is empty"));
    }
    if Elf::is_elf(&bytes) {
        let elf = put_elf(room, source, &bytes)?;
        return Ok((elf.entry, elf.htif));
    }
    if bytes.starts_with(&[0x1f, 0x8b]) || bytes.iter().all(|b| *b == 0) {
        return Err(source.not("a firmware", "it is neither an ELF file nor RISC-V machine code"));
    }
    room.put(&source.name, room.base, &bytes, 0)?;
    Ok((room.base, None))
}

fn place_kernel(room: &mut Room<'_>, source: &Source, payload: bool) -> Result<u64, LoadError> {
    let bytes = source.content()?;
    if Elf::is_elf(&bytes) {
        return Ok(put_elf(room, source, &bytes)?.entry);
    }
    if payload && !bytes.is_empty() && !ImageHeader::is_image(&bytes) {
        let at = room.base + PAYLOAD_OFFSET;
        room.put(&source.name, at, &bytes, 0)?;
        return Ok(at);
    }
    let header = ImageHeader::parse(source, &bytes)?;
    let Some(at) = room.base.checked_add(header.text_offset) else {
        return Err(source.not("a RISC-V kernel Image", "its header wants it beyond all memory"));
    };
    room.put(&source.name, at, &bytes, header.image_size)?;
    Ok(at)
}

fn place_initrd(room: &mut Room<'_>, source: &Source) -> Result<(u64, u64), LoadError> {
    let bytes = source.raw_content()?;
    if bytes.is_empty() {
        return Err(source.not("an initrd", "it is empty"));
    }
    let half = room.base + ((room.end - room.base) / 2).min(512 * MIB);
    let at = half.max(room.top()).next_multiple_of(4096);
    room.put(&source.name, at, &bytes, 0)?;
    Ok((at, at + bytes.len() as u64))
}
