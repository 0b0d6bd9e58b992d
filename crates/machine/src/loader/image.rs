//! The RISC-V kernel Image: 64 bytes of header before (usually) a PE file.
//!
//! Source: Linux `Documentation/arch/riscv/boot-image-header.rst`. `image_size` is the memory needed, bss included;
//! how long the *file* must be is known only from the PE section table that an EFI-bootable Image carries (PE/COFF
//! specification, "Section Table").

use super::{LoadError, Source};

/// The parts of the header that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// Offset from the start of RAM (a multiple of 2 MiB in practice).
    pub text_offset: u64,
    /// Memory needed from the load address, in bytes.
    pub image_size: u64,
}

/// Length of the header.
const HEADER: usize = 64;

const MAGIC2: &[u8] = b"RSC\x05";
const MAGIC1: &[u8] = b"RISCV\0\0\0";

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    at(bytes, offset).map(u64::from_le_bytes)
}

impl ImageHeader {
    /// Whether `bytes` begin like an Image.
    pub fn is_image(bytes: &[u8]) -> bool {
        at::<4>(bytes, 56).is_some_and(|m| m == MAGIC2) || at::<8>(bytes, 48).is_some_and(|m| m == MAGIC1)
    }

    /// Parses and checks an Image that was read whole.
    pub fn parse(source: &Source, bytes: &[u8]) -> Result<ImageHeader, LoadError> {
        const WANTED: &str = "a RISC-V kernel Image";
        if let Some(what) = foreign(bytes) {
            return Err(source.not(WANTED, what));
        }
        if !ImageHeader::is_image(bytes) {
            return Err(source.not(WANTED, "it has no Image header and is no ELF file"));
        }
        let short = |need| LoadError::CutShort { name: source.name.clone(), have: bytes.len() as u64, need };
        let field = |offset| u64_at(bytes, offset).filter(|_| bytes.len() >= HEADER).ok_or(HEADER as u64);
        let text_offset = field(8).map_err(short)?;
        let image_size = field(16).map_err(short)?;
        let flags = field(24).map_err(short)?;
        if flags & 1 != 0 {
            return Err(source.not(WANTED, "it is for big-endian harts"));
        }
        let need = file_length(bytes);
        if need > bytes.len() as u64 {
            return Err(short(need));
        }
        Ok(ImageHeader { text_offset, image_size: image_size.max(bytes.len() as u64) })
    }
}

/// Names what a file is that people give by mistake.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    if at::<4>(bytes, 0x38).is_some_and(|m| m == *b"ARMd") {
        Some("it is a kernel for 64-bit Arm; this machine is riscv64")
    } else if at::<4>(bytes, 0x202).is_some_and(|m| m == *b"HdrS") {
        Some("it is a kernel for x86; this machine is riscv64")
    } else if at::<4>(bytes, 4).is_some_and(|m| m == *b"zimg") {
        Some("it is an EFI zboot kernel, which unpacks itself under EFI; give the Image inside it")
    } else if bytes.is_empty() {
        Some("it is empty")
    } else {
        None
    }
}

/// How long the file must be by its PE section table; where that table itself is not there whole, what it takes to
/// read on. 0 where the file carries none.
fn file_length(bytes: &[u8]) -> u64 {
    section_ends(bytes).unwrap_or_else(|need| need)
}

fn section_ends(bytes: &[u8]) -> Result<u64, u64> {
    let word = |offset: u64| usize::try_from(offset).ok().and_then(|at| u32_at(bytes, at)).ok_or(offset + 4);
    if !bytes.starts_with(b"MZ") {
        return Ok(0);
    }
    let pe = u64::from(word(60)?);
    if pe == 0 || word(pe)? != u32::from_le_bytes(*b"PE\0\0") {
        return Ok(0);
    }
    let sections = word(pe + 4)? >> 16;
    let optional = word(pe + 20)? & 0xffff;
    let table = pe + 24 + u64::from(optional);
    let mut end = 0u64;
    for i in 0..u64::from(sections) {
        let row = table + i * 40;
        let (size, start) = (word(row + 16)?, word(row + 20)?);
        if size > 0 {
            end = end.max(u64::from(start) + u64::from(size));
        }
    }
    Ok(end)
}
