//! ELF programs and kernels: segments at their physical addresses, and the HTIF symbols of bare-metal programs.

use super::{LoadError, Source};
use object::LittleEndian;
use object::elf::{EM_RISCV, ET_DYN, ET_EXEC, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader, Sym};

type Header = FileHeader64<LittleEndian>;

/// Most segments loaded. A linker makes a handful; each is held against all others.
const MAX_SEGMENTS: usize = 256;

/// One loadable segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Physical address.
    pub address: u64,
    /// Address it is linked for; a kernel's is a virtual one.
    pub linked: u64,
    /// Range of the file's bytes.
    pub file: std::ops::Range<usize>,
    /// Length in memory; what the file does not give is zero.
    pub memory: u64,
}

impl Segment {
    /// The segment from `base` on, where what lies below is nothing of the program: a linker that is told an address for
    /// the code alone puts the file's own headers (which end at `headers`) and padding on the page before it.
    pub(super) fn above(&self, base: u64, headers: usize, bytes: &[u8]) -> Segment {
        let whole = self.clone();
        let Some(cut) = base.checked_sub(self.address).filter(|c| *c > 0 && *c < self.memory) else {
            return whole;
        };
        let end = usize::try_from(cut)
            .map_or(self.file.end, |c| self.file.start.saturating_add(c).min(self.file.end));
        let padding = bytes.get(self.file.start.max(headers).min(end)..end).unwrap_or(&[]);
        if padding.iter().any(|b| *b != 0) {
            return whole;
        }
        let (linked, memory) = (self.linked.wrapping_add(cut), self.memory - cut);
        Segment { address: base, linked, file: end..self.file.end, memory }
    }
}

/// Addresses of a program's `tohost` and `fromhost` words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HtifSymbols {
    /// Guest physical address of `tohost`.
    pub tohost: u64,
    /// Guest physical address of `fromhost`.
    pub fromhost: u64,
}

/// A parsed ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// First instruction, a physical address.
    pub entry: u64,
    /// Loadable segments, none empty.
    pub segments: Vec<Segment>,
    /// Where the file's headers end, in bytes from its start.
    pub headers: usize,
    /// HTIF symbols, if both are there.
    pub htif: Option<HtifSymbols>,
}

impl Elf {
    /// Whether `bytes` begin like an ELF file.
    pub fn is_elf(bytes: &[u8]) -> bool {
        bytes.starts_with(b"\x7fELF")
    }

    /// Parses and checks a 64-bit little-endian RISC-V ELF file.
    pub fn parse(source: &Source, bytes: &[u8]) -> Result<Elf, LoadError> {
        const WANTED: &str = "a 64-bit RISC-V ELF program";
        let not = |why: &str| source.not(WANTED, why);
        if bytes.get(4) == Some(&1) {
            return Err(not("it is a 32-bit ELF file"));
        }
        let header = Header::parse(bytes).map_err(|e| not(&e.to_string()))?;
        let endian = header.endian().map_err(|_| not("it is big-endian"))?;
        let machine = header.e_machine(endian);
        if machine != EM_RISCV {
            return Err(not(&format!(
                "it is for ELF machine number {}, not RISC-V ({})",
                machine.0, EM_RISCV.0
            )));
        }
        if !matches!(header.e_type(endian), ET_EXEC | ET_DYN) {
            return Err(not("it is an object file that has not been linked"));
        }
        let mut segments = Vec::new();
        for ph in header.program_headers(endian, bytes).map_err(|e| not(&e.to_string()))? {
            if ph.p_type(endian) != PT_LOAD || ph.p_memsz(endian) == 0 {
                continue;
            }
            let (start, size) = ph.file_range(endian);
            let end = start.checked_add(size).ok_or_else(|| not("a segment's range overflows"))?;
            if end > bytes.len() as u64 {
                return Err(LoadError::CutShort {
                    name: source.name.clone(),
                    have: bytes.len() as u64,
                    need: end,
                });
            }
            let memory = ph.p_memsz(endian);
            if size > memory {
                return Err(not("a segment is longer in the file than in memory"));
            }
            if segments.len() == MAX_SEGMENTS {
                return Err(not("it has more than 256 segments to load"));
            }
            segments.push(Segment {
                address: ph.p_paddr(endian),
                linked: ph.p_vaddr(endian),
                file: start as usize..end as usize,
                memory,
            });
        }
        if segments.is_empty() {
            return Err(not("it has nothing to load"));
        }
        let htif = htif_symbols(header, endian, bytes).map(|s| HtifSymbols {
            tohost: physical(&segments, s.tohost),
            fromhost: physical(&segments, s.fromhost),
        });
        let table = u64::from(header.e_phnum(endian)) * u64::from(header.e_phentsize(endian));
        let headers = usize::try_from(header.e_phoff(endian).saturating_add(table)).unwrap_or(usize::MAX);
        Ok(Elf { entry: physical(&segments, header.e_entry(endian)), segments, headers, htif })
    }
}

/// Where the byte linked for `address` is loaded; an address in no segment stays.
fn physical(segments: &[Segment], address: u64) -> u64 {
    let inside = |s: &&Segment| address.checked_sub(s.linked).is_some_and(|offset| offset < s.memory);
    segments.iter().find(inside).map_or(address, |s| s.address.wrapping_add(address.wrapping_sub(s.linked)))
}

/// The HTIF symbols. A program without a symbol table simply has none.
fn htif_symbols(header: &Header, endian: LittleEndian, bytes: &[u8]) -> Option<HtifSymbols> {
    let sections = header.sections(endian, bytes).ok()?;
    let table = sections.symbols(endian, bytes, object::elf::SHT_SYMTAB).ok()?;
    let find = |name: &[u8]| {
        table
            .symbols()
            .iter()
            .find(|s| s.st_name(endian) != 0 && table.symbol_name(endian, s).is_ok_and(|n| n == name))
            .map(|s| s.st_value(endian))
    };
    Some(HtifSymbols { tohost: find(b"tohost")?, fromhost: find(b"fromhost")? })
}
